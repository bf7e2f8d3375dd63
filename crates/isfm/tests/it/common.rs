//! What the tests share: a small network with random weights, and images.

use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use isfm::{Builder, Checkpoint, Config, Isfm, Tiling};
use isfm_model::{Network, initial_weights};

pub(crate) fn config() -> Config {
    Config { embed_dim: 8, depths: vec![1, 1], d_state: 4, ..Config::default() }
}

/// Random weights whose output is stretched so that it spans a good part of [0, 1] and leaves it
/// here and there: otherwise a test could pass on an image that is black all over.
pub(crate) fn checkpoint() -> &'static Checkpoint {
    static MADE: OnceLock<Checkpoint> = OnceLock::new();
    MADE.get_or_init(|| {
        let config = config();
        let mut weights = initial_weights(&config, 7, &Device::Cpu).unwrap();
        let plane = |image: &GrayImage| {
            let values: Vec<f32> = image.as_raw().iter().map(|&v| f32::from(v) / 255.).collect();
            Tensor::from_vec(values, (1, 1, 48, 64), &Device::Cpu).unwrap()
        };
        let (visible, infrared) = (plane(&grey(64, 48, 1)), plane(&grey(64, 48, 2)));
        let network = Network::from_weights(&config, &weights).unwrap();
        let out = network.forward(&visible, &infrared).unwrap();
        let mean = out.mean_all().unwrap().to_scalar::<f32>().unwrap();
        let var = out.var(candle_core::D::Minus1).unwrap().mean_all().unwrap();
        let gain = 0.25 / f64::from(var.to_scalar::<f32>().unwrap()).sqrt();
        let last = |what: &str| format!("conv_final_fuse.2.{what}");
        let weight = (weights[&last("weight")].clone() * gain).unwrap();
        let bias = weights[&last("bias")].affine(gain, 0.5 - gain * f64::from(mean)).unwrap();
        weights.insert(last("weight"), weight);
        weights.insert(last("bias"), bias);
        Checkpoint { config, weights, self_contained: true, metadata: Default::default() }
    })
}

pub(crate) fn builder() -> Builder {
    Isfm::builder().checkpoint(checkpoint().clone())
}

pub(crate) fn isfm() -> Isfm {
    builder().build().unwrap()
}

/// As [`isfm`], and never tiles.
pub(crate) fn whole() -> Isfm {
    builder().tiling(Tiling::Whole).build().unwrap()
}

/// Smooth waves with a few edges, different for each seed.
pub(crate) fn value(x: u32, y: u32, seed: u32) -> f32 {
    let (x, y, s) = (x as f32, y as f32, seed as f32);
    let waves = (0.11 * x + s).sin() + (0.07 * y + 2. * s).cos() + (0.05 * (x + y) * s).sin();
    let edge = if (x / 23. + y / 31. + s).fract() < 0.3 { 0.25 } else { 0. };
    (0.4 + 0.15 * waves + edge).clamp(0., 1.)
}

pub(crate) fn grey(width: u32, height: u32, seed: u32) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| Luma([(value(x, y, seed) * 255.).round() as u8]))
}

pub(crate) fn grey_image(width: u32, height: u32, seed: u32) -> DynamicImage {
    DynamicImage::ImageLuma8(grey(width, height, seed))
}

pub(crate) fn colour_image(width: u32, height: u32, seed: u32) -> DynamicImage {
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb(std::array::from_fn(|c| (value(x, y, seed + c as u32) * 255.).round() as u8))
    });
    image.into()
}

pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

pub(crate) fn plane(height: usize, width: usize, seed: u32) -> Tensor {
    let at = |i: usize| value((i % width) as u32, (i / width) as u32, seed);
    tensor((0..height * width).map(at).collect(), &[height, width])
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The released program's test cases, which lie with the model's tests.
pub(crate) fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../isfm-model/tests/fixtures"))
}
