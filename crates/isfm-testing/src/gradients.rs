use candle_core::{DType, Result, Tensor, Var};

use crate::{dot, random, tensor, values};

/// How gradients are compared with central differences.
#[derive(Clone, Copy, Debug)]
pub struct Differences {
    /// How far an input is moved to either side.
    pub step: f64,
    /// The largest error, as a part of 1 + |slope| + |loss|: the rounding of a difference grows
    /// with the loss, its truncation with the slope.
    pub tolerance: f64,
    /// Inputs of at most so many elements are moved one element at a time, larger ones along three
    /// random directions, each of which sees every element.
    pub one_by_one: usize,
}

impl Default for Differences {
    /// For smooth functions of numbers of order 1: truncation (step² times the third derivative)
    /// and rounding (1e-16 of the loss over the step) both stay below 1e-8.
    fn default() -> Self {
        Self { step: 1e-5, tolerance: 2e-8, one_by_one: 64 }
    }
}

/// Σ r ⊙ y for a fixed random r, so that an error in any element shows; a scalar itself.
fn loss(y: &Tensor) -> Result<Tensor> {
    if y.rank() == 0 {
        return Ok(y.clone());
    }
    (y * random(y.dims(), 99).to_dtype(y.dtype())?)?.sum_all()
}

/// The gradients, in each of `inputs`, of f(inputs) if that is a scalar, else of Σ r ⊙ f(inputs)
/// for a fixed random r.
#[track_caller]
pub fn gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(&f(&tensors).unwrap()).unwrap().backward().unwrap();
    let gradient = |(i, v)| grads.get(v).unwrap_or_else(|| panic!("input {i} has no gradient"));
    vars.iter().map(Var::as_tensor).enumerate().map(gradient).cloned().collect()
}

/// Compares every one of [`gradients`] with central differences in f64, which are taken without a
/// graph.
#[track_caller]
pub fn check_gradients(
    what: &str,
    inputs: &[Tensor],
    how: Differences,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for (i, got) in gradients(inputs, &f).iter().enumerate() {
        compare(&format!("{what}: input {i}"), got, &inputs[i], how, |moved| {
            let mut inputs = inputs.to_vec();
            inputs[i] = moved;
            f(&inputs)
        });
    }
}

/// The same for the variables of a module: `f` is moved by setting them one after another, and they
/// come back to where they were.
#[track_caller]
pub fn check_variables(
    variables: &[(String, Var)],
    how: Differences,
    f: impl Fn() -> Result<Tensor>,
) {
    let grads = loss(&f().unwrap()).unwrap().backward().unwrap();
    for (name, var) in variables {
        let start = tensor(&values(var), var.dims(), DType::F64);
        let got = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        compare(name, got, &start, how, |moved| {
            var.set(&moved)?;
            f()
        });
        var.set(&start).unwrap();
    }
}

/// One gradient at `start` against the differences of `f`.
#[track_caller]
fn compare(
    what: &str,
    got: &Tensor,
    start: &Tensor,
    how: Differences,
    f: impl Fn(Tensor) -> Result<Tensor>,
) {
    assert_eq!(got.dims(), start.dims(), "{what}");
    assert_eq!(start.dtype(), DType::F64, "{what}");
    let at = |x: Tensor| loss(&f(x).unwrap()).unwrap().to_scalar::<f64>().unwrap();
    let size = at(start.copy().unwrap()).abs();
    let elements = start.elem_count();
    let single = elements <= how.one_by_one;
    for trial in 0..if single { elements } else { 3 } {
        let direction = if single {
            let mut unit = vec![0.; elements];
            unit[trial] = 1.;
            tensor(&unit, start.dims(), DType::F64)
        } else {
            random(start.dims(), 1000 + trial as u64)
        };
        let moved = |step: f64| at((start + (&direction * step).unwrap()).unwrap());
        let want = (moved(how.step) - moved(-how.step)) / (2. * how.step);
        let got = dot(got, &direction);
        let bound = how.tolerance * (1. + want.abs() + size);
        assert!((got - want).abs() <= bound, "{what}, {trial}: {got}, should be {want}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_gradients_pass() {
        let inputs = [random(&[3, 4], 1), random(&[3, 40], 2)];
        check_gradients("product", &inputs, Differences::default(), |x| x[0].t()?.matmul(&x[1]));
        let x = Var::from_tensor(&inputs[0]).unwrap();
        check_variables(&[("x".into(), x.clone())], Differences::default(), || x.exp());
        assert_eq!(values(&x), values(&inputs[0]));
    }

    /// One factor of x² is cut out of the graph.
    #[test]
    #[should_panic(expected = "cut: input 0, 0: ")]
    fn wrong_gradients_fail() {
        let x = random(&[2, 3], 1);
        check_gradients("cut", &[x], Differences::default(), |x| &x[0] * x[0].detach());
    }

    #[test]
    #[should_panic(expected = "0 has no gradient")]
    fn missing_gradients_fail() {
        check_gradients("cut", &[random(&[2], 1)], Differences::default(), |x| x[0].detach().exp());
    }
}
