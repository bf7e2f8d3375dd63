//! The network itself, equations 1 to 22 of the paper (`docs/paper-to-code.md` says where each is).

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use isfm_blocks::{
    Accumulator, Features, IsfLayer, MffLayer, MffOutput, ModalitySpecificExtractor,
    Reconstruction, Source, band_averages, isf_layer, mff_layer, modality_specific_extractor,
    reconstruction,
};
use isfm_ops::internal::{keep, recycling};

use crate::weights::Weights;
use crate::{Config, Error, Result, Spatial};

/// The ISFM network: two luminance images in, one out.
#[derive(Clone, Debug)]
pub struct Network {
    visible: ModalitySpecificExtractor,
    infrared: ModalitySpecificExtractor,
    layers: Vec<Layer>,
    /// What becomes of the deep features where no layer fuses them.
    spatial: Spatial,
    /// Maps that the spatial side gives the reconstruction, before those of the frequencies.
    spatial_maps: usize,
    reconstruction: Reconstruction,
}

/// A frequency layer and the spatial one that it guides, either of which an ablation may lack.
#[derive(Clone, Debug)]
struct Layer {
    frequency: Option<MffLayer>,
    interactive: Option<IsfLayer>,
}

/// What each stage of the network gave, for those who look inside.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The visible picture's features.
    pub visible: Features,
    /// The infrared picture's features.
    pub infrared: Features,
    /// Each frequency layer's output; none if the network has no such layers.
    pub frequency: Vec<MffOutput>,
    /// Each interactive layer's output, B×H×W×C; none if the network has no such layers.
    pub interactive: Vec<Tensor>,
    /// The network's result, as [`Network::forward`]'s.
    pub fused: Tensor,
}

