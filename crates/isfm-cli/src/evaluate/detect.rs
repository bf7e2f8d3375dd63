//! `isfm evaluate detect`: what a detector finds in the pictures of each method.

pub mod read;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use isfm_metrics::detection::{Counts, DetectionScores, Options, evaluate};
use serde_json::{Value, json};

use super::report::Problem;
use super::tasks::{self, Column, Scored, Table, TaskOutputs, cell, distinct, object};
use crate::Usage;
use crate::options::named;

use read::Truth;

/// Score the boxes that a detector found in each method's pictures, as COCO does.
///
/// The ground truth is a COCO JSON file or a folder of YOLO's text files, one for each image, with lines of
/// `class x y width height` in parts of the image. What was found is a COCO list of results or such a folder,
/// its lines with the confidence behind; either may be scored against either. YOLO's files belong to the
/// images of their names; an image without a file has no objects, or nothing was found in it. YOLO's class N
/// is the N-th of COCO's categories in the order of their ids, from 0, and COCO results on YOLO's ground
/// truth have YOLO's numbers, and the images' names or the numbers that these are.
///
/// AP50, AP75 and AP50:95 are COCO's: means over the classes that occur in the ground truth, of precision
/// read at 101 recalls, from at most 100 detections of each image and class; crowds are regions to ignore.
/// Precision and recall are those of all classes' detections together, at IoU .5 and the score where their F1
/// is highest, or from --min-score on.
///
/// Detections of unknown images or classes and such with wrong numbers are left out, counted and named at the
/// end, and the exit code is 1. A fault in the ground truth ends the program.
#[derive(Parser, Debug)]
#[command(
    name = "detect",
    after_help = "Examples:\n  \
        isfm evaluate detect --truth val.json --detections ISFM=isfm.json --detections Max=max.json\n  \
        isfm evaluate detect --truth labels --detections ISFM=runs/isfm/labels --classes classes.txt --per-class"
)]
pub struct Args {
    /// What there is: a COCO JSON file, or a folder of YOLO text files
    #[arg(long, value_name = "FILE|DIR")]
    pub truth: PathBuf,
    /// A method's name and what was found in its pictures: COCO JSON results, or a folder of YOLO text files;
    /// once for each method
    #[arg(long, value_name = "NAME=FILE|DIR", value_parser = named(tasks::NAMED), required = true)]
    pub detections: Vec<(String, PathBuf)>,
    /// The classes' names, one a line, that of YOLO's class 0 first [default: those of the COCO file, or of
    /// classes.txt in the folder of the ground truth]
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// The folder of the pictures: their sizes, where COCO's boxes meet YOLO's and the COCO file has none,
    /// and which images there are, where YOLO's ground truth has no file for some
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Show each class's scores too
    #[arg(long)]
    pub per_class: bool,
    /// The lowest score that counts for precision and recall [default: of each method the one where F1 is
    /// highest]
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true)]
    pub min_score: Option<f64>,
    /// How many detections of an image and class count, those of highest score
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_detections: usize,
    /// What is written.
    #[command(flatten)]
    pub outputs: TaskOutputs,
}

fn finite(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "needs a number, such as 0.25".to_owned())
}

/// The IoU of precision and recall.
const IOU: f64 = 0.5;

/// The scores of the tables, in their order.
const HEADS: [&str; 5] = ["precision", "recall", "AP50", "AP75", "AP50:95"];

/// A method's scores.
struct Method {
    name: String,
    detections: usize,
    /// The lowest score that counts for precision and recall; none without detections.
    score: Option<f64>,
    counts: Counts,
    all: [Option<f64>; 5],
    /// One for each of the classes that are shown.
    classes: Vec<([Option<f64>; 5], Counts)>,
}

impl Method {
    fn new(
        name: &str,
        detections: usize,
        scores: &DetectionScores,
        shown: &[usize],
        min_score: Option<f64>,
    ) -> Result<Self> {
        let best = scores.best_f1(IOU)?;
        let score = min_score.or(best.map(|(score, _)| score));
        // Without a detection none counts.
        let least = score.unwrap_or(f64::INFINITY);
        let counts = scores.counts(IOU, least)?;
        let all = [
            counts.precision(),
            counts.recall(),
            scores.map50(),
            scores.map_at(0.75)?,
            scores.map(),
        ];
        let thresholds = scores.iou_thresholds();
        let of_class = |&class: &usize| {
            let counts = scores.class_counts(class, IOU, least)?;
            let ap = |iou| scores.average_precision(class, iou);
            let mut sum = Some(0.);
            for &threshold in thresholds {
                sum = sum.zip(ap(threshold)?).map(|(sum, ap)| sum + ap);
            }
            let mean = sum.map(|sum| sum / thresholds.len() as f64);
            let (precision, recall) = (counts.precision(), counts.recall());
            Ok(([precision, recall, ap(0.5)?, ap(0.75)?, mean], counts))
        };
        let classes = shown.iter().map(of_class).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), detections, score, counts, all, classes })
    }
}

