//! Slow programs straight from the definitions, against the crate, on small images of any size and
//! of fractional grey levels.

use isfm_metrics::Metric;
use proptest::prelude::*;

use crate::scores;

struct Image {
    data: Vec<f32>,
    w: usize,
    h: usize,
}

impl Image {
    fn at(&self, y: usize, x: usize) -> f64 {
        f64::from(self.data[y * self.w + x])
    }
    fn padded(&self, y: isize, x: isize) -> f64 {
        let inside = y >= 0 && x >= 0 && (y as usize) < self.h && (x as usize) < self.w;
        if inside { self.at(y as usize, x as usize) } else { 0. }
    }
    fn grid(&self) -> Vec<Vec<f64>> {
        (0..self.h).map(|y| (0..self.w).map(|x| self.at(y, x)).collect()).collect()
    }
}

fn image(seed: u64, w: usize, h: usize, fractional: bool) -> Image {
    let mut data = crate::picture(seed, w, h);
    if !fractional {
        data.iter_mut().for_each(|v| *v = v.round());
    }
    Image { data, w, h }
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let (ma, mb) = (mean(a), mean(b));
    let cov: f64 = a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum();
    let sq = |v: &[f64], m: f64| v.iter().map(|v| (v - m) * (v - m)).sum::<f64>().sqrt();
    let below = sq(a, ma) * sq(b, mb);
    if below < 1e-9 { 0. } else { cov / below }
}

fn pixels(a: &Image) -> Vec<f64> {
    a.data.iter().map(|&v| f64::from(v)).collect()
}

fn scd(f: &Image, v: &Image, i: &Image) -> f64 {
    let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
    let (f, v, i) = (pixels(f), pixels(v), pixels(i));
    pearson(&v, &minus(&f, &i)) + pearson(&i, &minus(&f, &v))
}

fn information(a: &Image, b: &Image) -> f64 {
    let n = a.data.len() as f64;
    let level = |v: &f32| v.round() as i64;
    let pairs: Vec<(i64, i64)> = a.data.iter().map(level).zip(b.data.iter().map(level)).collect();
    let share =
        |test: &dyn Fn(&(i64, i64)) -> bool| pairs.iter().filter(|p| test(p)).count() as f64 / n;
    // The mean over pixels is the sum over pairs of levels weighted by their probability.
    let terms = pairs.iter().map(|&(x, y)| {
        (share(&|p| *p == (x, y)) / (share(&|p| p.0 == x) * share(&|p| p.1 == y))).ln()
    });
    terms.sum::<f64>() / n
}

fn ssim(a: &Image, b: &Image) -> f64 {
    let mut map = Vec::new();
    for y in 0..a.h - 6 {
        for x in 0..a.w - 6 {
            let window =
                |g: &Image| -> Vec<f64> { (0..49).map(|k| g.at(y + k / 7, x + k % 7)).collect() };
            let (p, q) = (window(a), window(b));
            let (mp, mq) = (mean(&p), mean(&q));
            let cov = |s: &[f64], ms: f64, t: &[f64], mt: f64| {
                s.iter().zip(t).map(|(s, t)| (s - ms) * (t - mt)).sum::<f64>() / 48.
            };
            let (c1, c2) = (2.55f64.powi(2), 7.65f64.powi(2));
            let above = (2. * mp * mq + c1) * (2. * cov(&p, mp, &q, mq) + c2);
            let below = (mp * mp + mq * mq + c1) * (cov(&p, mp, &p, mp) + cov(&q, mq, &q, mq) + c2);
            map.push(above / below);
        }
    }
    mean(&map)
}

type Grid = Vec<Vec<f64>>;

/// The whole two-dimensional window at every place where it fits.
fn filter(g: &Grid, window: &Grid) -> Grid {
    let n = window.len();
    let (h, w) = (g.len() + 1 - n, g[0].len() + 1 - n);
    let at = |y: usize, x: usize| {
        (0..n * n).map(|k| window[k / n][k % n] * g[y + k / n][x + k % n]).sum()
    };
    (0..h).map(|y| (0..w).map(|x| at(y, x)).collect()).collect()
}

