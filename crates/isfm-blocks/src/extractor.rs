//! The modality-specific feature extractor (the paper's eqs. 1 and 2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::Epilogue;
use isfm_ops::internal::{keep, replace};
use isfm_ops::nn::{Conv2d, conv2d};
use isfm_ssm::{Ss2dConfig, VssBlock, vss_block};

/// VSSM groups in each extractor; the released network's number.
const GROUPS: usize = 2;

/// Which picture an extractor reads. The two share no weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The luminance of the visible picture (or of PET, SPECT, CT).
    Visible,
    /// The infrared picture (or MRI).
    Infrared,
}

impl Source {
    fn conv_name(self) -> &'static str {
        match self {
            Self::Visible => "conv1_before",
            Self::Infrared => "conv2_before",
        }
    }

    fn groups_name(self) -> &'static str {
        match self {
            Self::Visible => "BMM_layers1",
            Self::Infrared => "BMM_layers2",
        }
    }
}

/// The features of one picture.
#[derive(Clone, Debug)]
pub struct Features {
    /// After the two convolutions, B×H×W×C.
    pub shallow: Tensor,
    /// After the VSSM groups, B×H×W×C.
    pub deep: Tensor,
}

/// Two convolutions and two groups of VSS blocks: the paper's MSE.
///
/// Released names: `conv1_before` and `BMM_layers1` for the visible picture, `conv2_before` and
/// `BMM_layers2` for the infrared one.
#[derive(Clone, Debug)]
pub struct ModalitySpecificExtractor {
    conv_in: Conv2d,
    conv_out: Conv2d,
    blocks: Vec<VssBlock>,
}

/// Builds the extractor of `source` with `depth` VSS blocks in each group; `vb` is at the network's
/// root, where the released names start.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn modality_specific_extractor(
    source: Source,
    config: &Ss2dConfig,
    depth: usize,
    vb: VarBuilder,
) -> Result<ModalitySpecificExtractor> {
    let dim = config.d_model;
    let conv = vb.pp(source.conv_name());
    let groups = vb.pp(source.groups_name());
    let mut blocks = Vec::with_capacity(GROUPS * depth);
    for group in 0..GROUPS {
        let group = groups.pp(group).pp("SPFusion_group").pp("blocks");
        for block in 0..depth {
            blocks.push(vss_block(config, group.pp(block))?);
        }
    }
    Ok(ModalitySpecificExtractor {
        conv_in: conv2d(1, dim, 3, conv.pp(0))?,
        conv_out: conv2d(dim, dim, 3, conv.pp(2))?,
        blocks,
    })
}

impl ModalitySpecificExtractor {
    /// Extracts the features of `image`.
    ///
    /// # Shapes
    /// - `image`: B×H×W×1, values in [0, 1]
    /// - both features: B×H×W×C
    ///
    /// # Errors
    /// If the shape is another, or the elements are not of the weights' type.
    pub fn forward(&self, image: &Tensor) -> Result<Features> {
        let first = self.conv_in.forward_with(image, Epilogue::Silu)?;
        let shallow = self.conv_out.forward_with(&first, Epilogue::Silu)?;
        keep(first, &shallow);
        let mut deep = shallow.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let next = block.forward(&deep)?;
            // The first one reads the shallow features.
            replace(&mut deep, next, i > 0);
        }
        Ok(Features { shallow, deep })
    }
}
