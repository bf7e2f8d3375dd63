//! [`Isfm`] and its [`Builder`].

use std::borrow::Borrow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Layout, Storage, Tensor};
use image::imageops::FilterType;
use image::{DynamicImage, ImageBuffer, Luma};
use isfm_model::{Checkpoint, Config, Network};

use crate::colour::Samples;
use crate::memory;
use crate::normalise::Normalize;
use crate::plane::{Channel, Plane, View};
use crate::tiling::{self, Plan, Tiling};
use crate::{Error, Result, Side};

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

/// Pixels that [`Borders::Extend`] adds on every side: the rim is about three wide, with fainter
/// ripples behind it. Even, so that the wavelet's 2×2 blocks stay the image's.
const MARGIN: usize = 8;

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
    network: Network,
    config: Config,
    device: Device,
    dtype: DType,
    pool: Option<rayon::ThreadPool>,
    tiling: Tiling,
    memory_limit: Option<usize>,
    normalize_visible: Normalize,
    normalize_infrared: Normalize,
    resize_infrared: bool,
    borders: Borders,
}

impl std::fmt::Debug for Isfm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isfm")
            .field("config", &self.config)
            .field("tiling", &self.tiling)
            .field("memory_limit", &self.memory_limit)
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
        let pixels = (width as usize).saturating_mul(height as usize);
        memory::per_pixel(&self.config).saturating_mul(pixels)
    }

    /// Fuses a pair: the detail of both in one image, with the colour, the depth and the size of
    /// the visible one.
    ///
    /// - Colour or grey on either side; the result is colour if `visible` is. Of a colour
    ///   `infrared` the luma is taken.
    /// - 8 bit, 16 bit or float; the result has the depth of `visible`. Which stored values are
    ///   black and white is [`Normalize`]'s matter, and where it stretches a 16-bit visible
    ///   image, the result is on the stretched scale.
    /// - Alpha is ignored: the stored colours count, whatever their alpha, and the result has
    ///   none.
    /// - Any size from 1×1. The image is extended by repeating its outermost pixels, odd sizes to
    ///   even ones, and cropped back; with the released program's own weights its borders are
    ///   treated as it does (see [`Builder::borders`]).
    ///
    /// # Errors
    /// [`Error::SizeMismatch`] if the sizes differ and [`Builder::resize_infrared`] is off;
    /// [`Error::Empty`] for an image without pixels; [`Error::NotFinite`] for a NaN in a float
    /// image; [`Error::MemoryLimit`] if a limit was set that cannot be kept.
    pub fn fuse(&self, visible: &DynamicImage, infrared: &DynamicImage) -> Result<DynamicImage> {
        self.install(|| {
            let visible = Samples::new(visible, Side::Visible)?;
            let infrared = Samples::new(infrared, Side::Infrared)?;
            let (size, infrared_size) = (visible.size(), infrared.size());
            if size != infrared_size && !self.resize_infrared {
                return Err(Error::SizeMismatch { visible: size, infrared: infrared_size });
            }
            let luma = visible.luma(Side::Visible, self.normalize_visible)?;
            let heat = infrared.luma(Side::Infrared, self.normalize_infrared)?;
            visible.with_luma(luma.span, |rows| match size == infrared_size {
                true => self.fuse_channels(&luma, &heat, rows),
                false => self.fuse_channels(&luma, &resized(&heat, size).view(), rows),
            })
        })
    }

    /// [`fuse`](Self::fuse) for many pairs, one after the other; a pair that fails does not stop
    /// the rest. Each pair already keeps every thread busy and takes the whole memory limit, so
    /// there is nothing to win from fusing several at once.
    pub fn fuse_batch<V, I>(&self, pairs: &[(V, I)]) -> Vec<Result<DynamicImage>>
    where
        V: Borrow<DynamicImage>,
        I: Borrow<DynamicImage>,
    {
        pairs.iter().map(|(v, i)| self.fuse(v.borrow(), i.borrow())).collect()
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
            let [height, width] = plane_size(visible, Side::Visible)?;
            plane_size(infrared, Side::Infrared)?;
            let shape = visible.shape();
            let (visible, infrared) = (visible.contiguous()?, infrared.contiguous()?);
            let (v, v_layout) = visible.storage_and_layout();
            let (i, i_layout) = infrared.storage_and_layout();
            let visible = luma(&v, v_layout, Side::Visible)?;
            let infrared = luma(&i, i_layout, Side::Infrared)?;
            let view = |data| View { width, height, data };
            let size = width * height;
            let mut fused = Vec::with_capacity(visible.len());
            for (visible, infrared) in visible.chunks_exact(size).zip(infrared.chunks_exact(size)) {
                self.fuse_channels(&view(visible), &view(infrared), &mut |y, rows| {
                    for row in rows.data.chunks_exact(rows.width).take(height - y.min(height)) {
                        fused.extend_from_slice(&row[..width]);
                    }
                })?;
            }
            Ok(Tensor::from_vec(fused, shape, &Device::Cpu)?)
        })
    }

    /// Runs `work` on this instance's own threads, if it has any.
    fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Two channels of one size with finite values near [0, 1], to one inside [0, 1], handed on from
    /// the top to the bottom: `rows` gets the number of a first row and rows, which for an odd size
    /// reach one pixel beyond the image.
    fn fuse_channels(
        &self,
        visible: &dyn Channel,
        infrared: &dyn Channel,
        rows: &mut dyn FnMut(usize, View<'_>),
    ) -> Result<()> {
        let (width, height) = visible.size();
        let mut plan = self.plan(width.next_multiple_of(2), height.next_multiple_of(2))?;
        let margin = match self.borders {
            Borders::Extend => MARGIN,
            Borders::Released => {
                if plan.is_whole() && width > 1 && height > 1 {
                    plan = Plan::whole(width, height);
                }
                0
            }
        };
        let fuse = |[x, y]: [usize; 2], width: usize, height: usize| {
            let window = |channel: &dyn Channel| {
                let [x, y] = [x, y].map(|at| at as isize - margin as isize);
                channel.window(x, y, width + 2 * margin, height + 2 * margin)
            };
            let fused = self.network(window(visible), window(infrared))?;
            let inside = margin as isize;
            Ok(match margin {
                0 => fused,
                _ => fused.view().window(inside, inside, width, height),
            })
        };
        plan.run(fuse, rows)
    }

    fn plan(&self, width: usize, height: usize) -> Result<Plan> {
        match self.tiling {
            Tiling::Whole => Ok(Plan::whole(width, height)),
            Tiling::Edge(edge) => Ok(Plan::edge(width, height, edge)),
            Tiling::Auto => {
                let per_pixel = memory::per_pixel(&self.config);
                let limit = self.memory_limit.unwrap_or(Builder::DEFAULT_MEMORY_LIMIT);
                let smallest = Plan::smallest(width, height);
                match (Plan::within(width, height, limit, per_pixel), self.memory_limit) {
                    (Some(plan), _) => Ok(plan),
                    // Nobody asked for the default limit: do the best there is.
                    (None, None) => Ok(smallest),
                    (None, Some(limit)) => {
                        Err(Error::MemoryLimit { limit, needed: smallest.bytes(per_pixel) })
                    }
                }
            }
        }
    }

    fn network(&self, visible: Plane, infrared: Plane) -> Result<Plane> {
        let (width, height) = (visible.width, visible.height);
        let shape = (1, 1, height, width);
        let input = |mut plane: Plane| -> Result<Tensor> {
            plane.data.iter_mut().for_each(|v| *v = v.clamp(0., 1.));
            Ok(Tensor::from_vec(plane.data, shape, &self.device)?.to_dtype(self.dtype)?)
        };
        let fused = self.network.forward(&input(visible)?, &input(infrared)?)?;
        let mut data = fused.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if data.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFiniteOutput);
        }
        for v in &mut data {
            *v = v.clamp(0., 1.);
        }
        Ok(Plane { width, height, data })
    }
}

