//! dev harness
use std::path::{Path, PathBuf};
use isfm_align::{Alignment, Homography, Image, Model, Options};
use isfm_testing::Numbers;

struct Grey { w: usize, h: usize, v: Vec<u8> }
impl Grey {
    fn read(p: &Path) -> Self {
        let i = image::open(p).unwrap().to_luma8();
        Self { w: i.width() as usize, h: i.height() as usize, v: i.into_raw() }
    }
    fn image(&self) -> Image<'_, u8> { Image::new(&self.v, self.w, self.h).unwrap() }
    fn cropped(&self, w: usize, h: usize) -> Self {
        let (l, t) = ((self.w - w) / 2, (self.h - h) / 2);
        let v = (0..h).flat_map(|y| self.v[(t + y) * self.w + l..][..w].to_vec()).collect();
        Self { w, h, v }
    }
    /// what lies at truth(p)
    fn warped(&self, truth: &Homography, w: usize, h: usize) -> Self {
        let mut v = Vec::new();
        for y in 0..h { for x in 0..w {
            let [a, b] = truth.apply([x as f64, y as f64]);
            let ok = a >= 0. && b >= 0. && a <= (self.w - 1) as f64 && b <= (self.h - 1) as f64;
            if !ok { v.push(0); continue; }
            let (l, t) = (a as usize, b as usize);
            let (r, d) = ((l + 1).min(self.w - 1), (t + 1).min(self.h - 1));
            let (fx, fy) = (a - l as f64, b - t as f64);
            let g = |x: usize, y: usize| f64::from(self.v[y * self.w + x]);
            let val = (1. - fy) * ((1. - fx) * g(l, t) + fx * g(r, t)) + fy * ((1. - fx) * g(l, d) + fx * g(r, d));
            v.push((val + 0.5) as u8);
        } }
        Self { w, h, v }
    }
}

fn centred(w: f64, h: f64, m: [f64; 9], to: [f64; 2]) -> Homography {
    // m acts on centred coordinates normalised by half the width
    let half = w / 2.;
    let a = Homography::new([1. / half, 0., -(w - 1.) / 2. / half, 0., 1. / half, -(h - 1.) / 2. / half, 0., 0., 1.]).unwrap();
    let b = Homography::new([half, 0., to[0], 0., half, to[1], 0., 0., 1.]).unwrap();
    b.after(&Homography::new(m).unwrap()).unwrap().after(&a).unwrap()
}

fn truth(w: usize, h: usize, n: &mut Numbers) -> Homography {
    let mut u = |a: f64, b: f64| a + (b - a) * n.unit();
    let s = u(0.8_f64.ln(), 1.25_f64.ln()).exp();
    let r = u(-6., 6.).to_radians();
    let (w, h) = (w as f64, h as f64);
    let (x, y) = (u(-0.08, 0.08) * w, u(-0.08, 0.08) * h);
    let (g, k) = (u(-0.02, 0.02), u(-0.02, 0.02));
    centred(w, h, [s * r.cos(), -s * r.sin(), 0., s * r.sin(), s * r.cos(), 0., g, k, 1.], [(w - 1.) / 2. + x, (h - 1.) / 2. + y])
}

fn error(a: &Homography, b: &Homography, w: usize, h: usize) -> f64 {
    let (w, h) = ((w - 1) as f64, (h - 1) as f64);
    [[0., 0.], [w, 0.], [0., h], [w, h]].iter().map(|&c| { let (p, q) = (a.apply(c), b.apply(c)); (p[0] - q[0]).hypot(p[1] - q[1]) }).sum::<f64>() / 4.
}

