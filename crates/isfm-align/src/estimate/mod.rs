//! An alignment from the pixels of one or more pairs.

mod features;
pub(crate) mod fit;
mod plane;
mod search;
mod surface;

use rayon::prelude::*;

use crate::homography::{applied, product};
use crate::{Error, Homography, Image, Result, Sample};

use features::Features;
use fit::{Change, Field, Prior};
use plane::{Octaves, Plane};
use search::Space;
use surface::{PARTS, Surfaces};

/// What may lie between the two cameras.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// A shift.
    Shift,
    /// Shift, rotation and one scale.
    Similarity,
    /// Shift, rotation, two scales and shear: what keeps lines parallel.
    Affine,
    /// Any plane projective map.
    Homography,
}

impl Model {
    /// All of them, the simplest first.
    pub const ALL: [Self; 4] = [Self::Shift, Self::Similarity, Self::Affine, Self::Homography];

    /// Its name, in small letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Similarity => "similarity",
            Self::Affine => "affine",
            Self::Homography => "homography",
        }
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Model {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name).ok_or_else(|| Error::Option {
            what: "the model",
            got: name.to_owned(),
            needed: "shift, similarity, affine or homography",
        })
    }
}

/// How an alignment is looked for, and how good it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Least and greatest share of the visible picture's longer side that the infrared one covers, by its own longer
    /// side; more than 1 where it shows more. 0.17 to 1.35 by default.
    pub coverage: [f64; 2],
    /// The largest rotation to either side, in degrees; 8 by default.
    pub rotation: f64,
    /// Where the infrared picture about lies, if that is known: it is only refined, and the two settings above do not
    /// count.
    pub start: Option<Homography>,
    /// The largest [expected error](crate::Confidence::corner_error) that is accepted, as a share of the diagonal of
    /// what the infrared picture covers; 0.02 by default. Infinite to be given whatever was found.
    pub largest_error: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { coverage: [0.17, 1.35], rotation: 8., start: None, largest_error: 0.02 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let wrong = |what, got: String, needed| Err(Error::Option { what, got, needed });
        let [low, high] = self.coverage;
        if !(0.1..=10.).contains(&low) || !(low..=10.).contains(&high) {
            return wrong(
                "the coverage",
                format!("{low} to {high}"),
                "0.1 to 10, the lesser first",
            );
        }
        if !(0. ..=45.).contains(&self.rotation) {
            return wrong("the rotation", self.rotation.to_string(), "0 to 45 degrees");
        }
        if self.largest_error.is_nan() || self.largest_error <= 0. {
            return wrong("the largest error", self.largest_error.to_string(), "more than 0");
        }
        Ok(())
    }
}

/// What a search found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// From infrared pixels to visible ones.
    pub matrix: [f64; 9],
    /// How far the pictures' agreement stands above chance.
    pub significance: f64,
    /// What to expect of the corners, in visible pixels.
    pub error: f64,
    /// The diagonal of what the infrared picture covers, in visible pixels.
    pub diagonal: f64,
}

/// Scales that two cameras of about one field of view have: they are tried first.
const ALIKE: [f64; 2] = [0.7, 1.4];

