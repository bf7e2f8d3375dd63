//! An alignment from the pixels of one or more pairs.

mod features;
pub(crate) mod fit;
mod plane;
mod search;
mod surface;

use rayon::prelude::*;

use crate::homography::{applied, product};
use crate::{Homography, Image, Sample};

use features::Features;
use fit::{Change, Field, Prior};
use plane::{Octaves, Plane};
use search::{Candidate, Space};
use surface::Surfaces;

/// What may lie between the two cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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

/// How an alignment is looked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// Least and greatest share of the visible picture's width that the infrared one covers; more than 1 where it
    /// shows more.
    pub coverage: [f64; 2],
    /// The largest rotation to either side, in degrees.
    pub rotation: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { coverage: [0.17, 1.35], rotation: 8. }
    }
}

/// What one search found, before it is judged.
#[derive(Clone, Debug)]
pub struct Raw {
    pub matrix: [f64; 9],
    pub stats: Vec<f64>,
}

#[doc(hidden)]
pub fn raw<V: Sample, I: Sample>(
    pairs: &[(Image<'_, V>, Image<'_, I>)],
    model: Model,
    options: &Options,
) -> Option<Raw> {
    let time = std::time::Instant::now();
    let octaves: Vec<(Octaves, Octaves)> = pairs
        .iter()
        .map(|(v, i)| (Octaves::of(Plane::of(v)), Octaves::of(Plane::of(i))))
        .collect();
    let frames: Vec<(&Octaves, &Octaves)> = octaves.iter().map(|(v, i)| (v, i)).collect();
    let debug = std::env::var("ALIGN_DEBUG").is_ok();
    let rig = Rig::of(&frames);
    let base = rig.visible.0 / rig.infrared.0;
    let space = Space {
        scales: options.coverage.map(|c| c * base),
        rotation: options.rotation.to_radians(),
        keep: env("KE", 8.) as usize,
    };
    if debug { eprintln!("prepared {:?}", time.elapsed()); }
    let candidates = search::candidates(&frames, &space);
    if debug { eprintln!("searched {:?}", time.elapsed()); for c in &candidates { eprintln!("{:.3} {:.3?}", c.score, c.matrix); } }
    let mut tried: Vec<(f64, [f64; 9])> = candidates
        .par_iter()
        .filter_map(|c| {
            let done = rig.level(&frames, c.matrix, &COARSE)?;
            Some((done.score, done.matrix))
        })
        .collect();
    tried.sort_by(|a, b| b.0.total_cmp(&a.0));
    if debug { eprintln!("coarse {:?}", time.elapsed()); for c in &tried { eprintln!("{:.3} {:.3?}", c.0, c.1); } }
    let second = tried.get(1).map_or(0., |t| t.0);
    let first = tried.first()?.0;
    tried.truncate(2);
    let mut middle: Vec<Level> =
        tried.iter().filter_map(|(_, m)| rig.level(&frames, *m, &Stage { model, ..MIDDLE })).collect();
    middle.sort_by(|a, b| b.score.total_cmp(&a.score));
    if debug { eprintln!("middle {:?}", time.elapsed()); for c in &middle { eprintln!("{:.3} {:.3?}", c.score, c.matrix); } }
    let best = middle.into_iter().next()?;
    let fine = rig.level(&frames, best.matrix, &Stage { model, ..FINE })?;
    if debug { eprintln!("fine {:?} {:.3} {:.3?}", time.elapsed(), fine.score, fine.matrix); }
    Some(Raw { matrix: fine.matrix, stats: vec![first, second, best.score, fine.score] })
}

pub(crate) fn env(n: &str, d: f64) -> f64 { std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d) }

/// How a level is worked on.
#[derive(Clone, Copy, Debug)]
struct Stage {
    /// Pixels on the longer side of what the infrared picture covers.
    longer: f64,
    model: Model,
    edge: usize,
    /// How far blocks are moved, from round to round.
    reaches: &'static [usize],
}

const COARSE: Stage = Stage { longer: 128., model: Model::Similarity, edge: 16, reaches: &[8, 6, 4] };
const MIDDLE: Stage = Stage { longer: 256., model: Model::Homography, edge: 20, reaches: &[7, 5] };
const FINE: Stage = Stage { longer: 560., model: Model::Homography, edge: 28, reaches: &[6, 4, 3] };

struct Level {
    matrix: [f64; 9],
    score: f64,
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
            let (low, high) = corners
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), c| (a.min(c[axis]), b.max(c[axis])));
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

    /// Improves a map on one level.
    fn level(&self, frames: &[(&Octaves, &Octaves)], start: [f64; 9], stage: &Stage) -> Option<Level> {
        let view = self.view(&start, if stage.longer == 560. { env("LG", 560.) } else { stage.longer })?;
        let (width, height) = (view.kappa * view.size.0 as f64, view.kappa * view.size.1 as f64);
        let visible: Vec<Features> = frames
            .iter()
            .map(|(v, _)| {
                Features::of(&v.full().reduced(view.left, view.top, width, height, view.size))
            })
            .collect();
        let mut matrix = start;
        let mut score = 0.;
        for &reach in stage.reaches {
            let surfaces = self.surfaces(frames, &visible, &view, &matrix, stage.edge, reach)?;
            let weights = vec![1.; surfaces.centres.len()];
            let prior = self.prior(&matrix, &view);
            let field = Field::new(&surfaces);
            let mut change = Change::none(view.size);
            for sigma in [reach as f64 / 3., (reach as f64 / 6.).max(env("SG", 0.)), env("SG", 0.)] {
                change = field.blurred(sigma).climb(stage.model, change, &prior, &weights);
            }
            let [p, v, i] = surfaces.totals(|c| change.moves(c));
            score = p / (v * i).max(1e-12).sqrt().sqrt();
            let moved = product(&view.matrix(), &product(&change.matrix(), &view.inverse()));
            matrix = product(&moved, &matrix);
        }
        Some(Level { matrix, score })
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
    fn prior(&self, matrix: &[f64; 9], view: &View) -> Prior {
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
            weight_perspective: env("WP", 400.),
            weight_shear: env("WS", 100.),
        }
    }
}
