//! What several test files use.
#![allow(dead_code)] // No file uses all of it.

use candle_core::{DType, Device, Result, Tensor};
use isfm_dwt::{Border, Layout, Wavelet};

pub(crate) const LAYOUTS: [Layout; 2] = [Layout::ChannelsLast, Layout::ChannelsFirst];

/// PyWavelets' modes.
pub(crate) const MODES: [(&str, Border); 6] = [
    ("zero", Border::Zero),
    ("constant", Border::Constant),
    ("symmetric", Border::Symmetric),
    ("reflect", Border::Reflect),
    ("periodic", Border::Periodic),
    ("periodization", Border::Periodization),
];

/// Reproducible numbers in [-1, 1).
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let numbers: Vec<f64> = (0..dims.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.
        })
        .collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
}

/// B×C×H×W to the layout and back (for channels-last the two differ).
pub(crate) fn from_nchw(x: &Tensor, layout: Layout) -> Tensor {
    match layout {
        Layout::ChannelsFirst => x.clone(),
        Layout::ChannelsLast => x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(),
    }
}

pub(crate) fn to_nchw(x: &Tensor, layout: Layout) -> Tensor {
    match layout {
        Layout::ChannelsFirst => x.clone(),
        Layout::ChannelsLast => x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap(),
    }
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, having checked that the shapes agree.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0., f64::max)
}

pub(crate) fn dot(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

/// The same bits, NaN included.
pub(crate) fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |x: &Tensor| values(x).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    a.dims() == b.dims() && bits(a) == bits(b)
}

/// Haar with zeros around it: the same transform, but not the one with a kernel of its own.
pub(crate) fn padded_haar() -> Wavelet {
    const S: f64 = std::f64::consts::FRAC_1_SQRT_2;
    let (lo, hi) = ([0., S, S, 0.], [0., -S, S, 0.]);
    Wavelet::from_filters("padded haar", &lo, &hi, &lo, &[0., S, -S, 0.]).unwrap()
}

/// Filters that are no wavelet at all, but whose adjoint must be exact.
pub(crate) fn odd_filters() -> Wavelet {
    let f = |k: usize| -> Vec<f64> {
        (0..6).map(|i| ((i * 7 + k * 5) % 11) as f64 / 5. - 1.).collect()
    };
    Wavelet::from_filters("odd", &f(0), &f(1), &f(2), &f(3)).unwrap()
}

pub(crate) fn runs_on(
    threads: usize,
    f: impl FnOnce() -> Result<Vec<Tensor>> + Send,
) -> Vec<Tensor> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(f).unwrap()
}
