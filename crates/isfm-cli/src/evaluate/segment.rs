//! `isfm evaluate segment`: how a segmentation network labels the pictures of each method.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use isfm_files::pairs::Folder;
use isfm_metrics::segmentation::ConfusionMatrix;
use png::{BitDepth, ColorType, Transformations};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::report::Problem;
use super::tasks::{self, Column, Scored, Table, TaskOutputs, cell, distinct, first_few, object};
use crate::options::named;
use crate::{Console, Usage};

/// Score the labels that a segmentation network gave each pixel of each method's pictures.
///
/// Labels are PNG files: grey of 1 to 16 bits whose level is the class, or a palette, whose index is. A
/// prediction belongs to the ground truth of its name without extension.
///
/// All images go into one table of how many pixels of each class were labelled as what. IoU of a class is
/// hits / (pixels of it + pixels labelled as it - hits), accuracy hits / pixels of it; mIoU and mAcc are
/// their means over the classes that occur (mIoU: or were predicted), Acc is hits / pixels of all classes
/// together. Pixels whose true label is that of --ignore count nowhere.
///
/// What is missing, of the wrong size or unreadable is told at the end, all else is done, and the exit code
/// is 1. A method that lacks images is shown with those it has, and is not marked as best.
#[derive(Parser, Debug)]
#[command(
    name = "segment",
    after_help = "Examples:\n  \
        isfm evaluate segment --truth labels --predictions ISFM=out/isfm --predictions Max=out/max\n  \
        isfm evaluate segment --truth labels --predictions ISFM=out --classes classes.txt --ignore 255"
)]
pub struct Args {
    /// The folder of the true labels
    #[arg(long, value_name = "DIR")]
    pub truth: PathBuf,
    /// A method's name and the folder of the labels predicted for its pictures; once for each method
    #[arg(long, value_name = "NAME=DIR", value_parser = named(tasks::NAMED), required = true)]
    pub predictions: Vec<(String, PathBuf)>,
    /// The classes' names, one a line, that of label 0 first [default: the labels that occur]
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Leave out the pixels whose true label is this, often 255
    #[arg(long, value_name = "LABEL")]
    pub ignore: Option<u16>,
    /// What is written.
    #[command(flatten)]
    pub outputs: TaskOutputs,
}

/// How many classes there can be: the table of 2048 takes 32 MiB for each method and thread.
const MOST: usize = 2048;

/// Labels of an image, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// The labels.
    pub labels: Vec<u16>,
}

impl Labels {
    /// Reads a PNG file of one label a pixel.
    ///
    /// # Errors
    /// If it is none, is damaged, or has more than 2^28 pixels.
    pub fn read(path: &Path) -> Result<Self> {
        Self::decode(path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn decode(path: &Path) -> Result<Self> {
        let mut decoder = png::Decoder::new(BufReader::new(File::open(path)?));
        // Palette indices and grey levels of few bits stay what they are.
        decoder.set_transformations(Transformations::IDENTITY);
        let mut reader = decoder.read_info().context("needs labels as PNG")?;
        let info = reader.info();
        let (width, height) = (info.width, info.height);
        let kind = match (info.color_type, info.bit_depth) {
            (ColorType::Grayscale | ColorType::Indexed, depth) => depth,
            (other, _) => bail!(
                "it has colours ({other:?}): needs one label a pixel, as grey or as a palette's index"
            ),
        };
        let pixels = u64::from(width) * u64::from(height);
        ensure!(pixels <= 1 << 28, "it is {width}x{height}: needs at most 2^28 pixels");
        let mut bytes = vec![0; reader.output_buffer_size().context("it is too large")?];
        let frame = reader.next_frame(&mut bytes)?;
        let mut labels = Vec::with_capacity(pixels as usize);
        for row in bytes.chunks_exact(frame.line_size).take(height as usize) {
            let few = |bits: usize| {
                let per_byte = 8 / bits;
                (0..width as usize).map(move |x| {
                    let shift = 8 - bits * (x % per_byte + 1);
                    u16::from(row[x / per_byte] >> shift) & ((1 << bits) - 1)
                })
            };
            match kind {
                BitDepth::One => labels.extend(few(1)),
                BitDepth::Two => labels.extend(few(2)),
                BitDepth::Four => labels.extend(few(4)),
                BitDepth::Eight => labels.extend(row.iter().copied().map(u16::from)),
                BitDepth::Sixteen => {
                    let pairs = row.chunks_exact(2);
                    labels.extend(pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]])));
                }
            }
        }
        Ok(Self { size: (width, height), labels })
    }
}

