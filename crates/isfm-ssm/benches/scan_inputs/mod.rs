//! The scan that the benchmarks of this crate, and the repository's performance page, measure.

use candle_core::{D, Device, Result, Tensor, Var};
use isfm_ssm::ScanParams;

/// A four-direction scan of random numbers, with the rank of dt that the network has.
pub struct Scan {
    /// 1×H×W×D.
    pub x: Tensor,
    /// 1×H×W×4×(R + 2N).
    pub x_dbl: Tensor,
    params: ScanParams,
    /// One for every step, channel, state and direction: the scan's floor.
    pub exponentials: f64,
}

impl Scan {
    /// Of a map of `h`×`w`×`d` with `n` states.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn new(h: usize, w: usize, d: usize, n: usize) -> Result<Self> {
        let rank = d.div_ceil(32);
        let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
        // Inputs that an operation of this workspace made, as in a network: in large pages.
        let made = |shape: &[usize]| isfm_ops::silu(&random(shape)?);
        Ok(Self {
            x: made(&[1, h, w, d])?,
            x_dbl: made(&[1, h, w, 4, rank + 2 * n])?,
            params: ScanParams {
                dt_projs_weight: random(&[4, d, rank])?,
                dt_projs_bias: random(&[4, d])?,
                a_logs: random(&[4 * d, n])?.abs()?,
                ds: random(&[4 * d])?,
            },
            exponentials: (4 * h * w * d * n) as f64,
        })
    }

    /// The scan of other inputs of the same shapes.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn run(&self, x: &Tensor, x_dbl: &Tensor) -> Result<Tensor> {
        self.params.over_map(x, x_dbl)
    }

    /// The scan.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn forward(&self) -> Result<Tensor> {
        self.run(&self.x, &self.x_dbl)
    }

    /// The same with inputs that ask for their gradients.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn tracked(self) -> Result<Self> {
        let x = Var::from_tensor(&self.x)?.into_inner();
        let x_dbl = Var::from_tensor(&self.x_dbl)?.into_inner();
        Ok(Self { x, x_dbl, ..self })
    }

    /// The same by Candle's own operations, step by step.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn plain(&self) -> Result<Tensor> {
        let (_, h, w, d) = self.x.dims4()?;
        let ScanParams { dt_projs_weight, dt_projs_bias, a_logs, ds } = &self.params;
        let (n, rank) = (a_logs.dim(1)?, dt_projs_weight.dim(2)?);
        let rows = |t: &Tensor, k: usize| -> Result<Tensor> {
            let t = if k % 2 == 1 { t.transpose(0, 1)? } else { t.clone() };
            t.contiguous()?.flatten(0, 1)
        };
        let (u, proj) = (self.x.get(0)?, self.x_dbl.get(0)?);
        let mut sum = u.zeros_like()?;
        for k in 0..4 {
            let (u, proj) = (rows(&u, k)?, rows(&proj.narrow(2, k, 1)?.squeeze(2)?, k)?);
            let dt =
                proj.narrow(1, 0, rank)?.matmul(&dt_projs_weight.get(k)?.t()?.contiguous()?)?;
            let dt = (dt.broadcast_add(&dt_projs_bias.get(k)?)?.exp()? + 1.)?.log()?;
            let a = a_logs.narrow(0, k * d, d)?.exp()?.neg()?;
            let skip = u.broadcast_mul(&ds.narrow(0, k * d, d)?)?;
            let mut state = Tensor::zeros((d, n), u.dtype(), u.device())?;
            let mut out = Vec::with_capacity(h * w);
            for step in 0..h * w {
                let t = if k < 2 { step } else { h * w - 1 - step };
                let (dt, u) = (dt.get(t)?, u.get(t)?);
                let (b, c) =
                    (proj.get(t)?.narrow(0, rank, n)?, proj.get(t)?.narrow(0, rank + n, n)?);
                let decay = dt.unsqueeze(1)?.broadcast_mul(&a)?.exp()?;
                let input = (&dt * &u)?.unsqueeze(1)?.broadcast_mul(&b.unsqueeze(0)?)?;
                state = ((decay * state)? + input)?;
                out.push(state.broadcast_mul(&c.unsqueeze(0)?)?.sum(D::Minus1)?);
            }
            if k >= 2 {
                out.reverse();
            }
            let y = (Tensor::stack(&out, 0)? + skip)?;
            let y = if k % 2 == 1 {
                y.reshape((w, h, d))?.transpose(0, 1)?.contiguous()?
            } else {
                y.reshape((h, w, d))?
            };
            sum = (sum + y)?;
        }
        Ok(sum)
    }
}