fn times(a: &Grid, b: &Grid) -> Grid {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).collect()).collect()
}

fn vif(reference: &Image, distorted: &Image) -> f64 {
    let (mut r, mut d) = (reference.grid(), distorted.grid());
    let (mut above, mut below) = (0., 0.);
    for scale in 1..=4 {
        let n = 2usize.pow(5 - scale) + 1;
        let sigma = n as f64 / 5.;
        let square = |k: usize| (k as f64 - (n / 2) as f64).powi(2);
        let raw = |y: usize, x: usize| (-(square(y) + square(x)) / (2. * sigma * sigma)).exp();
        let sum: f64 = (0..n * n).map(|k| raw(k / n, k % n)).sum();
        let window: Grid = (0..n).map(|y| (0..n).map(|x| raw(y, x) / sum).collect()).collect();
        if scale > 1 {
            let halve = |g: Grid| -> Grid {
                let rows = filter(&g, &window).into_iter().step_by(2);
                rows.map(|row| row.into_iter().step_by(2).collect()).collect()
            };
            (r, d) = (halve(r), halve(d));
        }
        let (mr, md) = (filter(&r, &window), filter(&d, &window));
        let (rr, dd) = (filter(&times(&r, &r), &window), filter(&times(&d, &d), &window));
        let rd = filter(&times(&r, &d), &window);
        for y in 0..mr.len() {
            for x in 0..mr[0].len() {
                let mut s1 = (rr[y][x] - mr[y][x] * mr[y][x]).max(0.);
                let s2 = (dd[y][x] - md[y][x] * md[y][x]).max(0.);
                let s12 = rd[y][x] - mr[y][x] * md[y][x];
                let mut g = s12 / (s1 + 1e-10);
                let mut sv = s2 - g * s12;
                if s1 < 1e-10 {
                    g = 0.;
                    sv = s2;
                    s1 = 0.;
                }
                if s2 < 1e-10 {
                    g = 0.;
                    sv = 0.;
                }
                if g < 0. {
                    sv = s2;
                    g = 0.;
                }
                sv = sv.max(1e-10);
                above += (1. + g * g * s1 / (sv + 2.)).log10();
                below += (1. + s1 / 2.).log10();
            }
        }
    }
    if below == 0. { 1. } else { above / below }
}

/// Strength and orientation.
fn edge(g: &Image, y: usize, x: usize) -> (f64, f64) {
    let p = |dy: isize, dx: isize| g.padded(y as isize + dy, x as isize + dx);
    let gx = p(-1, 1) + 2. * p(0, 1) + p(1, 1) - p(-1, -1) - 2. * p(0, -1) - p(1, -1);
    let gy = p(-1, -1) + 2. * p(-1, 0) + p(-1, 1) - p(1, -1) - 2. * p(1, 0) - p(1, 1);
    let angle = if gx == 0. { std::f64::consts::FRAC_PI_2 } else { (gy / gx).atan() };
    (gx.hypot(gy), angle)
}

fn qabf(f: &Image, sources: [&Image; 2]) -> f64 {
    let (mut above, mut below) = (0., 0.);
    for source in sources {
        for (y, x) in (0..f.h).flat_map(|y| (0..f.w).map(move |x| (y, x))) {
            let ((gs, a_s), (gf, a_f)) = (edge(source, y, x), edge(f, y, x));
            let g = if gs == gf { gf } else { gs.min(gf) / gs.max(gf) };
            let a = 1. - (a_s - a_f).abs() * 2. / std::f64::consts::PI;
            let qg = 0.9994 / (1. + (-15. * (g - 0.5)).exp());
            let qa = 0.9879 / (1. + (-22. * (a - 0.8)).exp());
            above += qg * qa * gs;
            below += gs;
        }
    }
    if below == 0. { 0. } else { above / below }
}