/// A method, and its labels by the names of the images.
struct Method<'a> {
    name: &'a str,
    folder: Folder,
}

/// What some of the images gave.
#[derive(Clone)]
struct Sums {
    matrices: Vec<ConfusionMatrix>,
    /// How many images each method was scored on.
    images: Vec<usize>,
    /// How many images have labels that could be read.
    truths: usize,
    /// By the images' places.
    problems: Vec<(usize, Problem)>,
}

/// Does what the arguments ask. What could not be scored is returned, the rest is done.
///
/// # Errors
/// [`Usage`], if nothing can be scored.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    let console = args.outputs.console()?;
    distinct(&args.predictions)?;
    let (truth, methods, names) = inputs(args).map_err(Usage::of)?;
    let stems: Vec<(&str, Vec<&Path>)> = truth.by_stem().into_iter().collect();
    let made: Vec<BTreeMap<&str, Vec<&Path>>> =
        methods.iter().map(|m| m.folder.by_stem()).collect();
    for (method, made) in methods.iter().zip(&made) {
        let common = stems.iter().any(|(stem, _)| made.contains_key(stem));
        let error = || {
            anyhow::anyhow!(
                "no picture in {}, the folder of {}, has the name of one in {}, such as {}",
                method.folder.path.display(),
                method.name,
                truth.path.display(),
                stems.first().map_or("", |(stem, _)| stem)
            )
        };
        if !common {
            return Err(Usage::of(error()));
        }
    }
    let classes = names.as_ref().map(Vec::len);
    let one = ConfusionMatrix::new(classes.unwrap_or(1))?;
    let one = match args.ignore {
        Some(label) => one.ignoring(label.into()),
        None => one,
    };
    let empty = Sums {
        matrices: vec![one; methods.len()],
        images: vec![0; methods.len()],
        truths: 0,
        problems: Vec::new(),
    };
    let empty = || empty.clone();
    let bar = console.bar(stems.len(), "images");
    let sums = stems.par_iter().enumerate().try_fold(empty, |mut sums, (at, (stem, truths))| {
        let mut tell = |method: Option<&str>, why: String| {
            let method = method.map(str::to_owned);
            sums.problems.push((at, Problem { pair: (*stem).to_owned(), method, why }));
        };
        match only(truths).and_then(Labels::read) {
            Err(error) => tell(None, format!("{error:#}")),
            Ok(truth) => {
                sums.truths += 1;
                for (place, (method, made)) in methods.iter().zip(&made).enumerate() {
                    let folder = method.folder.path.display();
                    let added = match made.get(stem) {
                        None => Err(anyhow::anyhow!("no labels in {folder}")),
                        Some(files) => only(files).and_then(|file| {
                            add(&mut sums.matrices[place], &truth, file, classes, args.ignore)
                        }),
                    };
                    match added {
                        Ok(()) => sums.images[place] += 1,
                        Err(error) => tell(Some(method.name), format!("{error:#}")),
                    }
                }
            }
        }
        bar.inc(1);
        Ok::<_, anyhow::Error>(sums)
    });
    let mut sums = sums.try_reduce(empty, Sums::merge)?;
    bar.finish_and_clear();
    sums.problems.sort_by_key(|(at, _)| *at);
    let problems: Vec<Problem> =
        std::mem::take(&mut sums.problems).into_iter().map(|p| p.1).collect();
    if let (true, Some(first)) = (sums.images.iter().all(|&images| images == 0), problems.first()) {
        return Err(Usage::of(anyhow::anyhow!("no image could be scored; the first: {first}")));
    }
    args.outputs
        .write(&scored(&methods, names.as_deref(), &sums, args.ignore, &problems), console)?;
    say_more(console, args, &methods, &stems, &sums, names.is_some());
    Ok(problems)
}

