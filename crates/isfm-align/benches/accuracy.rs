//! How near estimates come to warps that are known:
//! `cargo bench -p isfm-align --bench accuracy [-- --data DIR --seed N --write DIR]`.
//!
//! Infrared pictures of a data set's pairs (`DIR/vi`, `DIR/ir`; RoadScene's test pairs unless another is named) are warped
//! by random homographies: scale 0.8 to 1.25, rotation to 6°, shift to 8 %, perspective such that the borders' scale
//! changes by up to 2 % (cameras that look 2° apart). Pixels that the warp leaves open are black. The error is
//! the mean distance of the four corners in visible pixels, from two truths: the warp as drawn, which
//! takes the data set's pairs for aligned, and the warp after what is estimated of the same pairs unwarped,
//! which takes off the data set's own misalignment (and any bias of the estimate with it).
//!
//! `--write DIR` leaves the pictures and `cases.json` for `benches/python/alignment_vs_opencv.py`, which runs other
//! methods on them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use isfm_align::{Alignment, Homography, Image, Interpolation, Model, Options, Reference, Sizes};
use isfm_testing::Numbers;
use serde_json::json;

type Outcome<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const THREADS: usize = 2;

#[derive(Clone)]
struct Grey {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Grey {
    fn read(path: &Path) -> Outcome<Self> {
        let image = image::open(path)?.to_luma8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Self { width, height, data: image.into_raw() })
    }

    fn write(&self, path: &Path) -> Outcome<()> {
        let (w, h) = (self.width as u32, self.height as u32);
        Ok(image::save_buffer(path, &self.data, w, h, image::ColorType::L8)?)
    }

    fn image(&self) -> isfm_align::Result<Image<'_, u8>> {
        Image::new(&self.data, self.width, self.height)
    }

    /// The middle of it.
    fn cropped(&self, width: usize, height: usize) -> Self {
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let rows = (top..top + height).flat_map(|y| &self.data[y * self.width + left..][..width]);
        Self { width, height, data: rows.copied().collect() }
    }

    /// The picture of a camera whose pixels lie where `truth` says.
    fn warped(&self, truth: &Homography, width: usize, height: usize) -> Outcome<Self> {
        let sizes = Sizes { visible: (width, height), infrared: (self.width, self.height) };
        let there = Alignment::from(truth.invert()).for_sizes(sizes)?;
        let out = there.warp(&self.image()?, Reference::Visible, Interpolation::Bilinear)?;
        Ok(Self { width, height, data: out.data })
    }
}

struct Pair {
    visible: Grey,
    infrared: Grey,
}

/// Draws `Numbers` between two ends.
fn between(numbers: &mut Numbers, low: f64, high: f64) -> f64 {
    low + (high - low) * numbers.unit()
}

/// A map that scales and turns about the middle of a picture, which goes to `to`; `perspective` is how much the
/// scale changes from the middle to the border.
fn map(
    (width, height): (usize, usize),
    to: [f64; 2],
    scale: f64,
    degrees: f64,
    perspective: [f64; 2],
) -> isfm_align::Result<Homography> {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let half = width as f64 / 2.;
    let (x, y) = ((width as f64 - 1.) / 2., (height as f64 - 1.) / 2.);
    let unit = Homography::new([1. / half, 0., -x / half, 0., 1. / half, -y / half, 0., 0., 1.])?;
    let [g, h] = perspective;
    let own =
        Homography::new([scale * cos, -scale * sin, 0., scale * sin, scale * cos, 0., g, h, 1.])?;
    let back = Homography::new([half, 0., to[0], 0., half, to[1], 0., 0., 1.])?;
    back.after(&own.after(&unit)?)
}

fn alike(size: (usize, usize), numbers: &mut Numbers) -> isfm_align::Result<Homography> {
    let mut draw = |low, high| between(numbers, low, high);
    let scale = draw(0.8_f64.ln(), 1.25_f64.ln()).exp();
    let degrees = draw(-6., 6.);
    let (w, h) = (size.0 as f64, size.1 as f64);
    let to = [(w - 1.) / 2. + w * draw(-0.08, 0.08), (h - 1.) / 2. + h * draw(-0.08, 0.08)];
    let perspective = [draw(-0.02, 0.02), draw(-0.02, 0.02)];
    map(size, to, scale, degrees, perspective)
}

/// A camera that sees a part of the picture: its size, and where its pixels lie.
fn part(
    size: (usize, usize),
    cover: f64,
    numbers: &mut Numbers,
) -> isfm_align::Result<((usize, usize), Homography)> {
    let mut draw = |low, high| between(numbers, low, high);
    let (w, h) = (size.0 as f64, size.1 as f64);
    // Thermal cameras have few pixels.
    let shrink = (cover * w / 320.).max(1.);
    let own = ((cover * w / shrink) as usize, (cover * h / shrink) as usize);
    let to = [w * draw(0.35, 0.65), h * draw(0.35, 0.65)];
    let (scale, degrees) = (shrink * draw(0.92, 1.08), draw(-4., 4.));
    let perspective = [draw(-0.01, 0.01), draw(-0.01, 0.01)];
    Ok((own, map(own, to, scale, degrees, perspective)?))
}

