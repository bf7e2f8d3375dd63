//! Times of the one-dimensional selective scan on the inputs of a file, as one line of JSON: what
//! `benches/python/scan_vs_pytorch.py` of the repository runs beside PyTorch. Writes the output and the gradients beside the file.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;

use candle_core::{Device, Tensor, Var, safetensors};
use isfm_ssm::{ScanOptions, selective_scan};
use isfm_testing::best;

type Tensors = HashMap<String, Tensor>;

fn scan(x: &Tensors) -> candle_core::Result<Tensor> {
    let options = ScanOptions {
        d_skip: Some(&x["d"]),
        delta_bias: Some(&x["bias"]),
        softplus: true,
        ..Default::default()
    };
    selective_scan(&x["u"], &x["delta"], &x["a"], &x["b"], &x["c"], &options)
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let Some(file) = std::env::args().skip(1).find(|arg| !arg.starts_with("--")) else {
        println!("scan_times times what scan_vs_pytorch.py hands it");
        return Ok(());
    };
    let file = PathBuf::from(file);
    let mut inputs = safetensors::load(&file, &Device::Cpu)?;
    let weights = inputs.remove("weights");

    let forward = 1e3 * best(3, || scan(&inputs))?;
    let mut outputs = Tensors::from([("y".into(), scan(&inputs)?)]);
    let mut times = format!("\"forward\": {forward:.4}");
    // The loss is the output's sum with these weights.
    if let Some(weights) = weights {
        let mut vars = Tensors::new();
        for (name, x) in inputs {
            vars.insert(name, Var::from_tensor(&x)?.into_inner());
        }
        let both = || (scan(&vars)? * &weights)?.sum_all()?.backward();
        times += &format!(", \"forward + backward\": {:.4}", 1e3 * best(3, both)?);
        let gradients = both()?;
        for (name, var) in vars {
            let gradient = gradients.get(&var).ok_or_else(|| format!("no gradient of {name}"))?;
            outputs.insert(name, gradient.clone());
        }
    }
    safetensors::save(&outputs, file.with_extension("out"))?;
    println!("{{\"threads\": {}, {times}}}", rayon::current_num_threads());
    Ok(())
}
