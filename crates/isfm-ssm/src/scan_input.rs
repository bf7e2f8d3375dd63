use candle_core::{DType, Module, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::nn::{DepthwiseConv2d, LayerNorm, Linear, depthwise_conv2d, linear_no_bias};
use isfm_ops::simd::Real;
use isfm_ops::{cpu, rows};
use rayon::prelude::*;

use crate::{Result, SelectiveScan2d, Ss2dConfig};

/// What stands before a four-direction scan (spec.md §2): one half of a projection to 2D channels,
/// then a depth-wise convolution and SiLU. The other half is the scan's gate.
#[derive(Clone, Debug)]
pub struct ScanInput {
    in_proj: Linear,
    conv: DepthwiseConv2d,
}

/// Builds a [`ScanInput`] from the tensors that `in_proj` and `conv` name below `vb`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn scan_input(
    config: &Ss2dConfig,
    in_proj: &str,
    conv: &str,
    vb: VarBuilder,
) -> Result<ScanInput> {
    config.validate()?;
    let d = config.d_inner();
    Ok(ScanInput {
        in_proj: linear_no_bias(config.d_model, 2 * d, vb.pp(in_proj))?,
        conv: depthwise_conv2d(d, 3, vb.pp(conv))?,
    })
}

impl ScanInput {
    /// The rows of the projection that make the scan's input, D×C.
    ///
    /// # Errors
    /// None but Candle's own.
    pub fn x_weight(&self) -> Result<Tensor> {
        self.half(0)
    }

    /// The rows of the projection that make the gate, D×C.
    ///
    /// # Errors
    /// None but Candle's own.
    pub fn z_weight(&self) -> Result<Tensor> {
        self.half(1)
    }

    /// Halving the weight is a view; halving the product would copy it, and its gradient twice.
    fn half(&self, index: usize) -> Result<Tensor> {
        let weight = self.in_proj.weight();
        let d = weight.dim(0)? / 2;
        Ok(weight.narrow(0, index * d, d)?)
    }

    /// The scan of `source`: layer norm if there is one, projection, convolution, SiLU, `scan`.
    ///
    /// Without gradients everything before the scan is one pass: a line of the map is normalised,
    /// projected, convolved with its neighbours and projected to dt, B and C while it is in a near
    /// cache.
    ///
    /// # Shapes
    /// `source`: B×H×W×C; returns B×H×W×D.
    ///
    /// # Errors
    /// If a shape or an element type does not fit.
    pub fn scan(
        &self,
        source: &Tensor,
        norm: Option<&LayerNorm>,
        scan: &SelectiveScan2d,
    ) -> Result<Tensor> {
        if self.may_fuse(source, norm, scan) {
            let (b, h, w, _) = source.dims4()?;
            let dims = (b, h, w, self.conv.weight().dim(0)?);
            let device = source.device();
            match source.dtype() {
                DType::F32 => {
                    let y = self.scan_values::<f32>(source, norm, scan)?;
                    return Ok(Tensor::from_vec(y, dims, device)?);
                }
                DType::F64 => {
                    let y = self.scan_values::<f64>(source, norm, scan)?;
                    return Ok(Tensor::from_vec(y, dims, device)?);
                }
                _ => {}
            }
        }
        let normed = norm.map(|n| n.forward(source)).transpose()?;
        let x = isfm_ops::linear(normed.as_ref().unwrap_or(source), &self.x_weight()?, None)?;
        Ok(scan.forward(&self.conv.forward_silu(&x)?)?)
    }

    /// Whether [`scan_values`](Self::scan_values) may take the place of [`scan`](Self::scan).
    pub fn may_fuse(
        &self,
        source: &Tensor,
        norm: Option<&LayerNorm>,
        scan: &SelectiveScan2d,
    ) -> bool {
        let conv = [self.conv.weight()].into_iter().chain(self.conv.bias());
        let weights = self.in_proj.tensors().chain(conv).chain(scan.tensors());
        let norm = norm.into_iter().flat_map(LayerNorm::tensors);
        source.elem_count() > 0 && rows::may_fuse(weights.chain(norm).chain([source]))
    }