fn error(a: &Homography, b: &Homography, size: (usize, usize)) -> f64 {
    let (w, h) = ((size.0 - 1) as f64, (size.1 - 1) as f64);
    let corners = [[0., 0.], [w, 0.], [0., h], [w, h]].map(|corner| {
        let (p, q) = (a.apply(corner), b.apply(corner));
        (p[0] - q[0]).hypot(p[1] - q[1])
    });
    corners.iter().sum::<f64>() / 4.
}

struct Case {
    name: String,
    pairs: Vec<Pair>,
    /// The same with the infrared pictures as they are.
    unwarped: Vec<Pair>,
    truth: Homography,
}

fn estimate(pairs: &[Pair], options: &Options) -> Outcome<(isfm_align::Result<Alignment>, f64)> {
    let images = pairs
        .iter()
        .map(|pair| Ok((pair.visible.image()?, pair.infrared.image()?)))
        .collect::<isfm_align::Result<Vec<_>>>()?;
    let start = Instant::now();
    let found = Alignment::estimate(&images, Model::Homography, options);
    Ok((found, start.elapsed().as_secs_f64()))
}

/// Shares of errors, for one line of a table.
fn summary(errors: &[f64], limits: [f64; 2]) -> String {
    let mut sorted = errors.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let share =
        |limit| 100. * sorted.iter().filter(|e| **e < limit).count() as f64 / sorted.len() as f64;
    let [a, b] = limits;
    format!("median {median:.2}, below {a}: {:.0} %, below {b}: {:.0} %", share(a), share(b))
}

