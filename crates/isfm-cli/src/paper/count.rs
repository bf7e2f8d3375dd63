//! `isfm paper count`: Tables VII and VIII, parameters and operations.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use clap::Parser;
use isfm_model::{OperationCounts, ParameterCounts, Preset, PyramidFusion, Work, initial_weights};

use super::{ModelArgs, room};
use crate::evaluate::table::blocks;
use crate::options::{DeviceName, on_threads, size, threads};
use crate::{Console, Usage};

/// Count parameters and operations, and measure time (Tables VII and VIII).
///
/// A multiply-add is two operations. Counted are convolutions, linear layers, the scans' projections and
/// outputs, and wavelets as convolutions; not norms, activations, pools and the scans' recurrence. That is
/// 210.59 GFLOP for the paper's network at 128x128 and 3.95 TFLOP at 640x480. (Its 371 G are within a
/// hundredth of what convolutions and linear layers alone take at 256x256 with a multiply-add as one: 369.)
///
/// On a pyramid the network's part is counted, at the size that it sees; the time is of everything.
#[derive(Parser, Debug)]
#[command(name = "count")]
pub struct Args {
    /// Which network; the paper's by default.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The pictures' size
    #[arg(long, value_name = "WxH", default_value = "640x480", value_parser = size)]
    pub size: (u32, u32),
    /// Measure the best of so many fusions; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub runs: usize,
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Write the table as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the table as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// A part of the network.
struct Row {
    name: &'static str,
    parameters: usize,
    work: Work,
}

/// Does what the arguments ask.
///
/// # Errors
/// [`Usage`] for a configuration that makes no sense; if a file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let outputs = [&args.csv, &args.markdown].into_iter().filter_map(|path| path.as_deref());
    let console = Console::for_files(false, &outputs.collect::<Vec<&Path>>())?;
    let config = args.model.read(Preset::Paper)?;
    let (width, height) = args.size;
    let parameters = ParameterCounts::of(&config).map_err(Usage::of)?;
    let work = OperationCounts::of(&config, height, width).map_err(Usage::of)?;
    let row = |name, parameters, work| Row { name, parameters, work };
    let rows = [
        row("MSE", parameters.extractor, work.extractor),
        row("MFF", parameters.mff, work.mff),
        row("ISF", parameters.isf, work.isf),
        row("others", parameters.other + parameters.unused, work.other),
        row("total", parameters.total(), work.total()),
    ];
    let seconds = (args.runs > 0).then(|| measure(args, &config)).transpose()?;

    console.say(format_args!("{}", serde_json::to_string(&config)?));
    console.say(text(&rows).trim_end());
    let seen = OperationCounts::seen(&config, height, width);
    if seen != (height, width) {
        console.say(format_args!("the network sees {}x{} of {width}x{height}", seen.1, seen.0));
    }
    console.say(format_args!(
        "{} parameters of the others are of a layer norm that the released program stores and nothing uses",
        parameters.unused
    ));
    if let Some(seconds) = seconds {
        console.say(format_args!(
            "{:.1} ms for a pair of {width}x{height}, the best of {} on {}",
            1e3 * seconds,
            args.runs,
            place(args)
        ));
    }
    if let Some(path) = &args.csv {
        console.write(path, &csv(&rows)?)?;
    }
    if let Some(path) = &args.markdown {
        console.write(path, markdown(&rows, args, seconds).as_bytes())?;
    }
    Ok(())
}

fn place(args: &Args) -> String {
    match (args.device, args.threads) {
        (DeviceName::Cuda(number), _) => format!("cuda:{number}"),
        (DeviceName::Cpu, Some(threads)) => format!("{threads} threads"),
        (DeviceName::Cpu, None) => format!("{} threads", rayon::current_num_threads()),
    }
}

/// Seconds of the best fusion of a painted gradient, after one that warms up if there are several.
fn measure(args: &Args, config: &isfm_model::Config) -> Result<f64> {
    let device = args.device.open()?;
    let (width, height) = args.size;
    if args.device == DeviceName::Cpu {
        let instead = "give a smaller --size, or --runs 0 to count alone";
        room(config, args.size, 1, instead).map_err(Usage::of)?;
    }
    let fusion = PyramidFusion::from_weights(config, &initial_weights(config, 1, &device)?)?;
    let (w, h) = (width as usize, height as usize);
    let slope: Vec<f32> = (0..w * h).map(|i| (i % w) as f32 / w as f32).collect();
    let picture =
        candle_core::Tensor::from_vec(slope, (1, 1, h, w), &Device::Cpu)?.to_device(&device)?;
    let run = || -> Result<f64> {
        let start = Instant::now();
        fusion.forward(&picture, &picture)?.device().synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let measured = || -> Result<f64> {
        if args.runs > 1 {
            run()?;
        }
        let mut best = f64::INFINITY;
        for _ in 0..args.runs {
            best = best.min(run()?);
        }
        Ok(best)
    };
    on_threads(args.threads, measured)
}

fn cells(row: &Row) -> [String; 4] {
    [
        row.name.to_owned(),
        row.parameters.to_string(),
        format!("{:.4}", row.parameters as f64 / 1e6),
        format!("{:.2}", row.work.flop() as f64 / 1e9),
    ]
}

const HEADS: [&str; 4] = ["module", "parameters", "M", "GFLOP"];

fn text(rows: &[Row]) -> String {
    let columns: Vec<Vec<String>> = (1..HEADS.len())
        .map(|at| {
            let cells = rows.iter().map(|row| cells(row)[at].clone());
            std::iter::once(HEADS[at].to_owned()).chain(cells).collect()
        })
        .collect();
    blocks(rows.iter().map(|row| row.name), &columns)
}

fn csv(rows: &[Row]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let heads = [
        "module",
        "parameters",
        "flop",
        "multiply_adds_of_layers",
        "of_projections",
        "of_wavelets",
        "of_readout",
    ];
    writer.write_record(heads)?;
    for Row { name, parameters, work } in rows {
        writer.write_record([
            (*name).to_owned(),
            parameters.to_string(),
            work.flop().to_string(),
            work.layers.to_string(),
            work.projections.to_string(),
            work.wavelets.to_string(),
            work.readout.to_string(),
        ])?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

fn markdown(rows: &[Row], args: &Args, seconds: Option<f64>) -> String {
    let (width, height) = args.size;
    let mut out =
        format!("| {} at {width}×{height} |\n| --- | ---: | ---: | ---: |\n", HEADS.join(" | "));
    for row in rows {
        out += &format!("| {} |\n", cells(row).join(" | "));
    }
    if let Some(seconds) = seconds {
        out += &format!(
            "\n{:.1} ms a pair, the best of {} on {}.\n",
            1e3 * seconds,
            args.runs,
            place(args)
        );
    }
    out
}
