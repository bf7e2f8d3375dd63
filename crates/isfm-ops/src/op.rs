//! The one adapter between Candle and a kernel.
//!
//! An operation states what is new about it: the shape of its result, its body on the CPU, its plan
//! on a GPU and its gradients. [`apply`] brings inputs into contiguous memory, chooses the element
//! type and the device, and records the graph; [`apply_untracked`] does the same without a graph,
//! for the gradients themselves. The public function of an operation checks its arguments first.
//!
//! ```
//! use candle_core::{Device, Result, Tensor, Var};
//! use isfm_ops::op::{Gradients, Input, Op, apply};
//! use isfm_ops::simd::Real;
//!
//! struct Cube;
//! impl Op for Cube {
//!     fn name(&self) -> &'static str {
//!         "cube"
//!     }
//!     fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
//!         Ok(inputs[0].data.iter().map(|&x| x * x * x).collect())
//!     }
//!     fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
//!         Ok([Some(((inputs[0].sqr()? * 3.)? * grad)?), None, None])
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let x = Var::new(&[1f32, 2.], &Device::Cpu)?;
//! let y = apply(Cube, &[&x])?;
//! assert_eq!(y.to_vec1::<f32>()?, [1., 8.]);
//! assert_eq!(y.backward()?.get(&x).unwrap().to_vec1::<f32>()?, [3., 12.]);
//! # Ok(())
//! # }
//! ```

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, Layout, Result, Shape, Storage,
    Tensor,
};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use isfm_kernels::{Plan, Type};
use rayon::prelude::*;

use crate::check;
use crate::graph::{self, Backward};
use crate::simd::Real;

/// An input on the CPU: its elements, contiguous, and its shape.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a, E> {
    /// The elements in order.
    pub data: &'a [E],
    /// Their shape.
    pub shape: &'a Shape,
}

/// The gradients of an operation's inputs, in order; `None` for an input that is not tracked or not
/// there.
pub type Gradients = [Option<Tensor>; 3];

/// A differentiable operation of one to three inputs of one element type, with one result.
pub trait Op: Send + Sync + 'static {
    /// The operation's name in error messages.
    fn name(&self) -> &'static str;

    /// The result's shape; by default the first input's.
    ///
    /// # Errors
    /// If the inputs have shapes that the operation does not take.
    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    /// The result's elements on the CPU, as many as [`shape`](Self::shape) has.
    ///
    /// # Errors
    /// If the inputs are not what the operation takes.
    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>>;

    /// Whether tensors of 16-bit floats on the CPU are computed in `f32` instead of refused.
    fn widens(&self) -> bool {
        false
    }

    /// The launches that compute the operation on a GPU; the plan's first output is the result.
    ///
    /// # Errors
    /// By default always, since there is no kernel; otherwise if a size exceeds a kernel's limit.
    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let _ = (t, inputs);
        Err(check::no_cuda_kernel(self.name(), "bring its tensors to the CPU (Tensor::to_device)"))
    }

    /// The result's elements on a GPU; by default by carrying out the plan.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), or if the driver reports an error.
    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: &[crate::cuda::Input<'_>]) -> Result<candle_core::CudaStorage> {
        let t = crate::cuda::kernel_type(self.name(), inputs[0].0.dtype())?;
        let shapes: Vec<&Shape> = inputs.iter().map(|(_, layout)| layout.shape()).collect();
        crate::cuda::run_one(&self.plan(t, &shapes)?, inputs)
    }

    /// The gradients, from the inputs, the result and the result's gradient, all contiguous.
    ///
    /// # Errors
    /// By default always; otherwise if they cannot be computed.
    fn gradients(&self, inputs: &[&Tensor], result: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let _ = (inputs, result, grad);
        Err(Error::BackwardNotSupported { op: self.name() })
    }
}

/// The result of an operation, with the graph that gradients flow back through.
///
/// # Errors
/// If the element type has no kernel where the tensors are, they are on different devices, or the
/// operation refuses its inputs.
pub fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs = inputs.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    if graph::takes(&inputs) {
        return recorded(op, inputs);
    }
    match inputs.as_slice() {
        [a] => a.apply_op1(Adapter(op)),
        [a, b] => a.apply_op2(b, Adapter(op)),
        [a, b, c] => a.apply_op3(b, c, Adapter(op)),
        _ => Err(Error::msg(format!("{}: {} inputs, needs 1 to 3", op.name(), inputs.len()))),
    }
}