fn run(title: &str, cases: &[Case], limits: [f64; 2], write: Option<&Path>) -> Outcome<()> {
    let (mut label, mut own, mut data_set) = (Vec::new(), Vec::new(), Vec::new());
    let (mut refused, mut wrong, mut seconds) = (0, 0, 0.);
    let (mut expected, mut listed) = (Vec::new(), Vec::new());
    for case in cases {
        let size = (case.pairs[0].infrared.width, case.pairs[0].infrared.height);
        let (found, time) = estimate(&case.pairs, &Options::default())?;
        seconds += time;
        // The best map of the data set's pairs as they are, which is not quite the one that changes nothing.
        let start = Some(Homography::IDENTITY);
        let near = Options { start, largest_error: f64::INFINITY, ..Options::default() };
        let best = estimate(&case.unwarped, &near)?.0?.homography();
        let original = &case.unwarped[0].infrared;
        data_set.push(error(&best, &Homography::IDENTITY, (original.width, original.height)));
        let reference = best.after(&case.truth)?;
        let errors = found.as_ref().map_or([f64::INFINITY; 2], |found| {
            [&case.truth, &reference].map(|truth| error(&found.homography(), truth, size))
        });
        label.push(errors[0]);
        own.push(errors[1]);
        match &found {
            Err(_) => refused += 1,
            Ok(found) => {
                let diagonal = (size.0 as f64).hypot(size.1 as f64);
                wrong += usize::from(errors[0] > 0.05 * diagonal);
                expected.extend(found.confidence().map(|c| [c.corner_error, errors[1]]));
            }
        }
        if let Some(folder) = write {
            let mut names = Vec::new();
            for (k, (pair, plain)) in case.pairs.iter().zip(&case.unwarped).enumerate() {
                let name = format!("{}-{k}", case.name);
                pair.visible.write(&folder.join(format!("{name}-visible.png")))?;
                pair.infrared.write(&folder.join(format!("{name}-infrared.png")))?;
                plain.infrared.write(&folder.join(format!("{name}-unwarped.png")))?;
                names.push(name);
            }
            listed.push(json!({
                "pairs": names,
                "truth": case.truth.matrix(),
                "reference": reference.matrix(),
                "found": found.ok().map(|found| found.homography().matrix()),
                "seconds": time,
            }));
        }
    }
    println!("{title}: {} cases, {:.2} s each", cases.len(), seconds / cases.len() as f64);
    println!("  from the warp:       {}", summary(&label, limits));
    println!("  less the data set's: {}", summary(&own, limits));
    println!("  the data set's own:  {}", summary(&data_set, limits));
    println!("  refused {refused}, accepted but more than 5 % of the diagonal off {wrong}");
    if !expected.is_empty() {
        let within = expected.iter().filter(|[expected, was]| was <= expected).count();
        let share = 100 * within / expected.len();
        println!("  within the expected error: {share} %, as found, less the data set's");
    }
    if let Some(folder) = write {
        std::fs::write(folder.join("cases.json"), serde_json::to_string(&listed)?)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let after = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let shared = isfm_testing::shared().join("data/roadscene/test");
    let data = after("--data").map_or(shared, PathBuf::from);
    let seed: u64 = after("--seed").map_or(Ok(19), |seed| seed.parse())?;
    let write = after("--write").map(PathBuf::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build()?;
    pool.install(|| all(&data, seed, write.as_deref())).map_err(|error: String| error.into())
}

fn all(data: &Path, seed: u64, write: Option<&Path>) -> std::result::Result<(), String> {
    each(data, seed, write).map_err(|error| error.to_string())
}

fn each(data: &Path, seed: u64, write: Option<&Path>) -> Outcome<()> {
    let mut names: Vec<_> = std::fs::read_dir(data.join("vi"))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let read = |name| -> Outcome<Pair> {
        let visible = Grey::read(&data.join("vi").join(name))?;
        Ok(Pair { visible, infrared: Grey::read(&data.join("ir").join(name))? })
    };
    let pairs = names.iter().map(read).collect::<Outcome<Vec<_>>>()?;
    let mut numbers = Numbers(seed);
    let folder = |name: &str| -> Outcome<Option<PathBuf>> {
        let folder = write.map(|folder| folder.join(name));
        folder.iter().try_for_each(std::fs::create_dir_all)?;
        Ok(folder)
    };

    // All pairs of a case have one size: the middle that all of them have.
    let case = |name: String,
                picked: &[&Pair],
                numbers: &mut Numbers,
                cover: Option<f64>|
     -> Outcome<Case> {
        let least =
            |side: fn(&Grey) -> usize| picked.iter().map(|p| side(&p.visible)).min().unwrap_or(0);
        let size = (least(|g| g.width), least(|g| g.height));
        let (own, truth) = match cover {
            None => (size, alike(size, numbers)?),
            Some(cover) => part(size, cover, numbers)?,
        };
        let unwarped: Vec<Pair> = picked
            .iter()
            .map(|p| Pair {
                visible: p.visible.cropped(size.0, size.1),
                infrared: p.infrared.cropped(size.0, size.1),
            })
            .collect();
        let warp = |p: &Pair| -> Outcome<Pair> {
            let infrared = p.infrared.warped(&truth, own.0, own.1)?;
            Ok(Pair { visible: p.visible.clone(), infrared })
        };
        let pairs = unwarped.iter().map(warp).collect::<Outcome<_>>()?;
        Ok(Case { name, pairs, unwarped, truth })
    };
    let single = |cover, numbers: &mut Numbers| -> Outcome<Vec<Case>> {
        let one = |(k, pair)| case(format!("{k:03}"), &[pair], numbers, cover);
        pairs.iter().enumerate().map(one).collect()
    };
    // Eight of sixteen pairs that are of nearly one height.
    let mut by_height: Vec<&Pair> = pairs.iter().collect();
    by_height.sort_by_key(|p| (p.visible.height, p.visible.width));
    let eight = |count: usize, cover, numbers: &mut Numbers| -> Outcome<Vec<Case>> {
        let group = |k: usize| {
            let last = by_height.len().saturating_sub(16);
            let start = (numbers.unit() * (last + 1) as f64) as usize;
            let mut picked: Vec<&Pair> = by_height[start..].iter().take(16).copied().collect();
            while picked.len() > 8 {
                picked.remove((numbers.unit() * picked.len() as f64) as usize);
            }
            case(format!("{k:03}"), &picked, numbers, cover)
        };
        (0..count).map(group).collect()
    };
    println!("{}, {THREADS} threads; errors in pixels", data.display());
    run("single pairs", &single(None, &mut numbers)?, [1.5, 3.], folder("single")?.as_deref())?;
    run("eight frames", &eight(50, None, &mut numbers)?, [0.7, 2.], folder("eight")?.as_deref())?;
    for (name, cover) in [("1:3", 1. / 3.), ("1:5", 0.2)] {
        let cases = single(Some(cover), &mut numbers)?;
        run(&format!("field of view {name}, single pairs"), &cases, [3., 10.], None)?;
        let cases = eight(25, Some(cover), &mut numbers)?;
        run(&format!("field of view {name}, eight frames"), &cases, [3., 10.], None)?;
    }
    let (mut refused, mut tried) = (0, 0);
    for (k, pair) in pairs.iter().enumerate() {
        let other = &pairs[(k + pairs.len() / 2) % pairs.len()];
        let visible = pair.visible.clone();
        let mixed = [Pair { visible, infrared: other.infrared.clone() }];
        tried += 1;
        refused += usize::from(estimate(&mixed, &Options::default())?.0.is_err());
    }
    println!("different scenes: {refused} of {tried} refused");
    Ok(())
}
