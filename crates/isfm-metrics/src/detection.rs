//! Object detection scored as COCO does: precision, recall, AP and mAP from boxes.
//!
//! Fusion papers judge a fused image by what a detector finds in it. Give the boxes that are there
//! and the boxes that were found, of all images of a set at once:
//!
//! ```
//! use isfm_metrics::detection::{BoundingBox, Detection, GroundTruth, Options, evaluate};
//!
//! let person = BoundingBox::new(10., 20., 30., 80.)?;
//! let truth = [GroundTruth { image: 0, class: 0, bbox: person, crowd: false }];
//! let found = [
//!     Detection { image: 0, class: 0, bbox: BoundingBox::new(12., 20., 30., 80.)?, score: 0.9 },
//!     Detection { image: 0, class: 0, bbox: BoundingBox::new(90., 20., 30., 80.)?, score: 0.4 },
//! ];
//! let scores = evaluate(&truth, &found, &Options::default())?;
//! assert_eq!(scores.map50(), Some(1.));
//! assert!(scores.map().unwrap() < 1.); // the box is 2 pixels off
//! let counts = scores.counts(0.5, 0.3)?;
//! assert_eq!((counts.precision(), counts.recall()), (Some(0.5), Some(1.)));
//! # Ok::<(), isfm_metrics::Error>(())
//! ```
//!
//! Definitions (T.-Y. Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation program
//! `pycocotools`, which these numbers are tested against to 1e-12):
//!
//! - **Matching**, in each image and class and for each IoU threshold: detections in falling order
//!   of score, equal scores in the order given, at most [`Options::max_detections`] of them. Each
//!   takes the box that is not yet taken with which its IoU is highest and not below the threshold.
//! - **Crowd regions** are boxes that ask for nothing: a detection in one, matched to no ordinary
//!   box, is neither right nor wrong. For them the intersection is divided by the detection's area.
//! - **AP**: precision, made non-increasing from the right, is read at the 101 recalls 0, .01 … 1
//!   and averaged. (PASCAL VOC's area under the curve and its 11 points give other values.)
//! - **mAP@.50** is the mean of AP at IoU .50 over the classes that occur in the ground truth,
//!   **mAP@.50:.95** over the ten thresholds .50, .55 … .95 too.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::{Error, Result};

/// The recalls at which precision is read: 0, .01 … 1.
const RECALLS: usize = 101;

/// An axis-aligned box with its left upper corner at (`x`, `y`), in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl BoundingBox {
    /// A box from its left upper corner and its size, as COCO's files have it.
    ///
    /// # Errors
    /// If a value is not finite or a size is negative. A size of 0 is allowed; the IoU with such a
    /// box is 0.
    pub fn new(x: f64, y: f64, width: f64, height: f64) -> Result<Self> {
        let area = width * height;
        if ![x, y, area].iter().all(|v| v.is_finite()) || width < 0. || height < 0. {
            return Err(Error::BoundingBox { x, y, width, height });
        }
        Ok(Self { x, y, width, height })
    }

    /// A box from its left upper and right lower corner, as PASCAL VOC and most detectors have it.
    ///
    /// # Errors
    /// If a value is not finite or the right lower corner is left of or above the other one.
    pub fn from_corners(left: f64, top: f64, right: f64, bottom: f64) -> Result<Self> {
        Self::new(left, top, right - left, bottom - top)
    }

    /// Width × height, in square pixels.
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    /// Intersection over union with another box, 0 to 1; 0 if either has no area.
    pub fn iou(&self, other: &BoundingBox) -> f64 {
        let shared = self.intersection(other);
        if shared > 0. { shared / (self.area() + other.area() - shared) } else { 0. }
    }

    /// The part of `self` that lies in `region`, 0 to 1.
    fn covered_by(&self, region: &BoundingBox) -> f64 {
        let shared = self.intersection(region);
        if shared > 0. { shared / self.area() } else { 0. }
    }

    fn intersection(&self, other: &BoundingBox) -> f64 {
        let width = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let height = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        width.max(0.) * height.max(0.)
    }
}

