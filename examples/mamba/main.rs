//! Trains a small Mamba language model on text, byte by byte, and lets it write.
//!
//! ```text
//! cargo run --release --example mamba
//! ```
//!
//! Without arguments the text is this repository's own Rust sources. Every eighth file is kept
//! from the training; on these the model is measured in bits per byte and compared with n-gram
//! models of the same training text. Then it writes, one [`MambaLm::step`] a byte. The learning
//! curve goes to a PNG.

mod curve;
mod ngram;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use clap::Parser;
use isfm_ssm::{MambaConfig, MambaLm, MambaLmConfig, mamba_lm};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Train a small Mamba language model on text, byte by byte, and let it write.
#[derive(Parser)]
#[command(name = "mamba", version)]
struct Args {
    /// A text file, or a folder of .rs, .md and .txt files [default: this repository's sources]
    #[arg(long)]
    text: Option<PathBuf>,
    /// Steps of training
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    steps: u64,
    /// Highest learning rate
    #[arg(long, default_value_t = 4e-3)]
    lr: f64,
    /// Seed of initial weights, samples and writing
    #[arg(long, default_value_t = 3407)]
    seed: u64,
    /// What the model goes on from
    #[arg(long, default_value = "/// The ")]
    prompt: String,
    /// Bytes it writes
    #[arg(long, default_value_t = 500)]
    length: usize,
    /// Where the learning curve goes
    #[arg(long, default_value = "mamba_curve.png")]
    output: PathBuf,
}

/// Sequences of a step, and bytes of a sequence.
const BATCH: usize = 16;
const LENGTH: usize = 128;
/// How sure the writing is: below 1 likely bytes become likelier.
const TEMPERATURE: f64 = 0.7;

fn main() -> Result<()> {
    isfm::keep_freed_memory();
    let args = Args::parse();
    let files = read(args.text.as_deref())?;
    let bytes: Vec<u8> = files.iter().flatten().copied().collect();
    let vocabulary = Vocabulary::new(&bytes);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    if let [one] = &files[..] {
        // Of a single file the last eighth.
        let (first, last) = one.split_at(one.len() - one.len() / 8);
        (train, held_out) = (vocabulary.ids(first), vocabulary.ids(last));
    } else {
        for (i, file) in files.iter().enumerate() {
            let part = if i % 8 == 7 { &mut held_out } else { &mut train };
            part.extend(vocabulary.ids(file));
        }
    }
    ensure!(
        train.len() > 2 * LENGTH && held_out.len() > LENGTH,
        "only {} bytes of text, needs a few thousand",
        bytes.len()
    );
    println!(
        "{} bytes to learn from, {} held out, {} different",
        train.len(),
        held_out.len(),
        vocabulary.bytes.len()
    );
    let baselines: Vec<(&str, f64)> = ["unigram", "bigram", "trigram"]
        .into_iter()
        .enumerate()
        .map(|(order, name)| (name, ngram::bits(&train, &held_out, order, vocabulary.bytes.len())))
        .collect();
    for (name, bits) in &baselines {
        println!("{name:>8}: {bits:.3} bits per byte on the held-out text");
    }

    let config = MambaLmConfig {
        block: MambaConfig { d_state: 16, ..MambaConfig::new(96) },
        ..MambaLmConfig::new(96, 3, vocabulary.bytes.len())
    };
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let vars = VarMap::new();
    let model = mamba_lm(&config, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    isfm_ssm::init::mamba(&vars, || unit(&mut random))?;
    let count: usize = vars.all_vars().iter().map(|v| v.elem_count()).sum();
    println!("training {count} parameters for {} steps", args.steps);

    let curve = fit(&args, &model, &vars, &train, &held_out, &mut random)?;
    let last = curve.held_out.last().map_or(f64::NAN, |point| point.1);
    println!("   mamba: {last:.3} bits per byte on the held-out text");
    curve::draw(&curve, &baselines, &args.output)?;
    println!("learning curve in {}\n", args.output.display());

    write(&args, &model, &vocabulary, &mut random)
}

/// What was measured on the way: (step, bits per byte).
pub(crate) struct Curve {
    pub(crate) train: Vec<(f64, f64)>,
    pub(crate) held_out: Vec<(f64, f64)>,
}

/// Adam on random pieces of the text; the learning rate rises for a twentieth of the steps and
/// falls along a cosine.
fn fit(
    args: &Args,
    model: &MambaLm,
    vars: &VarMap,
    train: &[u32],
    held_out: &[u32],
    random: &mut ChaCha8Rng,
) -> Result<Curve> {
    let params = ParamsAdamW { lr: args.lr, beta2: 0.98, weight_decay: 0.01, ..Default::default() };
    let mut optimizer = AdamW::new(vars.all_vars(), params)?;
    let mut curve = Curve { train: Vec::new(), held_out: Vec::new() };
    let start = Instant::now();
    for step in 0..args.steps {
        let done = step as f64 / args.steps as f64;
        let warm = (20. * done + 1. / args.steps as f64).min(1.);
        let cosine = 0.5 * (1. + (std::f64::consts::PI * done).cos());
        optimizer.set_learning_rate(args.lr * warm * (0.02 + 0.98 * cosine));

        let mut pieces = Vec::with_capacity(BATCH * (LENGTH + 1));
        for _ in 0..BATCH {
            let at = (unit(random) * (train.len() - LENGTH) as f64) as usize;
            pieces.extend_from_slice(&train[at..at + LENGTH + 1]);
        }
        let pieces = Tensor::from_vec(pieces, (BATCH, LENGTH + 1), &Device::Cpu)?;
        let logits = model.forward(&pieces.narrow(1, 0, LENGTH)?)?;
        let loss = cross_entropy(&logits, &pieces.narrow(1, 1, LENGTH)?)?;
        optimizer.backward_step(&loss)?;

        let bits = f64::from(loss.to_scalar::<f32>()?) / std::f64::consts::LN_2;
        curve.train.push((step as f64 + 1., bits));
        let every = args.steps.div_ceil(10);
        if (step + 1) % every == 0 || step + 1 == args.steps {
            let measured = measure(model, held_out)?;
            curve.held_out.push((step as f64 + 1., measured));
            let (step, took) = (step + 1, start.elapsed().as_secs_f64());
            println!(
                "step {step:>5}, {took:>4.0} s: {measured:.3} bits per byte on the held-out text"
            );
        }
    }
    Ok(curve)
}

/// The mean of −ln p(target).
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    let logits = logits.flatten_to(1)?;
    candle_nn::loss::cross_entropy(&logits, &targets.flatten_all()?)
}