/// What of the folders was not taken, and what may be meant otherwise.
fn say_more(
    console: Console,
    args: &Args,
    methods: &[Method],
    stems: &[(&str, Vec<&Path>)],
    sums: &Sums,
    named: bool,
) {
    let occurs = |m: &ConfusionMatrix| m.classes() == 256 && (0..256).any(|p| m.count(255, p) > 0);
    if !named && args.ignore.is_none() && sums.matrices.iter().any(occurs) {
        console.note(
            "label 255 is counted as a class; --ignore 255 leaves out where it is the true one",
        );
    }
    for method in methods {
        let belongs = |stem: &str| stems.binary_search_by(|(other, _)| (*other).cmp(stem)).is_ok();
        let made = method.folder.by_stem().into_iter().filter(|(stem, _)| !belongs(stem));
        let unused: Vec<PathBuf> =
            made.flat_map(|(_, files)| files).map(Path::to_path_buf).collect();
        console.list(&format!("pictures of {} belong to no true labels", method.name), &unused);
        console.skipped(&method.folder.path, method.folder.skipped);
    }
}

fn inputs(args: &Args) -> Result<(Folder, Vec<Method<'_>>, Option<Vec<String>>)> {
    let list = |path: &Path| {
        let folder = Folder::list(path)?;
        ensure!(!folder.pictures.is_empty(), "{} has no pictures", path.display());
        Ok(folder)
    };
    let truth = list(&args.truth)?;
    let method = |(name, path): &'_ (String, PathBuf)| Ok((name.clone(), list(path)?));
    let folders: Vec<(String, Folder)> =
        args.predictions.iter().map(method).collect::<Result<_>>()?;
    let methods = args.predictions.iter().zip(folders);
    let methods = methods.map(|((name, _), (_, folder))| Method { name, folder }).collect();
    let names = args.classes.as_deref().map(tasks::class_names).transpose()?;
    if let Some(names) = &names {
        ensure!(
            names.len() <= MOST,
            "--classes names {} classes: needs at most {MOST}",
            names.len()
        );
    }
    Ok((truth, methods, names))
}

/// The one file of a stem.
fn only<'a>(files: &[&'a Path]) -> Result<&'a Path> {
    match files {
        [file] => Ok(file),
        files => bail!("which of these is it: {}?", first_few(files.iter().map(|f| f.display()))),
    }
}

/// Adds an image; on an error nothing is added.
fn add(
    matrix: &mut ConfusionMatrix,
    truth: &Labels,
    file: &Path,
    classes: Option<usize>,
    ignored: Option<u16>,
) -> Result<()> {
    let predicted = Labels::read(file)?;
    let (p, t) = (predicted.size, truth.size);
    ensure!(p == t, "the labels are {}x{} but the true ones {}x{}", p.0, p.1, t.0, t.1);
    let counted = || {
        let both = truth.labels.iter().zip(&predicted.labels).enumerate();
        both.filter(|(_, (truth, _))| Some(**truth) != ignored)
    };
    let most = classes.unwrap_or(MOST);
    if let Some((at, (&truth, &predicted))) =
        counted().find(|(_, (t, p))| usize::from(**t.max(p)) >= most)
    {
        let (x, y) = (at as u64 % u64::from(t.0), at as u64 / u64::from(t.0));
        let (which, label) =
            if usize::from(truth) >= most { ("true", truth) } else { ("predicted", predicted) };
        bail!(
            "the {which} label at ({x}, {y}) is {label}: needs 0 to {}{}",
            most - 1,
            if which == "true" { ", or --ignore of this label" } else { "" }
        );
    }
    if classes.is_none() {
        let largest = counted().map(|(_, (t, p))| *t.max(p)).max().unwrap_or(0);
        matrix.widen(usize::from(largest) + 1)?;
    }
    Ok(matrix.add(&truth.labels, &predicted.labels)?)
}

impl Sums {
    fn merge(mut self, mut other: Self) -> Result<Self> {
        for (own, more) in self.matrices.iter_mut().zip(&mut other.matrices) {
            own.widen(more.classes())?;
            more.widen(own.classes())?;
            own.merge(more)?;
        }
        for (own, more) in self.images.iter_mut().zip(other.images) {
            *own += more;
        }
        self.truths += other.truths;
        self.problems.extend(other.problems);
        Ok(self)
    }
}

