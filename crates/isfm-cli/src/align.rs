//! `isfm align`: where a rig's infrared pictures lie on its visible ones; and `--align` of the other subcommands.

mod points;
mod sheet;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use image::{DynamicImage, GrayImage};
use isfm::{Picture, Side};
use isfm_align::{Alignment, Image, Interpolation, Model, Options, Rectangle, Reference, Sizes};
use isfm_files::pairs::Pair;
use serde_json::json;

use crate::evaluate::inputs::luminance;
use crate::fuse::Failed;
use crate::options::{low_high, on_threads, threads};
use crate::pairs::PairArgs;
use crate::{Console, ConsoleArgs, Usage};

/// Where infrared pictures lie on visible ones, for what reads pairs.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AlignArgs {
    /// Where infrared pictures lie on visible ones: what `isfm align` writes, or JSON of nine numbers row by row
    /// that take an infrared pixel to its visible one. Outside of them the visible picture stays
    #[arg(long, value_name = "H.json")]
    pub align: Option<PathBuf>,
    /// Keep only the largest rectangle that both pictures cover
    #[arg(long, requires = "align")]
    pub crop: bool,
}

/// A pair that lies on each other.
pub struct Placed {
    /// The visible picture.
    pub visible: DynamicImage,
    /// The infrared one, of its size.
    pub infrared: DynamicImage,
    /// The part of the visible picture that they are, if not all of it.
    pub cropped: Option<Rectangle>,
}

impl AlignArgs {
    /// Reads the alignment, if one is named.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn read(&self) -> Result<Option<Alignment>> {
        self.align.as_ref().map(Alignment::read).transpose().map_err(Usage::of)
    }

    /// The part of a visible picture that is kept, if not all of it.
    ///
    /// # Errors
    /// If the pictures have other proportions than the alignment's, or nothing in common.
    pub fn common(&self, alignment: &Alignment, sizes: Sizes) -> Result<Option<Rectangle>> {
        if !self.crop {
            return Ok(None);
        }
        let common = alignment.for_sizes(sizes)?.common(Reference::Visible)?;
        let nothing = "by this alignment the two pictures have nothing in common";
        common.map(Some).context(nothing)
    }

    /// Lays an infrared picture on its visible one, grey; outside of it there is the visible one's luminance.
    ///
    /// # Errors
    /// As [`common`](Self::common).
    pub fn placed(
        &self,
        alignment: &Alignment,
        visible: DynamicImage,
        infrared: &DynamicImage,
    ) -> Result<Placed> {
        let infrared = luminance(infrared);
        let sizes = sizes(size(&visible), infrared.dimensions());
        let alignment = alignment.for_sizes(sizes)?;
        let laid = lay(&alignment, &infrared)?;
        let mut placed = luminance(&visible);
        for ((to, from), seen) in
            placed.iter_mut().zip(laid.iter()).zip(alignment.mask(Reference::Visible)?)
        {
            *to = if seen { *from } else { *to };
        }
        let cropped = self.common(&alignment, sizes)?;
        let infrared = DynamicImage::from(placed);
        let crop = |image: DynamicImage| match cropped {
            Some(r) => crop(&image, r),
            None => image,
        };
        Ok(Placed { visible: crop(visible), infrared: crop(infrared), cropped })
    }
}

/// A part of a picture.
pub fn crop(image: &DynamicImage, r: Rectangle) -> DynamicImage {
    image.crop_imm(r.left as u32, r.top as u32, r.width as u32, r.height as u32)
}

/// Width and height.
pub(crate) fn size(image: &DynamicImage) -> (u32, u32) {
    (image.width(), image.height())
}

/// Sizes as the alignment counts them.
pub fn sizes(visible: (u32, u32), infrared: (u32, u32)) -> Sizes {
    let both = |(w, h): (u32, u32)| (w as usize, h as usize);
    Sizes { visible: both(visible), infrared: both(infrared) }
}

/// An infrared picture on the visible one's grid, black where it is not.
fn lay(alignment: &Alignment, infrared: &GrayImage) -> Result<GrayImage> {
    let (w, h) = infrared.dimensions();
    let image = Image::new(infrared.as_raw(), w as usize, h as usize)?;
    let laid = alignment.warp(&image, Reference::Visible, Interpolation::Bilinear)?;
    let (w, h) = (laid.width as u32, laid.height as u32);
    GrayImage::from_raw(w, h, laid.data).context("a picture of another size")
}

