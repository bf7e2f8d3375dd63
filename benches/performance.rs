//! Measures everything that `docs/performance.md` says in one run, and writes it.
//!
//! `cargo bench -p isfm-benches --bench performance -- --output docs/performance.md`
//! (`--quick` leaves out what takes minutes, `--roofline` and `--products` print a part alone). A figure
//! is the best of some runs after one that does not count; both sides of a ratio have as many.

use std::fmt::{self, Display};
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use isfm::{Isfm, Tiling};
use isfm_benches::{Roofline, Scan, best, image, network, random, random_var};
use isfm_dwt::{Border, DataFormat, Wavelet};
use isfm_model::{Checkpoint, Config, Network, Preset, Pyramid, initial_weights};
use isfm_ops::Epilogue;

type Outcome<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    isfm::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let after = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    if let Some(what) = after("--peak") {
        return peak_of(what);
    }
    if args.iter().any(|a| a == "--roofline") {
        println!("{:#?}", Roofline::measure());
        return Ok(());
    }
    if args.iter().any(|a| a == "--products") {
        print!("{}", products(Roofline::measure())?);
        return Ok(());
    }
    let quick = args.iter().any(|a| a == "--quick");
    let roof = Roofline::measure();
    let page = [
        header(roof),
        scans(roof, quick)?,
        operations(roof)?,
        products(roof)?,
        networks(roof, quick)?,
        levels()?,
        training()?,
        stages(quick)?,
        scaling(quick)?,
        include_str!("performance_notes.md").to_string(),
    ];
    let page = page.join("\n");
    match after("--output") {
        Some(path) => {
            let path = std::path::Path::new(path);
            let aside = path.with_extension("md.tmp");
            std::fs::write(&aside, &page)?;
            std::fs::rename(&aside, path)?;
        }
        None => print!("{page}"),
    }
    Ok(())
}

/// A table of Markdown, the first column to the left and the others to the right.
struct Table(String);

impl Table {
    /// Takes the columns' names with `|` between them, as `row` takes the cells.
    fn new(names: &str) -> Self {
        let rules = " ---: |".repeat(names.matches('|').count());
        Self(format!("| {names} |\n| --- |{rules}\n"))
    }

    fn row(&mut self, cells: impl Display) {
        self.0 += &format!("| {cells} |\n");
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Seconds, in the unit that suits them.
struct Seconds(f64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s >= 10. => write!(f, "{s:.1} s"),
            s if s >= 1. => write!(f, "{s:.2} s"),
            s if s >= 1e-3 => write!(f, "{:.1} ms", 1e3 * s),
            s => write!(f, "{:.0} µs", 1e6 * s),
        }
    }
}

/// A row's end: both sides' times, and how many times as long theirs is.
fn versus<A, B>(
    runs: usize,
    ours: impl FnMut() -> Result<A>,
    theirs: impl FnMut() -> Result<B>,
) -> Result<(f64, String)> {
    let (ours, theirs) = (best(runs, ours)?, best(runs, theirs)?);
    Ok((ours, format!("{} | {} | {:.1}", Seconds(ours), Seconds(theirs), theirs / ours)))
}

fn command(program: &str, args: &[&str]) -> Option<String> {
    let out = std::process::Command::new(program).args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn header(roof: Roofline) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let commit = command("git", &["rev-parse", "--short", "HEAD"]);
    let dirty = command("git", &["status", "--porcelain", "--untracked-files=no"]);
    let dirty = if dirty.is_some_and(|d| !d.is_empty()) { " with changes" } else { "" };
    let mut table = Table::new("what the machine can do, both threads together | ");
    table.row(format_args!(
        "exponentials (2ˣ in f32, numbers in cache) | {:.1} G/s",
        roof.exponentials / 1e9
    ));
    table.row(format_args!("multiply-adds on registers | {:.0} GFLOP/s", roof.flops / 1e9));
    table.row(format_args!("copying memory, read and written | {:.1} GB/s", roof.bandwidth / 1e9));
    format!(
        "# Performance\n\n\
         Written by `cargo bench -p isfm-benches --bench performance`, all in one run: {}, {} threads, \
         {:?}, commit {}{dirty}. A figure is the best of as many runs as are given with it, after one \
         that does not count; both sides of a ratio have the same number, one after the other.\n\n{table}",
        model.unwrap_or("a processor that does not say its name"),
        rayon::current_num_threads(),
        isfm_ops::simd::level(),
        commit.unwrap_or_else(|| "unknown".into()),
    )
}

