//! Scores that were written as JSON, read again.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};
use isfm_metrics::{Metric, Scores};
use serde::Deserialize;

use super::report::{Outcome, PairReport, Report, Scored};

#[derive(Deserialize)]
struct Stored {
    metrics: Vec<Named>,
    methods: Vec<Named>,
    images: Vec<Image>,
    problems: Vec<Problem>,
    #[serde(default)]
    convention: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Image {
    name: String,
    width: u32,
    height: u32,
    scores: BTreeMap<String, BTreeMap<String, Value>>,
}

/// A number, `null` where there is none, or `"inf"` or `"-inf"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(f64),
    Text(String),
    None(()),
}

#[derive(Deserialize)]
struct Problem {
    image: String,
    method: Option<String>,
    problem: String,
}

/// Reads what `--json` wrote, without the pictures of a page. Means and ranks are computed anew.
///
/// # Errors
/// If it is no such file, or names metrics or methods that it does not list.
pub fn read(json: &str) -> Result<Report> {
    let stored: Stored = serde_json::from_str(json)?;
    let metric = |name: &str| {
        let found = Metric::ALL.iter().copied().find(|metric| metric.name() == name);
        found.with_context(|| format!("{name:?} is no metric of this version"))
    };
    let metrics = stored.metrics.iter().map(|m| metric(&m.name)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = stored.methods.into_iter().map(|method| method.name).collect();

    let mut problems = BTreeMap::new();
    for Problem { image, method, problem } in stored.problems {
        problems.insert((image, method), problem);
    }
    let mut pairs = Vec::new();
    for image in stored.images {
        for method in image.scores.keys() {
            ensure!(names.contains(method), "{}: {method:?} is none of the methods", image.name);
        }
        let mut methods = Vec::new();
        for name in &names {
            let Some(values) = image.scores.get(name) else {
                let problem = problems.remove(&(image.name.clone(), Some(name.clone())));
                methods.push(Err(problem.unwrap_or_else(|| "no scores".to_owned())));
                continue;
            };
            let mut known = Vec::new();
            for (name, value) in values {
                let value = match value {
                    Value::None(()) => continue,
                    Value::Number(number) => *number,
                    Value::Text(text) if text == "inf" => f64::INFINITY,
                    Value::Text(text) if text == "-inf" => f64::NEG_INFINITY,
                    Value::Text(text) => {
                        return Err(anyhow!("{}: {name} is {text:?}, no number", image.name));
                    }
                };
                known.push((metric(name)?, value));
            }
            methods.push(Ok(Scored { scores: Scores::of(known), picture: String::new() }));
        }
        let size = (image.width, image.height);
        let outcome = Outcome { size, sources: Default::default(), methods };
        pairs.push(PairReport { name: image.name, outcome: Ok(outcome) });
    }
    // What is left is wrong with the pairs themselves.
    for ((name, _), problem) in problems {
        pairs.push(PairReport { name, outcome: Err(problem) });
    }
    let mut report = Report::new(names, pairs, metrics);
    if let Some(name) = stored.convention {
        report.convention = name.parse()?;
    }
    Ok(report)
}
