use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, group_end, group_start};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Storage, Tensor};

use crate::{Collective, Error, Result, gather};

/// A group whose processes have a GPU each, between which gradients go by NVIDIA's NCCL, from device to
/// device. Everything else, which is small, goes by the group `C`.
///
/// NCCL only moves the parts; they are added as everywhere ([`Collective::sum`]), on the device. So the sums
/// do not depend on the number of GPUs, which those of NCCL's own reductions do: their order follows from
/// the rings and trees that it builds.
pub struct Nccl<C> {
    group: C,
    comm: Comm,
    device: CudaDevice,
}

// SAFETY: a communicator may be used by any thread, by one at a time. It is used here by methods that take
// `&mut self`, and by `drop`.
unsafe impl<C: Send> Send for Nccl<C> {}

impl<C: Collective> std::fmt::Debug for Nccl<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nccl")
            .field("rank", &self.group.rank())
            .field("size", &self.group.size())
            .field("device", &self.device.location())
            .finish_non_exhaustive()
    }
}

fn told(error: NcclError) -> Error {
    Error::Collective(format!("NCCL: {:?}", error.0))
}

impl<C: Collective> Nccl<C> {
    /// Joins the GPUs of a group, of which `device` is this rank's. All ranks call it together.
    ///
    /// # Errors
    /// If `device` is no GPU, or NCCL's library is not there or refuses (two ranks with one GPU, for instance).
    pub fn new(mut group: C, device: &Device) -> Result<Self> {
        let first = group.rank() == 0;
        let begun = device.as_cuda_device().map_err(Error::from).and_then(|device| {
            let id = if first { Some(Id::new().map_err(told)?) } else { None };
            Ok((device.clone(), id))
        });
        let agreed = begun.as_ref().map(drop).map_err(Error::chain);
        gather(&mut group, agreed)?;
        let (device, id) = begun?;
        let mut bytes = id.map_or_else(Vec::new, |id| id.internal().map(|c| c as u8).to_vec());
        group.broadcast(&mut bytes)?;
        let id = <[u8; 128]>::try_from(bytes)
            .map_err(|bytes| Error::Collective(format!("an id of {} bytes", bytes.len())))?;
        let id = Id::uninit(id.map(|byte| byte as std::ffi::c_char));
        let (rank, size) = (group.rank(), group.size());
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id).map_err(told)?;
        Ok(Self { group, comm, device })
    }
}

impl<C: Collective> Collective for Nccl<C> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.group.broadcast(bytes)
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.group.all_gather(bytes)
    }

    fn all_to_all(&mut self, to_each: Vec<Tensor>, lengths: &[usize]) -> Result<Vec<Tensor>> {
        if to_each.iter().any(|values| values.device().is_cpu()) {
            return self.group.all_to_all(to_each, lengths);
        }
        let own = self.rank();
        let others = |rank: &usize| *rank != own;
        let mut received = Vec::with_capacity(lengths.len());
        for &length in lengths {
            received.push(self.device.alloc_zeros::<f32>(length)?);
        }
        // Between the two NCCL only notes what is to be moved, so that no rank waits for another in turn.
        group_start().map_err(told)?;
        for rank in (0..self.size()).filter(others) {
            let (storage, layout) = to_each[rank].storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Collective("values on two kinds of devices".into()));
            };
            let (start, end) = layout
                .contiguous_offsets()
                .ok_or_else(|| Error::Collective("values that are not contiguous".into()))?;
            let values = storage.as_cuda_slice::<f32>()?.slice(start..end);
            self.comm.send(&values, rank as i32).map_err(told)?;
            self.comm.recv(&mut received[rank], rank as i32).map_err(told)?;
        }
        group_end().map_err(told)?;
        let tensor = |(rank, values): (usize, _)| {
            if rank == own {
                return to_each[rank].clone();
            }
            let storage = CudaStorage::wrap_cuda_slice(values, self.device.clone());
            let storage = Storage::Cuda(storage);
            Tensor::from_storage(storage, lengths[rank], BackpropOp::none(), false)
        };
        Ok(received.into_iter().enumerate().map(tensor).collect())
    }

    fn abort(&mut self, problem: &str) {
        self.group.abort(problem);
    }
}