/// Looks for the infrared pictures in the visible ones, which are all of one size each.
pub(crate) fn find<V: Sample, I: Sample>(
    pairs: &[(Image<'_, V>, Image<'_, I>)],
    model: Model,
    options: &Options,
) -> Result<Option<Found>> {
    options.check()?;
    let octaves: Vec<(Octaves, Octaves)> = pairs
        .par_iter()
        .map(|(v, i)| (Octaves::of(Plane::of(v)), Octaves::of(Plane::of(i))))
        .collect();
    let frames: Vec<(&Octaves, &Octaves)> = octaves.iter().map(|(v, i)| (v, i)).collect();
    let rig = Rig::of(&frames);
    if let Some(start) = options.start {
        return Ok(rig.refined(&frames, &[start.matrix()], model));
    }
    let longer = |size: (f64, f64)| size.0.max(size.1);
    let base = longer(rig.visible) / longer(rig.infrared);
    let search = |coverage: [f64; 2], keep: usize| {
        let one = model == Model::Shift;
        let space = Space {
            scales: if one {
                [rig.visible.0 / rig.infrared.0; 2]
            } else {
                coverage.map(|c| c * base)
            },
            rotation: if one { 0. } else { options.rotation.to_radians() },
            keep,
        };
        let starts: Vec<[f64; 9]> =
            search::candidates(&frames, &space).iter().map(|c| c.matrix).collect();
        rig.refined(&frames, &starts, model)
    };
    let [low, high] = options.coverage;
    let alike = [low.max(ALIKE[0]), high.min(ALIKE[1])];
    let mut best = None;
    if alike[0] <= alike[1] {
        best = search(alike, 12);
        if model == Model::Shift || best.is_some_and(|b: Found| b.significance >= CERTAIN) {
            return Ok(best);
        }
    }
    for part in [[low, high.min(ALIKE[0])], [low.max(ALIKE[1]), high]] {
        if part[0] < part[1]
            && let Some(found) = search(part, 24)
        {
            let better = best.is_none_or(|b| found.significance > b.significance);
            best = if better { Some(found) } else { best };
        }
    }
    Ok(best)
}

/// Below this pairs of different scenes are found.
pub(crate) const LEAST_SIGNIFICANCE: f64 = 5.2;

/// From here on other scales are not looked at.
const CERTAIN: f64 = 7.;

/// How a level is worked on.
#[derive(Clone, Copy, Debug)]
struct Stage {
    /// Pixels on the longer side of what the infrared picture covers.
    longer: f64,
    model: Model,
    /// The blocks' edge.
    edge: usize,
    /// How far blocks are moved, from round to round.
    reaches: &'static [usize],
}

const COARSE: Stage =
    Stage { longer: 128., model: Model::Similarity, edge: 16, reaches: &[8, 6, 4] };
const MIDDLE: Stage = Stage { longer: 256., model: Model::Homography, edge: 20, reaches: &[7, 5] };
const FINE: Stage = Stage { longer: 560., model: Model::Homography, edge: 28, reaches: &[6, 4, 6] };

struct Level {
    matrix: [f64; 9],
    score: f64,
    significance: f64,
    /// By leaving out parts of the picture.
    error: f64,
}

/// Sizes of the frames of one rig.
struct Rig {
    visible: (f64, f64),
    infrared: (f64, f64),
}

/// A part of the visible picture, reduced.
#[derive(Clone, Copy, Debug)]
struct View {
    left: f64,
    top: f64,
    kappa: f64,
    size: (usize, usize),
}

impl View {
    /// From its pixels to visible ones.
    fn matrix(&self) -> [f64; 9] {
        let k = self.kappa;
        let off = (k - 1.) / 2.;
        [k, 0., self.left + off, 0., k, self.top + off, 0., 0., 1.]
    }

    fn inverse(&self) -> [f64; 9] {
        let [k, _, x, _, _, y, ..] = self.matrix();
        [1. / k, 0., -x / k, 0., 1. / k, -y / k, 0., 0., 1.]
    }
}

impl Rig {
    fn of(frames: &[(&Octaves, &Octaves)]) -> Self {
        let size = |o: &Octaves| (o.full().width as f64, o.full().height as f64);
        Self { visible: size(frames[0].0), infrared: size(frames[0].1) }
    }

    fn corners(&self) -> [[f64; 2]; 4] {
        let (w, h) = (self.infrared.0 - 1., self.infrared.1 - 1.);
        [[0., 0.], [w, 0.], [0., h], [w, h]]
    }

    /// Visible pixels of an infrared one, in the middle.
    fn scale(&self, matrix: &[f64; 9]) -> f64 {
        let (x, y) = ((self.infrared.0 - 1.) / 2., (self.infrared.1 - 1.) / 2.);
        let at = |dx: f64, dy: f64| applied(matrix, [x + dx, y + dy]);
        let (a, b, c) = (at(0., 0.), at(1., 0.), at(0., 1.));
        let det = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        det.abs().sqrt()
    }