/// The result of an operation on the CPU some of whose inputs are tracked.
fn recorded(op: impl Op, inputs: Vec<Tensor>) -> Result<Tensor> {
    struct Recorded<O> {
        op: Adapter<O>,
        /// Without a graph; otherwise it would hold itself.
        result: Arc<OnceLock<Tensor>>,
    }
    impl<O: Op> Backward for Recorded<O> {
        fn gradients(
            &self,
            inputs: &[Tensor],
            grads: Vec<Option<Tensor>>,
        ) -> Result<Vec<Option<Tensor>>> {
            let (Some(Some(grad)), Some(result)) = (grads.first(), self.result.get()) else {
                return Ok(Vec::new());
            };
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            Ok(self.op.gradients(&inputs, result, grad)?.into())
        }
    }
    let op = Adapter(op);
    let held: Vec<_> = inputs.iter().map(|t| t.storage_and_layout()).collect();
    let sources = held.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => Ok((storage, *layout)),
        _ => Err(Error::msg("a kernel of the CPU was given a tensor that is elsewhere")),
    });
    let computed = op.cpu(&sources.collect::<Result<Vec<_>>>()?)?;
    drop(held);
    let result = Arc::new(OnceLock::new());
    let recorded = Recorded { op, result: result.clone() };
    let tensor = graph::record(vec![computed], inputs, recorded)?.remove(0);
    let _ = result.set(tensor.detach());
    Ok(tensor)
}

/// The result of an operation without a graph, for computing gradients.
///
/// # Errors
/// As [`apply`].
pub fn apply_untracked(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs = inputs.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    match inputs.as_slice() {
        [a] => a.apply_op1_no_bwd(&Adapter(op)),
        [a, b] => a.apply_op2_no_bwd(b, &Adapter(op)),
        [a, b, c] => a.apply_op3_no_bwd(b, c, &Adapter(op)),
        _ => Err(Error::msg(format!("{}: {} inputs, needs 1 to 3", op.name(), inputs.len()))),
    }
}

/// Whether no tensor is part of a graph, so that no gradient can be asked for. Steps may then be
/// fused, and results computed in place of their inputs.
pub fn untracked<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|t| !t.track_op())
}

/// Views of a flat result that holds tensors of the given shapes one after the other.
///
/// # Errors
/// If the result has too few elements.
pub fn unpack<const N: usize>(packed: &Tensor, shapes: [&Shape; N]) -> Result<[Tensor; N]> {
    let mut start = 0;
    let mut views = Vec::with_capacity(N);
    for shape in shapes {
        views.push(packed.narrow(0, start, shape.elem_count())?.reshape(shape)?);
        start += shape.elem_count();
    }
    views.try_into().map_err(|_| Error::msg("one view for each shape"))
}

/// The contiguous elements of a CPU tensor's storage.
///
/// # Errors
/// If they are of another type, or not contiguous.
pub fn slice<'a, E: candle_core::WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [E]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<E>()?[start..end]),
        None => Err(Error::RequiresContiguous { op: "cpu kernel" }),
    }
}

/// Calls `f` with the contiguous elements of CPU tensors.
///
/// # Errors
/// If a tensor is not on the CPU, of another type or not contiguous, or if `f` fails.
pub fn with_slices<E: candle_core::WithDType, T>(
    tensors: &[&Tensor],
    f: impl FnOnce(&[&[E]]) -> Result<T>,
) -> Result<T> {
    let held: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let slices = held.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => slice::<E>(storage, layout),
        _ => Err(Error::msg("a kernel of the CPU was given a tensor that is elsewhere")),
    });
    f(&slices.collect::<Result<Vec<_>>>()?)
}

type Source<'a> = (&'a CpuStorage, &'a Layout);

/// Implements Candle's three traits for every operation.
struct Adapter<O>(O);

