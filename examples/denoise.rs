//! Removes noise from a picture by shrinking its wavelet coefficients, and shows how well.
//!
//!     cargo run --release --example denoise
//!     cargo run --release --example denoise -- --input photograph.png --sigma 15 --wavelet db4
//!
//! Adds Gaussian noise to the picture (without `--input` to one it paints), takes it out again in
//! three ways, writes the results and a sheet that shows them side by side, and prints their peak
//! signal-to-noise ratios.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::Parser;
use image::{Rgb, RgbImage, imageops};
use isfm_dwt::{Border, DataFormat, Wavelet, iswt2, swt2, wavedec2, waverec2};

const LAYOUT: DataFormat = DataFormat::ChannelsLast;
const BORDER: Border = Border::Symmetric;

/// Removes noise from a picture by wavelet shrinkage.
#[derive(Parser)]
struct Args {
    /// The clean picture; without one a test picture is painted.
    #[arg(long)]
    input: Option<PathBuf>,
    /// The folder for the results.
    #[arg(long, default_value = "out/denoise")]
    output: PathBuf,
    /// The standard deviation of the noise that is added, of 255.
    #[arg(long, default_value_t = 25.)]
    sigma: f64,
    /// haar, db1 to db20, sym2 to sym20, coif1 to coif5, bior… or rbio….
    #[arg(long, default_value = "sym4")]
    wavelet: Wavelet,
    /// Levels of the transform.
    #[arg(long, default_value_t = 4)]
    levels: usize,
    /// Chooses the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How far the coefficients of a band are moved towards zero.
#[derive(Clone, Copy)]
enum Shrinkage {
    /// σ √(2 ln n), the same for all bands: no noise is left, nor are fine details
    /// (Donoho and Johnstone 1994).
    Visu,
    /// σ² / σₓ with σₓ² the variance that a band has beyond the noise (Chang, Yu and Vetterli 2000).
    Bayes,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.sigma >= 0. && args.sigma.is_finite(), "--sigma must not be negative");
    ensure!((1..=8).contains(&args.levels), "--levels must be 1 to 8");
    let clean = match &args.input {
        Some(path) => isfm::read_image(path)?.to_rgb8(),
        None => paint(512, 384),
    };
    let x = to_tensor(&clean)?;
    let noise = noise(x.dims(), args.seed)?;
    // What a file can hold, so that what is denoised is what is written.
    let noisy = to_picture(&(&x + (noise * args.sigma)?)?)?;
    let y = to_tensor(&noisy)?;
    let sigma = estimated_noise(&y)?;
    println!("noise: {:.1} added, {sigma:.1} estimated", args.sigma);

    let decimated = |how| shrink_decimated(&y, &args.wavelet, args.levels, sigma, how);
    let results = [
        ("noisy", y.clone()),
        ("visu", decimated(Shrinkage::Visu)?),
        ("bayes", decimated(Shrinkage::Bayes)?),
        ("stationary", shrink_stationary(&y, &args.wavelet, args.levels, sigma)?),
    ];
    std::fs::create_dir_all(&args.output)?;
    let (w, h) = clean.dimensions();
    let mut sheet = RgbImage::new(2 * w, 2 * h);
    for (k, (name, result)) in results.iter().enumerate() {
        let picture = to_picture(result)?;
        println!("{name:>10}: {:.2} dB", psnr(&clean, &picture));
        isfm::write_image(&picture.clone().into(), args.output.join(format!("{name}.png")))?;
        let k = k as u32;
        imageops::replace(&mut sheet, &picture, (k % 2 * w).into(), (k / 2 * h).into());
    }
    isfm::write_image(&clean.into(), args.output.join("clean.png"))?;
    isfm::write_image(&sheet.into(), args.output.join("sheet.png"))?;
    println!("sheet.png: noisy, visu above bayes, stationary; in {}", args.output.display());
    Ok(())
}

/// Shrinks the details of every level; the approximation stays as it is.
fn shrink_decimated(
    y: &Tensor,
    wavelet: &Wavelet,
    levels: usize,
    sigma: f64,
    how: Shrinkage,
) -> Result<Tensor> {
    let (_, h, w, _) = y.dims4()?;
    let mut c = wavedec2(y, wavelet, BORDER, LAYOUT, levels)?;
    for details in &mut c[1..] {
        *details = shrink(details, sigma, how, h * w)?;
    }
    // After odd sizes one row or column too many comes back.
    Ok(waverec2(&c, wavelet, BORDER, LAYOUT)?.narrow(1, 0, h)?.narrow(2, 0, w)?)
}

/// The mean over all shifts of the picture ("cycle spinning"): edges ring less than when one
/// arbitrary grid of blocks is shrunk.
fn shrink_stationary(y: &Tensor, wavelet: &Wavelet, levels: usize, sigma: f64) -> Result<Tensor> {
    let (_, h, w, _) = y.dims4()?;
    let more = |n: usize| n.next_multiple_of(1 << levels) - n;
    let padded = y.pad_with_same(1, 0, more(h))?.pad_with_same(2, 0, more(w))?;
    let mut c = swt2(&padded, wavelet, LAYOUT, levels)?;
    for details in &mut c[1..] {
        *details = shrink(details, sigma, Shrinkage::Bayes, h * w)?;
    }
    Ok(iswt2(&c, wavelet, LAYOUT)?.narrow(1, 0, h)?.narrow(2, 0, w)?)
}