fn summary(name: &str, e: &[f64], limit: f64) {
    let mut e = e.to_vec();
    e.sort_by(f64::total_cmp);
    let share = e.iter().filter(|v| **v < limit).count() as f64 / e.len() as f64;
    let at = |q: f64| e[((e.len() - 1) as f64 * q) as usize];
    println!("{name}: n {} median {:.2} 75% {:.2} 85% {:.2} 95% {:.2} below {limit}: {:.1} %", e.len(), at(0.5), at(0.75), at(0.85), at(0.95), 100. * share);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let get = |n: &str, d: &str| args.iter().position(|a| a == n).map_or(d.to_string(), |i| args[i + 1].clone());
    let folder = PathBuf::from(get("--data", "../shared/data/roadscene/train"));
    let step: usize = get("--step", "3").parse().unwrap();
    let what = get("--what", "single");
    let seed: u64 = get("--seed", "1").parse().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(folder.join("vi")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let names: Vec<_> = names.into_iter().step_by(step).collect();
    let mono = std::env::var("MONO").is_ok();
    let read = |n: &std::ffi::OsString| if mono { (Grey::read(&folder.join("vi").join(n)), Grey::read(&folder.join("vi").join(n))) } else { (Grey::read(&folder.join("vi").join(n)), Grey::read(&folder.join("ir").join(n))) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut numbers = Numbers(seed);
    let verbose = args.iter().any(|a| a == "-v");
    let model = match get("--model", "h").as_str() { "s" => Model::Similarity, "a" => Model::Affine, "t" => Model::Shift, _ => Model::Homography };
    let mut options = Options::default();
    options.largest_error = f64::INFINITY;
    if let Ok(c) = std::env::var("COVER") { options.coverage[0] = c.parse().unwrap(); }
    let mut errors = Vec::new();
    let mut time = 0.;
    let mut count = 0;
    let mut run = |name: String, pairs: Vec<(Grey, Grey)>, t: Homography, errors: &mut Vec<f64>| {
        let mono = std::env::var("MONO").is_ok();
        let pairs: Vec<_> = pairs.iter().map(|(v, i)| (v.image(), i.image())).collect();
        let _ = mono;
        let start = std::time::Instant::now();
        let raw = pool.install(|| Alignment::estimate(&pairs, model, &options).ok());
        time += start.elapsed().as_secs_f64();
        count += 1;
        let (w, h) = pairs[0].1.size();
        if std::env::var("SHOW").is_ok() && let Some(r) = &raw {
            let m = r.homography();
            let (w, h) = (w as f64 - 1., h as f64 - 1.);
            for p in [[0.,0.],[0.5,0.],[1.,0.],[0.,0.5],[0.5,0.5],[1.,0.5],[0.,1.],[0.5,1.],[1.,1.]] {
                let p = [p[0]*w, p[1]*h];
                let (a, b) = (m.apply(p), t.apply(p));
                print!("{:.2} {:.2} ", a[0]-b[0], a[1]-b[1]);
            }
            println!("SHOW");
        }
        let (e, stats) = match raw {
            Some(r) => { let c = r.confidence().unwrap(); (error(&r.homography(), &t, w, h), vec![c.significance.unwrap(), c.corner_error]) },
            None => (999., vec![]),
        };
        errors.push(e);
        if verbose { println!("{name} {e:.2} {stats:.3?}"); }
    };
    match what.as_str() {
        "single" => for n in &names {
            let (v, i) = read(n);
            let t = truth(i.w, i.h, &mut numbers);
            let j = i.warped(&t, i.w, i.h);
            let mut t = t;
            if std::env::var("SELF").is_ok() {
                let raw = pool.install(|| Alignment::estimate(&[(v.image(), i.image())], Model::Homography, &options).ok());
                if let Some(r) = raw { t = r.homography().after(&t).unwrap(); }
            }
            run(n.to_string_lossy().into(), vec![(v, j)], t, &mut errors);
        },
        "same" => for n in &names {
            let (v, i) = read(n);
            run(n.to_string_lossy().into(), vec![(v, i)], Homography::IDENTITY, &mut errors);
        },
        "eight" => {
            let mut all: Vec<_> = names.iter().map(read).collect();
            all.sort_by_key(|(v, _)| (v.h, v.w));
            // groups of eight of like sizes
            let groups: usize = get("--groups", "20").parse().unwrap();
            for g in 0..groups {
                let start = (numbers.unit() * (all.len() - 15) as f64) as usize;
                // 8 of 16 neighbours
                let mut pick: Vec<usize> = (start..start + 15).collect();
                while pick.len() > 8 { let k = (numbers.unit() * pick.len() as f64) as usize; pick.remove(k); }
                let w = pick.iter().map(|&k| all[k].0.w).min().unwrap();
                let h = pick.iter().map(|&k| all[k].0.h).min().unwrap();
                let t = truth(w, h, &mut numbers);
                let pairs = pick.iter().map(|&k| { let (v, i) = &all[k]; let i = i.cropped(w, h); (v.cropped(w, h), i.warped(&t, w, h)) }).collect();
                run(format!("group {g} {w}x{h}"), pairs, t, &mut errors);
            }
        }
        "cover" => {
            let cover: f64 = get("--cover", "0.3333").parse().unwrap();
            for n in &names {
                let (v, i) = read(n);
                let (fw, fh) = (cover * i.w as f64, cover * i.h as f64);
                let shrink = (fw / 320.).max(1.);
                let (w, h) = ((fw / shrink) as usize, (fh / shrink) as usize);
                let mut u = |a: f64, b: f64| a + (b - a) * numbers.unit();
                let r = u(-4., 4.).to_radians();
                let to = [i.w as f64 * u(0.35, 0.65), i.h as f64 * u(0.35, 0.65)];
                let s = shrink * u(0.92, 1.08);
                let t = centred(w as f64, h as f64, [s * r.cos(), -s * r.sin(), 0., s * r.sin(), s * r.cos(), 0., u(-0.02, 0.02), u(-0.02, 0.02), 1.], to);
                let j = i.warped(&t, w, h);
                run(n.to_string_lossy().into(), vec![(v, j)], t, &mut errors);
            }
        }
        "different" => for k in 0..names.len() {
            let (v, _) = read(&names[k]);
            let (_, i) = read(&names[(k + names.len() / 2) % names.len()]);
            let (w, h) = (v.w.min(i.w), v.h.min(i.h));
            run(names[k].to_string_lossy().into(), vec![(v.cropped(w, h), i.cropped(w, h))], Homography::IDENTITY, &mut errors);
        },
        _ => panic!(),
    }
    let limit = if what == "eight" { 2. } else { 3. };
    summary(&what, &errors, limit);
    println!("{:.3} s each", time / count as f64);
}
