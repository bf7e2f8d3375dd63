//! A Mamba block over a whole sequence, with gradients, and the same sample by sample with `step`, as a
//! stream needs it: each step takes the same time, however much came before.
//!
//! ```text
//! cargo run --release --example mamba_step
//! ```

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{VarBuilder, VarMap};
use isfm_ssm::{MambaConfig, mamba};

fn main() -> Result<()> {
    let (channels, steps) = (64, 512);
    let weights = VarMap::new();
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    // To train from scratch, `isfm_ssm::init::mamba` sets the values that the released program starts
    // from; `MambaCheckpoint::read` loads released weights.
    let block = mamba(&MambaConfig::new(channels), vb)?;

    let x = Tensor::randn(0f32, 1., (1, steps, channels), &Device::Cpu)?;
    let start = Instant::now();
    let whole = block.forward(&x)?;
    println!("{steps} steps at once: {:.1} ms", 1e3 * start.elapsed().as_secs_f64());
    let gradients = whole.sqr()?.mean_all()?.backward()?;
    let known = weights.all_vars().iter().filter(|var| gradients.get(var).is_some()).count();
    println!("gradients of {known} of {} parameters", weights.all_vars().len());

    let mut state = block.initial_state(1)?;
    let mut worst = 0f32;
    let start = Instant::now();
    for t in 0..steps {
        let y = block.step(&x.narrow(1, t, 1)?.squeeze(1)?, &mut state)?;
        let off = (y - whole.narrow(1, t, 1)?.squeeze(1)?)?.abs()?.max_all()?;
        worst = worst.max(off.to_scalar()?);
    }
    let each = 1e6 * start.elapsed().as_secs_f64() / steps as f64;
    println!("one by one: {each:.0} µs each, at most {worst:e} off");
    Ok(())
}
