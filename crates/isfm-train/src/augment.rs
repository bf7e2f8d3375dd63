use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::data::Pair;
use crate::random::{Purpose, below, between, chance, factor, normal, shuffle, stream};
use crate::{Error, Result};

/// How many cells of the 2×2 grid get a patch, and how often another place is drawn in a cell.
const CELLS_TRIED: usize = 3;
const PLACES_TRIED: usize = 10;
/// The side of the image that patches are cut from, in patches: 384 for a patch of 128.
const LARGE: usize = 3;

/// Where a sample was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The whole image, resized.
    Whole,
    /// A patch of the image resized to three times the patch's side.
    Patch {
        /// Left edge.
        x: usize,
        /// Upper edge.
        y: usize,
    },
    /// A square of the image, resized to the patch's side.
    Window {
        /// Left edge, in the image's own pixels.
        x: usize,
        /// Upper edge.
        y: usize,
        /// The square's side.
        side: usize,
    },
}

/// How samples are taken from pairs, and what is done to them. The default is the authors'
/// sampling ([`draw`]) and nothing else.
///
/// The changes are made in the order of the fields, each with its probability (0 to 1), drawn for
/// every sample apart; values stay in [0, 1]. Where "each side" is said, visible and infrared are
/// drawn independently. The same `seed`, `epoch` and `index` always give the same sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Samples are squares of the picture, its aspect kept, where the authors resize pictures to
    /// squares. The picture is resized by a factor between [`scale_min`](Self::scale_min) and
    /// [`scale_max`](Self::scale_max), its logarithm uniform, but never to less than the patch
    /// (smaller pictures are enlarged to it), and one random window of the patch's size is taken.
    /// The window is one of whole pixels of the picture: with both factors 1, pixels are as they
    /// were. Antialiased bicubic on 8-bit pixels.
    pub crops: bool,
    /// The least factor of `crops`, 1/16 or more; ½ unless given.
    pub scale_min: f64,
    /// The largest, at most 16; 1 unless given.
    pub scale_max: f64,
    /// Turned over left to right, upside down, and about the diagonal: each of the three with this
    /// probability. At ½ all eight positions of a square are equally likely.
    pub flips: f64,
    /// Infrared polarity inverted: what is hot is black.
    pub invert: f64,
    /// The visible side darkened as at night: k·vᵞ, k from 0.1 to 0.5 (its logarithm uniform), γ
    /// from 1 to 1.5.
    pub night: f64,
    /// Each side's levels: g·vᵞ + o, the gain g from 0.7 to 1.3, the offset o from −0.15 to 0.15,
    /// γ from ½ to 2 (its logarithm uniform).
    pub levels: f64,
    /// The infrared side blurred by a Gaussian of σ from 0.3 to 1.5 pixels.
    pub blur: f64,
    /// Each side's noise: normal, of a standard deviation up to 0.05.
    pub noise: f64,
    /// The infrared side becomes the visible one, which the network must then give back.
    pub same: f64,
    /// Visible and infrared change places.
    pub swap: f64,
}

impl Default for Augment {
    /// The authors' sampling.
    fn default() -> Self {
        Self {
            crops: false,
            scale_min: 0.5,
            scale_max: 1.,
            flips: 0.,
            invert: 0.,
            night: 0.,
            levels: 0.,
            blur: 0.,
            noise: 0.,
            same: 0.,
            swap: 0.,
        }
    }
}

/// One training sample: two square planes in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Y of the visible image, row-major, `patch * patch` values.
    pub visible: Vec<f32>,
    /// The infrared image, the same size.
    pub infrared: Vec<f32>,
    /// Where it was taken from.
    pub placement: Placement,
}

