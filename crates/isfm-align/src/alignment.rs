//! [`Alignment`].

use crate::estimate::{self, Model, Options};
use crate::{Error, Homography, Image, Refusal, Result, Sample, points};

/// Width and height of the pictures of the two cameras, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of the visible one.
    pub visible: (usize, usize),
    /// Of the infrared one.
    pub infrared: (usize, usize),
}

/// How far an estimate can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// The expected mean distance of the infrared picture's four corners from where they should be, in visible
    /// pixels: how far they move when parts of the picture are left out (jackknife over twelve parts), or, of an
    /// alignment from points, how far the points are from each other's map.
    pub corner_error: f64,
    /// How far the agreement of the two pictures' edges stands above what chance gives, in standard deviations;
    /// none of an alignment from points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub significance: Option<f64>,
    /// How many pairs it was estimated from; of points, how many points.
    pub samples: usize,
}

/// Where the infrared pictures of a rig of two cameras lie on the visible ones.
///
/// Cameras that are mounted together and look at things that are far compared with the distance between them need one
/// alignment, found once.
///
/// ```
/// use isfm_align::{Alignment, Sizes};
///
/// // Four points of the infrared picture, and the same ones in the visible picture.
/// let points = [[0., 0.], [319., 0.], [0., 255.], [319., 255.]].map(|p: [f64; 2]| {
///     (p, [1.5 * p[0] + 80., 1.5 * p[1] + 48.])
/// });
/// let sizes = Sizes { visible: (640, 480), infrared: (320, 256) };
/// let alignment = Alignment::from_points(&points, sizes)?;
/// let there = alignment.homography().apply([100., 100.]);
/// assert!((there[0] - 230.).abs() < 1e-6 && (there[1] - 198.).abs() < 1e-6);
/// # Ok::<(), isfm_align::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    pub(crate) homography: Homography,
    pub(crate) sizes: Option<Sizes>,
    pub(crate) model: Option<Model>,
    pub(crate) confidence: Option<Confidence>,
}

/// A map alone, for pictures of any size.
impl From<Homography> for Alignment {
    fn from(homography: Homography) -> Self {
        Self { homography, sizes: None, model: None, confidence: None }
    }
}

impl Alignment {
    /// The least significance of an estimate that is accepted.
    pub const LEAST_SIGNIFICANCE: f64 = estimate::LEAST_SIGNIFICANCE;

    /// Finds where the infrared pictures lie on the visible ones. All pairs are of one rig: the more there are, of
    /// different scenes, the better; frames without structure do no harm. Which side of an edge is brighter does not
    /// matter. Pixels that are not finite, and black ones that hang together with the picture's border (what
    /// undistorting leaves), are not looked at.
    ///
    /// Under [`Model::Shift`] the infrared picture is taken to be as wide as the visible one.
    ///
    /// # Errors
    /// [`Error::Refused`] if nothing is found that could be trusted: too little structure, different scenes, or an
    /// [expected error](Confidence::corner_error) beyond [`Options::largest_error`]. [`Error::NoPairs`],
    /// [`Error::Sizes`] if the pictures of a camera are not of one size, and [`Error::Option`].
    pub fn estimate<V: Sample, I: Sample>(
        pairs: &[(Image<'_, V>, Image<'_, I>)],
        model: Model,
        options: &Options,
    ) -> Result<Self> {
        let Some((visible, infrared)) = pairs.first() else { return Err(Error::NoPairs) };
        let sizes = Sizes { visible: visible.size(), infrared: infrared.size() };
        for (at, (v, i)) in pairs.iter().enumerate() {
            let got = Sizes { visible: v.size(), infrared: i.size() };
            if got != sizes {
                return Err(Error::Sizes { what: format!("pair {at}"), got, needed: sizes });
            }
        }
        let refused = |reason| Err(Error::Refused { reason, pairs: pairs.len() });
        let Some(found) = estimate::find(pairs, model, options)? else {
            return refused(Refusal::NoStructure);
        };
        let lax = options.largest_error == f64::INFINITY;
        if found.significance < estimate::LEAST_SIGNIFICANCE && !lax {
            return refused(Refusal::NoAgreement { significance: found.significance });
        }
        let largest = options.largest_error * found.diagonal;
        // Not a number where the picture runs away to infinity.
        if (found.error.is_nan() || found.error > largest) && !lax {
            return refused(Refusal::Uncertain { error: found.error, largest });
        }
        Ok(Self {
            homography: Homography::new(found.matrix)?.scaled(),
            sizes: Some(sizes),
            model: Some(model),
            confidence: Some(Confidence {
                corner_error: found.error,
                significance: Some(found.significance),
                samples: pairs.len(),
            }),
        })
    }

