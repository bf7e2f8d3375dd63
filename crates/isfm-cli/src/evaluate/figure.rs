//! Figures as papers have them: the pictures of one pair side by side, marked regions enlarged below.

use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_7X13, FONT_9X15, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyleBuilder, Rectangle, StrokeAlignment};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use isfm::Side;
use isfm_files::pairs::Pair;
use maud::html;

use super::inputs::{self, Method, luminance};
use super::latex::line;
use super::report;
use crate::align::Placed;
use crate::{Console, Usage};

/// A figure of one pair.
#[derive(Args, Clone, Debug, Default)]
pub struct FigureArgs {
    /// Also draw the pair NAME: its two pictures and every method's, side by side, with captions
    #[arg(long, value_name = "NAME", requires = "figure_file")]
    pub figure: Option<String>,
    /// A region to mark in every picture of the figure and to enlarge below: its left and upper edge
    /// from 0, its width and its height, in pixels; up to four times
    #[arg(long = "box", value_name = "X,Y,W,H", requires = "figure", allow_hyphen_values = true)]
    pub regions: Vec<Region>,
    /// Where the figure goes: .png, or .svg, which becomes a PDF without loss and whose captions are
    /// text of any script (in .png it is Latin); once for each file
    #[arg(long, value_name = "FILE", requires = "figure", value_parser = figure_file)]
    pub figure_file: Vec<PathBuf>,
}

fn figure_file(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match Kind::of(&path) {
        Some(_) => Ok(path),
        None => Err("needs a name that ends in .png or .svg".to_owned()),
    }
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// From the left.
    pub x: u32,
    /// From above.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[x, y, width, height]) if width > 0 && height > 0 => {
                Ok(Self { x, y, width, height })
            }
            Some([_, _, _, _]) => Err("a region has at least one pixel".to_owned()),
            _ => Err("needs X,Y,W,H in pixels from 0, such as 120,80,64,48".to_owned()),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Png,
    Svg,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "png" => Some(Self::Png),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }
}

/// The colours of the regions, which colour-blind readers can tell apart on grey.
const COLOURS: [[u8; 3]; 4] = [[230, 40, 30], [0, 200, 120], [255, 200, 0], [30, 130, 255]];
/// Panels that one row has at most.
const COLUMNS: usize = 6;
/// Smaller pictures are enlarged to at least this width, by a whole number.
const LEAST_WIDTH: u32 = 240;
/// Wider pictures get lines and letters of two, three, … times the size.
const SCALE_WIDTH: u32 = 480;
const GAP: u32 = 8;
/// The height of a caption.
const CAPTION: u32 = 28;

/// Pictures of one size with captions, as PNG: so many beside each other.
///
/// # Errors
/// If it cannot be encoded.
pub fn sheet(panels: Vec<(String, RgbImage)>, columns: usize) -> Result<Vec<u8>> {
    let panels = panels.into_iter().map(|(caption, picture)| (caption, Ok(picture))).collect();
    Figure { regions: &[], files: &[], columns: Some(columns), panels }.draw().png()
}

/// A line of means over numbers, with a stroke of the spread to either side of each.
pub fn chart(points: &[(f64, f64, f64)]) -> RgbImage {
    const SIZE: (u32, u32) = (300, 200);
    const LEFT: i32 = 56;
    const RIGHT: i32 = 290;
    const TOP: i32 = 12;
    const BOTTOM: i32 = 172;
    let mut canvas =
        Canvas { image: RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb([255; 3])), times: 1 };
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (from, to) = bounds(&mut points.iter().map(|point| point.0));
    let ends = points.iter().flat_map(|&(_, mean, spread)| [mean - spread, mean + spread]);
    let (low, high) = bounds(&mut ends.into_iter());
    let place = |value: f64, low: f64, high: f64, start: i32, end: i32| {
        let part = if high > low { (value - low) / (high - low) } else { 0.5 };
        start + (part * f64::from(end - start)).round() as i32
    };
    let x = |value: f64| place(value, from, to, LEFT + 10, RIGHT - 6);
    let y = |value: f64| place(value, low, high, BOTTOM - 8, TOP + 8);
    let style = |width| {
        PrimitiveStyleBuilder::new().stroke_color(Rgb888::BLACK).stroke_width(width).build()
    };
    // A canvas cannot fail.
    let mut line = |from: (i32, i32), to: (i32, i32), width: u32| {
        let line = Line::new(Point::new(from.0, from.1), Point::new(to.0, to.1));
        _ = line.into_styled(style(width)).draw(&mut canvas);
    };
    line((LEFT, TOP), (LEFT, BOTTOM), 1);
    line((LEFT, BOTTOM), (RIGHT, BOTTOM), 1);
    for pair in points.windows(2) {
        line((x(pair[0].0), y(pair[0].1)), (x(pair[1].0), y(pair[1].1)), 2);
    }
    for &(at, mean, spread) in points {
        line((x(at), y(mean - spread)), (x(at), y(mean + spread)), 1);
        line((x(at) - 2, y(mean)), (x(at) + 2, y(mean)), 5);
    }
    let letters = MonoTextStyle::new(&FONT_6X10, Rgb888::BLACK);
    let mut text = |text: &str, at: (i32, i32), alignment| {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let at = Point::new(at.0, at.1);
        _ = Text::with_text_style(text, at, letters, style).draw(&mut canvas);
    };
    for &(at, ..) in points {
        text(&format!("{at}"), (x(at), BOTTOM + 10), Alignment::Center);
    }
    let ends = if high > low { vec![low, high] } else { vec![low] };
    for end in ends {
        text(&format!("{end:.4}"), (LEFT - 4, y(end)), Alignment::Right);
    }
    canvas.image
}