/// The infrared plane in another size: Catmull-Rom, over a correspondingly wider support when it
/// shrinks, so that nothing aliases.
fn resized(channel: &dyn Channel, (width, height): (usize, usize)) -> Plane {
    let (from_width, from_height) = channel.size();
    let plane = channel.window(0, 0, from_width, from_height);
    let (from_width, from_height) = (from_width as u32, from_height as u32);
    let image = ImageBuffer::<Luma<f32>, _>::from_raw(from_width, from_height, plane.data);
    // `from_raw` fails only for a buffer that is too short, and a plane's never is.
    let image = image.unwrap_or_default();
    let mut data =
        image::imageops::resize(&image, width as u32, height as u32, FilterType::CatmullRom)
            .into_raw();
    for v in &mut data {
        *v = v.clamp(0., 1.);
    }
    Plane { width, height, data }
}

/// Height and width of the planes of a tensor for [`Isfm::fuse_luma`].
fn plane_size(tensor: &Tensor, side: Side) -> Result<[usize; 2]> {
    let what = match side {
        Side::Visible => "the visible tensor",
        Side::Infrared => "the infrared tensor",
    };
    let (height, width) = match *tensor.dims() {
        [h, w] | [1, h, w] | [_, 1, h, w] => (h, w),
        _ => return Err(Error::TensorShape { side, got: tensor.dims().to_vec() }),
    };
    if width == 0 || height == 0 {
        return Err(Error::Empty { side, width, height });
    }
    if tensor.dtype() != DType::F32 {
        return Err(Error::DType { what, got: tensor.dtype() });
    }
    require_cpu(what, tensor.device())?;
    Ok([height, width])
}