/// Takes one `patch`×`patch` sample from a pair as the released program does.
///
/// With probability ½ both images are resized to 3·patch squared (384 for 128) and one random
/// patch is taken, otherwise both are resized whole to the patch's size; antialiased bicubic on
/// 8-bit pixels in either case.
///
/// The patch: the large image is divided into 2×2 cells of 1½ patches a side. Three of the four
/// cells, drawn at random, offer one candidate each: a uniformly random place inside the cell,
/// drawn again (up to ten times) until the mean of the visible or of the infrared patch lies
/// strictly between 1 and 254; a cell without such a place offers none. One of the candidates is
/// taken, each with the same probability. If there is none (both images black or white), the
/// whole image is used.
///
/// The same `seed`, `epoch` and `index` always give the same sample.
///
/// # Errors
/// If `patch` is 0 or an image cannot be resized.
pub fn draw(pair: &Pair, patch: usize, seed: u64, epoch: usize, index: usize) -> Result<Sample> {
    Augment::default().draw(pair, patch, seed, epoch, index)
}

impl Augment {
    /// Takes one `patch`×`patch` sample from a pair.
    ///
    /// # Errors
    /// If `patch` is 0 or an image cannot be resized.
    pub fn draw(
        &self,
        pair: &Pair,
        patch: usize,
        seed: u64,
        epoch: usize,
        index: usize,
    ) -> Result<Sample> {
        if patch == 0 {
            return Err(Error::setting("patch", 0, "at least 1"));
        }
        let stream = |purpose| stream(purpose, seed, epoch as u64, index as u64);
        let mut rng = stream(Purpose::Augment);
        let mut sample = if self.crops {
            self.window(pair, patch, &mut rng)?
        } else {
            authors(pair, patch, &mut rng)?
        };
        // A stream of its own, so that what is changed does not move where samples are taken.
        self.change(&mut sample, patch, &mut stream(Purpose::Change));
        Ok(sample)
    }

    /// See [`Augment::crops`].
    fn window(&self, pair: &Pair, patch: usize, rng: &mut ChaCha8Rng) -> Result<Sample> {
        let shorter = pair.width.min(pair.height);
        let least = self.scale_min.max(patch as f64 / shorter.max(1) as f64);
        let scale = factor(rng, least, self.scale_max.max(least));
        let side = ((patch as f64 / scale).round() as usize).clamp(1, shorter.max(1));
        let x = below(rng, pair.width.saturating_sub(side) + 1);
        let y = below(rng, pair.height.saturating_sub(side) + 1);
        let square = |pixels: &[u8], channels: usize| -> Result<Square> {
            let rows = pixels.chunks_exact((pair.width * channels).max(1)).skip(y).take(side);
            let cut = rows.flat_map(|row| &row[x * channels..(x + side) * channels]);
            let cut: Vec<u8> = cut.copied().collect();
            let pixels = resize_bicubic(&cut, channels, side, side, patch, patch)?;
            Ok(Square { pixels, channels, side: patch })
        };
        let both = [square(&pair.visible, 3)?, square(&pair.infrared, 1)?];
        Ok(sample(&both, (0, 0), patch, Placement::Window { x, y, side }))
    }

    /// Every draw is made whether or not it is used.
    fn change(&self, sample: &mut Sample, patch: usize, rng: &mut ChaCha8Rng) {
        let turns = [(); 3].map(|()| chance(rng, self.flips));
        if turns != [false; 3] {
            for side in [&mut sample.visible, &mut sample.infrared] {
                *side = turned(side, patch, turns);
            }
        }
        if chance(rng, self.invert) {
            each(&mut sample.infrared, |v| 1. - v);
        }
        let (gain, gamma) = (factor(rng, 0.1, 0.5) as f32, between(rng, 1., 1.5) as f32);
        if chance(rng, self.night) {
            each(&mut sample.visible, |v| gain * v.powf(gamma));
        }
        for side in [&mut sample.visible, &mut sample.infrared] {
            let (gain, offset) = (between(rng, 0.7, 1.3) as f32, between(rng, -0.15, 0.15) as f32);
            let gamma = factor(rng, 0.5, 2.) as f32;
            if chance(rng, self.levels) {
                each(side, |v| gain * v.powf(gamma) + offset);
            }
        }
        let sigma = between(rng, 0.3, 1.5);
        if chance(rng, self.blur) {
            sample.infrared = blurred(&sample.infrared, patch, sigma);
        }
        for side in [&mut sample.visible, &mut sample.infrared] {
            let deviation = between(rng, 0., 0.05);
            if chance(rng, self.noise) {
                each(side, |v| v + (deviation * normal(rng)) as f32);
            }
        }
        if chance(rng, self.same) {
            sample.infrared.clone_from(&sample.visible);
        }
        if chance(rng, self.swap) {
            std::mem::swap(&mut sample.visible, &mut sample.infrared);
        }
    }
}