/// Find where the infrared pictures of a rig lie on its visible ones.
///
/// For two cameras that are mounted together and look at far things: one alignment, found once, serves all their
/// frames. The two may have different sizes and fields of view. Several pairs of different scenes give one estimate
/// that is far steadier than a single pair's.
///
/// What cannot be trusted is refused, with exit code 1: pictures without structure, of different scenes, or whose
/// corners are not known well enough. Then give more frames, or four points by hand with --points.
///
/// For `isfm fuse`, `live`, `evaluate` and `train`: --align H.json.
#[derive(Parser, Debug)]
#[command(
    name = "align",
    after_help = "Examples:\n  \
        isfm align --visible vi --infrared ir -o rig.json --sheet rig.png\n  \
        isfm align --visible v.png --infrared i.png --points points.csv -o rig.json\n  \
        isfm fuse --visible vi --infrared ir --align rig.json --crop -o fused"
)]
pub struct Args {
    /// The pairs of one rig.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// Where to write the alignment, as JSON: `matrix` has nine numbers row by row that take an infrared pixel to its
    /// visible one
    #[arg(short, long, value_name = "H.json")]
    pub output: PathBuf,
    /// Write a picture to check it by, of the first pair: left before, right after; a checkerboard of both cameras,
    /// the visible picture's edges green and the infrared one's magenta (white where both are), and the
    /// difference of the edges
    #[arg(long, value_name = "FILE.png")]
    pub sheet: Option<PathBuf>,
    /// What may lie between the cameras: shift, similarity, affine or homography
    #[arg(long, value_name = "MODEL", default_value = "homography", value_parser = model())]
    pub model: Model,
    /// Take these points instead of the pictures' content: CSV with the columns
    /// infrared_x,infrared_y,visible_x,visible_y, four rows or more; the first pixel's centre is 0,0
    #[arg(long, value_name = "FILE.csv", conflicts_with_all = ["model", "coverage", "rotation", "start", "largest_error", "frames"])]
    pub points: Option<PathBuf>,
    /// The share of the visible picture's longer side that the infrared one covers, from and to
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, default_value = "0.17,1.35")]
    pub coverage: (f64, f64),
    /// The largest rotation to either side, in degrees
    #[arg(long, value_name = "DEGREES", default_value_t = 8.)]
    pub rotation: f64,
    /// Refine this alignment instead of looking for one
    #[arg(long, value_name = "H.json", conflicts_with_all = ["coverage", "rotation"])]
    pub start: Option<PathBuf>,
    /// The largest error of the corners that is accepted, as a percentage of the diagonal of what the infrared
    /// picture covers
    #[arg(long, value_name = "PERCENT", default_value_t = 2.)]
    pub largest_error: f64,
    /// Use at most so many pairs, evenly spread
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub frames: u16,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

fn model() -> impl TypedValueParser<Value = Model> {
    PossibleValuesParser::new(Model::ALL.map(Model::name)).try_map(|name| name.parse::<Model>())
}

/// The brightness of a pair's pictures, on whatever scale.
struct Seen {
    visible: image::ImageBuffer<image::Luma<f32>, Vec<f32>>,
    infrared: image::ImageBuffer<image::Luma<f32>, Vec<f32>>,
}

impl Seen {
    fn read(pair: &Pair) -> Result<Self> {
        let read = |path: &Path, side| Ok::<_, anyhow::Error>(Picture::read(path, side)?.image);
        let visible = read(&pair.visible, Side::Visible)?.to_luma32f();
        Ok(Self { visible, infrared: read(&pair.infrared, Side::Infrared)?.to_luma32f() })
    }

    fn sizes(&self) -> Sizes {
        sizes(self.visible.dimensions(), self.infrared.dimensions())
    }
}

/// Does what the arguments ask. Pairs that were left out are returned.
///
/// # Errors
/// [`Usage`] if it cannot be begun; if no alignment can be trusted, or a file cannot be written.
pub fn run(args: &Args) -> Result<Vec<Failed>> {
    let outputs = [Some(args.output.as_path()), args.sheet.as_deref()].into_iter().flatten();
    let console = Console::new(args.console, outputs);
    on_threads(args.threads, || align(args, console))
}