/// One pair's pictures, ready to be drawn.
pub struct Figure<'a> {
    regions: &'a [Region],
    files: &'a [PathBuf],
    /// Beside each other; as many as fit, by default.
    columns: Option<usize>,
    /// Captions, and pictures of one size or why there is none.
    panels: Vec<(String, Result<RgbImage>)>,
}

impl FigureArgs {
    /// Reads the pictures, if a figure is asked for.
    ///
    /// # Errors
    /// [`Usage`], if there is no such pair, it cannot be read, or a region is outside of its pictures.
    pub fn prepare(
        &self,
        pairs: &[Pair],
        methods: &[Method],
        place: &report::Place<'_>,
    ) -> Result<Option<Figure<'_>>> {
        let Some(name) = &self.figure else { return Ok(None) };
        self.read(name, pairs, methods, place).map(Some).map_err(Usage::of)
    }

    fn read(
        &self,
        name: &str,
        pairs: &[Pair],
        methods: &[Method],
        place: &report::Place<'_>,
    ) -> Result<Figure<'_>> {
        let at = pairs.iter().position(|pair| pair.name == name);
        let Some(at) = at else {
            let some = pairs.first().map_or("", |pair| &pair.name);
            bail!("--figure: no pair is called {name:?}; they are called as {some}");
        };
        ensure!(self.regions.len() <= COLOURS.len(), "--box may be given four times, not more");
        let pair = &pairs[at];
        let visible = inputs::read_source(&pair.visible, Side::Visible)?;
        let infrared = inputs::read_source(&pair.infrared, Side::Infrared)?;
        let whole = (visible.width(), visible.height());
        let Placed { visible, infrared, cropped } = place(visible, infrared)?;
        let size = (visible.width(), visible.height());
        let other = (infrared.width(), infrared.height());
        ensure!(
            size == other,
            "--figure: the visible picture of {name} is {}x{} but the infrared one {}x{}",
            size.0,
            size.1,
            other.0,
            other.1
        );
        for region in &self.regions {
            let inside = |from: u32, length: u32, all: u32| {
                from.checked_add(length).is_some_and(|end| end <= all)
            };
            ensure!(
                inside(region.x, region.width, size.0) && inside(region.y, region.height, size.1),
                "--box {region} is not inside of {name}, which is {}x{}",
                size.0,
                size.1
            );
        }
        let luma = [luminance(&visible), luminance(&infrared)];
        let source = |caption: &str, image: DynamicImage| (caption.to_owned(), Ok(image.to_rgb8()));
        let mut panels = vec![source("Visible", visible), source("Infrared", infrared)];
        for method in methods {
            let image = report::result(
                &method.sources[at],
                &luma[0],
                &luma[1],
                cropped.map(|r| (whole, r)),
            );
            panels.push((method.name.clone(), image.map(|image| image.to_rgb8())));
        }
        Ok(Figure { regions: &self.regions, files: &self.figure_file, columns: None, panels })
    }
}

