//! [`Builder`]: what an [`Isfm`] is made of.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use isfm_align::Alignment;
use isfm_model::{Checkpoint, Config, Pyramid, PyramidFusion};

use crate::batch::Batches;
use crate::fuse::{Borders, Isfm};
use crate::memory::{self, Room};
use crate::normalize::Normalize;
use crate::tiling::{self, Tiling};
use crate::{Error, Result};

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
    borders: Option<Borders>,
    pyramid: Option<usize>,
    options: Options,
}

/// What a fusion is told besides the network.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) tiling: Tiling,
    pub(crate) memory_limit: Option<usize>,
    pub(crate) normalize_visible: Normalize,
    pub(crate) normalize_infrared: Normalize,
    pub(crate) resize_infrared: bool,
    pub(crate) alignment: Option<Alignment>,
    pub(crate) stretch: Option<(f64, f64)>,
    pub(crate) batch: Option<usize>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            source: Source::Embedded,
            config: None,
            device: Device::Cpu,
            dtype: DType::F32,
            threads: None,
            borders: None,
            pyramid: None,
            options: Options::default(),
        }
    }
}

impl Builder {
    /// The memory limit where none is set and the system does not tell what it has left, in bytes: 4 GiB,
    /// half of a small machine's. With it the paper's configuration fuses its data sets' 640×480 pairs
    /// whole. With 32-bit addresses, as in a browser, 1 GiB.
    pub const FALLBACK_MEMORY_LIMIT: usize = if usize::BITS > 32 { 4 << 30 } else { 1 << 30 };

    /// The most [`threads`](Self::threads) that can be asked for.
    pub const MAX_THREADS: usize = 1024;

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

    /// Where infrared pictures lie on visible ones. Outside of them the visible picture stays what it is, as
    /// nearly as the weights give back two equal pictures. Pictures of other sizes than the alignment's must have its
    /// proportions.
    pub fn alignment(mut self, alignment: impl Into<Alignment>) -> Self {
        self.options.alignment = Some(alignment.into());
        self
    }

    /// On how many levels of a pyramid to fuse: the network sees 1/4 of the pixels for each level, the
    /// detail above is merged by its energy. 0 is the network on the whole picture, as the paper has
    /// it. Without this call it is what the weights were trained for, which weights with gates
    /// ([`Pyramid`](isfm_model::Pyramid)) insist on.
    pub fn pyramid(mut self, levels: usize) -> Self {
        self.pyramid = Some(levels);
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

    /// The most pictures that go to a GPU as one tensor, at least 1; by default 8. Those are joined that are of
    /// one size and are fused at the same time: on several threads, or as the B planes of
    /// [`Isfm::fuse_luma`]. No picture waits for others: what comes while the GPU is busy is its next
    /// batch. Together they take no more of the GPU's memory than the
    /// [`memory_limit`](Self::memory_limit), and if they cannot be fused together, each is alone.
    ///
    /// On the CPU, which a single picture keeps busy, nothing is joined.
    pub fn batch(mut self, most: usize) -> Self {
        self.options.batch = Some(most);
        self
    }

    /// Threads of its own for this instance, 1 to [`MAX_THREADS`](Self::MAX_THREADS), instead of rayon's
    /// current pool.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// How images are cut into tiles; by itself only those that the memory limit is too small
    /// for.
    pub fn tiling(mut self, tiling: Tiling) -> Self {
        self.options.tiling = tiling;
        self
    }

    /// The most memory a fusion may take, in bytes, beside the caller's own images, the result, the
    /// weights and the program (and, before the network starts, eight bytes for each value of an
    /// image that is not of 8 bits, whose range is found, and four for each pixel of a resized infrared
    /// image).
    /// Larger images are fused in tiles ([`Tiling::Auto`]); an image for which not even small tiles are
    /// enough is refused with [`Error::MemoryLimit`].
    ///
    /// Without this call it is half of what the system has left when [`build`](Self::build) is done
    /// ([`available_memory`](crate::available_memory)), or
    /// [`FALLBACK_MEMORY_LIMIT`](Self::FALLBACK_MEMORY_LIMIT) where that is not to be known (other
    /// systems than Linux) and on a GPU. Images that are close to it can so be cut into tiles in one run
    /// and not in another, which moves values by a level or two: set a limit where that matters.
    ///
    /// With and without, what a fusion takes is compared with what the system has left, and refused with
    /// [`Error::Memory`] if it is more, instead of ending the process. Each fusion that runs at the same
    /// time takes so much.
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.options.memory_limit = Some(bytes);
        self
    }