impl Network {
    /// Builds the network from the tensors below `vb`, by their released names.
    ///
    /// # Errors
    /// If the configuration makes no sense, or a tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (dim, ss2d, modules) = (config.embed_dim, config.ss2d(), &config.modules);
        let extractor =
            |source| modality_specific_extractor(source, &ss2d, config.depths[0], vb.clone());
        let layer = |(k, &depth): (usize, &usize)| -> candle_core::Result<_> {
            let frequency = |parts| mff_layer(dim, parts, vb.pp("MFF_layers").pp(k));
            let interactive = |kind| isf_layer(&ss2d, kind, depth, vb.pp("ISF_layers").pp(k));
            Ok(Layer {
                frequency: modules.mff().map(frequency).transpose()?,
                interactive: modules.spatial.block().map(interactive).transpose()?,
            })
        };
        Ok(Self {
            visible: extractor(Source::Visible)?,
            infrared: extractor(Source::Infrared)?,
            layers: config
                .depths
                .iter()
                .enumerate()
                .map(layer)
                .collect::<candle_core::Result<_>>()?,
            spatial: modules.spatial,
            spatial_maps: modules.spatial_maps(config.layers()),
            reconstruction: reconstruction(
                modules.maps(config.layers()) * dim,
                config.pyramid.outputs(),
                vb.pp("conv_final_fuse"),
            )?,
        })
    }

    /// Builds the network on `weights`. Tensors that are variables stay connected to them, so that
    /// gradients reach them and their updates reach the network; with plain tensors the forward
    /// pass builds no graph and frees each stage as soon as it is used.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn from_weights(config: &Config, weights: &Weights) -> Result<Self> {
        let Some(first) = weights.values().next() else {
            return Err(isfm_files::Error::weights("given", "there are none".into()).into());
        };
        let (dtype, device) = (first.dtype(), first.device().clone());
        let tensors: HashMap<_, _> = weights.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Self::new(config, VarBuilder::from_tensors(tensors, dtype, &device))
    }

    /// Fuses.
    ///
    /// # Shapes
    /// - `visible`, the luminance of the visible picture (or of PET, SPECT, CT): B×1×H×W in [0, 1]
    /// - `infrared` (or MRI): the same shape and range
    /// - output: B×1×H×W, not clamped; clamp it to [0, 1] before use. A network with gates gives
    ///   their B×[outputs](crate::Pyramid::outputs)×H×W instead.
    ///
    /// H and W are at least 2. On odd sizes the wavelet drops the last row or column and its
    /// branch is interpolated, as the released network does.
    ///
    /// # Errors
    /// If the shapes differ or are not as above.
    pub fn forward(&self, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
        recycling(|| self.run(visible, infrared, None))
    }

    /// As [`Network::forward`], keeping what every stage gave.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn forward_stages(&self, visible: &Tensor, infrared: &Tensor) -> Result<Stages> {
        let (mut features, mut frequency, mut interactive) = (None, Vec::new(), Vec::new());
        let mut watch = |stage: Stage| match stage {
            Stage::Features(v, i) => features = Some((v.clone(), i.clone())),
            Stage::Frequency(output) => frequency.push(output.clone()),
            Stage::Interactive(x) => interactive.push(x.clone()),
        };
        let fused = self.run(visible, infrared, Some(&mut watch))?;
        let (visible, infrared) = features.ok_or_else(|| candle_core::Error::msg("no features"))?;
        Ok(Stages { visible, infrared, frequency, interactive, fused })
    }

    fn run(
        &self,
        visible: &Tensor,
        infrared: &Tensor,
        mut watch: Option<&mut dyn FnMut(Stage)>,
    ) -> Result<Tensor> {
        // What somebody watches is theirs.
        let keep = if watch.is_some() { |_: Tensor, _: &Tensor| () } else { keep };
        let mut watch = |stage: Stage| {
            if let Some(watch) = &mut watch {
                watch(stage);
            }
        };
        let (batch, height, width) = check_image("the visible image", visible)?;
        check_image("the infrared image", infrared)?;
        if infrared.dims() != visible.dims() {
            let needed = format!("{:?}, the visible image's shape", visible.dims());
            let got = infrared.dims().to_vec();
            return Err(Error::Input { what: "the infrared image", got, needed });
        }
        // One channel: B×1×H×W and B×H×W×1 are the same memory.
        let visible = self.visible.forward(&visible.reshape((batch, height, width, 1))?)?;
        let infrared = self.infrared.forward(&infrared.reshape((batch, height, width, 1))?)?;
        watch(Stage::Features(&visible, &infrared));

        let read = self.layers.iter().any(|layer| layer.frequency.is_some());
        let bands = read.then(|| band_averages(&visible, &infrared)).transpose()?;
        for features in [visible.shallow, infrared.shallow] {
            keep(features, &visible.deep);
        }
        let (visible, infrared) = (visible.deep, infrared.deep);
        let mut sum = Accumulator::default();
        for (k, layer) in self.layers.iter().enumerate() {
            let mut guidance = None;
            if let (Some(mff), Some(bands)) = (&layer.frequency, &bands) {
                let output = mff.forward(bands, height, width)?;
                watch(Stage::Frequency(&output));
                if let Some(map) = output.fused {
                    sum = self.reconstruction.add(sum, &map, self.spatial_maps + k)?;
                    keep(map, &output.bands.low);
                }
                guidance = Some(output.bands);
            }
            if let Some(isf) = &layer.interactive {
                let spatial = isf.forward(&visible, &infrared, guidance.as_ref())?;
                watch(Stage::Interactive(&spatial));
                sum = self.reconstruction.add(sum, &spatial, k)?;
                keep(spatial, &visible);
            }
        }
        match self.spatial {
            Spatial::Sum => {
                let map = isfm_ops::weighted_sum(&visible, 1., &infrared, 1.)?;
                sum = self.reconstruction.add(sum, &map, 0)?;
            }
            Spatial::Concatenate => {
                sum = self.reconstruction.add(sum, &visible, 0)?;
                sum = self.reconstruction.add(sum, &infrared, 1)?;
            }
            _ => {}
        }
        drop(bands);
        let fused = self.reconstruction.finish(sum)?;
        [visible, infrared].into_iter().for_each(|features| keep(features, &fused));
        if fused.dim(3)? == 1 {
            return Ok(fused.reshape((batch, 1, height, width))?);
        }
        Ok(fused.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

enum Stage<'a> {
    Features(&'a Features, &'a Features),
    Frequency(&'a MffOutput),
    Interactive(&'a Tensor),
}

fn check_image(what: &'static str, image: &Tensor) -> Result<(usize, usize, usize)> {
    match *image.dims() {
        [batch, 1, height, width] if batch > 0 && height > 1 && width > 1 => {
            Ok((batch, height, width))
        }
        ref got => {
            let needed = "B×1×H×W with B at least 1, H and W at least 2".to_string();
            Err(Error::Input { what, got: got.to_vec(), needed })
        }
    }
}

/// The name and shape of every tensor that a network of this configuration is built from.
///
/// # Errors
/// If the configuration makes no sense.
pub fn tensor_shapes(config: &Config) -> Result<BTreeMap<String, Vec<usize>>> {
    // Building the network is what knows the names; the tensors themselves are not kept.
    let weights = crate::init::build_with(config, DType::F32, &Device::Cpu, |_, shape, _| {
        Ok(Tensor::zeros(1, DType::F32, &Device::Cpu)?.broadcast_as(shape.clone())?)
    })?;
    Ok(weights.into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect())
}

/// Parameters of each part of a network, as Table VII of the paper counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The two modality-specific extractors.
    pub extractor: usize,
    /// The frequency layers.
    pub mff: usize,
    /// The interactive layers.
    pub isf: usize,
    /// The reconstruction.
    pub other: usize,
    /// The released program's final layer norm, which nothing uses and this crate does not build.
    pub unused: usize,
}

impl ParameterCounts {
    /// Counts the parameters of `config`.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub fn of(config: &Config) -> Result<Self> {
        let (mut extractor, mut mff, mut isf, mut other) = (0, 0, 0, 0);
        for (name, shape) in tensor_shapes(config)? {
            let part = match name.split('.').next() {
                Some("MFF_layers") => &mut mff,
                Some("ISF_layers") => &mut isf,
                Some("conv_final_fuse") => &mut other,
                _ => &mut extractor,
            };
            *part += shape.iter().product::<usize>();
        }
        Ok(Self { extractor, mff, isf, other, unused: 2 * config.embed_dim })
    }

    /// All of them, the unused ones too.
    pub fn total(&self) -> usize {
        self.extractor + self.mff + self.isf + self.other + self.unused
    }
}
