//! A VSS block of one's own: the four-direction selective scan of this workspace between layers of
//! Candle's, trained for a few steps to blur a picture as a wide filter does, which a 3×3 convolution
//! alone cannot.
//!
//! ```text
//! cargo run --release --example vss_block
//! ```

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{AdamW, Linear, Optimizer, VarBuilder, VarMap, linear};
use isfm_ssm::{Ss2dConfig, VssBlock, vss_block};

/// Grey picture to grey picture, B×H×W×1.
struct Blur {
    inward: Linear,
    block: VssBlock,
    outward: Linear,
}

impl Module for Blur {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.block.forward(&self.inward.forward(x)?)?;
        self.outward.forward(&x)
    }
}

fn main() -> Result<()> {
    let weights = VarMap::new();
    let vb = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    let config = Ss2dConfig { d_state: 4, ..Ss2dConfig::new(8) };
    let model = Blur {
        inward: linear(1, 8, vb.pp("inward"))?,
        block: vss_block(&config, vb.pp("block"))?,
        outward: linear(8, 1, vb.pp("outward"))?,
    };
    let mut adam = AdamW::new_lr(weights.all_vars(), 1e-2)?;
    for step in 0..=120 {
        let x = Tensor::rand(0f32, 1., (4, 24, 24, 1), &Device::Cpu)?;
        let loss = (model.forward(&x)? - blurred(&x)?)?.sqr()?.mean_all()?;
        if step % 30 == 0 {
            println!("step {step}: loss {:.5}", loss.to_scalar::<f32>()?);
        }
        adam.backward_step(&loss)?;
    }
    Ok(())
}

/// The mean over 9×9 places.
fn blurred(x: &Tensor) -> candle_core::Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?.pad_with_same(2, 4, 4)?.pad_with_same(3, 4, 4)?;
    x.avg_pool2d_with_stride((9, 9), (1, 1))?.permute((0, 2, 3, 1))?.contiguous()
}