impl Figure<'_> {
    /// Draws the files.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn write(&self, console: Console) -> Result<()> {
        let drawing = self.draw();
        for path in self.files {
            let bytes = match Kind::of(path) {
                Some(Kind::Png) => drawing.png()?,
                _ => drawing.svg()?.into_bytes(),
            };
            console.write(path, &bytes)?;
        }
        Ok(())
    }

    /// Where everything is.
    fn draw(&self) -> Drawing {
        let regions = self.regions;
        let (width, height) = self
            .panels
            .iter()
            .find_map(|(_, image)| Some(image.as_ref().ok()?.dimensions()))
            .unwrap_or((1, 1));
        let times = LEAST_WIDTH.div_ceil(width).max(1);
        let (w, h) = (width * times, height * times);
        let scale = (w / SCALE_WIDTH).max(1);
        let (gap, line, caption) = (GAP * scale, 2 * scale, CAPTION * scale);
        let zooms = zooms(regions, w, h, gap / 2);
        let zoomed = zooms.iter().map(|zoom| zoom.size.height).max();
        let below = zoomed.map_or(0, |height| height + gap / 2);
        let rows = self.panels.len().div_ceil(self.columns.unwrap_or(COLUMNS));
        let columns = self.columns.unwrap_or(self.panels.len().div_ceil(rows));
        let step = Size::new(w + gap, h + below + caption + gap);
        let mut shapes = Vec::new();
        for (at, (name, image)) in self.panels.iter().enumerate() {
            let (column, row) = ((at % columns) as u32, (at / columns) as u32);
            let corner =
                Point::new((gap + column * step.width) as i32, (gap + row * step.height) as i32);
            let place = Rectangle::new(corner, Size::new(w, h));
            let text = |text: &str, top: u32| Shape::Text {
                middle: corner + Point::new((w / 2) as i32, (top + caption / 2) as i32),
                width: w,
                text: text.to_owned(),
            };
            match image {
                Ok(image) => {
                    shapes.push(Shape::Picture(place, resized(image, place.size)));
                    for ((region, zoom), colour) in regions.iter().zip(&zooms).zip(COLOURS) {
                        let marked = outline(*region, times, line, place.size).translate(corner);
                        shapes.push(Shape::Outline(marked, line, colour));
                        let Region { x, y, width, height } = *region;
                        let part = imageops::crop_imm(image, x, y, width, height).to_image();
                        let zoom = zoom.translate(corner + Point::new(0, (h + gap / 2) as i32));
                        shapes.push(Shape::Picture(zoom, resized(&part, zoom.size)));
                        shapes.push(Shape::Outline(zoom, line, colour));
                    }
                }
                Err(_) => {
                    shapes.push(Shape::Outline(place, line, [150; 3]));
                    shapes.push(text("no result", (h / 2).saturating_sub(caption / 2)));
                }
            }
            shapes.push(text(name, h + below));
        }
        let size = Size::new(columns as u32 * step.width + gap, rows as u32 * step.height + gap);
        Drawing { size, scale, shapes }
    }
}

/// The enlarged regions below a picture: side by side, each as large as its share of the width and the
/// picture's height allow.
fn zooms(regions: &[Region], width: u32, height: u32, gap: u32) -> Vec<Rectangle> {
    let count = regions.len() as u32;
    if count == 0 {
        return Vec::new();
    }
    let room = (width.saturating_sub(gap * (count - 1)) / count).max(1);
    let place = |(at, region): (u32, &Region)| {
        let (w, h) = (f64::from(region.width), f64::from(region.height));
        let times = (f64::from(room) / w).min(f64::from(height) / h);
        let size = Size::new(
            ((w * times).round() as u32).clamp(1, room),
            ((h * times).round() as u32).clamp(1, height.max(1)),
        );
        let left = at * (room + gap) + (room - size.width) / 2;
        Rectangle::new(Point::new(left as i32, 0), size)
    };
    (0..).zip(regions).map(place).collect()
}

/// The line around a region, outside of it where the picture has room.
fn outline(region: Region, times: u32, line: u32, size: Size) -> Rectangle {
    let edges = |from: u32, length: u32, all: u32| {
        let low = (from * times).saturating_sub(line);
        (low, ((from + length) * times + line).min(all) - low)
    };
    let (x, width) = edges(region.x, region.width, size.width);
    let (y, height) = edges(region.y, region.height, size.height);
    Rectangle::new(Point::new(x as i32, y as i32), Size::new(width, height))
}

fn resized(image: &RgbImage, size: Size) -> RgbImage {
    if image.dimensions() == (size.width, size.height) {
        return image.clone();
    }
    imageops::resize(image, size.width, size.height, FilterType::CatmullRom)
}

enum Shape {
    /// A picture of its place's size.
    Picture(Rectangle, RgbImage),
    /// A line inside of these edges, its width and colour.
    Outline(Rectangle, u32, [u8; 3]),
    /// A line of text around this middle, no wider than this.
    Text { middle: Point, width: u32, text: String },
}

/// What both kinds of files are made of.
struct Drawing {
    size: Size,
    /// Of letters.
    scale: u32,
    shapes: Vec<Shape>,
}

