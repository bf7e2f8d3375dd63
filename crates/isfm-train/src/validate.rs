use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::{DynamicImage, GrayImage};
use isfm_losses::clamp_unit;
use isfm_metrics::{Metric, Plane, Scores, Triple, luma_u8};
use isfm_model::PyramidFusion;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::corrupt::LeftOut;
use crate::loader::Loader;
use crate::log::{Line, Log};
use crate::{DataSet, Result, Validation};

/// What is scored; larger is better for all of them.
const METRICS: [Metric; 8] = [
    Metric::En,
    Metric::Sf,
    Metric::Ag,
    Metric::Vif,
    Metric::Mi,
    Metric::Qabf,
    Metric::Scd,
    Metric::Ssim,
];
/// The longest side of what is scored, in pixels.
const SIDE: usize = 512;
/// What a score counts at least in the criterion: SCD and SSIM may be 0 or below.
const LEAST: f64 = 0.01;
/// The log's name.
pub(crate) const VALIDATIONS: &str = "validation.jsonl";
/// How many pictures are written.
const SHOWN: usize = 2;

/// The scores of the pairs held back after one step: a line of `validation.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Steps done.
    pub step: usize,
    /// Pairs scored.
    pub pairs: usize,
    /// How much better than the pixel-wise maximum of the two pictures, which needs no training:
    /// the mean over pairs and scores of ln(score / score of the maximum), scores below 0.01
    /// counted as 0.01. 0 is as good, 0.1 about a tenth better.
    pub criterion: f64,
    /// Whether it is the best so far, whose weights are `best.safetensors`.
    pub best: bool,
    /// The means of EN, SF, AG, VIF, MI, Qabf, SCD and SSIM, by these names; one that a picture is
    /// too small for is left out.
    pub scores: BTreeMap<String, f64>,
}

impl Line for ValidationReport {
    fn step(&self) -> usize {
        self.step
    }
}

/// A pair held back: the centre of its pictures, at most [`SIDE`] pixels each way.
struct Held {
    width: usize,
    height: usize,
    visible: Vec<u8>,
    infrared: Vec<u8>,
    /// The scores of the pixel-wise maximum.
    reference: Scores,
}

impl Held {
    fn of(data: &DataSet, folder: usize, pair: usize) -> Result<Self> {
        let pair = data.folders()[folder].0.pair(pair)?;
        let (width, height) = (pair.width.min(SIDE), pair.height.min(SIDE));
        let (left, top) = ((pair.width - width) / 2, (pair.height - height) / 2);
        let rows = (top..top + height).map(|y| y * pair.width + left);
        let pixels: Vec<usize> = rows.flat_map(|first| first..first + width).collect();
        let rgb = pair.visible.as_chunks::<3>().0;
        let visible = pixels.iter().map(|&p| luma_u8(rgb[p][0], rgb[p][1], rgb[p][2])).collect();
        let infrared = pixels.iter().map(|&p| pair.infrared[p]).collect();
        let reference = Scores::default();
        let mut held = Self { width, height, visible, infrared, reference };
        let both = held.visible.iter().zip(&held.infrared);
        let larger: Vec<u8> = both.map(|(&v, &i)| v.max(i)).collect();
        held.reference = held.scores(&larger)?;
        Ok(held)
    }

    fn scores(&self, fused: &[u8]) -> Result<Scores> {
        let plane = |pixels| Plane::new(pixels, self.width, self.height);
        let triple = Triple::new(plane(&self.visible)?, plane(&self.infrared)?, plane(fused)?)?;
        Ok(Scores::evaluate_only(&triple, &METRICS))
    }

