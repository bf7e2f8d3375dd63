//! Every value and the means, as JSON and as CSV.

use anyhow::Result;
use isfm_metrics::{Direction, Metric, Scores};
use serde_json::{Map, Value, json};

use super::certainty::Test;
use super::report::{MethodReport, Report};

/// The means of each method and the values of each picture.
///
/// A value that a metric does not have for a picture (it is too small) is `null`; an infinite one,
/// which JSON has no number for, is the string `"inf"`.
pub fn json(report: &Report) -> String {
    let metrics: Vec<Value> = report
        .metrics
        .iter()
        .map(|metric| {
            let better = match metric.direction() {
                Direction::Higher => "higher",
                Direction::Lower => "lower",
            };
            json!({ "name": metric.name(), "better": better, "ranked": report.ranked.contains(metric) })
        })
        .collect();
    let methods: Vec<Value> = report.methods.iter().map(|m| method(m, &report.metrics)).collect();
    let mut images = Vec::new();
    for pair in &report.pairs {
        let Ok(outcome) = &pair.outcome else { continue };
        let mut scores = Map::new();
        for (method, scored) in report.methods.iter().zip(&outcome.methods) {
            if let Ok(scored) = scored {
                scores.insert(method.name.clone(), values(&scored.scores, &report.metrics));
            }
        }
        let (width, height) = outcome.size;
        images
            .push(json!({ "name": pair.name, "width": width, "height": height, "scores": scores }));
    }
    let problems: Vec<Value> = report
        .problems()
        .into_iter()
        .map(|p| json!({ "image": p.pair, "method": p.method, "problem": p.why }))
        .collect();
    let mut whole = json!({
        "convention": report.convention.name(),
        "metrics": metrics,
        "methods": methods,
        "images": images,
        "problems": problems,
    });
    if !report.subsets.is_empty() {
        whole["subsets"] = report.parts().skip(1).map(|(name, part)| subset(name, part)).collect();
    }
    if let Some(intervals) = &report.intervals {
        let pair = |bounds: &Option<[f64; 2]>| json!(bounds.map(|bounds| bounds.map(finite)));
        let methods = report.methods.iter().zip(&intervals.bounds).map(|(method, bounds)| {
            json!({ "name": method.name, "mean": by_metric(&report.metrics, bounds.iter().map(pair)) })
        });
        whole["intervals"] = json!({
            "level": intervals.level,
            "resamples": intervals.resamples,
            "methods": methods.collect::<Vec<_>>(),
        });
    }
    if let Some(comparison) = &report.comparison {
        let test = |test: &Option<Test>| {
            json!(test.map(|test| json!({
                "images": test.pictures,
                "better": test.better,
                "worse": test.worse,
                "p": test.p,
                "p_holm": test.adjusted,
            })))
        };
        let others = report.methods.iter().zip(&comparison.tests).enumerate();
        let others = others.filter(|(at, _)| *at != comparison.against);
        let methods = others.map(|(_, (method, tests))| {
            json!({ "name": method.name, "tests": by_metric(&report.metrics, tests.iter().map(test)) })
        });
        whole["comparison"] = json!({
            "test": "Wilcoxon signed-rank, two-sided",
            "against": report.methods[comparison.against].name,
            "methods": methods.collect::<Vec<_>>(),
        });
    }
    format!("{whole:#}\n")
}

fn method(method: &MethodReport, metrics: &[Metric]) -> Value {
    json!({
        "name": method.name,
        "images": method.images,
        "mean": method.mean.as_ref().map(|mean| values(mean, metrics)),
        "average_rank": method.average_rank,
    })
}

fn subset(name: &str, report: &Report) -> Value {
    let methods: Vec<Value> = report.methods.iter().map(|m| method(m, &report.metrics)).collect();
    let images: Vec<&str> = report.pairs.iter().map(|pair| pair.name.as_str()).collect();
    let ranked: Vec<&str> = report.ranked.iter().map(|metric| metric.name()).collect();
    json!({ "name": name, "images": images, "methods": methods, "ranked": ranked })
}

fn by_metric(metrics: &[Metric], values: impl Iterator<Item = Value>) -> Value {
    Value::Object(metrics.iter().map(|metric| metric.name().to_owned()).zip(values).collect())
}

/// A number, or text where JSON has none.
fn finite(value: f64) -> Value {
    match value {
        f64::INFINITY => json!("inf"),
        f64::NEG_INFINITY => json!("-inf"),
        value => json!(value),
    }
}

fn values(scores: &Scores, metrics: &[Metric]) -> Value {
    by_metric(metrics, metrics.iter().map(|&metric| json!(scores.get(metric).map(finite))))
}

/// A row for each picture and method, with a header. Infinite is `inf`; what is not there is empty.
///
/// # Errors
/// None that memory does not have.
pub fn csv(report: &Report) -> Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let names = report.metrics.iter().map(|metric| metric.name());
    out.write_record(["image", "method"].into_iter().chain(names))?;
    for pair in &report.pairs {
        let Ok(outcome) = &pair.outcome else { continue };
        for (method, scored) in report.methods.iter().zip(&outcome.methods) {
            let Ok(scored) = scored else { continue };
            let values = report.metrics.iter().map(|&metric| text(scored.scores.get(metric)));
            let names = [pair.name.clone(), method.name.clone()].into_iter();
            out.write_record(names.chain(values))?;
        }
    }
    Ok(out.into_inner()?)
}

/// A row for each mean: of each method by each metric, and by the average rank, over all pairs (no
/// name of a subset) and over each subset. Intervals and tests, which are of all pairs, are empty where
/// they are not asked for.
///
/// # Errors
/// None that memory does not have.
pub fn means(report: &Report) -> Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record([
        "subset", "method", "images", "metric", "mean", "lower", "upper", "against", "p", "p_holm",
    ])?;
    for (subset, part) in report.parts() {
        let against = part.comparison.as_ref();
        let against_name = against.map(|c| part.methods[c.against].name.as_str());
        for (at, method) in part.methods.iter().enumerate() {
            let images = method.images.to_string();
            for (column, &metric) in part.metrics.iter().enumerate() {
                let bounds = part.intervals.as_ref().and_then(|i| i.bounds[at][column]);
                let test = against.and_then(|c| c.tests[at][column]);
                out.write_record([
                    subset,
                    &method.name,
                    &images,
                    metric.name(),
                    &text(part.mean(at, metric)),
                    &text(bounds.map(|b| b[0])),
                    &text(bounds.map(|b| b[1])),
                    test.and(against_name).unwrap_or_default(),
                    &text(test.map(|test| test.p)),
                    &text(test.map(|test| test.adjusted)),
                ])?;
            }
            let rank = text(method.average_rank);
            let row = [subset, &method.name, &images, "Avg. rank", &rank];
            out.write_record(row.into_iter().chain([""; 5]))?;
        }
    }
    Ok(out.into_inner()?)
}

fn text(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