impl Drawing {
    fn png(&self) -> Result<Vec<u8>> {
        let white = Rgb([255; 3]);
        let mut canvas = Canvas {
            image: RgbImage::from_pixel(self.size.width, self.size.height, white),
            times: 1,
        };
        for shape in &self.shapes {
            match shape {
                Shape::Picture(place, picture) => {
                    let (x, y) = (place.top_left.x.into(), place.top_left.y.into());
                    imageops::replace(&mut canvas.image, picture, x, y);
                }
                Shape::Outline(place, line, [r, g, b]) => {
                    let style = PrimitiveStyleBuilder::new()
                        .stroke_color(Rgb888::new(*r, *g, *b))
                        .stroke_width(*line)
                        .stroke_alignment(StrokeAlignment::Inside)
                        .build();
                    // A canvas cannot fail.
                    _ = place.into_styled(style).draw(&mut canvas);
                }
                Shape::Text { middle, width, text } => {
                    canvas.times = self.scale;
                    let (font, text) = fitting(text, width / self.scale);
                    let style = TextStyleBuilder::new()
                        .alignment(Alignment::Center)
                        .baseline(Baseline::Middle)
                        .build();
                    let letters = MonoTextStyle::new(font, Rgb888::BLACK);
                    let middle = *middle / self.scale as i32;
                    _ = Text::with_text_style(&text, middle, letters, style).draw(&mut canvas);
                    canvas.times = 1;
                }
            }
        }
        png(&canvas.image)
    }

    fn svg(&self) -> Result<String> {
        let Size { width, height } = self.size;
        let letters = 16 * self.scale;
        let mut images = Vec::new();
        for shape in &self.shapes {
            images.push(match shape {
                Shape::Picture(_, picture) => BASE64_STANDARD.encode(png(picture)?),
                _ => String::new(),
            });
        }
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
                width=(width) height=(height) viewBox=(format!("0 0 {width} {height}")) {
                rect width=(width) height=(height) fill="#ffffff" {}
                g font-family="Helvetica, Arial, sans-serif" font-size=(letters) text-anchor="middle" {
                    @for (shape, image) in self.shapes.iter().zip(&images) {
                        @match shape {
                            Shape::Picture(place, _) => {
                                image x=(place.top_left.x) y=(place.top_left.y)
                                    width=(place.size.width) height=(place.size.height)
                                    xlink:href=(format!("data:image/png;base64,{image}")) {}
                            }
                            Shape::Outline(place, line, [r, g, b]) => {
                                // Along the middle of the line.
                                rect x=(f64::from(place.top_left.x) + f64::from(*line) / 2.)
                                    y=(f64::from(place.top_left.y) + f64::from(*line) / 2.)
                                    width=(place.size.width.saturating_sub(*line))
                                    height=(place.size.height.saturating_sub(*line))
                                    fill="none" stroke=(format!("#{r:02x}{g:02x}{b:02x}"))
                                    stroke-width=(line) {}
                            }
                            Shape::Text { middle, width, text } => {
                                text x=(middle.x) y=(middle.y + (letters * 7 / 20) as i32)
                                    textLength=[squeezed(text, *width, letters)]
                                    lengthAdjust="spacingAndGlyphs" { (line(text)) }
                            }
                        }
                    }
                }
            }
        };
        Ok(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", svg.into_string()))
    }
}

/// The width for a text that would be wider.
fn squeezed(text: &str, width: u32, letters: u32) -> Option<u32> {
    let wide = |c: char| if c.is_ascii() { 0.6 } else { 1. };
    let needed: f64 = text.chars().map(wide).sum::<f64>() * f64::from(letters);
    (needed > f64::from(width)).then_some(width)
}

/// The largest letters that a text fits with, and what of it fits.
fn fitting(text: &str, width: u32) -> (&'static MonoFont<'static>, String) {
    let fonts = [&FONT_10X20, &FONT_9X15, &FONT_7X13, &FONT_6X10];
    let text = line(text);
    let count = text.chars().count();
    let room = |font: &MonoFont<'_>| (width / font.character_size.width) as usize;
    if let Some(font) = fonts.into_iter().find(|font| count <= room(font)) {
        return (font, text);
    }
    let cut = text.chars().take(room(&FONT_6X10).saturating_sub(2)).chain("..".chars());
    (&FONT_6X10, cut.collect())
}

fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// A picture to draw on, each point as a square of so many pixels.
struct Canvas {
    image: RgbImage,
    times: u32,
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.image.width() / self.times, self.image.height() / self.times)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> std::result::Result<(), Self::Error>
    where
        I: IntoIterator<Item = Pixel<Self::Color>>,
    {
        for Pixel(point, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) else { continue };
            let colour = Rgb([colour.r(), colour.g(), colour.b()]);
            for y in y * self.times..(y + 1) * self.times {
                for x in x * self.times..(x + 1) * self.times {
                    if let Some(pixel) = self.image.get_pixel_mut_checked(x, y) {
                        *pixel = colour;
                    }
                }
            }
        }
        Ok(())
    }
}
