//! Takes noise out of a picture by shrinking its wavelet coefficients: a threshold for each band
//! (BayesShrink: Chang, Yu and Vetterli 2000) on the stationary transform, whose result is the mean over
//! all shifts of the picture.
//!
//! ```text
//! cargo run --release --example denoise
//! cargo run --release --example denoise -- photograph.png
//! ```

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use image::{RgbImage, imageops};
use isfm_dwt::{Border, DataFormat, Wavelet, dwt2, iswt2, swt2};

const LAYOUT: DataFormat = DataFormat::ChannelsLast;
const LEVELS: usize = 4;

fn main() -> Result<()> {
    let clean = match std::env::args().nth(1) {
        Some(path) => isfm::read_image(path)?.to_rgb8(),
        None => isfm_testing::paint::night_road().0,
    };
    let x = to_tensor(&clean)?;
    let noisy = to_picture(&(&x + (x.randn_like(0., 1.)? * 25.)?)?)?;
    let denoised = to_picture(&denoise(&to_tensor(&noisy)?, &Wavelet::named("sym4")?)?)?;
    println!("noisy {:.2} dB, denoised {:.2} dB", psnr(&clean, &noisy), psnr(&clean, &denoised));
    let mut both = RgbImage::new(2 * clean.width(), clean.height());
    imageops::replace(&mut both, &noisy, 0, 0);
    imageops::replace(&mut both, &denoised, clean.width().into(), 0);
    Ok(isfm::write_image(&both.into(), "out/denoised.png")?)
}

fn denoise(y: &Tensor, wavelet: &Wavelet) -> Result<Tensor> {
    let (_, h, w, _) = y.dims4()?;
    // The noise's standard deviation: the median size of the finest diagonal details, which are mostly
    // noise, over that of a standard normal variable.
    let diagonal = dwt2(y, &Wavelet::named("db2")?, Border::Symmetric, LAYOUT)?.hh()?;
    let mut sizes = diagonal.abs()?.flatten_all()?.to_vec1::<f32>()?;
    sizes.sort_by(f32::total_cmp);
    let variance = f64::from(sizes[sizes.len() / 2] / 0.6745).powi(2);

    // The stationary transform halves the sides of nothing, but needs them divisible.
    let more = |n: usize| n.next_multiple_of(1 << LEVELS) - n;
    let padded = y.pad_with_same(1, 0, more(h))?.pad_with_same(2, 0, more(w))?;
    let mut bands = swt2(&padded, wavelet, LAYOUT, LEVELS)?;
    for details in &mut bands[1..] {
        // Each channel of the details is a band. Where it has nothing but noise, its threshold is beyond
        // all coefficients.
        let power = details.sqr()?.mean_keepdim((0, 1, 2))?;
        let signal = (power - variance)?.relu()?.sqrt()?;
        let threshold = ((signal + 1e-6)?.recip()? * variance)?;
        let shrunk = details.abs()?.broadcast_sub(&threshold)?.relu()?;
        *details = (details.sign()? * shrunk)?;
    }
    Ok(iswt2(&bands, wavelet, LAYOUT)?.narrow(1, 0, h)?.narrow(2, 0, w)?)
}

/// 1×H×W×3, 0 to 255.
fn to_tensor(picture: &RgbImage) -> Result<Tensor> {
    let (w, h) = picture.dimensions();
    let values = picture.iter().map(|&v| f32::from(v)).collect();
    Ok(Tensor::from_vec(values, (1, h as usize, w as usize, 3), &Device::Cpu)?)
}

fn to_picture(x: &Tensor) -> Result<RgbImage> {
    let (_, h, w, _) = x.dims4()?;
    let values = x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(|v| v.round() as u8).collect();
    RgbImage::from_raw(w as u32, h as u32, values).context("a picture of another size")
}

fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.iter().zip(b.iter()).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2));
    10. * (255f64.powi(2) * a.len() as f64 / squares.sum::<f64>()).log10()
}
