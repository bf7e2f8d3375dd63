//! [`Isfm`]: from two images or tensors to one, by way of the network.

use std::path::Path;

use candle_core::{Device, Tensor};
use fast_image_resize::Resizer;
use image::DynamicImage;
use isfm_align::{Alignment, Sizes};
use isfm_model::{Config, PyramidFusion};
use rayon::prelude::*;

use crate::batch::Batches;
use crate::builder::{Builder, Options};
use crate::colour::Samples;
use crate::memory::{Room, Workspaces};
use crate::plane::{Channel, Plane, View, append, planes, tensor};
use crate::pyramid::{PyramidPlan, Share};
use crate::tiling::{Grid, MIN_AUTO_EDGE, Plan, Tiling};
use crate::{Error, Result, Side, luma, memory, normalize, placement};

/// What the network sees beyond the image's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Borders {
    /// The outermost pixels, repeated: a few on every side, and one more on odd sizes, which the
    /// wavelet transform has no half of. They are cropped off again, and with them the darker rim
    /// that the zero padding of the convolutions makes.
    Extend,
    /// Nothing, as in the released program: its convolutions see zeros there, and on odd sizes its
    /// transform drops the last row or column and stretches the frequency branch over the image
    /// again. (Odd images that are cut into tiles, and sides of one pixel, are extended to even
    /// sizes all the same.)
    Released,
}

impl Borders {
    /// Pixels that are seen beyond the image on every side: eight, on a pyramid four of the base's,
    /// each 2ᴸ wide. The rim is about three wide, with fainter ripples behind it. On a pyramid these
    /// only weigh the sources: four score better than eight on RoadScene and MSRS, and the base of a
    /// 320×256 picture is 1.4 times as large with eight; but flat pictures that differ much, such as a
    /// sky, get a slope of up to 6 grey levels at their border, with eight one of 2. Even, so that the
    /// wavelet's 2×2 blocks stay the image's.
    fn margin(self, levels: usize) -> usize {
        match self {
            Self::Extend if levels > 0 => 4 << levels,
            Self::Extend => 8,
            Self::Released => 0,
        }
    }
}

/// The network with its weights, ready to fuse.
///
/// It is `Send` and `Sync`: one instance serves any number of threads, and what it gives does not
/// depend on how many there are.
///
/// ```no_run
/// let isfm = isfm::Isfm::embedded()?;
/// let visible = isfm::read_image("visible.png")?;
/// let infrared = isfm::read_image("infrared.png")?;
/// isfm::write_image(&isfm.fuse(&visible, &infrared)?, "fused.png")?;
/// # Ok::<(), isfm::Error>(())
/// ```
pub struct Isfm {
    pub(crate) fusion: PyramidFusion,
    pub(crate) config: Config,
    pub(crate) pool: Option<rayon::ThreadPool>,
    pub(crate) borders: Borders,
    pub(crate) options: Options,
    pub(crate) room: Room,
    pub(crate) workspaces: Workspaces,
    /// Joins pictures; none on the CPU.
    pub(crate) batches: Option<Batches<[Tensor; 2], Result<Vec<Plane>>>>,
}

/// The most pictures that go to a GPU at once where nothing else is said.
const BATCH: usize = 8;

