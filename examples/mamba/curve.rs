//! The learning curve as a picture.

use std::path::Path;

use anyhow::Result;
use image::{Rgb, RgbImage};
use isfm_examples::text;

use crate::Curve;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 540;
const LEFT: u32 = 80;
const RIGHT: u32 = 190;
const TOP: u32 = 30;
const BOTTOM: u32 = 60;
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([40, 40, 40]);
const GRID: Rgb<u8> = Rgb([225, 225, 225]);
const FAINT: Rgb<u8> = Rgb([165, 195, 225]);
const TRAIN: Rgb<u8> = Rgb([31, 100, 170]);
const HELD_OUT: Rgb<u8> = Rgb([205, 50, 40]);
const BASELINE: Rgb<u8> = Rgb([120, 120, 120]);

/// Training (each step, and a running mean), held-out text, and a line for each baseline.
pub(crate) fn draw(curve: &Curve, baselines: &[(&str, f64)], path: &Path) -> Result<()> {
    let steps = curve.train.last().map_or(1., |p| p.0).max(2.);
    let high = curve.train.iter().map(|p| p.1).fold(1., f64::max).ceil();
    let mut image = RgbImage::from_pixel(WIDTH, HEIGHT, PAPER);
    let (right, bottom) = (f64::from(WIDTH - RIGHT), f64::from(HEIGHT - BOTTOM));
    let x = |step: f64| f64::from(LEFT) + (right - f64::from(LEFT)) * step / steps;
    let y = |bits: f64| bottom - (bottom - f64::from(TOP)) * (bits / high).clamp(0., 1.);

    for bits in 0..=high as u32 {
        let at = y(f64::from(bits));
        line(&mut image, (x(0.), at), (right, at), 1, GRID);
        let label = bits.to_string();
        text::write(&mut image, &label, (LEFT - 28, at as u32 - 7), 2, INK);
    }
    for quarter in 0..=4 {
        let step = (steps * f64::from(quarter) / 4.).round();
        let label = step.to_string();
        let at = x(step) as u32 - (label.len() * text::ADVANCE) as u32;
        text::write(&mut image, &label, (at, HEIGHT - BOTTOM + 12), 2, INK);
    }
    text::write(&mut image, "STEP", ((LEFT + WIDTH - RIGHT) / 2 - 24, HEIGHT - 24), 2, INK);
    text::write(&mut image, "BITS PER BYTE", (LEFT, 8), 2, INK);

    for (name, bits) in baselines {
        let at = y(*bits);
        let dashes = (0..).map(|i| x(0.) + f64::from(i) * 12.).take_while(|&from| from < right);
        for from in dashes {
            line(&mut image, (from, at), ((from + 6.).min(right), at), 2, BASELINE);
        }
        label(&mut image, name, at, right, BASELINE);
    }
    let points = |values: &[(f64, f64)]| -> Vec<(f64, f64)> {
        values.iter().map(|&(step, bits)| (x(step), y(bits))).collect()
    };
    path_of(&mut image, &points(&curve.train), 1, FAINT);
    path_of(&mut image, &points(&running_mean(&curve.train)), 3, TRAIN);
    path_of(&mut image, &points(&curve.held_out), 3, HELD_OUT);
    for &(px, py) in &points(&curve.held_out) {
        line(&mut image, (px - 3., py), (px + 3., py), 8, HELD_OUT);
    }
    // The two ends are close to each other: their names go below one another.
    let end = curve.held_out.last().map_or(0., |p| y(p.1));
    label(&mut image, "HELD OUT", end, right, HELD_OUT);
    label(&mut image, "TRAINING", end + 20., right, TRAIN);

    Ok(isfm::write_image(&image.into(), path)?)
}

/// The mean of the last twentieth of the steps so far.
fn running_mean(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = (values.len() / 20).max(1);
    let mean = |i: usize| {
        let part = &values[(i + 1).saturating_sub(window)..=i];
        part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64
    };
    (0..values.len()).map(|i| (values[i].0, mean(i))).collect()
}

fn label(image: &mut RgbImage, name: &str, y: f64, right: f64, ink: Rgb<u8>) {
    let at = (right as u32 + 10, (y as u32).saturating_sub(7));
    text::write(image, &name.to_uppercase(), at, 2, ink);
}

fn path_of(image: &mut RgbImage, points: &[(f64, f64)], thickness: u32, ink: Rgb<u8>) {
    for pair in points.windows(2) {
        line(image, pair[0], pair[1], thickness, ink);
    }
}

/// A line of squares, one every half pixel.
fn line(image: &mut RgbImage, from: (f64, f64), to: (f64, f64), thickness: u32, ink: Rgb<u8>) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let count = (2. * dx.abs().max(dy.abs())).ceil().max(1.);
    for i in 0..=count as u32 {
        let along = f64::from(i) / count;
        let corner = |v: f64| (v - f64::from(thickness) / 2.).round() as i64;
        let (x, y) = (corner(from.0 + along * dx), corner(from.1 + along * dy));
        for py in y..y + i64::from(thickness) {
            for px in x..x + i64::from(thickness) {
                if (0..i64::from(WIDTH)).contains(&px) && (0..i64::from(HEIGHT)).contains(&py) {
                    image.put_pixel(px as u32, py as u32, ink);
                }
            }
        }
    }
}