/// Changes every value and keeps it in [0, 1].
fn each(plane: &mut [f32], mut change: impl FnMut(f32) -> f32) {
    plane.iter_mut().for_each(|v| *v = change(*v).clamp(0., 1.));
}

/// A square plane turned over left to right, upside down, and about the diagonal.
fn turned(plane: &[f32], side: usize, [across, down, diagonal]: [bool; 3]) -> Vec<f32> {
    let at = |i: usize| {
        let (x, y) = if diagonal { (i / side, i % side) } else { (i % side, i / side) };
        let x = if across { side - 1 - x } else { x };
        let y = if down { side - 1 - y } else { y };
        plane[y * side + x]
    };
    (0..plane.len()).map(at).collect()
}

/// A square plane under a Gaussian, its border repeated outwards.
fn blurred(plane: &[f32], side: usize, sigma: f64) -> Vec<f32> {
    let radius = (3. * sigma).ceil() as usize;
    let tap = |i: usize| (-0.5 * ((i as f64 - radius as f64) / sigma).powi(2)).exp();
    let taps: Vec<f64> = (0..=2 * radius).map(tap).collect();
    let sum: f64 = taps.iter().sum();
    // Along columns and turned about the diagonal, twice.
    let pass = |plane: &[f32]| -> Vec<f32> {
        let at = |i: usize| {
            let (x, y) = (i / side, i % side);
            let row = |k: usize| (y + k).saturating_sub(radius).min(side - 1);
            let value = |(k, tap): (usize, &f64)| tap / sum * f64::from(plane[row(k) * side + x]);
            taps.iter().enumerate().map(value).sum::<f64>().clamp(0., 1.) as f32
        };
        (0..plane.len()).map(at).collect()
    };
    pass(&pass(plane))
}

/// The released program's sample.
fn authors(pair: &Pair, patch: usize, rng: &mut ChaCha8Rng) -> Result<Sample> {
    if below(rng, 2) == 1 {
        let large = squares(pair, LARGE * patch)?;
        if let Some((x, y)) = place(&large, patch, rng) {
            return Ok(sample(&large, (x, y), patch, Placement::Patch { x, y }));
        }
    }
    Ok(sample(&squares(pair, patch)?, (0, 0), patch, Placement::Whole))
}

/// A square picture of interleaved values.
struct Square {
    pixels: Vec<u8>,
    channels: usize,
    side: usize,
}

impl Square {
    fn rows(&self, (x, y): (usize, usize), patch: usize) -> impl Iterator<Item = &[u8]> {
        let rows = self.pixels.chunks_exact(self.side * self.channels).skip(y).take(patch);
        rows.map(move |row| &row[x * self.channels..(x + patch) * self.channels])
    }

    /// Whether a patch's mean lies strictly between 1 and 254.
    fn is_shown(&self, at: (usize, usize), patch: usize) -> bool {
        let sum = |row: &[u8]| row.iter().map(|&v| u64::from(v)).sum::<u64>();
        let total: u64 = self.rows(at, patch).map(sum).sum();
        let mean = total as f64 / (patch * patch * self.channels) as f64;
        mean > 1. && mean < 254.
    }
}

/// The visible and the infrared image, resized.
fn squares(pair: &Pair, side: usize) -> Result<[Square; 2]> {
    let square = |pixels: &[u8], channels| -> Result<Square> {
        let pixels = resize_bicubic(pixels, channels, pair.width, pair.height, side, side)?;
        Ok(Square { pixels, channels, side })
    };
    Ok([square(&pair.visible, 3)?, square(&pair.infrared, 1)?])
}