/// Moves every coefficient towards zero by its band's threshold, to zero if it is smaller: each
/// channel of the details is a band of its own.
fn shrink(details: &Tensor, sigma: f64, how: Shrinkage, n: usize) -> Result<Tensor> {
    let sizes = details.abs()?;
    let sizes = match how {
        Shrinkage::Visu => (sizes - sigma * (2. * (n as f64).ln()).sqrt())?,
        Shrinkage::Bayes => {
            // Mean squares by channel, and what of them is no noise; where there is nothing else,
            // the threshold is beyond all coefficients.
            let power = details.sqr()?.mean_keepdim((0, 1, 2))?;
            let signal = (power - sigma * sigma)?.relu()?.sqrt()?;
            sizes.broadcast_sub(&((signal + 1e-6)?.recip()? * (sigma * sigma))?)?
        }
    };
    Ok((details.sign()? * sizes.relu()?)?)
}

/// The standard deviation of the noise: the median size of the finest diagonal details, which are
/// mostly noise, over that of a standard normal variable.
fn estimated_noise(y: &Tensor) -> Result<f64> {
    let bands = isfm_dwt::dwt2(y, &Wavelet::named("db2")?, BORDER, LAYOUT)?;
    let mut sizes = bands.hh()?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    let middle = sizes.len() / 2;
    let (_, median, _) = sizes.select_nth_unstable_by(middle, f32::total_cmp);
    Ok(f64::from(*median) / 0.6745)
}

/// B×H×W×C, 0 to 255.
fn to_tensor(picture: &RgbImage) -> Result<Tensor> {
    let (w, h) = picture.dimensions();
    let values = picture.as_raw().iter().map(|&v| f32::from(v)).collect();
    Ok(Tensor::from_vec(values, (1, h as usize, w as usize, 3), &Device::Cpu)?)
}

fn to_picture(x: &Tensor) -> Result<RgbImage> {
    let (_, h, w, _) = x.dims4()?;
    let bytes = x.flatten_all()?.to_vec1::<f32>()?;
    let bytes = bytes.iter().map(|v| v.round().clamp(0., 255.) as u8).collect();
    RgbImage::from_raw(w as u32, h as u32, bytes).context("a picture of another size")
}

/// Peak signal-to-noise ratio in decibels.
fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares =
        a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2));
    let mean = squares.sum::<f64>() / a.as_raw().len() as f64;
    10. * (255f64.powi(2) / mean).log10()
}

/// Standard normal values, the same for the same seed.
fn noise(dims: &[usize], seed: u64) -> Result<Tensor> {
    let mut state = seed;
    let mut uniform = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let normal = |a: f64, b: f64| (-2. * (1. - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let values = (0..dims.iter().product()).map(|_| normal(uniform(), uniform()) as f32).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// Hills under a sky, a striped mast and a ring of ripples: flat, smooth, sharp and fine parts.
fn paint(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |px, py| {
        // Four samples a pixel, so that edges are as soft as a camera's.
        let mut sum = [0f32; 3];
        for (dx, dy) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
            let x = (px as f32 + dx) / height as f32;
            let y = (py as f32 + dy) / height as f32;
            for (s, c) in sum.iter_mut().zip(colour(x, y)) {
                *s += c / 4.;
            }
        }
        Rgb(sum.map(|c| (255. * c.clamp(0., 1.)).round() as u8))
    })
}

/// The painted scene at a point, in units of its height.
fn colour(x: f32, y: f32) -> [f32; 3] {
    let shade = |c: [f32; 3], by: f32| c.map(|c| c * by);
    // The mast, and its red and white bands.
    if (x - 0.3).abs() < 0.025 && y > 0.12 {
        let round = 1. - 700. * (x - 0.3).powi(2);
        let red = (y * 12.).fract() < 0.5;
        return shade(if red { [0.78, 0.16, 0.14] } else { [0.92, 0.92, 0.9] }, round);
    }
    // A ring of ripples that get finer outwards.
    let r = ((x - 0.95).powi(2) + (y - 0.36).powi(2)).sqrt();
    if r < 0.27 {
        let ripple = 0.5 + 0.4 * (900. * r * r).cos();
        return [ripple, ripple * 0.9, 0.35 + 0.3 * ripple];
    }
    let near = 0.8 + 0.06 * (5. * x).sin();
    let far = 0.62 + 0.05 * (9. * x + 1.).sin();
    if y > near {
        // Grass.
        let blades = (140. * (x + 0.3 * y)).sin() * (90. * (y - 0.5 * x)).sin();
        return shade([0.25, 0.42, 0.15], 0.9 + 0.35 * blades);
    }
    if y > far {
        return shade([0.3, 0.36, 0.42], 1.2 - 0.5 * (y - far));
    }
    [0.45 + 0.4 * y, 0.62 + 0.25 * y, 0.88]
}