    /// [`scan`](Self::scan) without gradients, on the CPU, as plain values; for kernels that go on
    /// with them and may [`cpu::recycle`] them.
    ///
    /// # Errors
    /// If a shape does not fit, or the elements are not of type `E`.
    pub fn scan_values<E: Real>(
        &self,
        source: &Tensor,
        norm: Option<&LayerNorm>,
        scan: &SelectiveScan2d,
    ) -> Result<Vec<E>> {
        let source = source.contiguous()?;
        let (b, h, w, _) = source.dims4()?;
        let pass = Pass {
            norm: norm.map(rows::LayerNorm::<E>::new).transpose()?,
            project: rows::Linear::new(&self.x_weight()?, None)?,
            conv: rows::DepthwiseConv2d::new(&self.conv)?,
            x_proj: rows::Linear::new(&scan.x_proj_matrix()?, None)?,
            h,
            w,
        };
        pass.check(source.dim(3)?)?;
        let (d, p) = (pass.project.outputs(), pass.x_proj.outputs());
        let (mut x, mut x_dbl) = (cpu::scratch(b * h * w * d), cpu::scratch(b * h * w * p));
        rows::with_slice::<E, _>(&source, |source| {
            // Neighbouring bands both project the lines at their border: few bands, enough for
            // many threads.
            let band = (h / 16).clamp(4, 32);
            let images = source.chunks_exact(source.len() / b);
            let outputs = x.chunks_exact_mut(h * w * d).zip(x_dbl.chunks_exact_mut(h * w * p));
            let bands = images.zip(outputs).flat_map(|(image, (x, x_dbl))| {
                let bands = x.chunks_mut(band * w * d).zip(x_dbl.chunks_mut(band * w * p));
                bands.enumerate().map(move |(i, (x, x_dbl))| (image, i * band, x, x_dbl))
            });
            let bands: Vec<_> = bands.collect();
            bands.into_par_iter().for_each_init(Vec::new, |buffer, (image, y, x, x_dbl)| {
                pass.band(image, y, x, x_dbl, buffer);
            });
            Ok(())
        })?;
        let y = crate::scan_2d::scan_values(&x, &x_dbl, (b, h, w, d), &scan.params())?;
        cpu::recycle(x);
        cpu::recycle(x_dbl);
        Ok(y)
    }
}

struct Pass<E> {
    norm: Option<rows::LayerNorm<E>>,
    project: rows::Linear<E>,
    conv: rows::DepthwiseConv2d<E>,
    x_proj: rows::Linear<E>,
    h: usize,
    w: usize,
}

impl<E: Real> Pass<E> {
    fn check(&self, channels: usize) -> Result<()> {
        let fits = |what, got: usize, needed: usize| {
            if got == needed {
                return Ok(());
            }
            let (got, needed) = (format!("{got} channels"), format!("{needed}"));
            Err(crate::Error::Shape { op: "scan input", what, got, needed })
        };
        fits("the source", channels, self.project.inputs())?;
        if let Some(norm) = &self.norm {
            fits("the norm", norm.channels(), channels)?;
        }
        fits("the convolution", self.conv.channels(), self.project.outputs())?;
        fits("x_proj_weight", self.x_proj.inputs(), self.project.outputs())
    }

    /// The lines from `first` on that fill `x` and `x_dbl`.
    fn band(&self, image: &[E], first: usize, x: &mut [E], x_dbl: &mut [E], buffer: &mut Vec<E>) {
        let Self { norm, project, conv, x_proj, h, w } = self;
        let k = conv.window();
        let pad = k / 2;
        let (c, d) = (w * project.inputs(), w * project.outputs());
        // The window's lines, line y in place y mod k.
        let [normed, ring] = rows::split(buffer, [c, k * d]);
        let mut next = first.saturating_sub(pad);
        let outputs = x.chunks_exact_mut(d).zip(x_dbl.chunks_exact_mut(w * x_proj.outputs()));
        for (y, (x, x_dbl)) in (first..).zip(outputs) {
            while next < *h.min(&(y + pad + 1)) {
                let source = &image[next * c..][..c];
                let line = &mut ring[next % k * d..][..d];
                match norm {
                    Some(norm) => {
                        norm.apply(source, normed);
                        project.apply(normed, line);
                    }
                    None => project.apply(source, line),
                }
                next += 1;
            }
            let inside = pad.saturating_sub(y)..k.min(h + pad - y);
            conv.line(|ky| &ring[(y + ky - pad) % k * d..][..d], inside, x);
            rows::silu(x);
            x_proj.apply(x, x_dbl);
        }
    }
}
