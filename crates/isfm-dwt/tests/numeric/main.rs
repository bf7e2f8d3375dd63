//! The transforms against PyWavelets, against their definitions, and what must hold for any input.

mod gradient;
mod maps;
mod pywavelets;
mod reconstruction;
mod signals;

use candle_core::Tensor;
use isfm_dwt::{Border, DataFormat, Wavelet};
use proptest::strategy::Strategy;

const LAYOUTS: [DataFormat; 2] = [DataFormat::ChannelsLast, DataFormat::ChannelsFirst];

/// PyWavelets' modes.
const MODES: [(&str, Border); 6] = [
    ("zero", Border::Zero),
    ("constant", Border::Constant),
    ("symmetric", Border::Symmetric),
    ("reflect", Border::Reflect),
    ("periodic", Border::Periodic),
    ("periodization", Border::Periodization),
];

fn any_layout() -> impl Strategy<Value = DataFormat> {
    proptest::sample::select(LAYOUTS.to_vec())
}

/// The dimensions that count rows and columns.
fn plane(layout: DataFormat) -> (usize, usize) {
    if layout == DataFormat::ChannelsLast { (1, 2) } else { (2, 3) }
}

/// The sum of the products of the elements, to be differentiated.
fn product(x: &Tensor, y: &Tensor) -> Tensor {
    (x * y).unwrap().sum_all().unwrap()
}

/// Wavelets by name, each with all of [`MODES`], and both names, "wavelet.mode".
fn cases<N: AsRef<str>>(
    names: impl IntoIterator<Item = N>,
) -> impl Iterator<Item = (String, Wavelet, Border)> {
    names.into_iter().flat_map(|name| {
        let wavelet = Wavelet::named(name.as_ref()).unwrap();
        MODES.map(|(mode, border)| (format!("{}.{mode}", wavelet.name()), wavelet.clone(), border))
    })
}

/// B×C×H×W to the layout.
fn from_nchw(x: &Tensor, layout: DataFormat) -> Tensor {
    match layout {
        DataFormat::ChannelsFirst => x.clone(),
        DataFormat::ChannelsLast => x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(),
    }
}

/// The layout to B×C×H×W.
fn to_nchw(x: &Tensor, layout: DataFormat) -> Tensor {
    match layout {
        DataFormat::ChannelsFirst => x.clone(),
        DataFormat::ChannelsLast => x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap(),
    }
}

/// Haar with zeros around it: the same transform, but not the one with a kernel of its own.
fn padded_haar() -> Wavelet {
    const S: f64 = std::f64::consts::FRAC_1_SQRT_2;
    let (lo, hi) = ([0., S, S, 0.], [0., -S, S, 0.]);
    Wavelet::from_filters("padded haar", &lo, &hi, &lo, &[0., S, -S, 0.]).unwrap()
}

fn wavelets() -> [Wavelet; 3] {
    [Wavelet::haar(), padded_haar(), odd_filters()]
}

/// Filters that are no wavelet at all, but whose adjoint must be exact.
fn odd_filters() -> Wavelet {
    let f = |k: usize| -> Vec<f64> {
        (0..6).map(|i| ((i * 7 + k * 5) % 11) as f64 / 5. - 1.).collect()
    };
    Wavelet::from_filters("odd", &f(0), &f(1), &f(2), &f(3)).unwrap()
}
