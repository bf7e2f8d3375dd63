//! Initial values that Candle's `Init` cannot express (Gu and Dao, "Mamba", 2023, §3.6: S4D-real and
//! the range of dt).

use std::collections::BTreeSet;

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarMap};

/// `A_logs` for `rows` channels of `n` states: ln 1, ln 2, …, ln n in every row.
pub fn a_logs(rows: usize, n: usize) -> Vec<f32> {
    let row: Vec<f32> = (1..=n).map(|i| (i as f64).ln() as f32).collect();
    row.repeat(rows)
}

/// `count` values of `dt_projs_bias`: the inverse softplus of dt drawn log-uniform from
/// [1e-3, 1e-1] and floored at 1e-4. `uniform` draws from [0, 1).
pub fn dt_projs_bias(count: usize, mut uniform: impl FnMut() -> f64) -> Vec<f32> {
    let (low, high) = (DT_MIN.ln(), DT_MAX.ln());
    (0..count)
        .map(|_| inverse_softplus((low + uniform() * (high - low)).exp().max(1e-4)) as f32)
        .collect()
}

const DT_MIN: f64 = 1e-3;
const DT_MAX: f64 = 1e-1;

/// The nearest to [`dt_projs_bias`] that Candle's `Init` has: uniform between the same bounds.
pub(crate) fn near_dt_bias() -> Init {
    Init::Uniform { lo: inverse_softplus(DT_MIN), up: inverse_softplus(DT_MAX) }
}

/// The nearest to [`a_logs`] that Candle's `Init` has: uniform over the same range.
pub(crate) fn near_a_logs(n: usize) -> Init {
    if n == 1 { Init::Const(0.) } else { Init::Uniform { lo: 0., up: (n as f64).ln() } }
}

/// x with ln(1 + eˣ) = y, for y > 0.
fn inverse_softplus(y: f64) -> f64 {
    y + (-(-y).exp_m1()).ln()
}

/// Sets all parameters of the Mamba and Vision Mamba blocks in `vars`, and of the norms and the
/// vocabulary around them, to the values that the released program starts from. They depend on
/// `uniform`, which draws from [0, 1), alone: the variables are set in the order of their names.
///
/// A is ln 1 … ln N in every row, D 1, dt's bias as [`dt_projs_bias`] has it; matrices and
/// convolutions are uniform within ±1/√fan_in, projections out divided by √layers; biases of
/// projections are 0, norms 1, embeddings normal with σ 0.02. Variables with other names are left
/// as they are.
///
/// # Errors
/// If a variable cannot be set.
pub fn mamba(vars: &VarMap, mut uniform: impl FnMut() -> f64) -> Result<()> {
    let data = vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let names: BTreeSet<&String> = data.keys().collect();
    let layers = names.iter().filter(|name| name.ends_with("mixer.out_proj.weight")).count();
    for name in names {
        let var = &data[name];
        let mut draw = |low: f64, high: f64| -> Vec<f32> {
            (0..var.elem_count()).map(|_| (low + (high - low) * uniform()) as f32).collect()
        };
        let own = name.rsplit_once("mixer.").map_or(name.as_str(), |(_, own)| own);
        let values = match (own, var.dims()) {
            ("A_log" | "A_b_log", &[rows, n]) => a_logs(rows, n),
            ("D" | "D_b", &[d]) => vec![1.; d],
            ("dt_proj.bias" | "dt_proj_b.bias", &[d]) => dt_projs_bias(d, &mut uniform),
            (own, &[vocabulary, c])
                if own.ends_with("embedding.weight") || own.ends_with("lm_head.weight") =>
            {
                // The sum of 12 uniform numbers, less 6, is nearly standard normal.
                let normal = |_| (0..12).map(|_| uniform()).sum::<f64>() - 6.;
                (0..vocabulary * c).map(normal).map(|v| (0.02 * v) as f32).collect()
            }
            ("out_proj.weight", &[_, columns]) => {
                let bound = ((columns * layers.max(1)) as f64).powf(-0.5);
                draw(-bound, bound)
            }
            (own, &[_, columns]) if own.ends_with("_proj.weight") || own.ends_with("_b.weight") => {
                let bound = (columns as f64).powf(-0.5);
                draw(-bound, bound)
            }
            (own, dims) if own.starts_with("conv1d") => {
                let weight = name.replace(".bias", ".weight");
                let k = data.get(&weight).and_then(|w| w.dims().last()).unwrap_or(&dims[0]);
                let bound = (*k as f64).powf(-0.5);
                draw(-bound, bound)
            }
            (own, &[d]) if own.ends_with("_proj.bias") => vec![0.; d],
            (own, &[c]) if own.ends_with("norm.weight") || own.ends_with("norm_f.weight") => {
                vec![1.; c]
            }
            _ => continue,
        };
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?.to_dtype(var.dtype())?)?;
    }
    Ok(())
}
