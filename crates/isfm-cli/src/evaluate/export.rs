//! Every value, as JSON and as CSV.

use isfm_metrics::{Direction, Metric, Scores};
use serde_json::{Map, Value, json};

use super::report::Report;

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
    let methods: Vec<Value> = report
        .methods
        .iter()
        .map(|m| {
            json!({
                "name": m.name,
                "images": m.images,
                "mean": m.mean.as_ref().map(|mean| values(mean, &report.metrics)),
                "average_rank": m.average_rank,
            })
        })
        .collect();
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
    let whole = json!({
        "metrics": metrics,
        "methods": methods,
        "images": images,
        "problems": problems,
    });
    format!("{whole:#}\n")
}

fn values(scores: &Scores, metrics: &[Metric]) -> Value {
    let value = |metric: &Metric| match scores.get(*metric) {
        Some(v) if v.is_infinite() => json!(if v > 0. { "inf" } else { "-inf" }),
        value => json!(value),
    };
    Value::Object(metrics.iter().map(|m| (m.name().to_owned(), value(m))).collect())
}

/// A row for each picture and method, with a header. Infinite is `inf`; what is not there is empty.
pub fn csv(report: &Report) -> String {
    let names: Vec<String> = report.metrics.iter().map(|m| field(m.name())).collect();
    let mut out = format!("image,method,{}\n", names.join(","));
    for pair in &report.pairs {
        let Ok(outcome) = &pair.outcome else { continue };
        for (method, scored) in report.methods.iter().zip(&outcome.methods) {
            let Ok(scored) = scored else { continue };
            let value =
                |&metric| scored.scores.get(metric).map_or(String::new(), |v| v.to_string());
            let values: Vec<String> = report.metrics.iter().map(value).collect();
            let (pair, method) = (field(&pair.name), field(&method.name));
            out += &format!("{pair},{method},{}\n", values.join(","));
        }
    }
    out
}

/// Quoted where RFC 4180 asks for it.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
