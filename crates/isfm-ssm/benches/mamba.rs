//! The Mamba block, its parts, and scan orders, against the same in Candle's own operations.

use candle_core::{D, DType, Device, Module, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_ssm::{Mamba, MambaConfig, ScanOrder, VisionMamba, cross_merge, cross_scan};

/// A tensor of standard normal values.
fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// The block's formulas in Candle's operations, step by step along the sequence as
/// candle-transformers has it.
struct Plain {
    vars: VarMap,
    config: MambaConfig,
}

impl Plain {
    fn get(&self, name: &str) -> Tensor {
        let data = self.vars.data().lock().expect("one thread");
        data[name].as_tensor().clone()
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.broadcast_matmul(&self.get(&format!("{name}.weight")).t()?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, len, _) = x.dims3()?;
        let (d, n, r) = (self.config.d_inner(), self.config.d_state, self.config.dt_rank());
        let xz = self.linear(x, "in_proj")?;
        let (u, z) = (xz.narrow(2, 0, d)?, xz.narrow(2, d, d)?);
        let k = self.config.d_conv;
        let u = u.transpose(1, 2)?.contiguous()?;
        let u = u.conv1d(&self.get("conv1d.weight"), k - 1, 1, 1, d)?.narrow(2, 0, len)?;
        let u = u.transpose(1, 2)?.broadcast_add(&self.get("conv1d.bias"))?;
        let u = candle_nn::ops::silu(&u)?;
        let x_dbl = self.linear(&u.contiguous()?, "x_proj")?;
        let dt = self.linear(&x_dbl.narrow(2, 0, r)?.contiguous()?, "dt_proj")?;
        let dt = dt.broadcast_add(&self.get("dt_proj.bias"))?;
        let dt = (dt.exp()? + 1.)?.log()?;
        let (b, c) = (x_dbl.narrow(2, r, n)?, x_dbl.narrow(2, r + n, n)?);
        let a = self.get("A_log").exp()?.neg()?;
        let decay = dt.unsqueeze(3)?.broadcast_mul(&a)?.exp()?;
        let input = (&dt * &u)?.unsqueeze(3)?.broadcast_mul(&b.unsqueeze(2)?)?;
        let mut state = decay.narrow(1, 0, 1)?.zeros_like()?;
        let mut steps = Vec::with_capacity(len);
        for t in 0..len {
            state = ((decay.narrow(1, t, 1)? * state)? + input.narrow(1, t, 1)?)?;
            let y = state.broadcast_mul(&c.narrow(1, t, 1)?.unsqueeze(2)?)?;
            steps.push(y.sum(D::Minus1)?);
        }
        let y = (Tensor::cat(&steps, 1)? + u.broadcast_mul(&self.get("D"))?)?;
        self.linear(&(y * candle_nn::ops::silu(&z)?)?, "out_proj")
    }
}

fn block(config: &MambaConfig, vars: &VarMap) -> Mamba {
    let vb = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
    isfm_ssm::mamba(config, vb).expect("a block")
}

/// The same weights without a graph: inference.
fn frozen(config: &MambaConfig, vars: &VarMap) -> Mamba {
    let data = vars.data().lock().expect("one thread");
    let tensors = data.iter().map(|(n, v)| (n.clone(), v.as_detached_tensor())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    isfm_ssm::mamba(config, vb).expect("a block")
}

/// Times an operation.
fn timed(mut run: impl FnMut() -> Result<Tensor>) -> impl FnMut(&mut Bencher<'_>) {
    move |b| b.iter(|| run().expect("a result"))
}

/// The same with the gradients of the sum.
fn trained(run: impl Fn() -> Result<Tensor>) -> impl FnMut(&mut Bencher<'_>) {
    move |b| b.iter(|| drop(run().and_then(|y| y.backward()).expect("gradients")))
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("mamba block");
    group.sample_size(10);
    // Candle's version keeps every step of the sequence as tensors: small sizes only.
    for (batch, len, channels, plain) in
        [(1usize, 256usize, 128usize, true), (2, 2048, 128, false), (1, 1024, 768, false)]
    {
        let config = MambaConfig::new(channels);
        let vars = VarMap::new();
        let ours = block(&config, &vars);
        let inference = frozen(&config, &vars);
        let x = random(&[batch, len, channels]);
        let name = format!("B={batch}, L={len}, C={channels}");
        group.throughput(Throughput::Elements((batch * len) as u64));
        let id = |what: &str| BenchmarkId::new(what, &name);
        group.bench_function(id("forward"), timed(|| inference.forward(&x)));
        group.bench_function(id("forward and backward"), trained(|| ours.forward(&x)));
        if plain {
            let theirs = Plain { vars, config };
            let error = (ours.forward(&x).expect("a result") - theirs.forward(&x).expect("one"))
                .and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>())
                .expect("a number");
            assert!(error < 1e-4, "the two do not compute the same: {error}");
            let detached = || Ok(theirs.forward(&x)?.detach());
            group.bench_function(id("forward, Candle's operations"), timed(detached));
            let id = id("forward and backward, Candle's operations");
            group.bench_function(id, trained(|| theirs.forward(&x)));
        }
    }
    group.finish();
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("mamba step");
    // mamba-130m's block and a small one.
    for channels in [64, 768] {
        let config = MambaConfig::new(channels);
        let vars = VarMap::new();
        block(&config, &vars);
        let ours = frozen(&config, &vars);
        let x = random(&[1, channels]);
        let mut state = ours.initial_state(1).expect("a state");
        let id = BenchmarkId::new("step", channels);
        group.bench_function(id, timed(|| ours.step(&x, &mut state)));
        // One step from a zero state: the same work, less the state's bookkeeping.
        let theirs = Plain { vars, config };
        let x = x.unsqueeze(1).expect("a sequence");
        let id = BenchmarkId::new("step, Candle's operations", channels);
        group.bench_function(id, timed(|| Ok(theirs.forward(&x)?.detach())));
    }
    group.finish();
}

fn vision(c: &mut Criterion) {
    let mut group = c.benchmark_group("vision mamba block");
    group.sample_size(10);
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let block: VisionMamba =
        isfm_ssm::vision_mamba(&MambaConfig::new(192), false, vb).expect("a block");
    // Vim-tiny's 14×14 patches and a class token.
    let x = random(&[8, 197, 192]);
    group.bench_function("forward and backward, B=8, L=197, C=192", trained(|| block.forward(&x)));
    group.finish();
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("mamba parts");
    group.sample_size(20);
    let (batch, len, d, k) = (1, 2048, 512, 4);
    let x = Var::from_tensor(&random(&[batch, len, d])).expect("a variable");
    let weight = Var::from_tensor(&random(&[d, 1, k])).expect("a variable");
    let bias = Var::from_tensor(&random(&[d])).expect("a variable");
    let ours = || isfm_ops::causal_conv1d(&x, &weight, Some(&bias), None);
    // On the layout that Candle has for it, so that no transposition is counted.
    let x_first =
        Var::from_tensor(&x.transpose(1, 2).and_then(|x| x.contiguous()).expect("a tensor"))
            .expect("a variable");
    let theirs = || {
        let y = x_first.conv1d(&weight, k - 1, 1, 1, d).and_then(|y| y.narrow(2, 0, len));
        y.and_then(|y| y.broadcast_add(&bias.unsqueeze(1)?))
    };
    group.bench_function("causal_conv1d", timed(ours));
    group.bench_function("causal_conv1d, Candle's operations", timed(theirs));
    group.bench_function("causal_conv1d with gradients", trained(ours));
    group.bench_function("causal_conv1d with gradients, Candle's operations", trained(theirs));

    let scale = Var::from_tensor(&random(&[d])).expect("a variable");
    let ours = || isfm_ops::rms_norm(&x, &scale, 1e-5);
    let theirs = || -> Result<Tensor> {
        let square = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        x.broadcast_div(&square)?.broadcast_mul(&scale)
    };
    group.bench_function("rms_norm with gradients", trained(ours));
    group.bench_function("rms_norm with gradients, Candle's operations", trained(theirs));

    let (h, w, channels) = (64, 64, 96);
    let map = random(&[1, h, w, channels]);
    let orders = ScanOrder::vmamba(h, w).expect("orders");
    let ours = || cross_merge(&cross_scan(&map, &orders)?, &orders);
    group.bench_function("cross_scan and cross_merge, 64x64x96, 4 orders", timed(ours));
    let index = |v: &[u32]| Tensor::new(v, &Device::Cpu).expect("a tensor");
    let tables: Vec<[Tensor; 2]> =
        orders.iter().map(|o| [index(o.positions()), index(o.steps())]).collect();
    let flat = map.reshape((h * w, channels)).expect("rows");
    let theirs = || -> Result<Tensor> {
        let scanned: Result<Vec<_>> =
            tables.iter().map(|[positions, _]| flat.index_select(positions, 0)).collect();
        let y = Tensor::stack(&scanned?, 1)?;
        let mut sum = flat.zeros_like()?;
        for (i, [_, steps]) in tables.iter().enumerate() {
            let one = y.narrow(1, i, 1)?.squeeze(1)?;
            sum = (sum + one.contiguous()?.index_select(steps, 0)?)?;
        }
        Ok(sum)
    };
    group.bench_function("cross_scan and cross_merge, Candle's operations", timed(theirs));
    group.finish();
}

criterion_group!(benches, blocks, steps, vision, parts);
criterion_main!(benches);
