//! The map of a model that all blocks together like best.

use super::Model;
use super::surface::Surfaces;

/// The most parameters of a model.
const MOST: usize = 8;

/// A small change of the plane, in coordinates of −1 to 1 over its longer side:
/// (1 + p₀, p₁, p₂; p₃, 1 + p₄, p₅; p₆, p₇, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub p: [f64; MOST],
    centre: [f64; 2],
    half: f64,
}

impl Change {
    pub fn none((width, height): (usize, usize)) -> Self {
        let centre = [(width as f64 - 1.) / 2., (height as f64 - 1.) / 2.];
        Self { p: [0.; MOST], centre, half: width.max(height) as f64 / 2. }
    }

    fn unit(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [(x - self.centre[0]) / self.half, (y - self.centre[1]) / self.half]
    }

    /// How far a pixel is moved, in pixels.
    pub fn moves(&self, point: [f64; 2]) -> [f64; 2] {
        let [x, y] = self.unit(point);
        let p = &self.p;
        let w = p[6] * x + p[7] * y + 1.;
        let to = [((1. + p[0]) * x + p[1] * y + p[2]) / w, (p[3] * x + (1. + p[4]) * y + p[5]) / w];
        [(to[0] - x) * self.half, (to[1] - y) * self.half]
    }

    /// Derivatives of [`moves`](Self::moves) by the parameters.
    fn slopes(&self, point: [f64; 2]) -> [[f64; MOST]; 2] {
        let [x, y] = self.unit(point);
        let p = &self.p;
        let w = p[6] * x + p[7] * y + 1.;
        let to = [((1. + p[0]) * x + p[1] * y + p[2]) / w, (p[3] * x + (1. + p[4]) * y + p[5]) / w];
        let s = self.half / w;
        [
            [x * s, y * s, s, 0., 0., 0., -to[0] * x * s, -to[0] * y * s],
            [0., 0., 0., x * s, y * s, s, -to[1] * x * s, -to[1] * y * s],
        ]
    }

    /// As a matrix on pixels.
    pub fn matrix(&self) -> [f64; 9] {
        let p = &self.p;
        let [cx, cy] = self.centre;
        let h = self.half;
        let unit = [1. / h, 0., -cx / h, 0., 1. / h, -cy / h, 0., 0., 1.];
        let back = [h, 0., cx, 0., h, cy, 0., 0., 1.];
        let own = [1. + p[0], p[1], p[2], p[3], 1. + p[4], p[5], p[6], p[7], 1.];
        let product = crate::homography::product;
        product(&back, &product(&own, &unit))
    }
}

/// What is held to be likely before anything is seen: perspective is mild, pixels are nearly square. Numbers of the
/// whole map so far, in the coordinates of [`Change`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prior {
    /// Perspective so far.
    pub perspective: [f64; 2],
    /// Difference of the two scales, and shear.
    pub shear: [f64; 2],
    pub weight_perspective: f64,
    pub weight_shear: f64,
}

impl Prior {
    fn penalty(&self, p: &[f64; MOST]) -> f64 {
        let square = |a: f64, b: f64| a * a + b * b;
        0.5 * self.weight_perspective
            * square(self.perspective[0] + p[6], self.perspective[1] + p[7])
            + 0.5
                * self.weight_shear
                * square(self.shear[0] + p[0] - p[4], self.shear[1] + p[1] + p[3])
    }

    fn add(&self, p: &[f64; MOST], gradient: &mut [f64; MOST], hessian: &mut [[f64; MOST]; MOST]) {
        let w = self.weight_perspective;
        for k in 0..2 {
            gradient[6 + k] -= w * (self.perspective[k] + p[6 + k]);
            hessian[6 + k][6 + k] += w;
        }
        let w = self.weight_shear;
        for (k, (i, j, sign)) in [(0, 4, -1.), (1, 3, 1.)].into_iter().enumerate() {
            let off = self.shear[k] + p[i] + sign * p[j];
            gradient[i] -= w * off;
            gradient[j] -= w * sign * off;
            hessian[i][i] += w;
            hessian[j][j] += w;
            hessian[i][j] += w * sign;
            hessian[j][i] += w * sign;
        }
    }
}

/// The parameters that a model may change, each as a direction in those of [`Change`].
fn directions(model: Model) -> Vec<[f64; MOST]> {
    let unit = |at: &[(usize, f64)]| {
        let mut out = [0.; MOST];
        at.iter().for_each(|&(i, v)| out[i] = v);
        out
    };
    let shift = [unit(&[(2, 1.)]), unit(&[(5, 1.)])];
    match model {
        Model::Shift => shift.to_vec(),
        Model::Similarity => {
            [&shift[..], &[unit(&[(0, 1.), (4, 1.)]), unit(&[(1, -1.), (3, 1.)])]].concat()
        }
        Model::Affine => (0..6).map(|i| unit(&[(i, 1.)])).collect(),
        Model::Homography => (0..8).map(|i| unit(&[(i, 1.)])).collect(),
    }
}