/// The values of a contiguous tensor that [`plane_size`] has accepted, if they are luma.
fn luma<'a>(storage: &'a Storage, layout: &Layout, side: Side) -> Result<&'a [f32]> {
    let data = match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => &storage.as_slice::<f32>()?[start..end],
        _ => return Err(candle_core::Error::msg("not contiguous on the CPU").into()),
    };
    if let Some(index) = data.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { side, value: data[index], index });
    }
    match data.iter().find(|v| !(-1e-3..=1.001).contains(*v)) {
        Some(&value) => Err(Error::OutOfRange { side, value }),
        None => Ok(data),
    }
}

fn require_cpu(what: &'static str, device: &Device) -> Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    Err(Error::Device { what, got: format!("{:?}", device.location()) })
}

/// Where the weights come from.
enum Source {
    Embedded,
    File(PathBuf),
    Checkpoint(Box<Checkpoint>),
}

/// Makes an [`Isfm`] with other than the default options.
///
/// ```no_run
/// use isfm::{Isfm, Normalize};
///
/// let isfm = Isfm::builder()
///     .memory_limit(256 << 20)
///     .threads(2)
///     // A 14-bit thermal camera whose pictures must stay comparable from frame to frame.
///     .normalize_infrared(Normalize::Range { low: 7000., high: 9000. })
///     .build()?;
/// # Ok::<(), isfm::Error>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    source: Source,
    config: Option<Config>,
    device: Device,
    dtype: DType,
    threads: Option<usize>,
    tiling: Tiling,
    memory_limit: Option<usize>,
    normalize_visible: Normalize,
    normalize_infrared: Normalize,
    resize_infrared: bool,
    borders: Option<Borders>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            source: Source::Embedded,
            config: None,
            device: Device::Cpu,
            dtype: DType::F32,
            threads: None,
            tiling: Tiling::Auto,
            memory_limit: None,
            normalize_visible: Normalize::Auto,
            normalize_infrared: Normalize::Auto,
            resize_infrared: false,
            borders: None,
        }
    }
}

impl Builder {
    /// The memory limit where none is set, in bytes: 6 GiB. With it the paper's configuration
    /// fuses its data sets' 640×480 pairs whole, the embedded one pictures of 4.4 megapixels.
    pub const DEFAULT_MEMORY_LIMIT: usize = 6 << 30;

    /// Weights from a `.safetensors` or released `.pth` file instead of the embedded ones.
    pub fn weights(mut self, path: impl AsRef<Path>) -> Self {
        self.source = Source::File(path.as_ref().to_path_buf());
        self
    }

