//! Loads the authors' checkpoint, a PyTorch file, and fuses with it. Without an argument a stand-in of
//! random weights is written first, to show what is read and written.
//!
//! ```text
//! cargo run --release --example released_checkpoint -- ISFM.pth
//! ```

use anyhow::Result;
use candle_core::{DType, Device};
use isfm::{Checkpoint, Isfm, Preset};
use isfm_model::initial_weights;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = match std::env::args().nth(1) {
        Some(path) => path.into(),
        None => {
            let config = Preset::Small.into();
            let weights = initial_weights(&config, 1, &Device::Cpu)?;
            let metadata = Default::default();
            let path = folder.path().join("random.safetensors");
            Checkpoint { config, weights, self_contained: true, metadata }
                .write(&path, DType::F32)?;
            path
        }
    };
    // The configuration follows from the shapes of the tensors; no code of the file is run.
    let checkpoint = Checkpoint::read(&path, None, &Device::Cpu)?;
    let values: usize = checkpoint.weights.values().map(|tensor| tensor.elem_count()).sum();
    println!("{} tensors with {values} values", checkpoint.weights.len());
    println!("{}", serde_json::to_string(&checkpoint.config)?);
    // One file that says all, at half the size.
    let small = folder.path().join("isfm.safetensors");
    checkpoint.write(&small, DType::F16)?;
    println!("{} bytes in f16", std::fs::metadata(&small)?.len());

    let (visible, infrared) = isfm_testing::paint::night_road();
    let crop = |picture: image::DynamicImage| picture.crop_imm(400, 160, 96, 96);
    let isfm = Isfm::builder().checkpoint(checkpoint).build()?;
    let fused = isfm.fuse(&crop(visible.into()), &crop(infrared.into()))?;
    isfm::write_image(&fused, "out/released.png")?;
    println!("out/released.png");
    Ok(())
}
