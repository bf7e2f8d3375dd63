//! A homography from points that somebody marked.

use crate::estimate::fit::solve;
use crate::homography::applied;
use crate::{Error, Homography, Result, Sizes};

type Pair = ([f64; 2], [f64; 2]);

/// The map, and the corners' expected error where more points than four say anything of it.
pub(crate) fn homography(points: &[Pair], sizes: Sizes) -> Result<(Homography, Option<f64>)> {
    let refuse = |problem: String| Err(Error::Points { got: points.len(), problem });
    if points.len() < 4 {
        return refuse("needs four or more".to_owned());
    }
    if points.iter().flat_map(|(a, b)| a.iter().chain(b)).any(|v| !v.is_finite() || v.abs() > 1e9) {
        return refuse("one is not finite, or beyond any picture".to_owned());
    }
    for (name, side) in [("infrared", 0), ("visible", 1)] {
        let all: Vec<[f64; 2]> = points.iter().map(|p| if side == 0 { p.0 } else { p.1 }).collect();
        if degenerate(&all) {
            let which = if points.len() == 4 {
                "three of them lie"
            } else {
                "all of them, or all but one, lie"
            };
            return refuse(format!("in the {name} picture {which} on a line, or in one place"));
        }
    }
    let map = fit(points).and_then(|m| Homography::new(m).ok());
    let Some(map) = map else { return refuse("no map takes the ones to the others".to_owned()) };
    // A map that turns a part of the picture inside out takes no picture to another.
    let m = map.matrix();
    let side = |p: &[f64; 2]| m[6] * p[0] + m[7] * p[1] + m[8];
    if points.iter().any(|(p, _)| side(p) * side(&points[0].0) <= 0.) {
        return refuse("they are not in the same order in both pictures".to_owned());
    }
    let map = map.scaled();
    if points.len() == 4 {
        return Ok((map, None));
    }
    // Each point left out in turn (jackknife); ones that the others cannot do without are passed over.
    let (w, h) = ((sizes.infrared.0 as f64 - 1.).max(0.), (sizes.infrared.1 as f64 - 1.).max(0.));
    let corners = [[0., 0.], [w, 0.], [0., h], [w, h]];
    let mut squares = Vec::new();
    for k in 0..points.len() {
        let rest: Vec<Pair> =
            points.iter().enumerate().filter(|(i, _)| *i != k).map(|(_, p)| *p).collect();
        let sides = [0, 1]
            .map(|side| rest.iter().map(|p| if side == 0 { p.0 } else { p.1 }).collect::<Vec<_>>());
        if sides.iter().any(|all| degenerate(all)) {
            continue;
        }
        if let Some(other) = fit(&rest) {
            let apart = corners.map(|c| {
                let (a, b) = (map.apply(c), applied(&other, c));
                (a[0] - b[0]).hypot(a[1] - b[1])
            });
            squares.push((apart.iter().sum::<f64>() / 4.).powi(2));
        }
    }
    let n = squares.len() as f64;
    let error = (n > 1.).then(|| ((n - 1.) / n * squares.iter().sum::<f64>()).sqrt());
    Ok((map, error.filter(|e| e.is_finite())))
}

/// Whether no four of the points are in general position.
fn degenerate(points: &[[f64; 2]]) -> bool {
    let n = points.len() as f64;
    let centre = [0, 1].map(|k| points.iter().map(|p| p[k]).sum::<f64>() / n);
    let extent =
        points.iter().map(|p| (p[0] - centre[0]).hypot(p[1] - centre[1])).fold(0., f64::max);
    if extent.is_nan() || extent <= 0. {
        return true;
    }
    // How far the others lie from a line through two of them.
    let least = 1e-3 * extent;
    let off = |a: [f64; 2], b: [f64; 2], c: [f64; 2]| {
        let length = (b[0] - a[0]).hypot(b[1] - a[1]);
        match length > least {
            true => ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])).abs() / length,
            // In one place: no line, and no point of its own.
            false => 0.,
        }
    };
    // Of four points none may be on a line of two others; of more, two must lie off every line through two.
    let count = points.len();
    for i in 0..count {
        for j in i + 1..count {
            let beside = (0..count)
                .filter(|&k| k != i && k != j && off(points[i], points[j], points[k]) > least)
                .count();
            if beside < 2 {
                return true;
            }
        }
        // Enough pairs are tried of many points.
        if i > 64 {
            break;
        }
    }
    false
}

/// The direct linear transform in normalised coordinates (Hartley and Zisserman, Multiple View Geometry, 4.1 and 4.4),
/// then Gauss and Newton's steps on the distances.
fn fit(points: &[Pair]) -> Option<[f64; 9]> {
    let normal = |all: &mut dyn Iterator<Item = [f64; 2]>| {
        let all: Vec<[f64; 2]> = all.collect();
        let n = all.len() as f64;
        let centre = [0, 1].map(|k| all.iter().map(|p| p[k]).sum::<f64>() / n);
        let mean = all.iter().map(|p| (p[0] - centre[0]).hypot(p[1] - centre[1])).sum::<f64>() / n;
        (centre, mean.max(1e-300))
    };
    let (from, from_size) = normal(&mut points.iter().map(|p| p.0));
    let (to, to_size) = normal(&mut points.iter().map(|p| p.1));
    let unit = |p: [f64; 2], c: [f64; 2], s: f64| [(p[0] - c[0]) / s, (p[1] - c[1]) / s];
    let pairs: Vec<Pair> =
        points.iter().map(|(a, b)| (unit(*a, from, from_size), unit(*b, to, to_size))).collect();
    let mut m = [1., 0., 0., 0., 1., 0., 0., 0., 1.];
    let mut first = true;
    for _ in 0..20 {
        let mut h = vec![vec![0.; 8]; 8];
        let mut g = vec![0.; 8];
        for &([x, y], [u, v]) in &pairs {
            let w = if first { 1. } else { m[6] * x + m[7] * y + 1. };
            let at = if first { [u, v] } else { applied(&m, [x, y]) };
            for (row, target) in [
                ([x, y, 1., 0., 0., 0., -at[0] * x, -at[0] * y], if first { u } else { u - at[0] }),
                ([0., 0., 0., x, y, 1., -at[1] * x, -at[1] * y], if first { v } else { v - at[1] }),
            ] {
                for i in 0..8 {
                    g[i] += row[i] / w * target;
                    for j in 0..8 {
                        h[i][j] += row[i] * row[j] / (w * w);
                    }
                }
            }
        }
        let step = solve(h, g)?;
        let size = step.iter().fold(0_f64, |most, v| most.max(v.abs()));
        for (m, s) in m.iter_mut().zip(&step) {
            *m = if first { *s } else { *m + s };
        }
        if !first && size < 1e-14 {
            break;
        }
        first = false;
    }
    let back = [to_size, 0., to[0], 0., to_size, to[1], 0., 0., 1.];
    let s = 1. / from_size;
    let into = [s, 0., -from[0] * s, 0., s, -from[1] * s, 0., 0., 1.];
    let product = crate::homography::product;
    Some(product(&back, &product(&m, &into)))
}