fn align(args: &Args, console: Console) -> Result<Vec<Failed>> {
    if args.pairs.shard.is_some() {
        return Err(Usage::of(anyhow!("--shard: a rig's alignment takes its pairs together")));
    }
    for output in [Some(&args.output), args.sheet.as_ref()].into_iter().flatten() {
        if args.pairs.is_input(output) || output.is_dir() {
            return Err(Usage::of(anyhow!(
                "{} is an input or a folder: name a file",
                output.display()
            )));
        }
    }
    let start = args.start.as_ref().map(Alignment::read).transpose().map_err(Usage::of)?;
    let mut pairs = args.pairs.find()?.pairing.pairs;
    let most = if args.points.is_some() { 1 } else { usize::from(args.frames) };
    if pairs.len() > most {
        let all = pairs.len();
        console.note(format_args!("{most} of {all} pairs are looked at"));
        pairs = (0..most).map(|k| pairs[k * all / most].clone()).collect();
    }
    let time = Instant::now();
    let (mut seen, mut left_out) = (Vec::<Seen>::new(), Vec::new());
    for pair in pairs {
        let read = Seen::read(&pair).and_then(|new| {
            let (own, first) = (new.sizes(), seen.first().map_or(new.sizes(), Seen::sizes));
            if own == first {
                return Ok(new);
            }
            let text = |(w, h): (usize, usize)| format!("{w}x{h}");
            bail!(
                "its pictures are {} and {}, those of the first pair {} and {}: a rig's are of one size",
                text(own.visible), text(own.infrared), text(first.visible), text(first.infrared)
            );
        });
        match read {
            Ok(pictures) => seen.push(pictures),
            Err(error) => left_out.push(Failed { pair: pair.name, error }),
        }
    }
    let Some(first) = seen.first() else {
        let why: Vec<String> = left_out.iter().map(ToString::to_string).collect();
        bail!("no pair can be read: {}", why.join("; "));
    };
    let sizes = first.sizes();
    let alignment = match &args.points {
        Some(path) => {
            let points = points::read(path).map_err(Usage::of)?;
            Alignment::from_points(&points, sizes).with_context(|| path.display().to_string())?
        }
        None => {
            let start = start.map(|start| start.for_sizes(sizes)).transpose();
            let start = start.map_err(Usage::of)?.map(|start| start.homography());
            let (low, high) = args.coverage;
            let options = Options {
                coverage: [low, high],
                rotation: args.rotation,
                start,
                largest_error: args.largest_error / 100.,
            };
            let pairs = seen.iter().map(|s| Ok((image(&s.visible)?, image(&s.infrared)?)));
            let pairs = pairs.collect::<isfm_align::Result<Vec<_>>>()?;
            Alignment::estimate(&pairs, args.model, &options).map_err(|error| match error {
                isfm_align::Error::Option { .. } => Usage::of(error),
                error => error.into(),
            })?
        }
    };
    let seconds = time.elapsed().as_secs_f64();
    console.write(&args.output, alignment.to_json().as_bytes())?;
    if let Some(path) = &args.sheet {
        let grey = |image| DynamicImage::ImageLuma8(stretched(image));
        let (visible, infrared) = (grey(&first.visible), grey(&first.infrared));
        let sheet = sheet::sheet(&alignment, &visible.to_luma8(), &infrared.to_luma8())?;
        isfm::write_image(&sheet.into(), path)?;
    }
    say(&alignment, seen.len(), seconds, args, console)?;
    Ok(left_out)
}

fn image(
    picture: &image::ImageBuffer<image::Luma<f32>, Vec<f32>>,
) -> isfm_align::Result<Image<'_, f32>> {
    Image::new(picture.as_raw(), picture.width() as usize, picture.height() as usize)
}

/// In 8 bits, one pixel in a hundred black and one white.
fn stretched(picture: &image::ImageBuffer<image::Luma<f32>, Vec<f32>>) -> GrayImage {
    let mut sorted: Vec<f32> = picture.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(0.);
    let (low, high) = (at(0.01), at(0.99));
    let scale = if high > low { 255. / (high - low) } else { 0. };
    let (w, h) = picture.dimensions();
    GrayImage::from_fn(w, h, |x, y| {
        image::Luma([((picture.get_pixel(x, y).0[0] - low) * scale) as u8])
    })
}

/// What was found, in words and as a line of JSON.
fn say(
    alignment: &Alignment,
    pairs: usize,
    seconds: f64,
    args: &Args,
    console: Console,
) -> Result<()> {
    let homography = alignment.homography();
    let sizes = alignment.sizes().unwrap_or(Sizes { visible: (1, 1), infrared: (1, 1) });
    let (w, h) = (sizes.infrared.0 as f64 - 1., sizes.infrared.1 as f64 - 1.);
    let [a, b, c] = [[0., h / 2.], [w, h / 2.], [w / 2., h / 2.]].map(|p| homography.apply(p));
    let (x, y) = (b[0] - a[0], b[1] - a[1]);
    let scale = x.hypot(y) / w.max(1.);
    let degrees = y.atan2(x).to_degrees();
    let middle =
        [c[0] - (sizes.visible.0 as f64 - 1.) / 2., c[1] - (sizes.visible.1 as f64 - 1.) / 2.];
    let common = alignment.common(Reference::Visible)?;
    let model = alignment.model().map_or("map", Model::name);
    let from = if args.points.is_some() { "points".to_owned() } else { format!("{pairs} pairs") };
    let output = args.output.display();
    console.say(format_args!("{output}: {model} from {from} in {seconds:.2} s"));
    console.say(format_args!(
        "  an infrared pixel is {scale:.3} visible ones, turned by {degrees:.2} degrees, the middle moved by \
         {:.1}, {:.1} pixels",
        middle[0], middle[1]
    ));
    let confidence = alignment.confidence();
    if let Some(c) = confidence {
        let significance =
            c.significance.map_or(String::new(), |s| format!("; significance {s:.1}"));
        console.say(format_args!(
            "  expected error of the corners: {:.1} pixels{significance}",
            c.corner_error
        ));
    }
    match common {
        Some(r) => console.say(format_args!(
            "  both see {}x{} pixels from {}, {} on",
            r.width, r.height, r.left, r.top
        )),
        None => console.say("  the two pictures have nothing in common"),
    }
    console.tell(&json!({
        "type": "alignment", "output": args.output, "matrix": homography.matrix(), "model": model,
        "pairs": pairs, "scale": scale, "degrees": degrees, "milliseconds": 1e3 * seconds,
        "corner_error": confidence.map(|c| c.corner_error),
        "significance": confidence.and_then(|c| c.significance),
        "common": common.map(|r| [r.left, r.top, r.width, r.height]),
    }));
    Ok(())
}