impl std::fmt::Debug for Isfm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isfm")
            .field("config", &self.config)
            .field("borders", &self.borders)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Isfm {
    /// With the weights inside the crate.
    ///
    /// # Errors
    /// If they cannot be decoded, which would be a fault of the build.
    #[cfg(feature = "embedded-weights")]
    pub fn embedded() -> Result<Self> {
        Self::builder().build()
    }

    /// With the weights of a `.safetensors` file or of a released `.pth` file.
    ///
    /// # Errors
    /// [`Error::Model`], with the file's name, if it is missing, damaged or holds another network.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().weights(path).build()
    }

    /// With anything else than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The configuration of the network.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes that fusing a pair of `width`×`height` without tiles needs at its peak, beside the
    /// caller's own images and the result. An estimate, made to be a little high.
    pub fn memory_needed(&self, width: u32, height: u32) -> usize {
        let (width, height) = (width as usize, height as usize);
        let whole = self.steps(width, height, Share::Whole).bytes();
        whole.saturating_add(self.held(width, height))
    }

    /// Fuses a pair: the detail of both in one image, with the colour, the depth and the size of
    /// the visible one.
    ///
    /// - Colour or grey on either side; the result is colour if `visible` is. Of a colour
    ///   `infrared` the luma is taken.
    /// - 8 bit, 16 bit or float; the result has the depth of `visible`. Which stored values are
    ///   black and white is [`Normalize`](crate::Normalize)'s matter, and where it stretches a 16-bit visible
    ///   image, the result is on the stretched scale.
    /// - Alpha is ignored: the stored colours count, whatever their alpha, and the result has
    ///   none.
    /// - Any size from 1×1. The image is extended by repeating its outermost pixels, odd sizes to
    ///   even ones, and cropped back; with the released program's own weights its borders are
    ///   treated as it does (see [`Builder::borders`]).
    ///
    /// # Errors
    /// [`Error::SizeMismatch`] if the sizes differ and neither [`Builder::resize_infrared`] nor
    /// [`Builder::alignment`] was asked for; [`Error::Alignment`] if they do not have that one's proportions;
    /// [`Error::Empty`] for an image without pixels; [`Error::NotFinite`] for a NaN in a float
    /// image; [`Error::MemoryLimit`] if a limit was set that cannot be kept; [`Error::Memory`] if the
    /// system has too little left.
    pub fn fuse(&self, visible: &DynamicImage, infrared: &DynamicImage) -> Result<DynamicImage> {
        let floats = memory::floats(visible).saturating_add(memory::floats(infrared));
        self.room.images.check(visible.as_bytes().len().saturating_add(floats))?;
        self.install(|| {
            let visible = Samples::new(visible, Side::Visible)?;
            let infrared = Samples::new(infrared, Side::Infrared)?;
            let (size, infrared_size) = (visible.size(), infrared.size());
            let sizes = Sizes { visible: size, infrared: infrared_size };
            let alignment = self.options.alignment.map(|a| a.for_sizes(sizes)).transpose()?;
            if size != infrared_size && !self.options.resize_infrared && alignment.is_none() {
                return Err(Error::SizeMismatch { visible: size, infrared: infrared_size });
            }
            let luma = visible.luma(Side::Visible, self.options.normalize_visible)?;
            let heat = infrared.luma(Side::Infrared, self.options.normalize_infrared)?;
            let placed = match alignment {
                Some(alignment) => Some(laid(&alignment, &heat, &luma)),
                None if size != infrared_size => Some(resized(&heat, size)?),
                None => None,
            };
            visible.with_luma(luma.span, |rows| match &placed {
                Some(placed) => self.fuse_channels(&luma, &placed.view(), rows),
                None => self.fuse_channels(&luma, &heat, rows),
            })
        })
    }

    /// Fuses luma planes: tensors of H×W, 1×H×W or B×1×H×W with values in [0, 1], `F32` on the
    /// CPU. The result has their shape, is clamped to [0, 1] and tracks no gradient.
    ///
    /// # Errors
    /// For shapes that differ or are none of these, for another element type or device, for a NaN
    /// ([`Error::NotFinite`]), for values more than a thousandth outside [0, 1]
    /// ([`Error::OutOfRange`]; what is nearer is clamped), and as [`fuse`](Self::fuse).
    pub fn fuse_luma(&self, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
        if visible.dims() != infrared.dims() {
            return Err(Error::TensorShapes {
                visible: visible.dims().to_vec(),
                infrared: infrared.dims().to_vec(),
            });
        }
        self.install(|| {
            let [height, width] = luma::plane_size(visible, Side::Visible)?;
            luma::plane_size(infrared, Side::Infrared)?;
            let shape = visible.shape();
            let (visible, infrared) = (visible.contiguous()?, infrared.contiguous()?);
            let (v, v_layout) = visible.storage_and_layout();
            let (i, i_layout) = infrared.storage_and_layout();
            let visible = luma::values(&v, v_layout, Side::Visible)?;
            let infrared = luma::values(&i, i_layout, Side::Infrared)?;
            let size = width * height;
            let mut fused = vec![0.; visible.len()];
            let fuse = |(fused, (visible, infrared)): (&mut [f32], (&[f32], &[f32]))| {
                let [visible, infrared] =
                    [visible, infrared].map(|data| View { width, height, data });
                self.fuse_channels(&visible, &infrared, &mut |y, rows| {
                    let lines = fused[y.min(height) * width..].chunks_exact_mut(width);
                    for (to, from) in lines.zip(rows.data.chunks_exact(rows.width)) {
                        to.copy_from_slice(&from[..width]);
                    }
                })
            };
            if self.batches.is_some() {
                let sources = visible.par_chunks_exact(size).zip(infrared.par_chunks_exact(size));
                fused.par_chunks_exact_mut(size).zip(sources).try_for_each(fuse)?;
            } else {
                let sources = visible.chunks_exact(size).zip(infrared.chunks_exact(size));
                fused.chunks_exact_mut(size).zip(sources).try_for_each(fuse)?;
            }
            Ok(Tensor::from_vec(fused, shape, &Device::Cpu)?)
        })
    }

    /// Runs `work` on this instance's own threads, if it has any.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Two channels of one size with finite values near [0, 1], to one inside [0, 1], handed on from
    /// the top to the bottom: `rows` gets the number of a first row and rows, which for an odd size
    /// reach one pixel beyond the image.
    pub(crate) fn fuse_channels(
        &self,
        visible: &dyn Channel,
        infrared: &dyn Channel,
        rows: &mut dyn FnMut(usize, View<'_>),
    ) -> Result<()> {
        let (width, height) = visible.size();
        let (plan, needed) = self.plan(width, height)?;
        let room = self.room.limit.saturating_sub(needed).min(needed);
        self.workspaces.run(room, || {
            let Some((low, high)) = self.options.stretch else {
                return self.run(&plan, visible, infrared, rows);
            };
            // The percentiles are known when the last row is.
            let mut fused = Vec::with_capacity(width * height);
            self.run(&plan, visible, infrared, &mut |y, rows| {
                append(&mut fused, [width, height], y, rows);
            })?;
            normalize::stretch(&mut fused, low, high);
            rows(0, View { width, height, data: &fused });
            Ok(())
        })
    }

    /// Gives back the memory that this instance keeps for its next fusion.
    ///
    /// A fusion's feature maps and planes are kept for the next one of the same size, on however many
    /// threads there were fusions at once: memory that is fresh from the system costs up to a third of a
    /// fusion's time. Each of them keeps at most what [`memory_needed`](Self::memory_needed) says, and
    /// together with what it needs no more than the [limit](Builder::memory_limit). Call this where the
    /// next pair is long in coming.
    pub fn release_memory(&self) {
        self.workspaces.release();
    }

    fn run(
        &self,
        plan: &Steps,
        visible: &dyn Channel,
        infrared: &dyn Channel,
        rows: &mut dyn FnMut(usize, View<'_>),
    ) -> Result<()> {
        match plan {
            Steps::Network(plan, _) => {
                let see = |[x, y]: [isize; 2], width, height| {
                    let seen = |channel: &dyn Channel| channel.window(x, y, width, height);
                    let fused = self.network(seen(visible), seen(infrared))?;
                    Ok(fused.into_iter().map(Plane::clamped).collect())
                };
                plan.run(1, see, |_, y, picture| rows(y, picture))
            }
            Steps::Pyramid(plan) => {
                let network = |visible, infrared| self.network(visible, infrared);
                plan.run([visible, infrared], network, rows)
            }
        }
    }

    /// Bytes of fused luma that are held until the last row is there.
    fn held(&self, width: usize, height: usize) -> usize {
        let per_pixel = if self.options.stretch.is_some() { memory::STRETCHED } else { 0 };
        per_pixel.saturating_mul(width.saturating_mul(height))
    }

    /// How a picture is fused, as much of it at once as `share` says.
    fn steps(&self, width: usize, height: usize, share: Share) -> Steps {
        let pyramid = self.config.pyramid;
        let per_pixel = memory::per_pixel(&self.config);
        let margin = self.borders.margin(pyramid.levels);
        if pyramid.levels > 0 {
            let size = [width, height];
            return Steps::Pyramid(PyramidPlan::new(pyramid, per_pixel, size, margin, share));
        }
        // The released program's borders leave a whole image as it is, of odd size or not.
        let bare = self.borders == Borders::Released && width > 1 && height > 1;
        let whole = Plan::whole(width, height, 0);
        let [width, height] = [width, height].map(|n| n.next_multiple_of(2));
        let whole = if bare { whole } else { Plan::whole(width, height, margin) };
        let grid = Grid { width, height, margin, least: MIN_AUTO_EDGE, channels: 1 };
        let plan = match share {
            Share::Edge(edge) => grid.edge(edge),
            Share::Within(limit) if grid.bytes(&whole, per_pixel) > limit => {
                grid.within(limit, per_pixel)
            }
            Share::Whole | Share::Within(_) => whole.clone(),
        };
        let plan = if plan.is_whole() { whole } else { plan };
        let bytes = grid.bytes(&plan, per_pixel);
        Steps::Network(plan, bytes)
    }

    /// How a picture is fused, and the bytes that takes.
    fn plan(&self, width: usize, height: usize) -> Result<(Steps, usize)> {
        let held = self.held(width, height);
        let steps = |share| {
            let steps = self.steps(width, height, share);
            let needed = steps.bytes().saturating_add(held);
            (steps, needed)
        };
        let within = |limit: usize| steps(Share::Within(limit.saturating_sub(held)));
        let (steps, needed) = match self.options.tiling {
            Tiling::Whole => steps(Share::Whole),
            Tiling::Edge(edge) => steps(Share::Edge(edge)),
            Tiling::Auto => {
                let limit = self.room.limit;
                let (found, needed) = within(limit);
                // If nobody asked for this limit, the smallest tiles are the best there is.
                if self.options.memory_limit.is_some() && needed > limit {
                    return Err(Error::MemoryLimit { limit, needed });
                }
                match self.check(needed) {
                    // Less is left than when the limit was found.
                    Err(Error::Memory { left, .. }) => within(left),
                    _ => (found, needed),
                }
            }
        };
        self.check(needed)?;
        Ok((steps, needed))
    }

    /// # Errors
    /// [`Error::Memory`] if the system has less left, also without what is kept for other sizes.
    fn check(&self, needed: usize) -> Result<()> {
        self.room.network.check(needed).or_else(|_| {
            self.release_memory();
            self.room.network.check(needed)
        })
    }

    /// What the network gives for two pictures or bases: one plane, or with gates several.
    fn network(&self, visible: Plane, infrared: Plane) -> Result<Vec<Plane>> {
        let [visible, infrared] = [visible, infrared].map(|plane| tensor(plane.clamped()));
        let pair = [visible?, infrared?];
        let Some(batches) = &self.batches else { return self.outputs(&pair) };
        let most = |[picture, _]: &[Tensor; 2]| {
            let bytes = memory::per_pixel(&self.config).saturating_mul(picture.elem_count());
            self.options.batch.unwrap_or(BATCH).min(self.room.limit / bytes.max(1)).max(1)
        };
        let alike = |a: &[Tensor; 2], b: &[Tensor; 2]| a[0].dims() == b[0].dims();
        batches.run(pair, most, alike, |pairs| {
            // A batch may be too much where a single picture is not, and each has an error of its own.
            let alone = || pairs.iter().map(|pair| self.outputs(pair)).collect();
            if pairs.len() == 1 {
                alone()
            } else {
                self.together(pairs).unwrap_or_else(|_| alone())
            }
        })
    }

    /// What the network gives for a pair.
    fn outputs(&self, [visible, infrared]: &[Tensor; 2]) -> Result<Vec<Plane>> {
        finite(planes(&self.fusion.outputs(visible, infrared)?)?)
    }

    /// What it gives for each of several pairs of one size.
    fn together(&self, pairs: &[[Tensor; 2]]) -> Result<Vec<Result<Vec<Plane>>>> {
        let side =
            |side: usize| Tensor::cat(&pairs.iter().map(|pair| &pair[side]).collect::<Vec<_>>(), 0);
        let outputs = self.fusion.outputs(&side(0)?, &side(1)?)?;
        (0..pairs.len()).map(|i| Ok(finite(planes(&outputs.narrow(0, i, 1)?)?))).collect()
    }
}

/// # Errors
/// [`Error::NotFiniteOutput`]
fn finite(outputs: Vec<Plane>) -> Result<Vec<Plane>> {
    if outputs.iter().any(|plane| plane.data.iter().any(|v| !v.is_finite())) {
        return Err(Error::NotFiniteOutput);
    }
    Ok(outputs)
}

/// How a picture is fused.
enum Steps {
    /// By the network alone; and the bytes that takes.
    Network(Plan, usize),
    Pyramid(PyramidPlan),
}

impl Steps {
    fn bytes(&self) -> usize {
        match self {
            Self::Network(_, bytes) => *bytes,
            Self::Pyramid(plan) => plan.bytes(),
        }
    }
}

/// The infrared plane where it lies on the visible one ([`placement::place`]).
fn laid(alignment: &Alignment, infrared: &dyn Channel, visible: &dyn Channel) -> Plane {
    let whole = |channel: &dyn Channel| {
        let (width, height) = channel.size();
        channel.window(0, 0, width, height)
    };
    let (heat, seen) = (whole(infrared), whole(visible));
    let mut laid = Plane::zeros(seen.width, seen.height);
    let size = (heat.width, heat.height);
    placement::place(alignment, &heat.data, size, &seen.data, seen.width, &mut laid.data);
    laid
}

/// The infrared plane in another size ([`placement::resize`]).
fn resized(channel: &dyn Channel, (width, height): (usize, usize)) -> Result<Plane> {
    let from = channel.size();
    let plane = channel.window(0, 0, from.0, from.1);
    let mut resized = Plane::zeros(width, height);
    let into = &mut resized.data;
    placement::resize(&mut Resizer::new(), &plane.data, from, into, (width, height))?;
    Ok(resized)
}

#[cfg(all(test, feature = "embedded-weights"))]
mod tests {
    use image::GrayImage;

    use super::*;

    fn lumas(count: u64, width: usize, height: usize) -> Vec<[Plane; 2]> {
        let plane = |seed: u64| {
            let value = |i: usize| {
                let wave = ((i % width) as f32 / 3. + seed as f32).sin();
                0.5 + 0.3 * wave + 0.2 * ((i / width) as f32 / (5. + seed as f32)).cos()
            };
            Plane { width, height, data: (0..width * height).map(value).collect() }
        };
        (0..count).map(|i| [plane(2 * i), plane(2 * i + 1)]).collect()
    }

    /// As a GPU runs them, by the CPU's operations.
    #[test]
    fn what_is_fused_together_gives_what_it_gives_alone() {
        let isfm = Isfm::embedded().unwrap();
        let pairs: Vec<[Tensor; 2]> = lumas(3, 26, 18)
            .into_iter()
            .map(|pair| pair.map(|plane| tensor(plane).unwrap()))
            .collect();
        let together = isfm.together(&pairs).unwrap();
        for (pair, together) in pairs.iter().zip(together) {
            assert_eq!(together.unwrap(), isfm.outputs(pair).unwrap());
        }
    }

    #[test]
    fn threads_whose_pictures_are_joined_get_their_own() {
        let alone = Isfm::embedded().unwrap();
        let mut joined = Isfm::builder().batch(3).build().unwrap();
        joined.batches = Some(Batches::default());
        let pairs = [lumas(3, 80, 64), lumas(2, 48, 96)].concat();
        let image = |plane: &Plane| -> DynamicImage {
            let levels = plane.data.iter().map(|v| (255. * v) as u8).collect();
            GrayImage::from_vec(plane.width as u32, plane.height as u32, levels).unwrap().into()
        };
        std::thread::scope(|scope| {
            for pair in &pairs {
                let (alone, joined) = (&alone, &joined);
                scope.spawn(move || {
                    let [visible, infrared] = pair.each_ref().map(image);
                    let want = alone.fuse(&visible, &infrared).unwrap();
                    for _ in 0..3 {
                        assert_eq!(joined.fuse(&visible, &infrared).unwrap(), want);
                    }
                });
            }
        });
    }
}