    fn view(&self, matrix: &[f64; 9], longer: f64) -> Option<View> {
        let corners = self.corners().map(|c| applied(matrix, c));
        let bound = |axis: usize, whole: f64| {
            let (low, high) =
                corners.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), c| {
                    (a.min(c[axis]), b.max(c[axis]))
                });
            let margin = 0.04 * (high - low);
            ((low - margin).clamp(0., whole), (high + margin + 1.).clamp(0., whole))
        };
        let ((left, right), (top, bottom)) = (bound(0, self.visible.0), bound(1, self.visible.1));
        let (w, h) = (right - left, bottom - top);
        if !(w >= 8. && h >= 8.) {
            return None;
        }
        let kappa = (w.max(h) / longer).max(0.7 * self.scale(matrix)).max(1.);
        let size = ((w / kappa).floor() as usize, (h / kappa).floor() as usize);
        (size.0 >= 8 && size.1 >= 8).then_some(View { left, top, kappa, size })
    }

    /// The best map that refining these gives.
    fn refined(
        &self,
        frames: &[(&Octaves, &Octaves)],
        starts: &[[f64; 9]],
        model: Model,
    ) -> Option<Found> {
        let coarse = if model == Model::Shift { model } else { Model::Similarity };
        let mut tried: Vec<Level> = starts
            .par_iter()
            .filter_map(|&m| self.level(frames, m, &Stage { model: coarse, ..COARSE }))
            .collect();
        tried.sort_by(|a, b| b.score.total_cmp(&a.score));
        // Several starts may lead to one place.
        let mut apart: Vec<[f64; 9]> = Vec::new();
        for one in tried {
            if apart
                .iter()
                .all(|other| self.distance(&one.matrix, other) > 0.02 * self.diagonal(other))
            {
                apart.push(one.matrix);
            }
        }
        apart.truncate(3);
        let mut middle: Vec<Level> = apart
            .par_iter()
            .filter_map(|&m| self.level(frames, m, &Stage { model, ..MIDDLE }))
            .collect();
        middle.sort_by(|a, b| b.significance.total_cmp(&a.significance));
        let best = middle.into_iter().next()?;
        let fine = self.level(frames, best.matrix, &Stage { model, ..FINE })?;
        let diagonal = self.diagonal(&fine.matrix);
        Some(Found {
            matrix: fine.matrix,
            significance: fine.significance,
            error: fine.error,
            diagonal,
        })
    }

    /// The mean distance of the corners under two maps, in visible pixels.
    fn distance(&self, a: &[f64; 9], b: &[f64; 9]) -> f64 {
        let apart = self.corners().map(|c| {
            let (p, q) = (applied(a, c), applied(b, c));
            (p[0] - q[0]).hypot(p[1] - q[1])
        });
        apart.iter().sum::<f64>() / 4.
    }

    fn diagonal(&self, matrix: &[f64; 9]) -> f64 {
        let c = self.corners().map(|c| applied(matrix, c));
        ((c[3][0] - c[0][0]).hypot(c[3][1] - c[0][1])
            + (c[2][0] - c[1][0]).hypot(c[2][1] - c[1][1]))
            / 2.
    }

    /// Improves a map on one level.
    fn level(
        &self,
        frames: &[(&Octaves, &Octaves)],
        start: [f64; 9],
        stage: &Stage,
    ) -> Option<Level> {
        let view = self.view(&start, stage.longer)?;
        let (width, height) = (view.kappa * view.size.0 as f64, view.kappa * view.size.1 as f64);
        let visible: Vec<Features> = frames
            .par_iter()
            .map(|(v, _)| {
                Features::of(&v.full().reduced(view.left, view.top, width, height, view.size))
            })
            .collect();
        let mut level = Level { matrix: start, score: 0., significance: 0., error: f64::INFINITY };
        for (round, &reach) in stage.reaches.iter().enumerate() {
            let matrix = level.matrix;
            let surfaces = self.surfaces(frames, &visible, &view, &matrix, stage.edge, reach)?;
            let prior = self.prior(&matrix, &view, surfaces.centres.len(), frames.len());
            let field = Field::new(&surfaces);
            let weights = vec![1.; surfaces.centres.len()];
            let mut change = Change::none(view.size);
            // The last round of a level only polishes.
            let widths: &[f64] = match round + 1 == stage.reaches.len() && round > 1 {
                true => &[6., 0.],
                false => &[3., 6., 0.],
            };
            for &part in widths {
                let sigma = if part > 0. { reach as f64 / part } else { 0. };
                change = field.blurred(sigma).climb(stage.model, change, &prior, &weights);
            }
            let after = |change: &Change| {
                let moved = product(&view.matrix(), &product(&change.matrix(), &view.inverse()));
                product(&moved, &matrix)
            };
            level.matrix = after(&change);
            let here = self.scale(&level.matrix);
            if !(here.is_finite()
                && here > 0.2 * self.scale(&start)
                && here < 5. * self.scale(&start))
            {
                return None;
            }
            let [p, v, i] = surfaces.totals(|c| change.moves(c));
            level.score = p / (v * i).max(1e-12).sqrt().sqrt();
            level.significance = field.significance(&change);
            if stage.longer == FINE.longer && round + 1 == stage.reaches.len() {
                let parts = surfaces.parts();
                let left_out: Vec<f64> = (0..PARTS)
                    .into_par_iter()
                    .map(|part| {
                        let weights: Vec<f64> =
                            parts.iter().map(|&p| f64::from(p != part)).collect();
                        let other = field.climb(stage.model, change, &prior, &weights);
                        self.distance(&after(&other), &level.matrix).powi(2)
                    })
                    .collect();
                // The jackknife's variance.
                let share = (PARTS - 1) as f64 / PARTS as f64;
                level.error = (share * left_out.iter().sum::<f64>()).sqrt();
            }
        }
        Some(level)
    }

    fn surfaces(
        &self,
        frames: &[(&Octaves, &Octaves)],
        visible: &[Features],
        view: &View,
        matrix: &[f64; 9],
        edge: usize,
        reach: usize,
    ) -> Option<Surfaces> {
        let inverse = Homography::new(*matrix).ok()?.inverse_matrix();
        let to_infrared = product(&inverse, &view.matrix());
        let step = view.kappa / self.scale(matrix);
        let mut surfaces = Surfaces::new(view.size, edge.min(view.size.0).min(view.size.1), reach);
        for ((_, infrared), visible) in frames.iter().zip(visible) {
            let features = Features::of(&infrared.sampled(&to_infrared, step, view.size));
            surfaces.add(visible, &features);
        }
        Some(surfaces)
    }

    /// What is likely of the next change, given the map so far.
    fn prior(&self, matrix: &[f64; 9], view: &View, blocks: usize, frames: usize) -> Prior {
        // Held against what the blocks say, whatever their number and the view's size, it weighs the same;
        // frames speak each for themselves.
        let share = blocks as f64 / 240. * (view.size.0.max(view.size.1) as f64 / 560.).powi(2)
            / frames as f64;
        let (w, h) = ((self.infrared.0 - 1.) / 2., (self.infrared.1 - 1.) / 2.);
        let from_unit = [w.max(h), 0., w, 0., w.max(h), h, 0., 0., 1.];
        let (vw, vh) = ((view.size.0 as f64 - 1.) / 2., (view.size.1 as f64 - 1.) / 2.);
        let half = view.size.0.max(view.size.1) as f64 / 2.;
        let to_unit = [1. / half, 0., -vw / half, 0., 1. / half, -vh / half, 0., 0., 1.];
        let m = product(&to_unit, &product(&view.inverse(), &product(matrix, &from_unit)));
        let m = m.map(|v| v / m[8]);
        let size = (m[0] * m[4] - m[1] * m[3]).abs().sqrt().max(1e-9);
        Prior {
            perspective: [m[6], m[7]],
            shear: [(m[0] - m[4]) / size, (m[1] + m[3]) / size],
            weight_perspective: 2000. * share,
            weight_shear: 10000. * share,
        }
    }
}