    fn fuse(&self, fusion: &PyramidFusion) -> Result<Vec<u8>> {
        let shape = (1, 1, self.height, self.width);
        let tensor = |pixels: &[u8]| {
            let unit: Vec<f32> = pixels.iter().map(|&v| f32::from(v) / 255.).collect();
            Tensor::from_vec(unit, shape, &Device::Cpu)
        };
        let fused = fusion.forward(&tensor(&self.visible)?, &tensor(&self.infrared)?)?;
        let fused = clamp_unit(&fused).map_err(candle_core::Error::from)?;
        let unit = fused.flatten_all()?.to_vec1::<f32>()?;
        Ok(unit.into_iter().map(|v| (255. * v).round() as u8).collect())
    }

    /// ln(score / reference) of each metric that has both.
    fn gains(&self, scores: &Scores) -> impl Iterator<Item = f64> {
        let both = |&m: &Metric| Some((scores.get(m)?, self.reference.get(m)?));
        METRICS.iter().filter_map(both).map(|(s, r)| (s.max(LEAST) / r.max(LEAST)).ln())
    }
}

/// Scores a network on the pairs held back.
pub(crate) struct Validator {
    data: Arc<DataSet>,
    left_out: Arc<LeftOut>,
    /// Folder and pair.
    picks: Vec<(usize, usize)>,
    /// Decoded when first needed.
    held: Vec<Held>,
    every: usize,
    dir: PathBuf,
    pub(crate) log: Log<ValidationReport>,
    pub(crate) best: Option<f64>,
}

impl Validator {
    pub(crate) fn new(
        settings: &Validation,
        loader: &Loader,
        dir: &Path,
        step: usize,
    ) -> Result<Self> {
        let of_folder = |(folder, pairs): (usize, &Vec<usize>)| {
            pairs.iter().take(settings.pairs).map(move |&pair| (folder, pair)).collect::<Vec<_>>()
        };
        let picks = loader.split.held.iter().enumerate().flat_map(of_folder).collect();
        let log = Log::open(dir.join(VALIDATIONS), step)?;
        let (every, dir) = (settings.every, dir.to_path_buf());
        let (data, left_out) = (loader.data.clone(), loader.left_out.clone());
        Ok(Self { data, left_out, picks, held: Vec::new(), every, dir, log, best: None })
    }

    pub(crate) fn is_due(&self, step: usize, last: usize) -> bool {
        step.is_multiple_of(self.every) || step == last
    }

    /// Fuses and scores every pair, writes the first pictures and a line of the log.
    pub(crate) fn run(&mut self, fusion: &PyramidFusion, step: usize) -> Result<ValidationReport> {
        if self.held.is_empty() {
            let held = self.picks.par_iter().map(|&(f, p)| Held::of(&self.data, f, p));
            for (&place, held) in self.picks.iter().zip(held.collect::<Vec<_>>()) {
                match held {
                    Ok(held) => self.held.push(held),
                    Err(problem) => self.left_out.add(place, problem)?,
                }
            }
            if self.held.is_empty() {
                return Err(self.left_out.all());
            }
        }
        let (mut all, mut gains) = (Vec::new(), Vec::new());
        for (n, held) in self.held.iter().enumerate() {
            let fused = held.fuse(fusion)?;
            let scores = held.scores(&fused)?;
            gains.extend(held.gains(&scores));
            all.push(scores);
            if n < SHOWN {
                let path = self.dir.join(format!("validation-{}.png", n + 1));
                let size = (held.width as u32, held.height as u32);
                if let Some(picture) = GrayImage::from_raw(size.0, size.1, fused) {
                    isfm::write_image(&DynamicImage::from(picture), path)?;
                }
            }
        }
        let criterion = gains.iter().sum::<f64>() / gains.len().max(1) as f64;
        let best = self.best.is_none_or(|best| criterion > best);
        let mean = Scores::mean(&all).unwrap_or_default();
        let scores = mean.iter().map(|(metric, value)| (metric.name().to_string(), value));
        let report =
            ValidationReport { step, pairs: all.len(), criterion, best, scores: scores.collect() };
        self.log.append(&report)?;
        Ok(report)
    }
}