impl<O: Op> Adapter<O> {
    fn cpu(&self, inputs: &[Source<'_>]) -> Result<(CpuStorage, Shape)> {
        let shapes: Vec<&Shape> = inputs.iter().map(|(_, layout)| layout.shape()).collect();
        let shape = self.0.shape(&shapes)?;
        let out = match inputs[0].0.dtype() {
            DType::F32 => CpuStorage::F32(self.elements(inputs)?),
            DType::F64 => CpuStorage::F64(self.elements(inputs)?),
            DType::F16 if self.0.widens() => {
                CpuStorage::F16(narrowed(&self.widened::<f16>(inputs)?))
            }
            DType::BF16 if self.0.widens() => {
                CpuStorage::BF16(narrowed(&self.widened::<bf16>(inputs)?))
            }
            got => return Err(check::dtype_error(self.0.name(), got, "F32 or F64")),
        };
        Ok((out, shape))
    }

    fn elements<E: Real>(&self, inputs: &[Source<'_>]) -> Result<Vec<E>> {
        fn input<'a, E: Real>(&(storage, layout): &Source<'a>) -> Result<Input<'a, E>> {
            Ok(Input { data: slice(storage, layout)?, shape: layout.shape() })
        }
        self.computed(&inputs.iter().map(input).collect::<Result<Vec<_>>>()?)
    }

    fn widened<H: Half>(&self, inputs: &[Source<'_>]) -> Result<Vec<f32>> {
        let wide = |&(storage, layout): &Source<'_>| Ok(widened(slice::<H>(storage, layout)?));
        let wide = inputs.iter().map(wide).collect::<Result<Vec<Vec<f32>>>>()?;
        let inputs = wide.iter().zip(inputs);
        let inputs = inputs.map(|(data, (_, layout))| Input { data, shape: layout.shape() });
        self.computed(&inputs.collect::<Vec<_>>())
    }

    /// As many elements as the shape has: Candle would read past fewer.
    fn computed<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let shapes: Vec<&Shape> = inputs.iter().map(|input| input.shape).collect();
        let (name, shape) = (self.0.name(), self.0.shape(&shapes)?);
        let out = self.0.cpu(inputs)?;
        if out.len() == shape.elem_count() {
            return Ok(out);
        }
        Err(Error::msg(format!("{name}: {} elements for a result of {shape:?}", out.len())))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: &[crate::cuda::Input<'_>]) -> Result<(candle_core::CudaStorage, Shape)> {
        let shapes: Vec<&Shape> = inputs.iter().map(|(_, layout)| layout.shape()).collect();
        Ok((self.0.cuda(inputs)?, self.0.shape(&shapes)?))
    }

    fn gradients(&self, inputs: &[&Tensor], result: &Tensor, grad: &Tensor) -> Result<Gradients> {
        self.0.gradients(inputs, result, &grad.contiguous()?)
    }
}

/// A 16-bit float.
trait Half: candle_core::WithDType {
    fn widen(from: &[Self], to: &mut [f32]);
    fn narrow(from: &[f32], to: &mut [Self]);
}

macro_rules! half {
    ($($t:ty),*) => {$(
        impl Half for $t {
            fn widen(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }
            fn narrow(from: &[f32], to: &mut [Self]) {
                to.convert_from_f32_slice(from);
            }
        }
    )*};
}
half!(f16, bf16);

/// Elements that one task converts.
const TASK: usize = 1 << 14;

fn widened<H: Half>(x: &[H]) -> Vec<f32> {
    let mut out = vec![0.; x.len()];
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| H::widen(x, out));
    out
}

fn narrowed<H: Half>(x: &[f32]) -> Vec<H> {
    let mut out = vec![H::zero(); x.len()];
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| H::narrow(x, out));
    out
}

macro_rules! custom_op {
    ($custom:ident, $gradients:ty, $([$s:ident $l:ident $t:ident])*, $back:expr) => {
        impl<O: Op> $custom for Adapter<O> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, $($s: &CpuStorage, $l: &Layout),*) -> Result<(CpuStorage, Shape)> {
                self.cpu(&[$(($s, $l)),*])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(
                &self,
                $($s: &candle_core::CudaStorage, $l: &Layout),*
            ) -> Result<(candle_core::CudaStorage, Shape)> {
                self.cuda(&[$(($s, $l)),*])
            }

            fn bwd(&self, $($t: &Tensor,)* result: &Tensor, grad: &Tensor) -> Result<$gradients> {
                Ok($back(self.gradients(&[$($t),*], result, grad)?))
            }
        }
    };
}
type OptTensor = Option<Tensor>;
custom_op!(CustomOp1, OptTensor, [s1 l1 t1], |[a, _, _]: Gradients| a);
custom_op!(CustomOp2, (OptTensor, OptTensor), [s1 l1 t1] [s2 l2 t2], |[a, b, _]: Gradients| (a, b));
custom_op!(
    CustomOp3,
    (OptTensor, OptTensor, OptTensor),
    [s1 l1 t1] [s2 l2 t2] [s3 l3 t3],
    |[a, b, c]: Gradients| (a, b, c)
);
