//! One level of the discrete Meyer wavelet transform.

use rayon::prelude::*;

use crate::plane::Grid;

/// Half of the low-pass filter `dmey` (62 taps) as PyWavelets and earlier programs have it: taps 1
/// to 31; tap 0 is 0, and taps 32 to 61 mirror 30 to 1.
const HALF: [f64; 31] = [
    -1.009999956941423e-12,
    8.519459636796214e-09,
    -1.111944952595278e-08,
    -1.0798819539621958e-08,
    6.066975741351135e-08,
    -1.0866516736535883e-07,
    8.200680650386481e-08,
    1.1783004497663934e-07,
    -5.506340565252278e-07,
    1.1307947017916706e-06,
    -1.489549216497156e-06,
    7.367572885903746e-07,
    3.20544191334478e-06,
    -1.6312699734552807e-05,
    6.554305930575149e-05,
    -0.0006011502343516092,
    -0.002704672124643725,
    0.002202534100911002,
    0.006045814097323304,
    -0.006387718318497156,
    -0.011061496392513451,
    0.015270015130934803,
    0.017423434103729693,
    -0.03213079399021176,
    -0.024348745906078023,
    0.0637390243228016,
    0.030655091960824263,
    -0.13284520043622938,
    -0.035087555656258346,
    0.44459300275757724,
    0.7445855923188063,
];
const TAPS: usize = 62;

/// The low-pass and the high-pass, reversed: in the order of the samples that they weight.
fn filters() -> [[f64; TAPS]; 2] {
    let mut low = [0.; TAPS];
    for (k, &tap) in HALF.iter().enumerate() {
        (low[k], low[TAPS - 2 - k]) = (tap, tap);
    }
    let mirrored = |k: usize| low[TAPS - 1 - k];
    [low, std::array::from_fn(|k| if k % 2 == 0 { mirrored(k) } else { -mirrored(k) })]
}

/// The four bands in one picture: the approximation above left, horizontal details (the high-pass
/// down the columns) to its right, vertical ones below it, diagonal ones below right. The image
/// goes on beyond its border mirrored, outermost pixels repeated.
pub(crate) fn bands(g: &Grid) -> Grid {
    let (w, h) = (length(g.w), length(g.h));
    // Every row is replaced by its low half and then its high half, and then every column.
    let mut wide = Grid::zeros(2 * w, g.h);
    wide.pixels_mut()
        .par_chunks_mut(2 * w)
        .zip(g.pixels().par_chunks(g.w))
        .for_each(|(out, row)| split(row, out));
    let mut out = Grid::zeros(2 * w, 2 * h);
    let columns: Vec<Vec<f64>> = (0..2 * w)
        .into_par_iter()
        .map(|x| {
            let column: Vec<f64> = wide.rows().map(|row| row[x]).collect();
            let mut halves = vec![0.; 2 * h];
            split(&column, &mut halves);
            halves
        })
        .collect();
    for (x, column) in columns.iter().enumerate() {
        // Low down the columns goes to the left and high to the right, low along the rows above
        // and high below.
        let (left, y) = if x < w { (0, 0) } else { (0, h) };
        let x = x % w;
        for (k, &value) in column.iter().enumerate() {
            let (x, y) = if k < h { (left + x, y + k) } else { (w + x, y + k - h) };
            out.pixels_mut()[y * 2 * w + x] = value;
        }
    }
    out
}

fn length(n: usize) -> usize {
    (n + TAPS - 1) / 2
}

/// The low-pass and the high-pass of one line, every second value.
fn split(line: &[f64], out: &mut [f64]) {
    let n = line.len();
    let half = out.len() / 2;
    // From TAPS − 2 before the line to as much behind it.
    let extended: Vec<f64> = (0..2 * half + TAPS - 1)
        .map(|k| {
            let k = (k as isize - (TAPS as isize - 2)).rem_euclid(2 * n as isize) as usize;
            line[if k < n { k } else { 2 * n - 1 - k }]
        })
        .collect();
    let [low, high] = filters();
    let (lows, highs) = out.split_at_mut(half);
    let windows = extended.windows(TAPS).step_by(2);
    for ((l, h), window) in lows.iter_mut().zip(highs).zip(windows) {
        *l = window.iter().zip(&low).map(|(a, b)| a * b).sum();
        *h = window.iter().zip(&high).map(|(a, b)| a * b).sum();
    }
}