fn scans(roof: Roofline, quick: bool) -> Outcome<String> {
    let mut table = Table::new(
        "L | D | N | runs | forward | of the exponentials' ceiling | backward | of the ceiling",
    );
    let sizes = [(32, 32), (128, 128), (480, 640)];
    for &(h, w) in if quick { &sizes[..2] } else { &sizes } {
        for (d, n) in [32, 128, 256].into_iter().flat_map(|d| [(d, 8), (d, 16)]) {
            let scan = Scan::new(h, w, d, n)?;
            let runs = if h * w > 100_000 { 3 } else { 10 };
            let forward = best(runs, || scan.forward())?;
            let (x, x_dbl) = (Var::from_tensor(&scan.x)?, Var::from_tensor(&scan.x_dbl)?);
            // The backward alone: each with a forward of its own that is not timed.
            let mut backward = f64::INFINITY;
            for run in 0..=runs {
                let loss = scan.run(x.as_tensor(), x_dbl.as_tensor())?.sum_all()?;
                let start = Instant::now();
                std::hint::black_box(loss.backward()?);
                if run > 0 {
                    backward = backward.min(start.elapsed().as_secs_f64());
                }
            }
            let share = |seconds: f64| 100. * scan.exponentials / seconds / roof.exponentials;
            table.row(format_args!(
                "{} | {d} | {n} | {runs} | {} | {:.0} % | {} | {:.0} %",
                h * w,
                Seconds(forward),
                share(forward),
                Seconds(backward),
                share(backward)
            ));
        }
    }
    let scan = Scan::new(32, 32, 32, 8)?;
    let mut plain = Table::new("L 1,024, D 32, N 8, best of 20 runs | ours | Candle's own | ratio");
    let (_, times) = versus(20, || scan.forward(), || scan.plain())?;
    plain.row(format_args!("forward | {times}"));
    let difference =
        (scan.forward()?.get(0)? - scan.plain()?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    Ok(format!(
        "## Four-direction selective scan\n\n{table}\n\
         The same recurrence by Candle's own operations, step by step (largest difference \
         {difference:.1e}):\n\n{plain}"
    ))
}

fn operations(roof: Roofline) -> Outcome<String> {
    const C: usize = 32;
    let x = random(&[1, 480, 640, C]);
    let y = x.permute((0, 3, 1, 2))?.contiguous()?;
    let rows = x.reshape((480 * 640, C))?;
    let candle = |weight: &Tensor, groups| y.conv2d(weight, 1, 1, 1, groups);
    let (depthwise, dense) = (random(&[C, 1, 3, 3]), random(&[C, C, 3, 3]));
    let square = random(&[C, C]);
    let (weight, bias) = (random(&[C]), random(&[C]));
    let haar = Wavelet::haar();
    let bands = || Ok(isfm_dwt::dwt2(&x, &haar, Border::Drop, DataFormat::ChannelsLast)?.approx);

    let mut table = Table::new("operation | of copy bandwidth | time | Candle's own | ratio");
    // `maps` is how many maps the operation must read and write; none if arithmetic is the limit.
    let mut row = |name: &str, maps: Option<f64>, ours: &Side<'_>, theirs: &Side<'_>| {
        let (seconds, times) = versus(8, ours, theirs)?;
        let share = maps.map_or("–".into(), |maps| {
            let bytes = maps * x.elem_count() as f64 * 4.;
            format!("{:.0} %", 100. * bytes / seconds / roof.bandwidth)
        });
        table.row(format_args!("{name} | {share} | {times}"));
        Outcome::Ok(())
    };
    let ours = || isfm_ops::depthwise_conv2d(&x, &depthwise, None, Epilogue::None);
    row("depth-wise 3×3", Some(2.), &ours, &|| candle(&depthwise, C))?;
    let ours = || isfm_ops::conv2d(&x, &dense, None, Epilogue::None);
    row("dense 3×3, 32→32", None, &ours, &|| candle(&dense, 1))?;
    let ours = || isfm_ops::linear(&x, &square, None, Epilogue::None);
    row("linear 32→32", Some(2.), &ours, &|| rows.matmul(&square.t()?))?;
    let ours = || isfm_ops::layer_norm(&x, &weight, &bias, 1e-5);
    let theirs = || candle_nn::ops::layer_norm(&x, &weight, &bias, 1e-5);
    row("layer norm", Some(2.), &ours, &theirs)?;
    row("SiLU", Some(2.), &|| isfm_ops::silu(&x), &|| candle_nn::ops::silu(&x))?;
    let theirs = || &x * candle_nn::ops::silu(&x)?;
    row("gate x⊙SiLU(z)", Some(3.), &|| isfm_ops::silu_gate(&x, &x), &theirs)?;
    let theirs =
        || y.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.avg_pool2d_with_stride(3, 1);
    let name = "average pool 3×3, stride 1, padded";
    row(name, Some(2.), &|| isfm_ops::avg_pool2d(&x, 3), &theirs)?;
    let theirs = || y.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?.max_pool2d_with_stride(3, 1);
    let name = "max pool 3×3, stride 1, padded";
    row(name, Some(2.), &|| isfm_ops::max_pool2d(&x, 3), &theirs)?;
    row("one-level Haar DWT", Some(2.), &bands, &|| Ok(haar_by_candle(&y)?.swap_remove(0)))?;
    Ok(format!(
        "## Operations\n\nA map of 480×640×{C} in f32, forward, best of 8 runs. Bandwidth counts what the \
         operation must read and write at least; the allocator keeps freed memory \
         (`isfm::keep_freed_memory`).\n\n{table}"
    ))
}

/// One side of a comparison.
type Side<'a> = dyn Fn() -> Result<Tensor> + 'a;

/// One level by strided views and sums, on B×C×H×W.
fn haar_by_candle(x: &Tensor) -> Result<Vec<Tensor>> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.reshape((b, c, h / 2, 2, w / 2, 2))?;
    let part =
        |i: usize, j: usize| x.narrow(3, i, 1)?.narrow(5, j, 1)?.reshape((b, c, h / 2, w / 2));
    let (p, q, r, s) = (part(0, 0)?, part(0, 1)?, part(1, 0)?, part(1, 1)?);
    let (top, bottom) = ((&p + &q)?, (&r + &s)?);
    let (top_diff, bottom_diff) = ((&p - &q)?, (&r - &s)?);
    Ok(vec![
        ((&top + &bottom)? * 0.5)?,
        ((&top - &bottom)? * 0.5)?,
        ((&top_diff + &bottom_diff)? * 0.5)?,
        ((&top_diff - &bottom_diff)? * 0.5)?,
    ])
}