/// A box that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroundTruth {
    /// The image it is in, by any number of the caller's.
    pub image: usize,
    /// What it is, by any number of the caller's.
    pub class: usize,
    /// Where it is.
    pub bbox: BoundingBox,
    /// Whether it is a region to ignore (a crowd, a part that was not labelled) and not an object.
    pub crowd: bool,
}

/// A box that a detector found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// The image it was found in.
    pub image: usize,
    /// What it is taken for.
    pub class: usize,
    /// Where it is.
    pub bbox: BoundingBox,
    /// How sure the detector is, on any scale; higher is surer.
    pub score: f64,
}

/// How to score.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The IoU thresholds, each above 0 and at most 1, rising.
    pub iou_thresholds: Vec<f64>,
    /// How many detections of an image and class count, those of highest score first.
    pub max_detections: usize,
}

impl Default for Options {
    /// COCO's: IoU .50, .55 … .95 and 100 detections.
    fn default() -> Self {
        // In NumPy's `linspace(.5, .95, 10)`, which COCO's program uses, the step is not quite .05.
        // An IoU of exactly .55 depends on it.
        let step = (0.95 - 0.5) / 9.;
        let mut iou_thresholds: Vec<f64> = (0..10).map(|i| f64::from(i) * step + 0.5).collect();
        iou_thresholds[9] = 0.95;
        Self { iou_thresholds, max_detections: 100 }
    }
}

/// How many boxes were found, and how many were made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Detections of an object.
    pub true_positives: usize,
    /// Detections of nothing, and second detections of one object.
    pub false_positives: usize,
    /// Objects that were not detected.
    pub false_negatives: usize,
}

impl Counts {
    /// TP / (TP + FP), 0 to 1; none without detections.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positives, self.true_positives + self.false_positives)
    }

    /// TP / (TP + FN), 0 to 1; none without objects.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// The harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), 0 to 1; none where there
    /// was nothing to find and nothing was found.
    pub fn f1(&self) -> Option<f64> {
        ratio(
            2 * self.true_positives,
            2 * self.true_positives + self.false_positives + self.false_negatives,
        )
    }

    fn add(self, other: Counts) -> Self {
        Self {
            true_positives: self.true_positives + other.true_positives,
            false_positives: self.false_positives + other.false_positives,
            false_negatives: self.false_negatives + other.false_negatives,
        }
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The scores of a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionScores {
    iou_thresholds: Vec<f64>,
    /// Those that occur in the ground truth or were detected, by rising number.
    classes: Vec<ClassScores>,
}

/// The scores of one class.
#[derive(Clone, Debug, PartialEq)]
struct ClassScores {
    class: usize,
    /// Crowds not counted.
    objects: usize,
    /// For each IoU threshold the detections that count, in falling order of score.
    verdicts: Vec<Vec<Verdict>>,
}

/// A detection that counts: one in an ignored region does not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Verdict {
    score: f64,
    right: bool,
}

/// Scores the detections of a set of images.
///
/// Images and classes are matched by their numbers; a detection in an image without any object, or
/// of a class that its image lacks, is a false positive.
///
/// # Errors
/// If a score is not a number, or the IoU thresholds are empty, not rising, or not in (0, 1].
pub fn evaluate(
    truth: &[GroundTruth],
    found: &[Detection],
    options: &Options,
) -> Result<DetectionScores> {
    let Options { iou_thresholds, max_detections } = options;
    let usable = iou_thresholds.iter().all(|&t| t > 0. && t <= 1.);
    if !usable || iou_thresholds.is_empty() || !iou_thresholds.is_sorted() {
        return Err(Error::IouThresholds(iou_thresholds.clone()));
    }
    if let Some(index) = found.iter().position(|d| d.score.is_nan()) {
        return Err(Error::DetectionScore { index });
    }

    let mut truth: Vec<&GroundTruth> = truth.iter().collect();
    let mut found: Vec<&Detection> = found.iter().collect();
    // Stable, so that equal scores keep the caller's order; crowds come after objects.
    truth.sort_by_key(|t| (t.class, t.image, t.crowd));
    found.sort_by(|a, b| {
        (a.class, a.image).cmp(&(b.class, b.image)).then(falling(a.score, b.score))
    });
    let scenes = scenes(&truth, &found);
    let fates: Vec<Vec<Fate>> = scenes
        .par_iter()
        .map(|scene| {
            let counted = scene.found.len().min(*max_detections);
            match_boxes(scene.truth, &scene.found[..counted], iou_thresholds)
        })
        .collect();

    let mut classes = Vec::new();
    let mut rest = scenes.iter().zip(&fates).peekable();
    while let Some(&(&Scene { class, .. }, _)) = rest.peek() {
        let of_class = std::iter::from_fn(|| rest.next_if(|(scene, _)| scene.class == class));
        classes.push(class_scores(class, of_class, iou_thresholds.len()));
    }
    Ok(DetectionScores { iou_thresholds: iou_thresholds.clone(), classes })
}

