//! The Haar transform on a GPU; others are refused by name.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Result, Shape};
use isfm_kernels::map::{self, Bands, Map};
use isfm_ops::cuda::{kernel_type, run_one};

use crate::axis::Border;
use crate::layout;
use crate::op::{Part, Transform};

type Source<'a> = (&'a CudaStorage, &'a Layout);

impl From<Part> for Bands {
    fn from(part: Part) -> Self {
        match part {
            Part::Approx => Self::Approx,
            Part::Details => Self::Details,
            Part::Both => Self::Both,
        }
    }
}

/// The maps, if there is a kernel for the transform.
fn map_of(t: &Transform) -> Result<Map> {
    if !t.bank.is_haar() {
        candle_core::bail!("wavelet transform on CUDA: only Haar has a kernel");
    }
    if t.border != Border::Drop {
        candle_core::bail!("wavelet transform on CUDA: border {:?} has no kernel", t.border);
    }
    if t.maps.layout != layout::Layout::ChannelsLast {
        candle_core::bail!(
            "wavelet transform on CUDA: needs {}",
            layout::Layout::ChannelsLast.name()
        );
    }
    let layout::Maps { batch, height, width, channels, .. } = t.maps;
    Ok(Map { batch, height, width, channels })
}

pub(crate) fn analysis(
    t: &Transform,
    part: Part,
    x: Source<'_>,
    shape: Shape,
) -> Result<(CudaStorage, Shape)> {
    let plan = map::haar(kernel_type("dwt2", x.0.dtype())?, map_of(t)?, part.into());
    run_one(plan, &[x], shape)
}

pub(crate) fn synthesis(
    t: &Transform,
    part: Part,
    bands: &[Source<'_>],
) -> Result<(CudaStorage, Shape)> {
    let plan =
        map::haar_inverse(kernel_type("idwt2", bands[0].0.dtype())?, map_of(t)?, part.into());
    run_one(plan, bands, t.maps.dims())
}