fn scored(
    methods: &[Method],
    names: Option<&[String]>,
    sums: &Sums,
    ignored: Option<u16>,
    problems: &[Problem],
) -> Scored {
    let means = |m: &ConfusionMatrix| [m.mean_iou(), m.mean_class_accuracy(), m.accuracy()];
    const HEADS: [&str; 3] = ["mIoU", "mAcc", "Acc"];
    let means: Vec<[Option<f64>; 3]> = sums.matrices.iter().map(means).collect();
    let ious: Vec<Vec<Option<f64>>> = sums.matrices.iter().map(ConfusionMatrix::iou).collect();
    let accuracies: Vec<Vec<Option<f64>>> =
        sums.matrices.iter().map(ConfusionMatrix::class_accuracy).collect();
    let value = |of: &[Option<f64>], class: usize| of.get(class).copied().flatten();
    let all = sums.matrices.iter().map(ConfusionMatrix::classes).max().unwrap_or(0);
    let occurs = |&class: &usize| {
        let known = |of: &Vec<Option<f64>>| value(of, class).is_some();
        names.is_some() || ious.iter().any(known)
    };
    let not_ignored = |&class: &usize| ignored.map(usize::from) != Some(class);
    let shown: Vec<usize> = (0..all).filter(not_ignored).filter(occurs).collect();
    let name = |class: usize| names.map_or_else(|| class.to_string(), |n| n[class].clone());

    let columns = HEADS.iter().enumerate().map(|(at, head)| Column {
        head: (*head).to_owned(),
        values: means.iter().map(|means| means[at]).collect(),
    });
    let mut tables = vec![Table { title: String::new(), columns: columns.collect() }];
    for (title, of) in [("IoU of each class", &ious), ("accuracy of each class", &accuracies)] {
        let column = |&class: &usize| Column {
            head: name(class),
            values: of.iter().map(|of| value(of, class)).collect(),
        };
        let columns = shown.iter().map(column).collect();
        tables.push(Table { title: title.to_owned(), columns });
    }

    let pixels = |at: usize, class: usize| -> u64 {
        let matrix: &ConfusionMatrix = &sums.matrices[at];
        (0..matrix.classes()).map(|predicted| matrix.count(class, predicted)).sum()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let head = ["method", "class", "images", "pixels", "IoU", "accuracy", "Acc"];
    rows.push(head.map(str::to_owned).to_vec());
    let mut told: Vec<Value> = Vec::new();
    for (at, method) in methods.iter().enumerate() {
        let images = sums.images[at].to_string();
        let total: u64 = sums.matrices[at].counts().iter().sum();
        let first = [method.name.to_owned(), String::new(), images.clone(), total.to_string()];
        rows.push(first.into_iter().chain(means[at].map(cell)).collect());
        let mut classes = serde_json::Map::new();
        for &class in &shown {
            let (iou, accuracy) = (value(&ious[at], class), value(&accuracies[at], class));
            let pixels = pixels(at, class);
            let first = [method.name.to_owned(), name(class), images.clone(), pixels.to_string()];
            let last = [cell(iou), cell(accuracy), String::new()];
            rows.push(first.into_iter().chain(last).collect());
            let mut of_class = object([("IoU", iou), ("accuracy", accuracy)]);
            of_class.insert("pixels".to_owned(), pixels.into());
            classes.insert(name(class), of_class.into());
        }
        told.push(json!({
            "name": method.name,
            "images": sums.images[at],
            "pixels": total,
            "all": object(HEADS.into_iter().zip(means[at])),
            "classes": classes,
        }));
    }
    let problem = |p: &Problem| json!({ "image": p.pair, "method": p.method, "problem": p.why });
    let json = json!({
        "images": sums.truths,
        "ignored": ignored,
        "classes": shown.iter().map(|&class| name(class)).collect::<Vec<_>>(),
        "methods": told,
        "problems": problems.iter().map(problem).collect::<Vec<_>>(),
    });
    let ignoring = ignored.map_or(String::new(), |label| format!(", label {label} ignored"));
    Scored {
        methods: methods.iter().map(|m| m.name.to_owned()).collect(),
        complete: sums.images.iter().map(|&images| images == sums.truths).collect(),
        tables,
        note: format!("{} images, {} classes{ignoring}", sums.truths, shown.len()),
        json,
        rows,
    }
}
