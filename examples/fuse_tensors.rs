//! Fuses luma planes that are Candle tensors already, a batch at a time, as a network of one's own would
//! hand them over.
//!
//! ```text
//! cargo run --release --example fuse_tensors
//! ```

use anyhow::Result;
use candle_core::{Device, Tensor};
use isfm::{Isfm, Tiling};

fn main() -> Result<()> {
    let (visible, infrared) = isfm_testing::paint::night_road();
    let (width, height) = (infrared.width() as usize, infrared.height() as usize);
    let plane = |bytes: Vec<u8>| {
        let values: Vec<f32> = bytes.into_iter().map(|v| f32::from(v) / 255.).collect();
        Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu)
    };
    let visible = plane(image::DynamicImage::from(visible).to_luma8().into_raw())?;
    let infrared = plane(infrared.into_raw())?;

    // Two pairs at once, B×1×H×W: the second has its sides exchanged.
    let batch = [&visible, &infrared];
    let (first, second) = (Tensor::cat(&batch, 0)?, Tensor::cat(&[&infrared, &visible], 0)?);
    let isfm = Isfm::builder().tiling(Tiling::Whole).build()?;
    let fused = isfm.fuse_luma(&first, &second)?;
    println!("{:?} and {:?} make {:?}", first.dims(), second.dims(), fused.dims());
    for (k, name) in ["as they are", "exchanged"].iter().enumerate() {
        let mean = fused.get(k)?.mean_all()?.to_scalar::<f32>()?;
        println!("{name}: mean luma {mean:.3}");
    }
    // Each is what it is alone.
    let alone = isfm.fuse_luma(&visible, &infrared)?;
    let off = (fused.narrow(0, 0, 1)? - alone)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("largest difference to the pair alone: {off:e}");
    Ok(())
}