/// Smooth surfaces of a block's correlation over displacements.
pub(super) struct Field<'a> {
    surfaces: &'a Surfaces,
    values: Vec<f32>,
}

/// Value, gradient and second derivatives (xx, xy, yy).
type Local = (f64, [f64; 2], [f64; 3]);

impl<'a> Field<'a> {
    pub fn new(surfaces: &'a Surfaces) -> Self {
        Self { surfaces, values: surfaces.correlations() }
    }

    /// The same with every surface blurred by a Gaussian.
    pub fn blurred(&self, sigma: f64) -> Self {
        if sigma <= 0. {
            return Self { surfaces: self.surfaces, values: self.values.clone() };
        }
        let side = self.surfaces.side();
        let reach = (3. * sigma).ceil() as isize;
        let kernel: Vec<f32> =
            (-reach..=reach).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp() as f32).collect();
        let mut values = self.values.clone();
        let mut line = vec![0.; side];
        let mut blur = |start: usize, step: usize, values: &mut [f32]| {
            for (i, out) in line.iter_mut().enumerate() {
                let (mut sum, mut weight) = (0., 0.);
                for (d, k) in (-reach..=reach).zip(&kernel) {
                    let j = i as isize + d;
                    if (0..side as isize).contains(&j) {
                        sum += k * values[start + j as usize * step];
                        weight += k;
                    }
                }
                *out = sum / weight;
            }
            line.iter().enumerate().for_each(|(i, v)| values[start + i * step] = *v);
        };
        for block in 0..self.surfaces.centres.len() {
            let start = block * side * side;
            (0..side).for_each(|y| blur(start + y * side, 1, &mut values));
            (0..side).for_each(|x| blur(start + x, side, &mut values));
        }
        Self { surfaces: self.surfaces, values }
    }

    /// A block's surface at a displacement, by cubic B-splines; beyond its border it goes on level.
    fn at(&self, block: usize, [dx, dy]: [f64; 2]) -> Local {
        let side = self.surfaces.side();
        let reach = self.surfaces.reach as f64;
        let place = |d: f64| {
            let at = (d + reach).clamp(0., 2. * reach);
            let inside = at == d + reach;
            let base = (at.floor() as usize).min(side - 2);
            (base, at - base as f64, inside)
        };
        let ((x, fx, inside_x), (y, fy, inside_y)) = (place(dx), place(dy));
        let ((bx, gx, hx), (by, gy, hy)) = (spline(fx), spline(fy));
        let (mut value, mut gradient, mut second) = (0., [0.; 2], [0.; 3]);
        let clamp = |i: usize, k: usize| (i + k).saturating_sub(1).min(side - 1);
        for j in 0..4 {
            let row = &self.values[(block * side + clamp(y, j)) * side..][..side];
            let (mut v, mut g, mut h) = (0., 0., 0.);
            for i in 0..4 {
                let s = f64::from(row[clamp(x, i)]);
                v += bx[i] * s;
                g += gx[i] * s;
                h += hx[i] * s;
            }
            value += by[j] * v;
            gradient[0] += by[j] * g;
            gradient[1] += gy[j] * v;
            second[0] += by[j] * h;
            second[1] += gy[j] * g;
            second[2] += hy[j] * v;
        }
        if !inside_x {
            gradient[0] = 0.;
            second[0] = 0.;
            second[1] = 0.;
        }
        if !inside_y {
            gradient[1] = 0.;
            second[2] = 0.;
            second[1] = 0.;
        }
        (value, gradient, second)
    }

    /// The sum of the blocks' correlations where a change moves them.
    pub fn value(&self, change: &Change, weights: &[f64]) -> f64 {
        let blocks = self.surfaces.centres.iter().enumerate().zip(weights);
        let blocks = blocks.filter(|(_, w)| **w > 0.);
        blocks.map(|((b, &c), w)| w * self.at(b, change.moves(c)).0).sum()
    }

    /// How far the blocks' correlations where a change moves them stand above what they are elsewhere, in standard
    /// deviations of a sum of blocks that match nowhere.
    pub fn significance(&self, change: &Change) -> f64 {
        let side = self.surfaces.side();
        let (mut above, mut variance) = (0., 0.);
        for (block, &centre) in self.surfaces.centres.iter().enumerate() {
            let values = &self.values[block * side * side..][..side * side];
            let count = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let square = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
            if square > 0. {
                above += self.at(block, change.moves(centre)).0 - mean;
                variance += square;
            }
        }
        if variance > 0. { above / variance.sqrt() } else { 0. }
    }

    /// Climbs from `start` to the top near it.
    pub fn climb(&self, model: Model, start: Change, prior: &Prior, weights: &[f64]) -> Change {
        let directions = directions(model);
        let score = |c: &Change| self.value(c, weights) - prior.penalty(&c.p);
        let mut change = start;
        let mut now = score(&change);
        let mut damping = 1e-3;
        for _ in 0..20 {
            let (gradient, hessian) = self.derivatives(&change, prior, weights);
            let n = directions.len();
            let mut g = vec![0.; n];
            let mut h = vec![vec![0.; n]; n];
            for (i, a) in directions.iter().enumerate() {
                g[i] = (0..MOST).map(|k| a[k] * gradient[k]).sum();
                for (j, b) in directions.iter().enumerate() {
                    h[i][j] = (0..MOST)
                        .flat_map(|k| (0..MOST).map(move |l| (k, l)))
                        .map(|(k, l)| a[k] * hessian[k][l] * b[l])
                        .sum();
                }
            }
            let mut climbed = false;
            for _ in 0..6 {
                let mut damped = h.clone();
                let most = (0..n).map(|i| h[i][i]).fold(0., f64::max);
                (0..n).for_each(|i| damped[i][i] += damping * (h[i][i] + 1e-3 * most) + 1e-12);
                let Some(step) = solve(damped, g.clone()) else {
                    damping *= 10.;
                    continue;
                };
                let mut next = change;
                for (a, s) in directions.iter().zip(&step) {
                    (0..MOST).for_each(|k| next.p[k] += a[k] * s);
                }
                let value = score(&next);
                if value > now {
                    let gained = value - now;
                    (change, now) = (next, value);
                    damping = (damping * 0.2).max(1e-6);
                    climbed = gained > 1e-6;
                    break;
                }
                damping *= 10.;
            }
            if !climbed {
                break;
            }
        }
        change
    }

    /// Slope and curvature (of the negative, without the parts that are not convex) of the score.
    fn derivatives(
        &self,
        change: &Change,
        prior: &Prior,
        weights: &[f64],
    ) -> ([f64; MOST], [[f64; MOST]; MOST]) {
        let mut gradient = [0.; MOST];
        let mut hessian = [[0.; MOST]; MOST];
        for (block, (&centre, &weight)) in self.surfaces.centres.iter().zip(weights).enumerate() {
            if weight <= 0. {
                continue;
            }
            let (_, g, [xx, xy, yy]) = self.at(block, change.moves(centre));
            let [a, b, c] = positive([-xx, -xy, -yy]);
            let [u, v] = change.slopes(centre);
            for k in 0..MOST {
                gradient[k] += weight * (g[0] * u[k] + g[1] * v[k]);
                let (left, right) = (a * u[k] + b * v[k], b * u[k] + c * v[k]);
                for l in 0..MOST {
                    hessian[k][l] += weight * (left * u[l] + right * v[l]);
                }
            }
        }
        prior.add(&change.p, &mut gradient, &mut hessian);
        (gradient, hessian)
    }
}