/// Does what the arguments ask. What could not be scored is returned, the rest is done.
///
/// # Errors
/// [`Usage`], if nothing can be scored.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    let console = args.outputs.console()?;
    distinct(&args.detections)?;
    let truth = read_truth(args).map_err(Usage::of)?;
    let options = Options { max_detections: args.max_detections, ..Options::default() };
    let mut problems = Vec::new();
    let mut tell = |method: &str, why: String| {
        problems.push(Problem { pair: method.to_owned(), method: None, why });
    };
    let shown: Vec<usize> = (0..truth.classes.len()).filter(|&c| objects(&truth, c) > 0).collect();
    let mut methods = Vec::new();
    let mut first_error = None;
    for (name, path) in &args.detections {
        let found = match truth.find(path) {
            Ok(found) => found,
            Err(error) => {
                tell(name, format!("{error:#}"));
                first_error.get_or_insert(error);
                continue;
            }
        };
        found.left_out.into_iter().for_each(|why| tell(name, why));
        let scores = evaluate(&truth.objects, &found.detections, &options)?;
        let count = found.detections.len();
        methods.push(Method::new(name, count, &scores, &shown, args.min_score)?);
    }
    if let (true, Some(error)) = (methods.is_empty(), first_error) {
        return Err(Usage::of(error));
    }
    args.outputs.write(&scored(args, &truth, &shown, &methods, &problems), console)?;
    Ok(problems)
}

fn read_truth(args: &Args) -> Result<Truth> {
    for path in args.detections.iter().map(|(_, path)| path).chain([&args.truth]) {
        ensure!(path.exists(), "{}: there is no such file or folder", path.display());
    }
    ensure!(args.max_detections > 0, "--max-detections is 0: needs 1 or more");
    let names = args.classes.as_deref().map(tasks::class_names).transpose();
    let names = names.context("cannot take the names of --classes")?;
    let found: Vec<&Path> = args.detections.iter().map(|(_, path)| path.as_path()).collect();
    Truth::read(&args.truth, names.as_deref(), args.images.as_deref(), &found)
}

/// How many there are to find of a class.
fn objects(truth: &Truth, class: usize) -> usize {
    truth.objects.iter().filter(|object| object.class == class && !object.crowd).count()
}

fn scored(
    args: &Args,
    truth: &Truth,
    shown: &[usize],
    methods: &[Method],
    problems: &[Problem],
) -> Scored {
    let column = |head: &str, value: &dyn Fn(&Method) -> Option<f64>| Column {
        head: head.to_owned(),
        values: methods.iter().map(value).collect(),
    };
    let columns = HEADS.iter().enumerate().map(|(at, head)| column(head, &|m| m.all[at]));
    let mut tables = vec![Table { title: String::new(), columns: columns.collect() }];
    let name = |class: usize| &truth.classes[class].1;
    if args.per_class {
        tables.extend(HEADS.iter().enumerate().map(|(at, head)| {
            let of_class =
                |(place, &class): (usize, &usize)| column(name(class), &|m| m.classes[place].0[at]);
            let columns = shown.iter().enumerate().map(of_class).collect();
            Table { title: format!("{head} of each class"), columns }
        }));
    }
    let all: usize = shown.iter().map(|&class| objects(truth, class)).sum();
    let from = match args.min_score {
        Some(score) => format!("scores from {score} on"),
        None => "each method's score of the highest F1".to_owned(),
    };
    let note = format!(
        "precision and recall at IoU .5 and {from}\n{} images, {all} objects of {} classes",
        truth.image_count(),
        shown.len()
    );
    Scored {
        methods: methods.iter().map(|m| m.name.clone()).collect(),
        complete: vec![true; methods.len()],
        tables,
        note,
        json: as_json(truth, shown, methods, problems),
        rows: as_rows(truth, shown, methods),
    }
}

fn scores(of: &[Option<f64>; 5], counts: Counts) -> Value {
    let mut value = object(HEADS.into_iter().zip(*of));
    value.insert("true_positives".to_owned(), counts.true_positives.into());
    value.insert("false_positives".to_owned(), counts.false_positives.into());
    value.insert("false_negatives".to_owned(), counts.false_negatives.into());
    Value::Object(value)
}

fn as_json(truth: &Truth, shown: &[usize], methods: &[Method], problems: &[Problem]) -> Value {
    let class = |&class: &usize| json!({ "name": truth.classes[class].1, "objects": objects(truth, class) });
    let method = |method: &Method| {
        let of_class = |(&class, (of, counts)): (&usize, &([Option<f64>; 5], Counts))| {
            (truth.classes[class].1.clone(), scores(of, *counts))
        };
        let classes: serde_json::Map<_, _> =
            shown.iter().zip(&method.classes).map(of_class).collect();
        json!({
            "name": method.name,
            "detections": method.detections,
            "min_score": method.score,
            "all": scores(&method.all, method.counts),
            "classes": classes,
        })
    };
    json!({
        "images": truth.image_count(),
        "classes": shown.iter().map(class).collect::<Vec<_>>(),
        "methods": methods.iter().map(method).collect::<Vec<_>>(),
        "problems": problems
            .iter()
            .map(|p| json!({ "method": p.pair, "problem": p.why }))
            .collect::<Vec<_>>(),
    })
}

fn as_rows(truth: &Truth, shown: &[usize], methods: &[Method]) -> Vec<Vec<String>> {
    let counts = ["true_positives", "false_positives", "false_negatives"];
    let head = ["method", "class", "objects"].into_iter().chain(HEADS).chain(counts);
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    let all: usize = shown.iter().map(|&class| objects(truth, class)).sum();
    for method in methods {
        let mut row = |class: &str, objects: usize, of: &[Option<f64>; 5], counts: Counts| {
            let first = [method.name.clone(), class.to_owned(), objects.to_string()];
            let Counts { true_positives, false_positives, false_negatives } = counts;
            let counts = [true_positives, false_positives, false_negatives];
            let last = counts.map(|count| count.to_string());
            rows.push(first.into_iter().chain(of.map(cell)).chain(last).collect());
        };
        row("", all, &method.all, method.counts);
        for (&class, (of, counts)) in shown.iter().zip(&method.classes) {
            row(&truth.classes[class].1, objects(truth, class), of, *counts);
        }
    }
    rows
}
