//! Carries out the plans of `isfm-kernels` on a Candle device's stream.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, result,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage, StorageRef,
    Tensor,
};
use isfm_kernels::{Arg, ConvSizes, Element, Need, Plan, ScanSizes, Type, pointwise, sums};

use crate::check;

/// An input on a GPU: its storage, and where it lies in it.
pub type Input<'a> = (&'a CudaStorage, &'a Layout);

/// The kernels' name for an element type.
///
/// # Errors
/// For a type that has no kernel.
pub fn kernel_type(op: &str, dtype: DType) -> Result<Type> {
    match dtype {
        DType::F32 => Ok(Type::F32),
        DType::F16 => Ok(Type::F16),
        DType::BF16 => Ok(Type::Bf16),
        got => Err(check::dtype_error(op, got, "F32, F16 or BF16 on CUDA")),
    }
}

/// [`keep_freed_device_memory`](crate::keep_freed_device_memory).
///
/// # Errors
/// If the driver reports an error.
pub fn keep_freed_memory(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else { return Ok(()) };
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut most = u64::MAX;
    // SAFETY: the device is the context's, and the attribute is a number of 64 bits.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device()).w()?;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut most).cast()).w()
    }
}

/// Carries out a plan; returns its outputs.
///
/// # Errors
/// If an input is not contiguous or not what the plan needs, or the driver reports an error.
pub fn run(plan: &Plan, inputs: &[Input<'_>]) -> Result<Vec<CudaStorage>> {
    let [(first, _), ..] = inputs else {
        candle_core::bail!("a CUDA kernel without inputs");
    };
    let device = first.device.clone();
    let stream = device.cuda_stream();
    let mut outputs = allocate(&device, plan.outputs())?;
    let mut scratch = allocate(&device, plan.scratch())?;

    {
        // A guard tells the other streams that use a buffer, if any, when this one is done.
        let mut guards = Vec::new();
        let mut pointers = [Vec::new(), Vec::new(), Vec::new()];
        macro_rules! pointer {
            ($to:expr, $slice:expr, $get:ident) => {{
                macro_rules! of {
                    ($s:expr) => {{
                        let (pointer, guard) = $s.$get(&stream);
                        guards.push(guard);
                        pointers[$to].push(pointer);
                    }};
                }
                match $slice {
                    CudaStorageSlice::F32(s) => of!(s),
                    CudaStorageSlice::F16(s) => of!(s),
                    CudaStorageSlice::BF16(s) => of!(s),
                    CudaStorageSlice::U32(s) => of!(s),
                    _ => candle_core::bail!("a CUDA kernel's buffer of another element type"),
                }
            }};
        }
        if inputs.len() != plan.inputs().len() {
            candle_core::bail!("a CUDA kernel needs {} inputs", plan.inputs().len());
        }
        for (&(storage, layout), need) in inputs.iter().zip(plan.inputs()) {
            let start = check(storage, layout, need)?;
            pointer!(0, &storage.slice, device_ptr);
            if let Some(pointer) = pointers[0].last_mut() {
                *pointer += (start * need.element.size()) as u64;
            }
        }
        for slice in &mut outputs {
            pointer!(1, slice, device_ptr_mut);
        }
        for slice in &mut scratch {
            pointer!(2, slice, device_ptr_mut);
        }
        launch(&device, plan, &pointers)?;
    }
    Ok(outputs.into_iter().map(|slice| CudaStorage { slice, device: device.clone() }).collect())
}

/// The first output of a plan.
///
/// # Errors
/// As [`run`].
pub fn run_one(plan: &Plan, inputs: &[Input<'_>]) -> Result<CudaStorage> {
    match run(plan, inputs)?.into_iter().next() {
        Some(out) => Ok(out),
        None => candle_core::bail!("a CUDA kernel without outputs"),
    }
}

/// A contiguous tensor of a storage, without a history.
pub fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The storage of a tensor on a GPU.
///
/// # Errors
/// If it is elsewhere.
pub fn storage<'a>(op: &'static str, storage: &'a StorageRef<'_>) -> Result<&'a CudaStorage> {
    match &**storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("{op}: some arguments are on a GPU, others are not"),
    }
}

/// Checks an input against what the plan needs; returns where it starts in its storage.
fn check(storage: &CudaStorage, layout: &Layout, need: &Need) -> Result<usize> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op: "cuda kernel" });
    };
    if dtype(need.element) != storage.dtype() || end - start != need.len {
        candle_core::bail!(
            "a CUDA kernel needs {} of {:?}, got {} of {:?}",
            need.len,
            need.element,
            end - start,
            storage.dtype()
        );
    }
    Ok(start)
}

fn dtype(element: Element) -> DType {
    match element {
        Element::Float(Type::F32) => DType::F32,
        Element::Float(Type::F16) => DType::F16,
        Element::Float(Type::Bf16) => DType::BF16,
        Element::U32 => DType::U32,
    }
}

/// Buffers of unset elements.
fn allocate(device: &CudaDevice, needs: &[Need]) -> Result<Vec<CudaStorageSlice>> {
    needs
        .iter()
        .map(|need| {
            // The driver refuses allocations of size 0.
            let len = need.len.max(1);
            // SAFETY: a plan writes every element of an output, and of scratch what it reads.
            Ok(unsafe {
                match need.element {
                    Element::Float(Type::F32) => CudaStorageSlice::F32(device.alloc(len)?),
                    Element::Float(Type::F16) => CudaStorageSlice::F16(device.alloc(len)?),
                    Element::Float(Type::Bf16) => CudaStorageSlice::BF16(device.alloc(len)?),
                    Element::U32 => CudaStorageSlice::U32(device.alloc(len)?),
                }
            })
        })
        .collect()
}