/// The nearest symmetric 2×2 matrix without negative eigenvalues.
fn positive([a, b, c]: [f64; 3]) -> [f64; 3] {
    let (mean, half) = ((a + c) / 2., (a - c) / 2.);
    let radius = half.hypot(b);
    let (low, high) = (mean - radius, mean + radius);
    if low >= 0. {
        return [a, b, c];
    }
    if high <= 0. || radius == 0. {
        return [0.; 3];
    }
    // high · (projection on its direction).
    let (cos, sin) = (half / radius, b / radius);
    [high * (1. + cos) / 2., high * sin / 2., high * (1. - cos) / 2.]
}

/// Weights of the cubic B-spline of four neighbours, and their first and second derivatives.
fn spline(t: f64) -> ([f64; 4], [f64; 4], [f64; 4]) {
    let s = 1. - t;
    (
        [
            s * s * s / 6.,
            (3. * t * t * t - 6. * t * t + 4.) / 6.,
            (3. * s * s * s - 6. * s * s + 4.) / 6.,
            t * t * t / 6.,
        ],
        [-s * s / 2., (3. * t * t - 4. * t) / 2., -(3. * s * s - 4. * s) / 2., t * t / 2.],
        [s, 3. * t - 2., 3. * s - 2., t],
    )
}

/// Solves a system by Gauss's elimination with pivots.
pub(crate) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs()))?;
        if a[pivot][k].is_nan() || a[pivot][k].abs() <= 1e-300 {
            return None;
        }
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (above, below) = a.split_at_mut(k + 1);
        for (i, row) in below.iter_mut().enumerate() {
            let factor = row[k] / above[k][k];
            row.iter_mut().zip(&above[k]).skip(k).for_each(|(v, p)| *v -= factor * p);
            b[k + 1 + i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b.iter().all(|v| v.is_finite()).then_some(b)
}
