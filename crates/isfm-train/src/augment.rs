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
        return Err(Error::setting("patch", 0, "at least 1"));
    }
    let mut rng = stream(Purpose::Augment, seed, epoch as u64, index as u64);
    if below(&mut rng, 2) == 1 {
        let large = squares(pair, LARGE * patch)?;
        if let Some((x, y)) = place(&large, patch, &mut rng) {
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