/// The order of scores that are numbers, highest first.
fn falling(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}

/// What there is of one class in one image.
struct Scene<'a> {
    class: usize,
    truth: &'a [&'a GroundTruth],
    found: &'a [&'a Detection],
}

/// Both lists are in order of class, then of image, and so is what comes out.
fn scenes<'a>(truth: &'a [&'a GroundTruth], found: &'a [&'a Detection]) -> Vec<Scene<'a>> {
    let mut of_truth = truth.chunk_by(|a, b| (a.class, a.image) == (b.class, b.image)).peekable();
    let mut of_found = found.chunk_by(|a, b| (a.class, a.image) == (b.class, b.image)).peekable();
    let mut scenes = Vec::new();
    loop {
        let keys = [
            of_truth.peek().map(|chunk| (chunk[0].class, chunk[0].image)),
            of_found.peek().map(|chunk| (chunk[0].class, chunk[0].image)),
        ];
        let Some(next) = keys.into_iter().flatten().min() else { return scenes };
        scenes.push(Scene {
            class: next.0,
            truth: of_truth.next_if(|_| keys[0] == Some(next)).unwrap_or_default(),
            found: of_found.next_if(|_| keys[1] == Some(next)).unwrap_or_default(),
        });
    }
}

/// What became of a detection at an IoU threshold.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Right,
    Wrong,
    /// It lies in a region to ignore.
    Ignored,
}

/// The fates of the detections of one image and class, those of the first detection at each threshold,
/// then those of the second. `truth` has the crowds last.
fn match_boxes(truth: &[&GroundTruth], found: &[&Detection], thresholds: &[f64]) -> Vec<Fate> {
    // As in COCO's program: an IoU of 1 must pass a threshold of 1.
    let least = |threshold: f64| threshold.min(1. - 1e-10);
    let lowest = thresholds.first().map_or(1., |&t| least(t));
    let mut taken = vec![false; thresholds.len() * truth.len()];
    let mut fates = Vec::with_capacity(thresholds.len() * found.len());
    let mut candidates: Vec<(usize, f64)> = Vec::new();
    for detection in found {
        let overlap = |object: &GroundTruth| match object.crowd {
            true => detection.bbox.covered_by(&object.bbox),
            false => detection.bbox.iou(&object.bbox),
        };
        candidates.clear();
        candidates.extend(truth.iter().map(|object| overlap(object)).enumerate());
        candidates.retain(|&(_, overlap)| overlap >= lowest);
        for (row, &threshold) in thresholds.iter().enumerate() {
            let taken = &mut taken[row * truth.len()..][..truth.len()];
            let mut best: Option<usize> = None;
            let mut best_overlap = least(threshold);
            for &(at, overlap) in &candidates {
                let crowd = truth[at].crowd;
                if taken[at] && !crowd {
                    continue;
                }
                // An object, once matched, is never given up for a crowd.
                if crowd && best.is_some_and(|b| !truth[b].crowd) {
                    break;
                }
                // Of two equal ones the later: COCO's order, which its numbers depend on.
                if overlap >= best_overlap {
                    (best, best_overlap) = (Some(at), overlap);
                }
            }
            fates.push(match best {
                Some(at) => {
                    taken[at] = true;
                    if truth[at].crowd { Fate::Ignored } else { Fate::Right }
                }
                None => Fate::Wrong,
            });
        }
    }
    fates
}

/// Puts the images of a class together, given in order.
fn class_scores<'a>(
    class: usize,
    scenes: impl Iterator<Item = (&'a Scene<'a>, &'a Vec<Fate>)>,
    thresholds: usize,
) -> ClassScores {
    let mut objects = 0;
    let mut detections = Vec::new();
    for (scene, fates) in scenes {
        objects += scene.truth.iter().filter(|t| !t.crowd).count();
        let scores = scene.found.iter().map(|d| d.score);
        detections.extend(scores.zip(fates.chunks_exact(thresholds)));
    }
    detections.sort_by(|a, b| falling(a.0, b.0));
    let verdicts = (0..thresholds).map(|at| {
        let counted = detections.iter().filter(|(_, fates)| fates[at] != Fate::Ignored);
        counted.map(|&(score, fates)| Verdict { score, right: fates[at] == Fate::Right }).collect()
    });
    ClassScores { class, objects, verdicts: verdicts.collect() }
}

impl ClassScores {
    /// The precision at each detection that counts, in falling order of score, as pairs (recall,
    /// precision); not yet made non-increasing. `at` is the place of the IoU threshold.
    fn curve(&self, at: usize) -> Vec<(f64, f64)> {
        let mut right = 0;
        let point = |(seen, verdict): (usize, &Verdict)| {
            right += usize::from(verdict.right);
            (right as f64 / self.objects as f64, right as f64 / (seen + 1) as f64)
        };
        self.verdicts[at].iter().enumerate().map(point).collect()
    }

    fn average_precision(&self, at: usize) -> Option<f64> {
        if self.objects == 0 {
            return None;
        }
        let mut curve = self.curve(at);
        for i in (1..curve.len()).rev() {
            curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
        }
        let mut sum = 0.;
        let mut i = 0;
        for step in 0..RECALLS {
            let recall = if step == RECALLS - 1 { 1. } else { step as f64 * 0.01 };
            while i < curve.len() && curve[i].0 < recall {
                i += 1;
            }
            sum += curve.get(i).map_or(0., |point| point.1);
        }
        Some(sum / RECALLS as f64)
    }

    fn counts(&self, at: usize, min_score: f64) -> Counts {
        let kept = self.verdicts[at].iter().take_while(|v| v.score >= min_score);
        let (detections, true_positives) =
            kept.fold((0, 0), |(n, right), v| (n + 1, right + usize::from(v.right)));
        let false_positives = detections - true_positives;
        Counts { true_positives, false_positives, false_negatives: self.objects - true_positives }
    }
}

impl DetectionScores {
    /// The IoU thresholds of the options.
    pub fn iou_thresholds(&self) -> &[f64] {
        &self.iou_thresholds
    }

    /// Average precision of one class at one of the IoU thresholds, 0 to 1; none if the class does
    /// not occur in the ground truth.
    ///
    /// # Errors
    /// If the threshold is none of [`DetectionScores::iou_thresholds`].
    pub fn average_precision(&self, class: usize, iou: f64) -> Result<Option<f64>> {
        let at = self.threshold(iou)?;
        let scores = self.classes.iter().find(|c| c.class == class);
        Ok(scores.and_then(|c| c.average_precision(at)))
    }

    /// mAP at one of the IoU thresholds, 0 to 1; none if there are no objects at all.
    ///
    /// # Errors
    /// If the threshold is none of [`DetectionScores::iou_thresholds`].
    pub fn map_at(&self, iou: f64) -> Result<Option<f64>> {
        let at = self.threshold(iou)?;
        Ok(mean(self.classes.iter().filter_map(|c| c.average_precision(at))))
    }

    /// mAP over all IoU thresholds, with the default options mAP@.50:.95; none if there are no
    /// objects at all.
    pub fn map(&self) -> Option<f64> {
        let each = (0..self.iou_thresholds.len())
            .flat_map(|at| self.classes.iter().filter_map(move |c| c.average_precision(at)));
        mean(each)
    }

    /// mAP@.50; none if there are no objects at all, or .50 is none of the thresholds.
    pub fn map50(&self) -> Option<f64> {
        self.map_at(0.5).ok().flatten()
    }

    /// Average recall (COCO's AR): the recall of all detections that count, meaned over thresholds
    /// and classes; none if there are no objects at all.
    pub fn average_recall(&self) -> Option<f64> {
        let each = (0..self.iou_thresholds.len()).flat_map(|at| {
            self.classes.iter().filter_map(move |c| c.counts(at, f64::NEG_INFINITY).recall())
        });
        mean(each)
    }

    /// Right and wrong detections of score `min_score` and above, over all classes.
    ///
    /// # Errors
    /// If the threshold is none of [`DetectionScores::iou_thresholds`], or the score is NaN.
    pub fn counts(&self, iou: f64, min_score: f64) -> Result<Counts> {
        self.counts_of(&self.classes, iou, min_score)
    }

    /// The same of one class; all 0 for a class that occurs nowhere.
    ///
    /// # Errors
    /// As [`DetectionScores::counts`].
    pub fn class_counts(&self, class: usize, iou: f64, min_score: f64) -> Result<Counts> {
        self.counts_of(self.classes.iter().filter(|c| c.class == class), iou, min_score)
    }

    /// The lowest score to count with which F1 over all classes is highest, of several such the highest
    /// one, and the counts it gives; none without detections that count.
    ///
    /// # Errors
    /// If the threshold is none of [`DetectionScores::iou_thresholds`].
    pub fn best_f1(&self, iou: f64) -> Result<Option<(f64, Counts)>> {
        let at = self.threshold(iou)?;
        let mut verdicts: Vec<Verdict> =
            self.classes.iter().flat_map(|c| &c.verdicts[at]).copied().collect();
        verdicts.sort_by(|a, b| falling(a.score, b.score));
        let false_negatives = self.classes.iter().map(|c| c.objects).sum();
        let mut counts = Counts { false_negatives, ..Counts::default() };
        let mut best: Option<(f64, Counts)> = None;
        // Those of one score count or do not count together.
        for equal in verdicts.chunk_by(|a, b| a.score == b.score) {
            let right = equal.iter().filter(|v| v.right).count();
            counts.true_positives += right;
            counts.false_negatives -= right;
            counts.false_positives += equal.len() - right;
            if best.is_none_or(|(_, best)| counts.f1() > best.f1()) {
                best = Some((equal[0].score, counts));
            }
        }
        Ok(best)
    }

    fn counts_of<'a>(
        &self,
        classes: impl IntoIterator<Item = &'a ClassScores>,
        iou: f64,
        min_score: f64,
    ) -> Result<Counts> {
        let at = self.threshold(iou)?;
        if min_score.is_nan() {
            return Err(Error::MinimumScore);
        }
        let counts = classes.into_iter().map(|c| c.counts(at, min_score));
        Ok(counts.fold(Counts::default(), Counts::add))
    }

    /// The precision-recall curve of one class: for each detection that counts, in falling order of
    /// score, (recall, precision) of it and those before it. Empty for a class without objects.
    ///
    /// # Errors
    /// If the threshold is none of [`DetectionScores::iou_thresholds`].
    pub fn curve(&self, class: usize, iou: f64) -> Result<Vec<(f64, f64)>> {
        let at = self.threshold(iou)?;
        let scores = self.classes.iter().find(|c| c.class == class && c.objects > 0);
        Ok(scores.map_or_else(Vec::new, |c| c.curve(at)))
    }

    /// The place of a threshold. The default ones are sums of .05, so .7 must find .7000000000000001.
    fn threshold(&self, iou: f64) -> Result<usize> {
        let near = |t: &f64| (t - iou).abs() < 1e-9;
        self.iou_thresholds.iter().position(near).ok_or_else(|| Error::IouThresholds(vec![iou]))
    }
}

pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0., 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}