/// An acceptable place. Taking the first acceptable one of three cells in random order is the
/// same as drawing all three and then one of them, with less work.
fn place(large: &[Square; 2], patch: usize, rng: &mut ChaCha8Rng) -> Option<(usize, usize)> {
    let side = large[0].side;
    let mid = side / 2;
    let spans = [(0, mid), (mid, side)];
    let mut cells = [0, 1, 2, 3];
    shuffle(rng, &mut cells);
    for cell in &cells[..CELLS_TRIED] {
        let (left, right) = spans[cell % 2];
        let (top, bottom) = spans[cell / 2];
        for _ in 0..PLACES_TRIED {
            let x = left + below(rng, right - left - patch + 1);
            let y = top + below(rng, bottom - top - patch + 1);
            if large.iter().any(|image| image.is_shown((x, y), patch)) {
                return Some((x, y));
            }
        }
    }
    None
}

fn sample(
    [visible, infrared]: &[Square; 2],
    at: (usize, usize),
    patch: usize,
    placement: Placement,
) -> Sample {
    let visible = visible.rows(at, patch).flat_map(|row| row.as_chunks::<3>().0);
    let visible = visible.map(|&rgb| (luma(rgb) / 255.).min(1.)).collect();
    let infrared = infrared.rows(at, patch).flatten().map(|&v| f32::from(v) / 255.).collect();
    Sample { visible, infrared, placement }
}

/// Y of 8-bit R, G, B, in 0..=255.
fn luma([r, g, b]: [u8; 3]) -> f32 {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)
}

/// Antialiased bicubic resize (a = −½) of interleaved 8-bit pixels: Pillow's `BICUBIC`, to within
/// one grey level. `channels` is 1 or 3.
///
/// # Errors
/// If a size is 0, `channels` is another number, or `pixels` has another length.
pub fn resize_bicubic(
    pixels: &[u8],
    channels: usize,
    width: usize,
    height: usize,
    new_width: usize,
    new_height: usize,
) -> Result<Vec<u8>> {
    let to = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
    let failed =
        |problem: String| Error::Resize { width: to(new_width), height: to(new_height), problem };
    if [width, height, new_width, new_height].contains(&0)
        || width.checked_mul(height).and_then(|n| n.checked_mul(channels)) != Some(pixels.len())
    {
        let got = pixels.len();
        return Err(failed(format!("{width}x{height}x{channels} from {got} values")));
    }
    let (size, new_size) = ([to(width), to(height)], [to(new_width), to(new_height)]);
    match channels {
        1 => resize_typed::<U8>(pixels, size, new_size).map_err(failed),
        3 => resize_typed::<U8x3>(pixels, size, new_size).map_err(failed),
        n => Err(failed(format!("{n} channels, needs 1 or 3"))),
    }
}

/// One type of pixel: the library's function for all of them takes minutes to compile.
fn resize_typed<P: PixelTrait<Component = u8>>(
    pixels: &[u8],
    [width, height]: [u32; 2],
    [new_width, new_height]: [u32; 2],
) -> std::result::Result<Vec<u8>, String> {
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false);
    let source = TypedImageRef::<P>::from_buffer(width, height, pixels);
    let source = source.map_err(|e| e.to_string())?;
    // Two calls, columns of the picture first narrowed, then rows: Pillow rounds and clips to
    // 8 bits between its passes, in this order.
    let (mut narrow, mut out) =
        (TypedImage::new(new_width, height), TypedImage::new(new_width, new_height));
    let mut resizer = Resizer::new();
    resizer.resize_typed(&source, &mut narrow, &options).map_err(|e| e.to_string())?;
    resizer.resize_typed(&narrow, &mut out, &options).map_err(|e| e.to_string())?;
    Ok(P::components(out.pixels()).to_vec())
}