    /// Which stored values of the visible image are black and white.
    pub fn normalize_visible(mut self, rule: Normalize) -> Self {
        self.options.normalize_visible = rule;
        self
    }

    /// Which stored values of the infrared image are black and white.
    pub fn normalize_infrared(mut self, rule: Normalize) -> Self {
        self.options.normalize_infrared = rule;
        self
    }

    /// Whether an infrared image of another size is resized to the visible one's (after
    /// normalisation, Catmull-Rom); otherwise, and by default, it is refused. The two must show
    /// the same field of view either way.
    pub fn resize_infrared(mut self, resize: bool) -> Self {
        self.options.resize_infrared = resize;
        self
    }

    /// Spreads every fused luma over the range of the result: the values below which `low` and `high`
    /// per cent of its pixels lie (0 to 100, nearest rank) become 0 and 1, what lies between follows
    /// on a straight line, what lies outside is clamped. Colour keeps its Cr and Cb. By default
    /// nothing is spread.
    ///
    /// The two values are found for each image alone, and for each plane of a batch, so results are
    /// not comparable from one to the next. Where they are less than one of 255 grey levels apart,
    /// there is nothing to spread and the luma stays as it is.
    ///
    /// The whole fused luma is held for this, also of an image that is fused in tiles, and once more
    /// to find the two values: eight bytes for each pixel, which count in the
    /// [`memory_limit`](Self::memory_limit).
    pub fn stretch(mut self, low: f64, high: f64) -> Self {
        self.options.stretch = Some((low, high));
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
        let Self { source, config, device, dtype, threads, borders, pyramid, options } = self;
        let on_gpu = cfg!(feature = "cuda") && device.is_cuda();
        if !on_gpu && !device.is_cpu() {
            let needed = if cfg!(feature = "cuda") {
                "the CPU or an NVIDIA GPU"
            } else {
                "the CPU (NVIDIA GPUs need the feature `cuda`)"
            };
            return Err(Error::Device { what: "the network", got: device.location(), needed });
        }
        if dtype != DType::F32 && !(on_gpu && matches!(dtype, DType::F16 | DType::BF16)) {
            let needed = if on_gpu { "F32, F16 or BF16 on a GPU" } else { "F32 on the CPU" };
            return Err(Error::DType { what: "the network", got: dtype, needed });
        }
        options.normalize_visible.validate("the visible normalisation")?;
        options.normalize_infrared.validate("the infrared normalisation")?;
        if let Some((low, high)) = options.stretch {
            Normalize::Percentile { low, high }.validate("the stretch of the fused luma")?;
        }
        if options.batch == Some(0) {
            let (got, needed) = ("0".to_string(), "at least 1".to_string());
            return Err(Error::Option { what: "the pictures in a batch", got, needed });
        }
        let pool = threads.map(pool).transpose()?;
        let Checkpoint { mut config, mut weights, self_contained, .. } = match source {
            Source::Embedded => embedded(config.as_ref())?,
            Source::File(path) => Checkpoint::read(&path, config.as_ref(), &Device::Cpu)?,
            Source::Checkpoint(mut given) => {
                given.config = config.unwrap_or(given.config);
                *given
            }
        };
        if let Some(levels) = pyramid {
            let own = config.pyramid;
            let needed = if own.gates && levels != own.levels {
                Some(format!("{}, which these weights were trained for", own.levels))
            } else if levels > Pyramid::MAX_LEVELS {
                Some(format!("0 to {}", Pyramid::MAX_LEVELS))
            } else {
                None
            };
            if let Some(needed) = needed {
                let got = levels.to_string();
                return Err(Error::Option { what: "the levels of the pyramid", got, needed });
            }
            config.pyramid.levels = levels;
        }
        tiling::validate(options.tiling)?;
        let usual = if self_contained { Borders::Extend } else { Borders::Released };
        let borders = borders.unwrap_or(usual);
        for tensor in weights.values_mut() {
            *tensor = tensor.to_dtype(dtype)?.to_device(&device)?;
        }
        let fusion = PyramidFusion::from_weights(&config, &weights)?;
        let room = Room::new(options.memory_limit, on_gpu);
        let workspaces = memory::Workspaces::default();
        let batches = on_gpu.then(Batches::default);
        Ok(Isfm { fusion, config, pool, borders, options, room, workspaces, batches })
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    if !(1..=Builder::MAX_THREADS).contains(&threads) {
        return Err(Error::Option {
            what: "the number of threads",
            got: threads.to_string(),
            needed: format!("1 to {}", Builder::MAX_THREADS),
        });
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("isfm-{i}"))
        .build()
        .map_err(|problem| Error::Threads { threads, problem })
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
