//! Two frames of every depth, as pictures and as tensors with strides, through every rule and the network.
#![no_main]

use candle_core::{Device, Tensor};
use isfm::{Isfm, Tiling};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;
#[path = "frames.rs"]
mod frames;

use frames::{picture, rule, side};

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
        let rule = rule(self.rule, low, high);
        let mut builder = common::tiny().normalize_infrared(rule).normalize_visible(rule);
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
    let tensor =
        all.and_then(|t| cut(t, left, count)).and_then(|t| if turned { t.t() } else { Ok(t) });
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