/// Bits per byte of a text, read as eight streams that carry their state along.
fn measure(model: &MambaLm, text: &[u32]) -> Result<f64> {
    const STREAMS: usize = 8;
    const PIECE: usize = 512;
    let len = (text.len() - 1) / STREAMS;
    let streams = |offset: usize| -> candle_core::Result<Tensor> {
        Tensor::from_slice(&text[offset..offset + STREAMS * len], (STREAMS, len), &Device::Cpu)
    };
    let (inputs, targets) = (streams(0)?, streams(1)?);
    let mut states = model.initial_state(STREAMS)?;
    let mut nats = 0.;
    for at in (0..len).step_by(PIECE) {
        let n = PIECE.min(len - at);
        let (logits, next) = model.forward_with_state(&inputs.narrow(1, at, n)?, &states)?;
        states = next.iter().map(|state| state.detach()).collect();
        let loss = cross_entropy(&logits.detach(), &targets.narrow(1, at, n)?)?;
        nats += f64::from(loss.to_scalar::<f32>()?) * n as f64;
    }
    Ok(nats / len as f64 / std::f64::consts::LN_2)
}

/// Goes on from the prompt, one step a byte.
fn write(
    args: &Args,
    model: &MambaLm,
    vocabulary: &Vocabulary,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let prompt = vocabulary.ids(args.prompt.as_bytes());
    ensure!(!prompt.is_empty(), "--prompt is empty, needs at least one byte");
    let mut states = model.initial_state(1)?;
    let mut logits = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    for id in prompt {
        logits = model.step(&Tensor::new(&[id], &Device::Cpu)?, &mut states)?;
    }
    let start = Instant::now();
    let mut written = args.prompt.clone().into_bytes();
    for _ in 0..args.length {
        let probabilities = candle_nn::ops::softmax(&(logits.detach() / TEMPERATURE)?, D::Minus1)?
            .squeeze(0)?
            .to_vec1::<f32>()?;
        let mut left = unit(random);
        let drawn = probabilities.iter().position(|&p| {
            left -= f64::from(p);
            left < 0.
        });
        let id = drawn.unwrap_or(0) as u32;
        written.push(vocabulary.bytes[id as usize]);
        logits = model.step(&Tensor::new(&[id], &Device::Cpu)?, &mut states)?;
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / args.length.max(1) as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", String::from_utf8_lossy(&written))?;
    writeln!(out, "\n{} bytes written, {micros:.0} µs each", args.length)?;
    Ok(())
}

/// Uniform in [0, 1).
fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The bytes of a text, numbered; a byte that is not among them counts as the first.
struct Vocabulary {
    bytes: Vec<u8>,
}

impl Vocabulary {
    fn new(text: &[u8]) -> Self {
        let mut seen = [false; 256];
        text.iter().for_each(|&b| seen[usize::from(b)] = true);
        Self { bytes: (0..=255).filter(|&b| seen[usize::from(b)]).collect() }
    }

    fn ids(&self, text: &[u8]) -> Vec<u32> {
        let id = |b| self.bytes.binary_search(b).unwrap_or(0) as u32;
        text.iter().map(id).collect()
    }
}

/// The files of the text, in the order of their names.
fn read(path: Option<&Path>) -> Result<Vec<Vec<u8>>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let path = path.unwrap_or(&sources);
    let mut paths = Vec::new();
    if path.is_dir() {
        collect(path, &mut paths)?;
        paths.sort();
    } else {
        paths.push(path.to_path_buf());
    }
    let read =
        |p: &PathBuf| std::fs::read(p).with_context(|| format!("cannot read {}", p.display()));
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("cannot read {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|e| e == "rs" || e == "md" || e == "txt") {
            paths.push(path);
        }
    }
    Ok(())
}
