//! Measures everything that `docs/performance.md` says in one run, and writes it.
//!
//! `cargo bench -p isfm-benches --bench performance -- --output docs/performance.md`
//! (`--quick` leaves out what takes minutes, `--roofline` and `--products` print a part alone). A figure
//! is the best of several runs.

use std::fmt::Write as _;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Conv2dConfig, VarBuilder};
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use isfm::{Isfm, Tiling};
use isfm_benches::{Roofline, Scan, image, random, random_var};
use isfm_dwt::{Border, Layout, Wavelet};
use isfm_model::{Config, Network, Preset, Weights, initial_weights};

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
        let mut page = String::new();
        products(&mut page, Roofline::measure())?;
        print!("{page}");
        return Ok(());
    }
    let quick = args.iter().any(|a| a == "--quick");
    let mut page = String::new();
    let roof = Roofline::measure();
    header(&mut page, roof)?;
    scans(&mut page, roof, quick)?;
    operations(&mut page, roof)?;
    products(&mut page, roof)?;
    networks(&mut page, roof, quick)?;
    stages(&mut page, quick)?;
    scaling(&mut page, quick)?;
    page.push_str(include_str!("performance_notes.md"));
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

/// Seconds of the best of `runs` runs, after one that does not count if there are several.
fn best<T>(runs: usize, mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    if runs > 1 {
        work()?;
    }
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        std::hint::black_box(work()?);
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn command(program: &str, args: &[&str]) -> Option<String> {
    let out = std::process::Command::new(program).args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn header(page: &mut String, roof: Roofline) -> Outcome<()> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let commit = command("git", &["rev-parse", "--short", "HEAD"]);
    let dirty = command("git", &["status", "--porcelain", "--untracked-files=no"]);
    let dirty = if dirty.is_some_and(|d| !d.is_empty()) { " with changes" } else { "" };
    writeln!(page, "# Performance\n")?;
    writeln!(
        page,
        "Written by `cargo bench -p isfm-benches --bench performance`, all in one run: {}, {} threads, \
         {:?}, commit {}{dirty}. Figures are the best of several runs; ratios compare what was \
         measured side by side.\n",
        model.unwrap_or("a processor that does not say its name"),
        rayon::current_num_threads(),
        isfm_ops::simd::level(),
        commit.unwrap_or_else(|| "unknown".into()),
    )?;
    writeln!(page, "| what the machine can do, both threads together | |\n| --- | ---: |")?;
    writeln!(
        page,
        "| exponentials (2ˣ in f32, numbers in cache) | {:.1} G/s |",
        roof.exponentials / 1e9
    )?;
    writeln!(page, "| multiply-adds on registers | {:.0} GFLOP/s |", roof.flops / 1e9)?;
    writeln!(page, "| copying memory, read and written | {:.1} GB/s |\n", roof.bandwidth / 1e9)?;
    Ok(())
}

fn scans(page: &mut String, roof: Roofline, quick: bool) -> Outcome<()> {
    writeln!(page, "## Four-direction selective scan\n")?;
    writeln!(
        page,
        "| L | D | N | forward | of the exponentials' ceiling | backward | of the ceiling |"
    )?;
    writeln!(page, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let sizes: &[(usize, usize)] =
        if quick { &[(32, 32), (128, 128)] } else { &[(32, 32), (128, 128), (480, 640)] };
    for &(h, w) in sizes {
        for d in [32, 128, 256] {
            for n in [8, 16] {
                let scan = Scan::new(h, w, d, n)?;
                let runs = if h * w > 100_000 { 3 } else { 10 };
                let forward = best(runs, || scan.forward())?;
                let (x, x_dbl) = (Var::from_tensor(&scan.x)?, Var::from_tensor(&scan.x_dbl)?);
                // The backward alone: each with a forward of its own that is not timed.
                let mut backward = f64::INFINITY;
                for _ in 0..runs.min(3) {
                    let y = scan.run(x.as_tensor(), x_dbl.as_tensor())?;
                    let loss = y.sum_all()?;
                    let start = Instant::now();
                    std::hint::black_box(loss.backward()?);
                    backward = backward.min(start.elapsed().as_secs_f64());
                }
                let share = |seconds: f64| 100. * scan.exponentials / seconds / roof.exponentials;
                writeln!(
                    page,
                    "| {} | {d} | {n} | {} | {:.0} % | {} | {:.0} % |",
                    h * w,
                    time(forward),
                    share(forward),
                    time(backward),
                    share(backward)
                )?;
            }
        }
    }
    let scan = Scan::new(32, 32, 32, 8)?;
    let (ours, plain) = (best(20, || scan.forward())?, best(1, || scan.plain())?);
    let difference =
        (scan.forward()?.get(0)? - scan.plain()?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    writeln!(
        page,
        "\nThe same recurrence by Candle's own operations, step by step, at L = 1,024, D = 32, N = 8: {} \
         against {}, {:.0} times slower (largest difference {difference:.1e}).\n",
        time(plain),
        time(ours),
        plain / ours
    )?;
    Ok(())
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 10. => format!("{s:.1} s"),
        s if s >= 1. => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", 1e3 * s),
        s => format!("{:.0} µs", 1e6 * s),
    }
}

fn operations(page: &mut String, roof: Roofline) -> Outcome<()> {
    const C: usize = 32;
    let x = random(&[1, 480, 640, C]);
    let y = x.permute((0, 3, 1, 2))?.contiguous()?;
    let map = x.elem_count() as f64 * 4.;
    writeln!(
        page,
        "## Operations\n\nA map of 480×640×{C} in f32, forward. Traffic is what the operation must read and write at least; \
         the allocator keeps freed memory (`isfm::keep_freed_memory`).\n"
    )?;
    writeln!(page, "| operation | time | of copy bandwidth | Candle's own | ratio |")?;
    writeln!(page, "| --- | ---: | ---: | ---: | ---: |")?;
    let config = |padding, groups| Conv2dConfig { padding, groups, ..Default::default() };
    let candle = |weight: &Tensor, c: Conv2dConfig| {
        y.conv2d(weight, c.padding, c.stride, c.dilation, c.groups)
    };
    let depthwise = random(&[C, 1, 3, 3]);
    let dense = random(&[C, C, 3, 3]);
    let square = random(&[C, C]);
    let (weight, bias) = (random(&[C]), random(&[C]));
    let rows = x.reshape((480 * 640, C))?;
    let mut row = |name: &str, traffic: Option<f64>, ours: f64, theirs: Option<f64>| {
        let share =
            traffic.map_or("–".into(), |t| format!("{:.0} %", 100. * t / ours / roof.bandwidth));
        let (own, ratio) = match theirs {
            Some(t) => (time(t), format!("{:.1}", t / ours)),
            None => ("none".into(), "–".into()),
        };
        writeln!(page, "| {name} | {} | {share} | {own} | {ratio} |", time(ours))
    };
    let ours = best(8, || Ok(isfm_ops::depthwise_conv2d(&x, &depthwise, None)?))?;
    row(
        "depth-wise 3×3",
        Some(2. * map),
        ours,
        Some(best(1, || candle(&depthwise, config(1, C)))?),
    )?;
    let ours = best(8, || Ok(isfm_ops::conv2d(&x, &dense, None)?))?;
    row("dense 3×3, 32→32", None, ours, Some(best(2, || candle(&dense, config(1, 1)))?))?;
    let ours = best(8, || Ok(isfm_ops::linear(&x, &square, None)?))?;
    row("linear 32→32", Some(2. * map), ours, Some(best(4, || rows.matmul(&square.t()?))?))?;
    let ours = best(8, || Ok(isfm_ops::layer_norm(&x, &weight, &bias, 1e-5)?))?;
    row(
        "layer norm",
        Some(2. * map),
        ours,
        Some(best(4, || candle_nn::ops::layer_norm(&x, &weight, &bias, 1e-5))?),
    )?;
    let ours = best(8, || Ok(isfm_ops::silu(&x)?))?;
    row("SiLU", Some(2. * map), ours, Some(best(4, || candle_nn::ops::silu(&x))?))?;
    let ours = best(8, || Ok(isfm_ops::silu_gate(&x, &x)?))?;
    row("gate x⊙SiLU(z)", Some(3. * map), ours, Some(best(4, || &x * candle_nn::ops::silu(&x)?)?))?;
    let ours = best(8, || Ok(isfm_ops::avg_pool2d(&x, 3)?))?;
    row(
        "average pool 3×3, stride 1, padded",
        Some(2. * map),
        ours,
        Some(best(2, || {
            y.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.avg_pool2d_with_stride(3, 1)
        })?),
    )?;
    let ours = best(8, || Ok(isfm_ops::max_pool2d(&x, 3)?))?;
    row(
        "max pool 3×3, stride 1, padded",
        Some(2. * map),
        ours,
        Some(best(2, || {
            y.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?.max_pool2d_with_stride(3, 1)
        })?),
    )?;
    let haar = Wavelet::haar();
    let ours = best(8, || Ok(isfm_dwt::dwt2(&x, &haar, Border::Drop, Layout::ChannelsLast)?))?;
    row("one-level Haar DWT", Some(2. * map), ours, Some(best(2, || haar_by_candle(&y))?))?;
    writeln!(page)?;
    Ok(())
}

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

fn network(preset: &str) -> Outcome<(Config, Network)> {
    let config = Config::from(preset.parse::<Preset>()?);
    let network = Network::from_weights(&config, &initial_weights(&config, 1, &Device::Cpu)?)?;
    Ok((config, network))
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

/// The other end of [`peak`]: `whole PRESET H W`, or `tiled SIDE`.
fn peak_of(what: &str) -> Outcome<()> {
    let words: Vec<&str> = what.split(' ').collect();
    match words[..] {
        ["whole", preset, h, w] => {
            let (h, w) = (h.parse()?, w.parse()?);
            let (_, network) = network(preset)?;
            network.forward(&image(1, h, w), &image(1, h, w))?;
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

/// Multiply-adds of the paper's configuration at 480×640, as spec §0 counts them, in FLOP.
const PAPER_FLOP: f64 = 3.95e12;

fn networks(page: &mut String, roof: Roofline, quick: bool) -> Outcome<()> {
    writeln!(
        page,
        "## The whole network\n\n| preset | size | time | megapixels a second | peak memory |"
    )?;
    writeln!(page, "| --- | --- | ---: | ---: | ---: |")?;
    let mut paper = None;
    for preset in ["small", "base", "paper"] {
        for (h, w) in [(128, 128), (256, 256), (480, 640)] {
            let long = preset == "paper" && h == 480;
            if quick && (long || (preset != "small" && h > 128)) {
                continue;
            }
            let (config, network) = network(preset)?;
            let (visible, infrared) = (image(1, h, w), image(1, h, w));
            let runs = if preset == "small" { 5 } else { 2 - usize::from(long) };
            let seconds = best(runs, || forward(&network, &visible, &infrared))?;
            let mib = peak(&format!("whole {preset} {h} {w}"))?;
            if long {
                paper = Some((config, seconds));
            }
            writeln!(
                page,
                "| {preset} | {w}×{h} | {} | {:.2} | {mib:.0} MiB |",
                time(seconds),
                (h * w) as f64 / seconds / 1e6
            )?;
        }
    }
    writeln!(page)?;
    if let Some((config, seconds)) = paper {
        let exponentials =
            (scan_blocks(&config) * 4 * 480 * 640 * config.d_inner() * config.d_state) as f64;
        let (products, scans) = (PAPER_FLOP / roof.flops, exponentials / roof.exponentials);
        writeln!(
            page,
            "The paper's configuration at 640×480: {:.1} s are {:.2} times its floor of {products:.1} s for \
             3.95 TFLOP and {scans:.1} s for {:.1} G exponentials.\n",
            seconds,
            seconds / (products + scans),
            exponentials / 1e9
        )?;
    }
    let config = Config::from(Preset::Small);
    let weights = initial_weights(&config, 1, &Device::Cpu)?;
    let connected = weights
        .iter()
        .map(|(name, w)| Ok((name.clone(), Var::from_tensor(w)?.as_tensor().clone())));
    let network = Network::from_weights(&config, &connected.collect::<Result<Weights>>()?)?;
    let (visible, infrared) = (image(4, 128, 128), image(4, 128, 128));
    let step = best(3, || forward(&network, &visible, &infrared)?.sqr()?.mean_all()?.backward())?;
    writeln!(
        page,
        "A training step's forward and backward, preset small, 4 pairs of 128×128: {}.",
        time(step)
    )?;
    // One scan of a 32×32 map stands for a sixteenth of one of 128×128.
    let (d, n) = (config.d_inner(), config.d_state);
    let scan = Scan::new(32, 32, d, n)?.tracked()?;
    let plain = best(1, || scan.plain()?.sqr()?.mean_all()?.backward())?;
    // For each of 4 pairs.
    let scans = 4 * scan_blocks(&config);
    writeln!(
        page,
        "By Candle's own operations its {scans} scans alone would take at least {}, {:.0} times as long: one \
         scan of a 32×32 map, forward and backward, takes {}, and the time grows with the map.\n",
        time(16. * scans as f64 * plain),
        16. * scans as f64 * plain / step,
        time(plain),
    )?;
    backward_of_parts(page)
}

/// Four-direction scans of a forward pass: two extractors of two blocks each, and two in every
/// block of the fusion layers.
fn scan_blocks(config: &Config) -> usize {
    4 * config.depths[0] + 2 * config.depths.iter().sum::<usize>()
}

/// Matrix products against Candle's, which are those of the crate gemm.
fn products(page: &mut String, roof: Roofline) -> Outcome<()> {
    writeln!(
        page,
        "Matrix products of 153,600 pixels, against Candle's own (the crate gemm 0.19; for windows, its \
         convolution):\n\n| product | time | of the multiply-adds' ceiling | Candle's own | ratio |\n\
         | --- | ---: | ---: | ---: | ---: |"
    )?;
    const H: usize = 320;
    const W: usize = 480;
    for (cin, cout, k) in
        [(16, 64, 1), (32, 68, 1), (128, 512, 1), (256, 128, 1), (16, 64, 3), (128, 64, 3)]
    {
        let x = random(&[1, H, W, cin]);
        let weight = random(&[cout, cin, k, k]);
        let ours = best(5, || Ok(isfm_ops::conv2d(&x, &weight, None)?))?;
        let theirs = if k == 1 {
            let (x, w) = (x.reshape((H * W, cin))?, weight.reshape((cout, cin))?.t()?);
            best(5, || x.matmul(&w))?
        } else {
            let y = x.permute((0, 3, 1, 2))?.contiguous()?;
            best(1, || y.conv2d(&weight, k / 2, 1, 1, 1))?
        };
        let flop = (2 * H * W * cin * cout * k * k) as f64;
        writeln!(
            page,
            "| {k}×{k}, {cin}→{cout} | {} | {:.0} % | {} | {:.1} |",
            time(ours),
            100. * flop / ours / roof.flops,
            time(theirs),
            theirs / ours
        )?;
    }
    writeln!(page)?;
    Ok(())
}

/// Where a forward pass spends its time, stage by stage.
fn stages(page: &mut String, quick: bool) -> Outcome<()> {
    use isfm_blocks::{ModalitySpecificExtractor, Source};
    writeln!(
        page,
        "## Stages\n\nEach stage by itself; the four-direction scans are those inside the extractors and the \
         fusion layers.\n\n| preset, size | extractors | band averages | frequency layers | fusion layers | \
         reconstruction | sum | of it the scans |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    let sizes: &[_] = &[("small", 480, 640), ("paper", 256, 256)];
    for &(preset, h, w) in if quick { &sizes[..1] } else { sizes } {
        let config = Config::from(preset.parse::<Preset>()?);
        let weights = initial_weights(&config, 1, &Device::Cpu)?;
        let tensors = weights.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let (dim, layers) = (config.embed_dim, config.layers());
        let Config { d_state, expand, .. } = config;
        let ss2d = isfm_ssm::Ss2dConfig { d_state, expand, ..isfm_ssm::Ss2dConfig::new(dim) };
        let runs = if preset == "small" { 4 } else { 2 };

        let extractor =
            |source| ModalitySpecificExtractor::new(source, &ss2d, config.depths[0], vb.clone());
        let (visible, infrared) = (extractor(Source::Visible)?, extractor(Source::Infrared)?);
        let picture = image(1, h, w).reshape((1, h, w, 1))?;
        let features = || Ok((visible.forward(&picture)?, infrared.forward(&picture)?));
        let extracting = stage(runs, features)?;
        let (visible, infrared) = features().map_err(|e: isfm_blocks::Error| e)?;
        let averaging = stage(runs, || isfm_blocks::band_averages(&visible, &infrared))?;
        let bands = isfm_blocks::band_averages(&visible, &infrared)?;
        let (visible, infrared) = (visible.deep, infrared.deep);

        let mff = isfm_blocks::mff_layer(dim, vb.pp("MFF_layers").pp(0))?;
        let frequency = layers as f64 * stage(runs, || mff.forward(&bands, h, w))?;
        let output = mff.forward(&bands, h, w)?;
        let isf = isfm_blocks::isf_layer(&ss2d, config.depths[0], vb.pp("ISF_layers").pp(0))?;
        let fusing =
            layers as f64 * stage(runs, || isf.forward(&visible, &infrared, &output.bands))?;

        let last = isfm_blocks::reconstruction(2 * layers * dim, vb.pp("conv_final_fuse"))?;
        let reconstructing = stage(runs, || {
            let mut sum = None;
            for index in 0..2 * layers {
                sum = Some(last.add(sum, &visible, index)?);
            }
            sum.map(|sum| last.finish(sum)).transpose()
        })?;

        let scan = Scan::new(h, w, config.d_inner(), config.d_state)?;
        let scans = scan_blocks(&config) as f64 * best(runs, || scan.forward())?;
        let parts = [extracting, averaging, frequency, fusing, reconstructing];
        let sum: f64 = parts.iter().sum();
        write!(page, "| {preset}, {w}×{h} ")?;
        for part in parts {
            write!(page, "| {} ({:.0} %) ", time(part), 100. * part / sum)?;
        }
        writeln!(page, "| {} | {} ({:.0} %) |", time(sum), time(scans), 100. * scans / sum)?;
    }
    writeln!(page)?;
    Ok(())
}

/// [`best`] of a stage, which keeps buffers for its length as a whole forward pass does.
fn stage<T>(runs: usize, mut work: impl FnMut() -> isfm_blocks::Result<T>) -> Result<f64> {
    best(runs, || isfm_ops::cpu::recycling(&mut work).map_err(candle_core::Error::wrap))
}

/// What the two heaviest operations of a training step take forward and backward, against Candle's.
fn backward_of_parts(page: &mut String) -> Outcome<()> {
    writeln!(
        page,
        "| forward and backward, 4×128×128×32 | ours | Candle's own | ratio |\n| --- | ---: | ---: | ---: |"
    )?;
    let x = random_var(&[4, 128, 128, 32]);
    let y = Var::from_tensor(&x.permute((0, 3, 1, 2))?.contiguous()?)?;
    for (name, weight, groups) in [
        ("depth-wise 3×3", random_var(&[32, 1, 3, 3]), 32),
        ("dense 3×3, 32→32", random_var(&[32, 32, 3, 3]), 1),
    ] {
        let ours = best(3, || {
            let out = if groups == 1 {
                isfm_ops::conv2d(&x, &weight, None)?
            } else {
                isfm_ops::depthwise_conv2d(&x, &weight, None)?
            };
            out.sqr()?.mean_all()?.backward()
        })?;
        let theirs = best(1, || y.conv2d(&weight, 1, 1, 1, groups)?.sqr()?.mean_all()?.backward())?;
        writeln!(page, "| {name} | {} | {} | {:.0} |", time(ours), time(theirs), theirs / ours)?;
    }
    writeln!(page)?;
    Ok(())
}

fn scaling(page: &mut String, quick: bool) -> Outcome<()> {
    let (_, network) = network("small")?;
    let (visible, infrared) = (image(1, 480, 640), image(1, 480, 640));
    let with = |threads: usize| -> Outcome<f64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(pool.install(|| best(4, || forward(&network, &visible, &infrared)))?)
    };
    let (one, two) = (with(1)?, with(2)?);
    writeln!(
        page,
        "## Scaling\n\nPreset small at 640×480 on one thread {}, on two {}: {:.2} times as fast.\n",
        time(one),
        time(two),
        one / two
    )?;
    writeln!(
        page,
        "The embedded weights through the facade, a colour and a grey picture of 8 bits in tiles of at most \
         512 pixels. Peak memory is the whole process's; of it the two pictures and the result are 7 bytes a \
         pixel:\n\n| size | time | µs a pixel | peak memory |\n| --- | ---: | ---: | ---: |"
    )?;
    let isfm = tiled()?;
    let sides: &[u32] = if quick { &[128, 512] } else { &[128, 512, 1024, 2048, 4096] };
    for &side in sides {
        let (visible, infrared) = pictures(side);
        let runs = if side > 1024 { 1 } else { 3 };
        let seconds =
            best(runs, || isfm.fuse(&visible, &infrared).map_err(candle_core::Error::wrap))?;
        let mib = peak(&format!("tiled {side}"))?;
        writeln!(
            page,
            "| {side}×{side} | {} | {:.2} | {mib:.0} MiB |",
            time(seconds),
            1e6 * seconds / f64::from(side).powi(2)
        )?;
    }
    writeln!(page)?;
    Ok(())
}
