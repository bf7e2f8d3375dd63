//! The way of gradients from one operation's results to its inputs, on the CPU.
//!
//! Candle adds each gradient that an operation returns to a map of zeros, by operations of its own
//! and on threads of its own: over a third of a training step. Here a gradient moves into a
//! [`Place`] that belongs to a result, where it is added to others only if there are others. Candle
//! still decides in which order operations take their gradients; for it, a result is made of a
//! token of one element, which is made of the tokens of its inputs:
//!
//! ```text
//! input's token ── node ── result              graph, as Candle sees it
//! input's place ←─ gradients ←─ result's place  gradients
//! ```
//!
//! Tokens also make operations of any number of inputs and results, where Candle's have at most
//! three and one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Error, Layout, Result, Shape,
    Tensor, TensorId,
};

/// The gradients of the inputs, in order, from those of the results, `None` for one that nothing
/// asked for.
pub(crate) trait Backward: Send + Sync + 'static {
    fn gradients(
        &self,
        inputs: &[Tensor],
        grads: Vec<Option<Tensor>>,
    ) -> Result<Vec<Option<Tensor>>>;
}

/// Whether [`record`] takes these inputs: some are tracked, all are on the CPU, and gradients can
/// be added there.
pub(crate) fn takes<'a>(inputs: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let mut tracked = false;
    for t in inputs {
        if !t.device().is_cpu() || !matches!(t.dtype(), DType::F32 | DType::F64) {
            return false;
        }
        tracked |= t.track_op();
    }
    tracked
}

/// Tensors of `results`, through which gradients reach `inputs` by `backward`.
pub(crate) fn record(
    results: Vec<(CpuStorage, Shape)>,
    inputs: Vec<Tensor>,
    backward: impl Backward,
) -> Result<Vec<Tensor>> {
    let mut targets = Vec::with_capacity(inputs.len());
    let mut edges = Vec::new();
    for input in &inputs {
        let known = lock(&RESULTS).get(&input.id()).cloned();
        targets.push(match known {
            Some(Entry { token, place }) => {
                edges.push((token, None));
                Some(place)
            }
            None if input.track_op() => {
                let place = Arc::new(Place::default());
                edges.push((input.clone(), Some(place.clone())));
                Some(place)
            }
            None => None,
        });
    }
    let places: Vec<Arc<Place>> = results.iter().map(|_| Arc::default()).collect();
    while edges.len() > MOST {
        let fans = edges.chunks(MOST).map(|edges| {
            let (inputs, outside): (Vec<_>, Vec<_>) = edges.iter().cloned().unzip();
            Ok((token(Fan { outside }, &inputs)?, None))
        });
        edges = fans.collect::<Result<_>>()?;
    }
    let (tokens, outside): (Vec<_>, Vec<_>) = edges.into_iter().unzip();
    let node = Node {
        inputs,
        targets,
        backward: Box::new(backward),
        results: places.clone(),
        fan: Fan { outside },
    };
    let node = token(node, &tokens)?;
    let results = results.into_iter().zip(places);
    results.map(|((storage, shape), place)| result(storage, shape, &node, place)).collect()
}

fn result(storage: CpuStorage, shape: Shape, node: &Tensor, place: Arc<Place>) -> Result<Tensor> {
    let id = Arc::new(OnceLock::new());
    let elements = Mutex::new(Some((storage, shape)));
    let result =
        token(Join { elements, place: place.clone(), id: id.clone() }, std::slice::from_ref(node))?;
    let _ = id.set(result.id());
    lock(&RESULTS).insert(result.id(), Entry { token: node.clone(), place });
    Ok(result)
}

/// The results that exist, with what an operation that reads one needs of it.
static RESULTS: LazyLock<Mutex<HashMap<TensorId, Entry>>> = LazyLock::new(Mutex::default);

#[derive(Clone)]
struct Entry {
    token: Tensor,
    place: Arc<Place>,
}

/// A map or list is whole whenever no one holds its lock: nothing that can panic changes it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A result's gradient as far as it is known, for each thread that runs a backward pass.
#[derive(Default)]
struct Place(Mutex<Vec<(ThreadId, Tensor)>>);

impl Place {
    fn add(&self, grad: Tensor) -> Result<()> {
        let grad = match self.take() {
            Some(known) => crate::weighted_sum(&known, 1., &grad, 1.)?,
            None => grad,
        };
        lock(&self.0).push((std::thread::current().id(), grad));
        Ok(())
    }

    fn take(&self) -> Option<Tensor> {
        let mut grads = lock(&self.0);
        let here = std::thread::current().id();
        let at = grads.iter().position(|(thread, _)| *thread == here)?;
        Some(grads.swap_remove(at).1)
    }
}

