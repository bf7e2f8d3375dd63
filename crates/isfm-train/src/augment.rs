use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use rand_chacha::ChaCha8Rng;

use crate::data::Pair;
use crate::random::{Purpose, below, shuffle, stream};
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
    if patch == 0 {
        let needed = "at least 1".into();
        return Err(Error::Setting { setting: "patch", got: "0".into(), needed });
    }
    let mut rng = stream(Purpose::Augment, seed, epoch as u64, index as u64);
    if below(&mut rng, 2) == 1 {
        let side = LARGE * patch;
        let visible = resize_bicubic(&pair.visible, 3, pair.width, pair.height, side, side)?;
        let infrared = resize_bicubic(&pair.infrared, 1, pair.width, pair.height, side, side)?;
        if let Some((x, y)) = place(&visible, &infrared, side, patch, &mut rng) {
            return Ok(sample(&visible, &infrared, side, (x, y), patch, Placement::Patch { x, y }));
        }
    }
    let visible = resize_bicubic(&pair.visible, 3, pair.width, pair.height, patch, patch)?;
    let infrared = resize_bicubic(&pair.infrared, 1, pair.width, pair.height, patch, patch)?;
    Ok(sample(&visible, &infrared, patch, (0, 0), patch, Placement::Whole))
}

/// An acceptable place. Taking the first acceptable one of three cells in random order is the
/// same as drawing all three and then one of them, with less work.
fn place(
    visible: &[u8],
    infrared: &[u8],
    side: usize,
    patch: usize,
    rng: &mut ChaCha8Rng,
) -> Option<(usize, usize)> {
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
            let shown = |plane, channels| {
                let mean = mean(plane, channels, side, (x, y), patch);
                mean > 1. && mean < 254.
            };
            if shown(visible, 3) || shown(infrared, 1) {
                return Some((x, y));
            }
        }
    }
    None
}

fn rows(
    plane: &[u8],
    channels: usize,
    side: usize,
    (x, y): (usize, usize),
    patch: usize,
) -> impl Iterator<Item = &[u8]> {
    plane
        .chunks_exact(side * channels)
        .skip(y)
        .take(patch)
        .map(move |row| &row[x * channels..(x + patch) * channels])
}

fn mean(plane: &[u8], channels: usize, side: usize, at: (usize, usize), patch: usize) -> f64 {
    let total: u64 = rows(plane, channels, side, at, patch)
        .map(|row| row.iter().map(|&v| u64::from(v)).sum::<u64>())
        .sum();
    total as f64 / (patch * patch * channels) as f64
}

fn sample(
    visible: &[u8],
    infrared: &[u8],
    side: usize,
    at: (usize, usize),
    patch: usize,
    placement: Placement,
) -> Sample {
    let visible = rows(visible, 3, side, at, patch)
        .flat_map(|row| row.as_chunks::<3>().0)
        .map(|&rgb| (luma(rgb) / 255.).min(1.))
        .collect();
    let infrared = rows(infrared, 1, side, at, patch)
        .flat_map(|row| row.iter().map(|&v| f32::from(v) / 255.))
        .collect();
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
