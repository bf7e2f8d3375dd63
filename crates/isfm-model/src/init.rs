//! Initial values, from a seed.

use std::sync::Mutex;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::weights::Weights;
use crate::{Config, Network, Result};

/// The initial weights of `config`, of the released program's distributions, by their released
/// names, in f32.
///
/// Each tensor has a random stream of its own, chosen by the seed and its name, so that the values
/// depend on nothing else. (Candle's own generator cannot be seeded on the CPU.) Gates begin near
/// what merges well without a network.
///
/// # Errors
/// If the configuration makes no sense.
pub fn initial_weights(config: &Config, seed: u64, device: &Device) -> Result<Weights> {
    build_with(config, DType::F32, device, |name, shape, init| {
        if config.pyramid.gates && name == "conv_final_fuse.2.bias" {
            return Ok(Tensor::from_vec(config.pyramid.initial_gates(), shape.clone(), device)?);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(fnv1a(name));
        let values = initial_values(name, shape, init, &mut rng)?;
        Ok(Tensor::from_vec(values, shape.clone(), device)?)
    })
}

/// Builds a network on tensors that `make` gives for each name, shape and hint, and returns them.
pub(crate) fn build_with(
    config: &Config,
    dtype: DType,
    device: &Device,
    make: impl Fn(&str, &Shape, Init) -> Result<Tensor> + Send + Sync,
) -> Result<Weights> {
    let made = Mutex::new(Weights::new());
    let backend = Recorder { made: &made, make };
    Network::new(config, VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))?;
    Ok(made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Gives a new tensor for every name a module asks for, and keeps it.
struct Recorder<'a, F> {
    made: &'a Mutex<Weights>,
    make: F,
}

impl<F: Fn(&str, &Shape, Init) -> Result<Tensor> + Send + Sync> SimpleBackend for Recorder<'_, F> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        _: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = (self.make)(name, &shape, init).map_err(candle_core::Error::wrap)?;
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.insert(name.to_string(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: no shape was given")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn initial_values(name: &str, shape: &Shape, init: Init, rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    let count = shape.elem_count();
    let mut uniform = || rng.random::<f64>();
    // The two that a hint of Candle's cannot say.
    match name.rsplit('.').next() {
        Some("A_logs") => {
            let (rows, states) = shape.dims2()?;
            return Ok(isfm_ssm::init::a_logs(rows, states));
        }
        Some("dt_projs_bias") => return Ok(isfm_ssm::init::dt_projs_bias(count, uniform)),
        _ => {}
    }
    match init {
        Init::Const(value) => Ok(vec![value as f32; count]),
        Init::Uniform { lo, up } => {
            Ok((0..count).map(|_| (lo + (up - lo) * uniform()) as f32).collect())
        }
        Init::Randn { mean, stdev } => {
            // Box and Muller; 1 − u keeps the logarithm's argument above zero.
            let mut normal = || {
                let radius = (-2. * (1. - uniform()).ln()).sqrt();
                radius * (std::f64::consts::TAU * uniform()).cos()
            };
            Ok((0..count).map(|_| (mean + stdev * normal()) as f32).collect())
        }
        Init::Kaiming { .. } => {
            Err(candle_core::Error::msg(format!("{name}: no layer here asks for {init:?}")).into())
        }
    }
}

/// FNV-1a, 64 bits: a hash that stays the same between versions of Rust.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