fn frequency(f: &Image) -> f64 {
    let squares = |d: Vec<f64>| {
        if d.is_empty() { 0. } else { d.iter().map(|d| d * d).sum::<f64>() / d.len() as f64 }
    };
    let all = |h: usize, w: usize, d: &dyn Fn(usize, usize) -> f64| {
        (0..h * w).map(|p| d(p / w, p % w)).collect::<Vec<_>>()
    };
    let across = all(f.h, f.w - 1, &|y, x| f.at(y, x + 1) - f.at(y, x));
    let down = all(f.h - 1, f.w, &|y, x| f.at(y + 1, x) - f.at(y, x));
    (squares(across) + squares(down)).sqrt()
}

fn gradient(f: &Image) -> f64 {
    let derivative = |n: usize, k: usize, at: &dyn Fn(usize) -> f64| match (n, k) {
        (1, _) => 0.,
        (_, 0) => at(1) - at(0),
        (n, k) if k == n - 1 => at(k) - at(k - 1),
        _ => (at(k + 1) - at(k - 1)) / 2.,
    };
    let at = |y: usize, x: usize| {
        let gx = derivative(f.w, x, &|x| f.at(y, x));
        let gy = derivative(f.h, y, &|y| f.at(y, x));
        ((gx * gx + gy * gy) / 2.).sqrt()
    };
    mean(&(0..f.h * f.w).map(|p| at(p / f.w, p % f.w)).collect::<Vec<_>>())
}

/// f64 on both sides: only the order of the sums differs.
fn close(got: f64, want: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert!((got - want).abs() <= 1e-9 * want.abs().max(1.), "{}: {} {}", what, got, want);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn small_images(w in 1usize..24, h in 1usize..24, seed in 1u64..1000, fractional: bool) {
        let [f, v, i] = [0, 1000, 2000].map(|k| image(seed + k, w, h, fractional));
        let s = scores([&v.data, &i.data, &f.data], w, h);
        close(s.get(Metric::Sf).unwrap(), frequency(&f), "SF")?;
        close(s.get(Metric::Ag).unwrap(), gradient(&f), "AG")?;
        close(s.get(Metric::Mi).unwrap(), information(&v, &f) + information(&i, &f), "MI")?;
        close(s.get(Metric::En).unwrap(), information(&f, &f) / 2f64.ln(), "EN")?;
        close(s.get(Metric::Scd).unwrap(), scd(&f, &v, &i), "SCD")?;
        close(s.get(Metric::Cc).unwrap(), 0.5 * (pearson(&pixels(&f), &pixels(&v)) + pearson(&pixels(&f), &pixels(&i))), "CC")?;
        close(s.get(Metric::Qabf).unwrap(), qabf(&f, [&v, &i]), "Qabf")?;
        prop_assert_eq!(s.get(Metric::Vif), None);
        match s.get(Metric::Ssim) {
            Some(value) => close(value, ssim(&v, &f) + ssim(&i, &f), "SSIM")?,
            None => prop_assert!(w < 7 || h < 7),
        }
    }

    #[test]
    fn images_with_a_pyramid(w in 41usize..60, h in 41usize..60, seed in 1u64..1000, fractional: bool) {
        let [f, v, i] = [0, 1000, 2000].map(|k| image(seed + k, w, h, fractional));
        let s = scores([&v.data, &i.data, &f.data], w, h);
        close(s.get(Metric::Vif).unwrap(), vif(&v, &f) + vif(&i, &f), "VIF")?;
        close(s.get(Metric::Ssim).unwrap(), ssim(&v, &f) + ssim(&i, &f), "SSIM")?;
        // A source compared with itself loses nothing but what ε takes.
        let same = scores([&f.data; 3].map(|d| &d[..]), w, h);
        prop_assert!((same.get(Metric::Vif).unwrap() - 2.).abs() < 1e-6);
    }
}