/// A kernel argument in the form that the driver takes.
enum Value {
    Pointer(u64),
    U32(u32),
    F32(f32),
    Scan(ByValue<ScanSizes>),
    Conv(ByValue<ConvSizes>),
}

#[repr(transparent)]
struct ByValue<T>(T);

// SAFETY: both are plain numbers laid out as in C.
unsafe impl DeviceRepr for ByValue<ScanSizes> {}
// SAFETY: as above.
unsafe impl DeviceRepr for ByValue<ConvSizes> {}

/// Launches a plan's kernels on the device's stream; `pointers` are its inputs', outputs' and
/// scratch buffers'.
fn launch(device: &CudaDevice, plan: &Plan, pointers: &[Vec<u64>; 3]) -> Result<()> {
    let place = |kind: usize, i: usize, at: usize, needs: &[Need]| match (
        pointers[kind].get(i),
        needs.get(i),
    ) {
        (Some(&p), Some(need)) if at <= need.len => {
            Ok(Value::Pointer(p + (at * need.element.size()) as u64))
        }
        _ => candle_core::bail!("a CUDA kernel's argument lies outside its buffers"),
    };
    for step in plan.launches() {
        let values = step
            .args
            .iter()
            .map(|arg| match *arg {
                Arg::Input(i, at) => place(0, i, at, plan.inputs()),
                Arg::Output(i, at) => place(1, i, at, plan.outputs()),
                Arg::Scratch(i, at) => place(2, i, at, plan.scratch()),
                Arg::Null => Ok(Value::Pointer(0)),
                Arg::U32(n) => Ok(Value::U32(n)),
                Arg::F32(x) => Ok(Value::F32(x)),
                Arg::Scan(s) => Ok(Value::Scan(ByValue(s))),
                Arg::Conv(s) => Ok(Value::Conv(ByValue(s))),
            })
            .collect::<Result<Vec<_>>>()?;
        let module = format!("isfm-{}", step.module.name());
        let f = device.get_or_load_custom_func(&step.kernel, &module, step.module.ptx())?;
        let mut builder = f.builder();
        for value in &values {
            match value {
                Value::Pointer(p) => builder.arg(p),
                Value::U32(n) => builder.arg(n),
                Value::F32(x) => builder.arg(x),
                Value::Scan(s) => builder.arg(s),
                Value::Conv(s) => builder.arg(s),
            };
        }
        let config = LaunchConfig {
            grid_dim: (step.grid, 1, 1),
            block_dim: (step.block, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: only the plan functions of `isfm-kernels` make a plan: its arguments are those of
        // the kernel's parameters, which that crate's tests check with the same source. Buffers
        // have the sizes that the plan asks for, as checked above.
        unsafe { builder.launch(config) }.w()?;
    }
    Ok(())
}

/// The number of rows along the last axis, and their length.
fn rows(layout: &Layout) -> (usize, usize) {
    let columns = layout.dims().last().copied().unwrap_or(1);
    (layout.shape().elem_count() / columns.max(1), columns)
}

/// The layout of a contiguous matrix that starts where `layout` does.
fn matrix(layout: &Layout, rows: usize, columns: usize) -> Layout {
    Layout::contiguous_with_offset((rows, columns), layout.start_offset())
}

/// x·weightᵀ + bias by cuBLAS, with `silu` SiLU of that; with `transposed` x·weight. Inputs x, weight
/// and maybe bias.
pub(crate) fn linear(transposed: bool, silu: bool, inputs: &[Input<'_>]) -> Result<CudaStorage> {
    let (x, weight) = (inputs[0], inputs[1]);
    let t = kernel_type("linear", x.0.dtype())?;
    let (rows_w, columns_w) = weight.1.shape().dims2()?;
    let (rows, cin) = rows(x.1);
    let w = matrix(weight.1, rows_w, columns_w);
    let (w, cout) = if transposed { (w, columns_w) } else { (w.transpose(0, 1)?, rows_w) };
    let y = x.0.matmul(weight.0, (1, rows, cout, cin), &matrix(x.1, rows, cin), &w)?;
    let layout = Layout::contiguous((rows, cout));
    let (plan, inputs) = match inputs.get(2) {
        None if !silu => return Ok(y),
        None => (pointwise::silu(t, rows * cout), vec![(&y, &layout)]),
        Some(bias) => (pointwise::add_bias(t, rows, cout, silu), vec![(&y, &layout), *bias]),
    };
    run_one(&plan.map_err(Error::wrap)?, &inputs)
}

/// The gradients of a linear layer's weights and bias, one after the other, from x and the result's
/// gradient.
pub(crate) fn linear_weight(inputs: &[Input<'_>]) -> Result<CudaStorage> {
    let (x, grad) = (inputs[0], inputs[1]);
    let t = kernel_type("linear", x.0.dtype())?;
    let ((rows, cin), (_, cout)) = (rows(x.1), rows(grad.1));
    let left = matrix(grad.1, rows, cout).transpose(0, 1)?;
    let weight = grad.0.matmul(x.0, (1, cout, cin, rows), &left, &matrix(x.1, rows, cin))?;
    let bias = run_one(&sums::column_sums(t, rows, cout).map_err(Error::wrap)?, &[grad])?;
    let shape = Shape::from(cout * (cin + 1));
    // SAFETY: the two copies write every element.
    let mut out = unsafe { x.0.device.alloc_uninit(&shape, x.0.dtype())? };
    weight.copy_strided_src(&mut out, 0, &Layout::contiguous(cout * cin))?;
    bias.copy_strided_src(&mut out, cout * cin, &Layout::contiguous(cout))?;
    Ok(out)
}
