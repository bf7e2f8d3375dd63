//! Semantic segmentation scored from label maps: per-class IoU, mIoU, accuracy.
//!
//! Fusion papers judge a fused image by how well a segmentation network does on it. All images of a
//! set go into one confusion matrix, from which the scores are taken at the end:
//!
//! ```
//! use isfm_metrics::segmentation::ConfusionMatrix;
//!
//! let truth: [u8; 6] = [0, 0, 0, 1, 1, 255];
//! let predicted: [u8; 6] = [0, 0, 1, 1, 1, 0];
//! let mut matrix = ConfusionMatrix::new(3)?.ignoring(255);
//! matrix.add(&truth, &predicted)?;
//! assert_eq!(matrix.iou(), [Some(2. / 3.), Some(2. / 3.), None]);
//! assert_eq!(matrix.mean_iou(), Some(2. / 3.));
//! assert_eq!(matrix.accuracy(), Some(0.8));
//! # Ok::<(), isfm_metrics::Error>(())
//! ```
//!
//! IoU of class c is n_cc / (Σ_j n_cj + Σ_i n_ic − n_cc) with n_ij the number of pixels of class i
//! labelled as j (the "Jaccard index"; M. Everingham et al., "The PASCAL Visual Object Classes
//! Challenge", IJCV 2015). mIoU is its mean over the classes that occur in the ground truth or in a
//! prediction: a class that is nowhere is left out, one that was only made up counts as 0. Both are
//! of the whole set, not means over images. Pixels whose true label is ignored count nowhere,
//! whatever was predicted there. Tested against scikit-learn's `confusion_matrix` and
//! `jaccard_score`.

use crate::detection::mean;
use crate::{Error, Result};

/// How many pixels of each class were labelled as what, over any number of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    ignored: Option<u32>,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// No pixels yet, of classes 0 … `classes` − 1.
    ///
    /// # Errors
    /// If there are no classes, or more than 65 536.
    pub fn new(classes: usize) -> Result<Self> {
        if !(1..=1 << 16).contains(&classes) {
            return Err(Error::Classes(classes));
        }
        Ok(Self { classes, ignored: None, counts: vec![0; classes * classes] })
    }

    /// Leaves out pixels whose true label is this one, often 255. It may also be the number of a
    /// class, such as background: that class then has no IoU and no part in the mean, while a pixel
    /// of another class that was taken for it still counts against that other class.
    pub fn ignoring(mut self, label: u32) -> Self {
        self.ignored = Some(label);
        self
    }

    /// Adds an image: for each pixel the true label and the predicted one, `u8`, `u16` or `u32`.
    /// On an error nothing is added.
    ///
    /// # Errors
    /// If the maps are of different lengths, or a label that is not ignored is none of the classes.
    pub fn add<T: Copy + Into<u32>>(&mut self, truth: &[T], predicted: &[T]) -> Result<()> {
        if truth.len() != predicted.len() {
            return Err(Error::LabelMaps { truth: truth.len(), predicted: predicted.len() });
        }
        let pixels = || {
            let labels = truth.iter().zip(predicted).map(|(&t, &p)| (t.into(), p.into()));
            labels.enumerate().filter(|(_, (t, _))| Some(*t) != self.ignored)
        };
        let known = |label: u32| (label as usize) < self.classes;
        if let Some((index, (t, p))) = pixels().find(|(_, (t, p))| !known(*t) || !known(*p)) {
            let label = if known(t) { p } else { t };
            return Err(Error::Label { index, label, classes: self.classes });
        }
        let places: Vec<usize> =
            pixels().map(|(_, (t, p))| t as usize * self.classes + p as usize).collect();
        for place in places {
            self.counts[place] += 1;
        }
        Ok(())
    }

    /// Makes room for the classes up to `classes` − 1, if there are fewer; those that are there keep their
    /// counts.
    ///
    /// # Errors
    /// If that is more than 65 536 classes.
    pub fn widen(&mut self, classes: usize) -> Result<()> {
        if classes <= self.classes {
            return Ok(());
        }
        let mut wide = Self::new(classes)?;
        let rows = self.counts.chunks_exact(self.classes);
        for (row, own) in wide.counts.chunks_exact_mut(classes).zip(rows) {
            row[..self.classes].copy_from_slice(own);
        }
        (self.classes, self.counts) = (classes, wide.counts);
        Ok(())
    }

    /// Adds another matrix, of images that were counted elsewhere.
    ///
    /// # Errors
    /// If it is of another number of classes.
    pub fn merge(&mut self, other: &ConfusionMatrix) -> Result<()> {
        if other.classes != self.classes {
            return Err(Error::Classes(other.classes));
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        Ok(())
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many pixels of class `truth` were labelled as `predicted`; 0 for numbers of no class.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        match truth < self.classes && predicted < self.classes {
            true => self.counts[truth * self.classes + predicted],
            false => 0,
        }
    }

    /// All counts, row by row: the true class picks the row, the predicted one the column.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The IoU of each class, 0 to 1; none for a class that neither occurs nor was predicted.
    pub fn iou(&self) -> Vec<Option<f64>> {
        let mut iou = self.each(|hit, occurs, predicted| (hit, occurs + predicted - hit));
        if let Some(own) = self.ignored.and_then(|label| iou.get_mut(label as usize)) {
            *own = None;
        }
        iou
    }

    /// The mean of [`ConfusionMatrix::iou`] over the classes that have one; none without pixels.
    pub fn mean_iou(&self) -> Option<f64> {
        mean(self.iou().into_iter().flatten())
    }

    /// The part of each class's pixels that was found (recall, the "Acc" of fusion papers), 0 to 1;
    /// none for a class that does not occur.
    pub fn class_accuracy(&self) -> Vec<Option<f64>> {
        self.each(|hit, occurs, _| (hit, occurs))
    }

    /// The mean of [`ConfusionMatrix::class_accuracy`] over the classes that occur (mAcc).
    pub fn mean_class_accuracy(&self) -> Option<f64> {
        mean(self.class_accuracy().into_iter().flatten())
    }

    /// The part of all pixels that was labelled right, 0 to 1; none without pixels.
    pub fn accuracy(&self) -> Option<f64> {
        let hits = (0..self.classes).map(|c| self.count(c, c)).sum();
        quotient(hits, self.counts.iter().sum())
    }

    /// A quotient for each class of (right pixels, pixels of the class, pixels labelled as it).
    fn each(&self, parts: impl Fn(u64, u64, u64) -> (u64, u64)) -> Vec<Option<f64>> {
        let mut predicted = vec![0; self.classes];
        for row in self.counts.chunks_exact(self.classes) {
            for (sum, count) in predicted.iter_mut().zip(row) {
                *sum += count;
            }
        }
        let rows = self.counts.chunks_exact(self.classes).enumerate();
        rows.map(|(class, row)| {
            let (part, whole) = parts(row[class], row.iter().sum(), predicted[class]);
            quotient(part, whole)
        })
        .collect()
    }
}

fn quotient(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
