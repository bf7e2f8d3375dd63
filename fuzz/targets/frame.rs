//! Stored values of every depth, as pictures and as tensors with strides, through every rule.
#![no_main]

use candle_core::{Device, Tensor};
use image::{DynamicImage, GrayImage, ImageBuffer, RgbImage};
use isfm::{Isfm, Normalize, Tiling};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;

#[derive(Arbitrary, Debug)]
struct Options {
    /// Percentiles or the values of a range.
    low: f32,
    high: f32,
    rule: u8,
    tile: Option<u8>,
    memory: Option<u16>,
    stretch: Option<(f32, f32)>,
    resize: bool,
}

impl Options {
    fn network(&self) -> isfm::Result<Isfm> {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let rule = match self.rule % 5 {
            0 => Normalize::Auto,
            1 => Normalize::FullRange,
            2 => Normalize::MinMax,
            3 => Normalize::Percentile { low, high },
            _ => Normalize::Range { low, high },
        };
        let mut builder = common::tiny().threads(1).normalize_infrared(rule).normalize_visible(rule);
        builder = builder.resize_infrared(self.resize);
        if let Some(edge) = self.tile {
            builder = builder.tiling(Tiling::Edge(edge.into()));
        }
        if let Some(kibibytes) = self.memory {
            builder = builder.memory_limit(usize::from(kibibytes) << 10);
        }
        if let Some((low, high)) = self.stretch {
            builder = builder.stretch(low.into(), high.into());
        }
        builder.build()
    }
}

fn side(bytes: &mut Unstructured) -> Result<(u32, u32)> {
    Ok((bytes.int_in_range(0..=40)?, bytes.int_in_range(0..=40)?))
}

fn picture(bytes: &mut Unstructured) -> Result<DynamicImage> {
    let (width, height) = side(bytes)?;
    let kind = bytes.int_in_range(0..=4)?;
    let colours = if kind == 0 || kind == 2 { 1 } else { 3 };
    let count = (width * height * colours) as usize;
    fn all<'a, T: Arbitrary<'a>>(bytes: &mut Unstructured<'a>, count: usize) -> Result<Vec<T>> {
        (0..count).map(|_| bytes.arbitrary()).collect()
    }
    let made = match kind {
        0 => GrayImage::from_raw(width, height, all(bytes, count)?).map(Into::into),
        1 => RgbImage::from_raw(width, height, all(bytes, count)?).map(Into::into),
        2 => ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageLuma16),
        3 => ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageRgb16),
        _ => ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageRgb32F),
    };
    Ok(made.expect("as many values as pixels need"))
}

/// A plane cut out of a larger one, perhaps turned: neither rows nor columns need be contiguous.
fn plane(bytes: &mut Unstructured, unit: bool) -> Result<Tensor> {
    let (width, height) = side(bytes)?;
    let (width, height) = (width as usize, height as usize);
    let all = (0..width * height).map(|_| {
        let value: f32 = bytes.arbitrary()?;
        Ok(if unit { value.abs().fract() } else { value })
    });
    let all = Tensor::from_vec(all.collect::<Result<Vec<f32>>>()?, (height, width), &Device::Cpu);
    let cut = |tensor: Tensor, left: usize, count: usize| tensor.narrow(1, left, count);
    let left = bytes.int_in_range(0..=width)?;
    let count = bytes.int_in_range(0..=width - left)?;
    let turned = bytes.arbitrary()?;
    let tensor = all.and_then(|t| cut(t, left, count)).and_then(|t| if turned { t.t() } else { Ok(t) });
    Ok(tensor.expect("a part of a plane"))
}

fn run(bytes: &[u8]) -> Result<()> {
    let mut bytes = Unstructured::new(bytes);
    let Ok(isfm) = bytes.arbitrary::<Options>()?.network() else { return Ok(()) };
    if bytes.arbitrary()? {
        let (visible, infrared) = (picture(&mut bytes)?, picture(&mut bytes)?);
        if let Ok(fused) = isfm.fuse(&visible, &infrared) {
            assert_eq!((fused.width(), fused.height()), (visible.width(), visible.height()));
            assert_eq!(fused.color().has_color(), visible.color().has_color());
        }
    } else {
        let unit = bytes.arbitrary()?;
        let (visible, infrared) = (plane(&mut bytes, unit)?, plane(&mut bytes, unit)?);
        if let Ok(fused) = isfm.fuse_luma(&visible, &infrared) {
            assert_eq!(fused.dims(), visible.dims());
            let values = fused.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("floats");
            assert!(values.iter().all(|v| (0. ..=1.).contains(v)));
        }
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    _ = run(bytes);
});