/// Inputs that one of Candle's operations can have.
const MOST: usize = 3;

/// An operation of Candle's graph.
trait Token: Send + Sync + 'static {
    /// The elements of its result; by default one.
    fn elements(&self) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.]), 1.into()))
    }

    /// Moves gradients on; returns those of the `inputs`.
    fn backward(&self, inputs: &[&Tensor], grad: &Tensor) -> Result<Vec<Tensor>>;
}

/// For an input that is a token: Candle wants to see a gradient before it goes on to the token.
fn nothing() -> Result<Tensor> {
    Tensor::zeros(1, DType::F32, &Device::Cpu)
}

/// Hands gradients to inputs that are no results of this module's. One alone stands between a node
/// and more inputs than an operation can have.
struct Fan {
    /// For each input the place of its gradient; `None` for a token.
    outside: Vec<Option<Arc<Place>>>,
}

impl Token for Fan {
    fn backward(&self, inputs: &[&Tensor], _: &Tensor) -> Result<Vec<Tensor>> {
        let all = inputs.iter().zip(&self.outside).map(|(input, outside)| match outside {
            Some(place) => place.take().map_or_else(|| input.zeros_like(), Ok),
            None => nothing(),
        });
        all.collect()
    }
}

/// The operation itself.
struct Node {
    inputs: Vec<Tensor>,
    /// Where the gradients of the inputs go that are tracked.
    targets: Vec<Option<Arc<Place>>>,
    backward: Box<dyn Backward>,
    results: Vec<Arc<Place>>,
    fan: Fan,
}

impl Token for Node {
    fn backward(&self, inputs: &[&Tensor], grad: &Tensor) -> Result<Vec<Tensor>> {
        let grads: Vec<_> = self.results.iter().map(|place| place.take()).collect();
        if grads.iter().any(Option::is_some) {
            let grads = self.backward.gradients(&self.inputs, grads)?;
            for (target, grad) in self.targets.iter().zip(grads) {
                if let (Some(target), Some(grad)) = (target, grad) {
                    target.add(grad)?;
                }
            }
        }
        self.fan.backward(inputs, grad)
    }
}

/// A result, as users of the operation see it.
struct Join {
    /// Until the result is made.
    elements: Mutex<Option<(CpuStorage, Shape)>>,
    place: Arc<Place>,
    id: Arc<OnceLock<TensorId>>,
}

impl Token for Join {
    fn elements(&self) -> Result<(CpuStorage, Shape)> {
        let elements = lock(&self.elements).take();
        elements.ok_or_else(|| Error::msg("a result was made twice"))
    }

    /// Only operations that are not recorded here give a result's gradient to Candle.
    fn backward(&self, _: &[&Tensor], grad: &Tensor) -> Result<Vec<Tensor>> {
        self.place.add(grad.contiguous()?)?;
        Ok(vec![nothing()?])
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        let entry = self.id.get().and_then(|id| lock(&RESULTS).remove(id));
        // After the lock is given back: this may drop other results.
        drop(entry);
    }
}

fn token(op: impl Token, inputs: &[Tensor]) -> Result<Tensor> {
    match inputs {
        [a] => a.apply_op1(Wrapped(op)),
        [a, b] => a.apply_op2(b, Wrapped(op)),
        [a, b, c] => a.apply_op3(b, c, Wrapped(op)),
        _ => Err(Error::msg("a token of no or of more than three inputs")),
    }
}

struct Wrapped<T>(T);

macro_rules! custom_op {
    ($custom:ident, $gradients:ty, $([$s:ident $l:ident $t:ident])*) => {
        impl<T: Token> $custom for Wrapped<T> {
            fn name(&self) -> &'static str {
                "graph"
            }

            fn cpu_fwd(&self, $(_: &CpuStorage, $l: &Layout),*) -> Result<(CpuStorage, Shape)> {
                $(let _ = $l;)*
                self.0.elements()
            }

            fn bwd(&self, $($t: &Tensor,)* _: &Tensor, grad: &Tensor) -> Result<$gradients> {
                let mut grads = self.0.backward(&[$($t),*], grad)?.into_iter();
                Ok(($({
                    let _ = $t;
                    grads.next()
                }),*))
            }
        }
    };
}
type Grad = Option<Tensor>;
custom_op!(CustomOp1, Grad, [s1 l1 t1]);
custom_op!(CustomOp2, (Grad, Grad), [s1 l1 t1] [s2 l2 t2]);
custom_op!(CustomOp3, (Grad, Grad, Grad), [s1 l1 t1] [s2 l2 t2] [s3 l3 t3]);
