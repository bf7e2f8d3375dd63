//! Initial values of spec.md §2 that Candle's `Init` cannot express (Gu and Dao, "Mamba", 2023,
//! §3.6: S4D-real and the range of dt).

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

pub(crate) const DT_MIN: f64 = 1e-3;
pub(crate) const DT_MAX: f64 = 1e-1;

/// x with ln(1 + eˣ) = y, for y > 0.
pub(crate) fn inverse_softplus(y: f64) -> f64 {
    y + (-(-y).exp_m1()).ln()
}