    /// Weights that are in memory already.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.source = Source::Checkpoint(Box::new(checkpoint));
        self
    }

    /// The configuration the weights must have. Without it, it is taken from the file's metadata
    /// or from the shapes of its tensors.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// The device to compute on: the CPU, or with the feature `cuda` an NVIDIA GPU.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The element type to compute in: `F32`, on a GPU also `F16` and `BF16`. Images and results
    /// stay what they are.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Threads of its own for this instance, instead of rayon's current pool.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// How images are cut into tiles; by itself only those that the memory limit is too small
    /// for.
    pub fn tiling(mut self, tiling: Tiling) -> Self {
        self.tiling = tiling;
        self
    }

    /// Tiles of at most `edge` pixels a side: short for [`Tiling::Edge`].
    pub fn tile(self, edge: usize) -> Self {
        self.tiling(Tiling::Edge(edge))
    }

    /// The most memory a fusion may take, in bytes, beside the caller's own images, the result, the
    /// weights and the program. Larger images are fused in tiles ([`Tiling::Auto`]); an image for which
    /// not even small tiles are enough is refused with [`Error::MemoryLimit`].
    ///
    /// Each fusion that runs at the same time takes so much.
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Which stored values of the visible image are black and white.
    pub fn normalize_visible(mut self, rule: Normalize) -> Self {
        self.normalize_visible = rule;
        self
    }

    /// Which stored values of the infrared image are black and white.
    pub fn normalize_infrared(mut self, rule: Normalize) -> Self {
        self.normalize_infrared = rule;
        self
    }

    /// Whether an infrared image of another size is resized to the visible one's (after
    /// normalisation, Catmull-Rom); otherwise, and by default, it is refused. The two must show
    /// the same field of view either way.
    pub fn resize_infrared(mut self, resize: bool) -> Self {
        self.resize_infrared = resize;
        self
    }

    /// What the network sees beyond the image's border. By default weights that bring no
    /// configuration with them, which are the released program's, get [`Borders::Released`], so
    /// that the result is that program's at any size; the embedded ones and files that this project
    /// wrote get [`Borders::Extend`].
    pub fn borders(mut self, rule: Borders) -> Self {
        self.borders = Some(rule);
        self
    }

    /// Reads the weights and makes the network.
    ///
    /// # Errors
    /// [`Error::Model`] for a file that is missing, damaged or of another configuration;
    /// [`Error::NoWeights`], [`Error::NotEmbedded`] if none was named and none fits;
    /// [`Error::Device`], [`Error::DType`] and [`Error::Option`] for options this version lacks
    /// or that make no sense.
    pub fn build(self) -> Result<Isfm> {
        let on_gpu = cfg!(feature = "cuda") && self.device.is_cuda();
        if !on_gpu {
            require_cpu("the network", &self.device)?;
        }
        if self.dtype != DType::F32 && !(on_gpu && matches!(self.dtype, DType::F16 | DType::BF16)) {
            return Err(Error::DType { what: "the network", got: self.dtype });
        }
        tiling::validate(self.tiling)?;
        self.normalize_visible.validate("the visible normalisation")?;
        self.normalize_infrared.validate("the infrared normalisation")?;
        let pool = self.threads.map(pool).transpose()?;
        let wanted = self.config.as_ref();
        let Checkpoint { config, mut weights, self_contained, .. } = match self.source {
            Source::Embedded => embedded(wanted)?,
            Source::File(path) => Checkpoint::read(&path, wanted, &Device::Cpu)?,
            Source::Checkpoint(mut given) => {
                given.config = self.config.unwrap_or(given.config);
                *given
            }
        };
        let usual = if self_contained { Borders::Extend } else { Borders::Released };
        for tensor in weights.values_mut() {
            *tensor = tensor.to_dtype(self.dtype)?.to_device(&self.device)?;
        }
        let network = Network::from_weights(&config, &weights)?;
        Ok(Isfm {
            network,
            config,
            device: self.device,
            dtype: self.dtype,
            pool,
            tiling: self.tiling,
            memory_limit: self.memory_limit,
            normalize_visible: self.normalize_visible,
            normalize_infrared: self.normalize_infrared,
            resize_infrared: self.resize_infrared,
            borders: self.borders.unwrap_or(usual),
        })
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    if threads == 0 {
        return Err(Error::Option {
            what: "the number of threads",
            got: threads.to_string(),
            needed: "at least 1".to_string(),
        });
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("isfm-{i}"))
        .build()
        .map_err(|source| Error::Threads { threads, source })
}

#[cfg(feature = "embedded-weights")]
fn embedded(wanted: Option<&Config>) -> Result<Checkpoint> {
    let checkpoint = crate::embedded::checkpoint()?;
    if let Some(wanted) = wanted.filter(|&wanted| *wanted != checkpoint.config) {
        return Err(Error::NotEmbedded {
            embedded: format!("{:?}", checkpoint.config),
            wanted: format!("{wanted:?}"),
        });
    }
    Ok(checkpoint.clone())
}

#[cfg(not(feature = "embedded-weights"))]
fn embedded(_: Option<&Config>) -> Result<Checkpoint> {
    Err(Error::NoWeights)
}