fn forward(network: &Network, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    network.forward(visible, infrared).map_err(candle_core::Error::wrap)
}

/// Runs this program again for a measurement of its own, and returns its peak memory in MiB.
fn peak(what: &str) -> Outcome<f64> {
    let program = std::env::current_exe()?;
    let out = std::process::Command::new(program).args(["--peak", what]).output()?;
    if !out.status.success() {
        return Err(format!("{what}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

/// The other end of [`peak`]: `whole PRESET H W`, `levels L` or `tiled SIDE`.
fn peak_of(what: &str) -> Outcome<()> {
    let words: Vec<&str> = what.split(' ').collect();
    match words[..] {
        ["whole", preset, h, w] => {
            let (h, w) = (h.parse()?, w.parse()?);
            let network = network(preset.parse()?, DType::F32, &Device::Cpu, false)?;
            network.forward(&image(1, h, w), &image(1, h, w))?;
        }
        ["levels", levels] => {
            let (visible, infrared) = pair();
            on_levels(levels.parse()?)?.fuse(&visible, &infrared)?;
        }
        ["tiled", side] => {
            let (visible, infrared) = pictures(side.parse()?);
            tiled()?.fuse(&visible, &infrared)?;
        }
        _ => return Err(format!("unknown measurement {what}").into()),
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|l| l.trim().strip_suffix(" kB")).unwrap_or("nan").parse()?;
    println!("{}", kib / 1024.);
    Ok(())
}

/// A colour and a grey picture of 8 bits, with something in them.
fn pictures(side: u32) -> (DynamicImage, DynamicImage) {
    let value = |x: u32, y: u32| (x.wrapping_mul(31) ^ y.wrapping_mul(17)) as u8;
    let colour = RgbImage::from_fn(side, side, |x, y| Rgb([value(x, y), value(y, x), 90]));
    let grey = GrayImage::from_fn(side, side, |x, y| Luma([value(x / 3, y / 2)]));
    (colour.into(), grey.into())
}

fn tiled() -> Outcome<Isfm> {
    Ok(Isfm::builder().tiling(Tiling::Edge(512)).build()?)
}

/// Twice the multiply-adds of a forward pass of the paper's configuration at 480×640
/// (`docs/paper-to-code.md`).
const PAPER_FLOP: f64 = 3.95e12;

fn networks(roof: Roofline, quick: bool) -> Outcome<String> {
    let mut table = Table::new("preset, size | runs | time | megapixels a second | peak memory");
    let mut floor = String::new();
    for preset in [Preset::Small, Preset::Base, Preset::Paper] {
        let config = Config::from(preset);
        for (h, w) in [(128, 128), (256, 256), (480, 640)] {
            let long = preset == Preset::Paper && h == 480;
            if quick && (long || (preset != Preset::Small && h > 128)) {
                continue;
            }
            let network = network(preset, DType::F32, &Device::Cpu, false)?;
            let (visible, infrared) = (image(1, h, w), image(1, h, w));
            let runs = if preset == Preset::Small { 5 } else { 2 - usize::from(long) };
            let seconds = best(runs, || forward(&network, &visible, &infrared))?;
            let mib = peak(&format!("whole {preset} {h} {w}"))?;
            table.row(format_args!(
                "{preset}, {w}×{h} | {runs} | {} | {:.2} | {mib:.0} MiB",
                Seconds(seconds),
                (h * w) as f64 / seconds / 1e6
            ));
            if long {
                let scans = 4 * h * w * config.d_inner() * config.d_state;
                let exponentials = (scan_blocks(&config) * scans) as f64;
                let (products, scans) = (PAPER_FLOP / roof.flops, exponentials / roof.exponentials);
                floor = format!(
                    "\nThe paper's configuration at 640×480: {seconds:.1} s are {:.2} times its floor of \
                     {products:.1} s for 3.95 TFLOP and {scans:.1} s for {:.1} G exponentials.\n",
                    seconds / (products + scans),
                    exponentials / 1e9
                );
            }
        }
    }
    Ok(format!("## The whole network\n\n{table}{floor}"))
}

/// A colour and a grey picture of 640×480.
fn pair() -> (DynamicImage, DynamicImage) {
    let (visible, infrared) = pictures(640);
    (visible.crop_imm(0, 0, 640, 480), infrared.crop_imm(0, 0, 640, 480))
}

/// The facade with the preset small on so many levels of a pyramid, with gates as the embedded weights
/// have them; without levels the network alone.
fn on_levels(levels: usize) -> Outcome<Isfm> {
    let gates = levels > 0;
    let pyramid =
        Pyramid { levels, gates, deeper: if gates { 5usize.saturating_sub(levels) } else { 0 } };
    let config = Config { pyramid, ..Preset::Small.into() };
    let weights = initial_weights(&config, 1, &Device::Cpu)?;
    let metadata = Default::default();
    let checkpoint = Checkpoint { config, weights, self_contained: true, metadata };
    Ok(Isfm::builder().checkpoint(checkpoint).build()?)
}

/// What the pyramid saves.
fn levels() -> Outcome<String> {
    let (visible, infrared) = pair();
    let mut table = Table::new("levels | time | peak memory");
    for levels in 0..=5 {
        let isfm = on_levels(levels)?;
        let runs = if levels == 0 { 3 } else { 10 };
        let seconds =
            best(runs, || isfm.fuse(&visible, &infrared).map_err(candle_core::Error::wrap))?;
        let mib = peak(&format!("levels {levels}"))?;
        table.row(format_args!("{levels} | {} | {mib:.0} MiB", Seconds(seconds)));
    }
    Ok(format!(
        "## On a pyramid\n\nA colour and a grey picture of 640×480 and 8 bits through the facade, preset \
         small on so many levels of a pyramid with gates (0: the network alone), best of 10 runs (3 without \
         levels). Peak memory is the whole process's, for one fusion. The embedded weights have 3 \
         levels:\n\n{table}"
    ))
}

/// Forward and backward: a training step of the network, its scans by Candle's own operations, and
/// its two heaviest operations beside Candle's.
fn training() -> Outcome<String> {
    let config = Config::from(Preset::Small);
    let network = network(Preset::Small, DType::F32, &Device::Cpu, true)?;
    let (visible, infrared) = (image(4, 128, 128), image(4, 128, 128));
    let step = best(3, || forward(&network, &visible, &infrared)?.sqr()?.mean_all()?.backward())?;
    // One scan of a 32×32 map stands for a sixteenth of one of 128×128, of which each of the 4 pairs
    // has so many.
    let scan = Scan::new(32, 32, config.d_inner(), config.d_state)?.tracked()?;
    let plain = best(3, || scan.plain()?.sqr()?.mean_all()?.backward())?;
    let scans = 4 * scan_blocks(&config);
    let all = 16. * scans as f64 * plain;

    let mut table = Table::new("4×128×128×32 | ours | Candle's own | ratio");
    let x = random_var(&[4, 128, 128, 32]);
    let y = Var::from_tensor(&x.permute((0, 3, 1, 2))?.contiguous()?)?;
    for (name, weight, groups) in [
        ("depth-wise 3×3", random_var(&[32, 1, 3, 3]), 32),
        ("dense 3×3, 32→32", random_var(&[32, 32, 3, 3]), 1),
    ] {
        let ours = || {
            let out = if groups == 1 {
                isfm_ops::conv2d(&x, &weight, None, Epilogue::None)?
            } else {
                isfm_ops::depthwise_conv2d(&x, &weight, None, Epilogue::None)?
            };
            out.sqr()?.mean_all()?.backward()
        };
        let theirs = || y.conv2d(&weight, 1, 1, 1, groups)?.sqr()?.mean_all()?.backward();
        table.row(format_args!("{name} | {}", versus(3, ours, theirs)?.1));
    }
    Ok(format!(
        "Forward and backward, best of 3 runs. A training step, preset small, 4 pairs of 128×128: {}.\n\
         By Candle's own operations its {scans} scans alone would take at least {}, {:.0} times as long: \
         one scan of a 32×32 map takes {}, and the time grows with the map.\n\n{table}",
        Seconds(step),
        Seconds(all),
        all / step,
        Seconds(plain),
    ))
}

/// Four-direction scans of a forward pass: two extractors of two blocks each, and two in every
/// block of the fusion layers.
fn scan_blocks(config: &Config) -> usize {
    4 * config.depths[0] + 2 * config.depths.iter().sum::<usize>()
}

/// Matrix products against Candle's, which are those of the crate gemm.
fn products(roof: Roofline) -> Outcome<String> {
    const H: usize = 320;
    const W: usize = 480;
    let mut table =
        Table::new("product | of the multiply-adds' ceiling | time | Candle's own | ratio");
    for (cin, cout, k) in
        [(16, 64, 1), (32, 68, 1), (128, 512, 1), (256, 128, 1), (16, 64, 3), (128, 64, 3)]
    {
        let x = random(&[1, H, W, cin]);
        let weight = random(&[cout, cin, k, k]);
        let ours = || isfm_ops::conv2d(&x, &weight, None, Epilogue::None);
        let (seconds, times) = if k == 1 {
            let (x, w) = (x.reshape((H * W, cin))?, weight.reshape((cout, cin))?.t()?);
            versus(5, ours, || x.matmul(&w))?
        } else {
            let y = x.permute((0, 3, 1, 2))?.contiguous()?;
            versus(5, ours, || y.conv2d(&weight, k / 2, 1, 1, 1))?
        };
        let flop = (2 * H * W * cin * cout * k * k) as f64;
        let share = 100. * flop / seconds / roof.flops;
        table.row(format_args!("{k}×{k}, {cin}→{cout} | {share:.0} % | {times}"));
    }
    Ok(format!(
        "Matrix products of 153,600 pixels, best of 5 runs, against Candle's own (the crate gemm 0.19; for \
         windows, its convolution):\n\n{table}"
    ))
}

/// Where a forward pass spends its time, stage by stage.
fn stages(quick: bool) -> Outcome<String> {
    use isfm_blocks::{Accumulator, Source, modality_specific_extractor};
    let mut table = Table::new(
        "preset, size, runs | extractors | band averages | frequency layers | fusion layers | \
         reconstruction | sum | of it the scans",
    );
    let sizes = [(Preset::Small, 480, 640), (Preset::Paper, 256, 256)];
    for &(preset, h, w) in if quick { &sizes[..1] } else { &sizes } {
        let config = Config::from(preset);
        let weights = initial_weights(&config, 1, &Device::Cpu)?;
        let tensors = weights.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let (dim, layers, depth) = (config.embed_dim, config.layers(), config.depths[0]);
        let Config { d_state, expand, .. } = config;
        let ss2d = isfm_ssm::Ss2dConfig { d_state, expand, ..isfm_ssm::Ss2dConfig::new(dim) };
        let runs = if preset == Preset::Small { 4 } else { 2 };

        let extractor = |source| modality_specific_extractor(source, &ss2d, depth, vb.clone());
        let (visible, infrared) = (extractor(Source::Visible)?, extractor(Source::Infrared)?);
        let picture = image(1, h, w).reshape((1, h, w, 1))?;
        let features =
            || -> Result<_> { Ok((visible.forward(&picture)?, infrared.forward(&picture)?)) };
        let extracting = stage(runs, features)?;
        let (visible, infrared) = features()?;
        let averaging = stage(runs, || isfm_blocks::band_averages(&visible, &infrared))?;
        let bands = isfm_blocks::band_averages(&visible, &infrared)?;
        let (visible, infrared) = (visible.deep, infrared.deep);

        let mff = isfm_blocks::mff_layer(dim, Default::default(), vb.pp("MFF_layers").pp(0))?;
        let frequency = layers as f64 * stage(runs, || mff.forward(&bands, h, w))?;
        let output = mff.forward(&bands, h, w)?;
        let isf =
            isfm_blocks::isf_layer(&ss2d, Default::default(), depth, vb.pp("ISF_layers").pp(0))?;
        let fusing = stage(runs, || isf.forward(&visible, &infrared, Some(&output.bands)))?;
        let fusing = layers as f64 * fusing;

        let last = isfm_blocks::reconstruction(2 * layers * dim, 1, vb.pp("conv_final_fuse"))?;
        let reconstructing = stage(runs, || {
            let mut sum = Accumulator::default();
            for index in 0..2 * layers {
                sum = last.add(sum, &visible, index)?;
            }
            last.finish(sum)
        })?;

        let scan = Scan::new(h, w, config.d_inner(), config.d_state)?;
        let scans = scan_blocks(&config) as f64 * best(runs, || scan.forward())?;
        let parts = [extracting, averaging, frequency, fusing, reconstructing];
        let sum: f64 = parts.iter().sum();
        let share = |part| format!("{} ({:.0} %)", Seconds(part), 100. * part / sum);
        table.row(format_args!(
            "{preset}, {w}×{h}, {runs} | {} | {} | {}",
            parts.map(share).join(" | "),
            Seconds(sum),
            share(scans)
        ));
    }
    Ok(format!(
        "## Stages\n\nEach stage by itself; the four-direction scans are those inside the extractors and \
         the fusion layers.\n\n{table}"
    ))
}

/// [`best`] of a stage, which keeps buffers for its length as a whole forward pass does.
fn stage<T>(runs: usize, mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    best(runs, || isfm_ops::internal::recycling(&mut work))
}

fn scaling(quick: bool) -> Outcome<String> {
    let network = network(Preset::Small, DType::F32, &Device::Cpu, false)?;
    let (visible, infrared) = (image(1, 480, 640), image(1, 480, 640));
    let with = |threads: usize| -> Outcome<f64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(pool.install(|| best(4, || forward(&network, &visible, &infrared)))?)
    };
    let (one, two) = (with(1)?, with(2)?);
    let mut table = Table::new("size | runs | time | µs a pixel | peak memory");
    let isfm = tiled()?;
    let sides = [128, 512, 1024, 2048, 4096];
    for &side in if quick { &sides[..2] } else { &sides } {
        let (visible, infrared) = pictures(side);
        let runs = if side > 1024 { 1 } else { 3 };
        let seconds =
            best(runs, || isfm.fuse(&visible, &infrared).map_err(candle_core::Error::wrap))?;
        let mib = peak(&format!("tiled {side}"))?;
        table.row(format_args!(
            "{side}×{side} | {runs} | {} | {:.2} | {mib:.0} MiB",
            Seconds(seconds),
            1e6 * seconds / f64::from(side).powi(2)
        ));
    }
    Ok(format!(
        "## Scaling\n\nPreset small at 640×480, best of 4 runs, on one thread {}, on two {}: {:.2} times as \
         fast.\n\n\
         The embedded weights through the facade, a colour and a grey picture of 8 bits in tiles of at \
         most 512 pixels. Peak memory is the whole process's; of it the two pictures and the result are 7 \
         bytes a pixel:\n\n{table}",
        Seconds(one),
        Seconds(two),
        one / two
    ))
}
