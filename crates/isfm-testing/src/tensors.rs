use std::collections::HashMap;
use std::ops::Index;

use candle_core::{DType, Device, Tensor};

use crate::Numbers;

/// An f64 tensor of numbers in [-1, 1) that depend on the seed alone.
pub fn random(dims: &[usize], seed: u64) -> Tensor {
    let numbers = Numbers(seed).vec(dims.iter().product(), -1., 1.);
    tensor(&numbers, dims, DType::F64)
}

/// A tensor of `dtype` on the CPU.
pub fn tensor(values: &[f64], dims: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// All elements as f64.
pub fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of all elements as f64, which tell NaN from NaN and 0 from −0.
pub fn bits(x: &Tensor) -> Vec<u64> {
    values(x).into_iter().map(f64::to_bits).collect()
}

/// Whether shapes and bits are the same.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.dims() == b.dims() && bits(a) == bits(b)
}

/// Pairs of elements of two tensors of one shape.
fn pairs(a: &Tensor, b: &Tensor) -> impl Iterator<Item = (f64, f64)> {
    assert_eq!(a.dims(), b.dims());
    values(a).into_iter().zip(values(b))
}

/// The sum of the products of the elements.
pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    pairs(a, b).map(|(a, b)| a * b).sum()
}

/// The largest |a − b|; NaN where one is NaN.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    pairs(a, b)
        .map(|(a, b)| (a - b).abs())
        .fold(0., |m, d| if m.is_nan() || d <= m { m } else { d })
}

/// ‖a − b‖ / ‖b‖; 0 where a = b.
pub fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (error, size) = pairs(a, b)
        .fold((0., 0.), |(error, size), (a, b)| (error + (a - b) * (a - b), size + b * b));
    if error == 0. { 0. } else { (error / size).sqrt() }
}

/// Asserts |got − want| ≤ tolerance · (the largest |want|, at least 1) everywhere.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    let size = values(want).iter().fold(1f64, |m, v| m.max(v.abs()));
    for (i, (got, want)) in pairs(got, want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= tolerance * size, "{what}: [{i}] is {got}, should be {want}");
    }
}

/// Tensors of a safetensors file, by name.
#[derive(Clone, Debug)]
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    /// Reads a file; [`golden!`](crate::golden) finds it.
    pub fn read(path: &str) -> Self {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu);
        Self(tensors.unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    /// A tensor that the file may lack.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// All tensors whose names start with `prefix`, under the rest of their names.
    pub fn under(&self, prefix: &str) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().filter_map(move |(name, t)| Some((name.strip_prefix(prefix)?, t)))
    }
}

impl Index<&str> for Golden {
    type Output = Tensor;

    #[track_caller]
    fn index(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|| panic!("no tensor {name} in the golden file"))
    }
}

/// Reads a safetensors file of the calling crate's `tests/fixtures`.
#[macro_export]
macro_rules! golden {
    ($name:expr) => {
        $crate::Golden::read(&format!("{}/tests/fixtures/{}", env!("CARGO_MANIFEST_DIR"), $name))
    };
}
