//! Fuses two cameras live: people who walk on a night road, painted as a colour camera and a thermal one of
//! 16 bits see them. The thermal camera drifts, and once closes its shutter to calibrate itself.
//!
//! ```text
//! cargo run --release --example live
//! ```

use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::Result;
use image::{DynamicImage, GenericImage, RgbImage, imageops};
use isfm::{Frame, FrameMut, Isfm, Stream, VideoFormat, VideoLayout};
use isfm_testing::paint;

const FRAMES: u32 = 40;
/// Every third frame of 25 in a second.
const STEP: u32 = 3;
const WIDTH: u32 = 320;

fn main() -> Result<()> {
    let mut stream = Stream::new(Isfm::embedded()?);
    let (mut slowest, mut sum) = (Duration::ZERO, Duration::ZERO);
    std::fs::create_dir_all("out")?;
    let mut film = None;
    for number in 0..FRAMES {
        let (mut colour, mut heat) = paint::walking_road(STEP * number, WIDTH);
        let closed = (16..19).contains(&number);
        let offset = 12 * number + if number >= 19 { 400 } else { 0 };
        heat.pixels_mut().for_each(|p| p.0[0] = offset as u16 + if closed { 7400 } else { p.0[0] });
        let seen = colour.clone();

        let (width, height) = colour.dimensions();
        let visible = VideoLayout::new(VideoFormat::Rgb, width, height)?;
        let infrared = VideoLayout::new(VideoFormat::Gray16Le, width, height)?;
        let counts: Vec<u8> = heat.iter().flat_map(|count| count.to_le_bytes()).collect();
        let time = Duration::from_secs(1) * STEP * number / 25;
        let start = Instant::now();
        stream.fuse_in_place(
            FrameMut { layout: &visible, data: &mut colour },
            Frame { layout: &infrared, data: &counts },
            time,
        )?;
        if number > 0 {
            slowest = slowest.max(start.elapsed());
            sum += start.elapsed();
        }

        // The three side by side: visible, infrared from its lowest to its highest count, fused.
        let ends = heat.iter().fold((u16::MAX, 0), |(low, high), &c| (low.min(c), high.max(c)));
        let grey =
            |count: u16| 255 * u32::from(count - ends.0) / u32::from(ends.1 - ends.0).max(400);
        let shown = image::GrayImage::from_fn(width, height, |x, y| {
            [grey(heat.get_pixel(x, y).0[0]) as u8].into()
        });
        let mut sheet = RgbImage::new(3 * width + 8, height);
        for (i, panel) in [seen, DynamicImage::from(shown).into(), colour].iter().enumerate() {
            sheet.copy_from(panel, i as u32 * (width + 4), 0)?;
        }
        let mut sheet =
            imageops::thumbnail(&sheet, 2 * width, height * 2 * width / (3 * width + 8));
        // Grain is what makes such files large: five bits of a colour are enough to look at.
        sheet.iter_mut().for_each(|v| *v = *v & 0xf8 | 4);
        let size = (sheet.width() as u16, sheet.height() as u16);
        if film.is_none() {
            let file = BufWriter::new(File::create("out/live.gif")?);
            let mut encoder = gif::Encoder::new(file, size.0, size.1, &[])?;
            encoder.set_repeat(gif::Repeat::Infinite)?;
            film = Some(encoder);
        }
        let mut frame = gif::Frame::from_rgb_speed(size.0, size.1, &sheet, 10);
        frame.delay = 4 * STEP as u16;
        film.as_mut().expect("made above").write_frame(&frame)?;
    }
    let mean = sum / (FRAMES - 1);
    println!("{FRAMES} frames of {WIDTH} pixels: {mean:.1?} each, the slowest {slowest:.1?}");
    println!("out/live.gif");
    Ok(())
}