    /// The map that takes points of the infrared picture to points of the visible one: through four of them, or the
    /// nearest to more (least squares of the distances in the visible picture). Points are in pixels, the first
    /// pixel's centre at 0, 0.
    ///
    /// # Errors
    /// [`Error::Points`] for fewer than four, for ones that are not finite, and for points three of which lie on
    /// a line (or nearly so) where there are four, or all of which but one do.
    pub fn from_points(points: &[([f64; 2], [f64; 2])], sizes: Sizes) -> Result<Self> {
        let (homography, corner_error) = points::homography(points, sizes)?;
        Ok(Self {
            homography,
            sizes: Some(sizes),
            model: Some(Model::Homography),
            confidence: corner_error.map(|corner_error| Confidence {
                corner_error,
                significance: None,
                samples: points.len(),
            }),
        })
    }

    /// The map from infrared pixels to visible ones.
    pub fn homography(&self) -> Homography {
        self.homography
    }

    /// The sizes that it was made for; none of a bare matrix.
    pub fn sizes(&self) -> Option<Sizes> {
        self.sizes
    }

    /// What was estimated.
    pub fn model(&self) -> Option<Model> {
        self.model
    }

    /// How far it can be trusted; none of a bare matrix, and of four points, which no fifth one checks.
    pub fn confidence(&self) -> Option<Confidence> {
        self.confidence
    }

    /// The way back: what was the infrared picture is now called the visible one. The expected error is then in
    /// pixels of the other picture.
    ///
    /// # Errors
    /// [`Error::Matrix`] if the inverse is beyond what floats hold.
    pub fn invert(&self) -> Result<Self> {
        let homography = self.homography.invert();
        let sizes = self.sizes.map(|s| Sizes { visible: s.infrared, infrared: s.visible });
        let confidence = self.confidence.zip(self.sizes).map(|(confidence, sizes)| {
            let (w, h) = (sizes.infrared.0 as f64, sizes.infrared.1 as f64);
            let [a, b] = [[0., 0.], [w, h]].map(|c| self.homography.apply(c));
            let scale = (b[0] - a[0]).hypot(b[1] - a[1]) / w.hypot(h);
            Confidence { corner_error: confidence.corner_error / scale, ..confidence }
        });
        Ok(Self { homography, sizes, confidence, model: self.model })
    }

    /// This alignment after `first`, which leads to this one's infrared picture. The expected errors add up.
    ///
    /// # Errors
    /// [`Error::Sizes`] if `first` leads to pictures of another size, and [`Error::Matrix`].
    pub fn compose(&self, first: &Self) -> Result<Self> {
        let sizes = match (self.sizes, first.sizes) {
            (Some(own), Some(other)) if own.infrared != other.visible => {
                let what = "the alignment before".to_owned();
                let needed = Sizes { visible: own.infrared, infrared: other.infrared };
                return Err(Error::Sizes { what, got: other, needed });
            }
            (Some(own), Some(other)) => {
                Some(Sizes { visible: own.visible, infrared: other.infrared })
            }
            _ => None,
        };
        let confidence = self.confidence.zip(first.confidence).map(|(own, other)| Confidence {
            corner_error: own.corner_error + other.corner_error,
            significance: own.significance.zip(other.significance).map(|(a, b)| a.min(b)),
            samples: own.samples.min(other.samples),
        });
        Ok(Self {
            homography: self.homography.after(&first.homography)?,
            sizes,
            model: self.model.zip(first.model).map(|(a, b)| a.max(b)),
            confidence,
        })
    }

    /// The same for pictures of these sizes: those of a camera that gives the same view in another size.
    ///
    /// # Errors
    /// [`Error::Sizes`] if a picture has other proportions than what the alignment was made for, by more than a pixel.
    pub fn for_sizes(&self, sizes: Sizes) -> Result<Self> {
        let Some(own) = self.sizes.filter(|own| *own != sizes) else {
            return Ok(Self { sizes: Some(sizes), ..*self });
        };
        let fits = |own: (usize, usize), new: (usize, usize)| {
            let height = new.0 as f64 * own.1 as f64 / own.0 as f64;
            new.0 > 0 && new.1 > 0 && (height - new.1 as f64).abs() <= 1.
        };
        if !fits(own.visible, sizes.visible) || !fits(own.infrared, sizes.infrared) {
            let what = "the pictures".to_owned();
            return Err(Error::Sizes { what, got: sizes, needed: own });
        }
        // Edges lie on edges.
        let scale = |from: (usize, usize), to: (usize, usize)| {
            let (x, y) = (to.0 as f64 / from.0 as f64, to.1 as f64 / from.1 as f64);
            Homography::new([x, 0., (x - 1.) / 2., 0., y, (y - 1.) / 2., 0., 0., 1.])
        };
        let back = scale(sizes.infrared, own.infrared)?;
        let up = scale(own.visible, sizes.visible)?;
        let times = sizes.visible.0 as f64 / own.visible.0 as f64;
        Ok(Self {
            homography: up.after(&self.homography.after(&back)?)?.scaled(),
            sizes: Some(sizes),
            model: self.model,
            confidence: self
                .confidence
                .map(|c| Confidence { corner_error: c.corner_error * times, ..c }),
        })
    }
}
