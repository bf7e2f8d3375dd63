//! The nine scores of the ISFM authors' evaluation, and how long they take, as JSON:
//! `cargo run --release -p isfm-metrics --example nine_scores -- VISIBLE INFRARED FUSED [ROUNDS]`

use std::error::Error;
use std::time::Instant;

use isfm_metrics::{Metric, Plane, Scores, Triple};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (files, rounds) = match &arguments[..] {
        [v, i, f] => ([v, i, f], 1),
        [v, i, f, rounds] => ([v, i, f], rounds.parse()?),
        _ => return Err("needs VISIBLE INFRARED FUSED [ROUNDS]".into()),
    };
    let mut images = Vec::new();
    for file in files {
        images.push(image::open(file).map_err(|e| format!("{file}: {e}"))?.into_luma8());
    }
    let mut planes = Vec::new();
    for image in &images {
        let (width, height) = image.dimensions();
        planes.push(Plane::new(image.as_raw(), width as usize, height as usize)?);
    }
    let triple = Triple::new(planes[0], planes[1], planes[2])?;

    let mut scores = Scores::default();
    let mut milliseconds = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        scores = Scores::evaluate_only(&triple, Metric::RELEASED);
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let scores: serde_json::Map<String, serde_json::Value> =
        scores.iter().map(|(metric, value)| (metric.to_string(), value.into())).collect();
    println!(
        "{}",
        serde_json::json!({
            "threads": rayon::current_num_threads(),
            "milliseconds": milliseconds,
            "scores": scores,
        })
    );
    Ok(())
}
