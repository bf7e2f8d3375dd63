//! A chain gives the same without gradients, with them, and op by op; and the gradients are right.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use isfm_ops::Epilogue;
use isfm_ops::chain::{Chain, Value};
use isfm_ops::nn::{DepthwiseConv2d, LayerNorm};
use isfm_testing::{
    Differences, assert_close, bits, check_gradients, gradients, random, refused,
    same_on_any_threads,
};

/// Parameters and inputs of every kind of step.
struct Tensors {
    maps: [Tensor; 2],
    norm: LayerNorm,
    wide_norm: LayerNorm,
    window: DepthwiseConv2d,
    widen: Tensor,
    widen_bias: Tensor,
    narrow: Tensor,
    skip: Tensor,
    scale: Tensor,
}

const WIDE: usize = 11;

impl Tensors {
    fn new([b, h, w, c]: [usize; 4], dtype: DType) -> Self {
        let mut seed = 0;
        let mut random = |dims: &[usize]| {
            seed += 1;
            random(dims, seed).to_dtype(dtype).unwrap()
        };
        Self {
            maps: [random(&[b, h, w, c]), random(&[b, h, w, c])],
            norm: LayerNorm::new(random(&[c]), random(&[c]), 1e-2),
            wide_norm: LayerNorm::new(random(&[WIDE]), random(&[WIDE]), 1e-2),
            window: DepthwiseConv2d::new(random(&[WIDE, 1, 3, 3]), Some(random(&[WIDE]))),
            widen: random(&[WIDE, c]),
            widen_bias: random(&[WIDE]),
            narrow: random(&[c, WIDE]),
            skip: random(&[c]),
            scale: random(&[b, WIDE]),
        }
    }

    fn list(&self) -> Vec<Tensor> {
        let Self { maps: [a, b], norm, wide_norm, window, .. } = self;
        let Self { widen, widen_bias, narrow, skip, scale, .. } = self;
        let window = [window.weight(), window.bias().unwrap()];
        let norms = [norm.weight(), norm.bias(), wide_norm.weight(), wide_norm.bias()];
        let others = [widen, widen_bias, narrow, skip, scale];
        [a, b].into_iter().chain(norms).chain(window).chain(others).cloned().collect()
    }

    fn from_list(list: &[Tensor]) -> Self {
        let t = |i: usize| list[i].clone();
        Self {
            maps: [t(0), t(1)],
            norm: LayerNorm::new(t(2), t(3), 1e-2),
            wide_norm: LayerNorm::new(t(4), t(5), 1e-2),
            window: DepthwiseConv2d::new(t(6), Some(t(7))),
            widen: t(8),
            widen_bias: t(9),
            narrow: t(10),
            skip: t(11),
            scale: t(12),
        }
    }

    /// All results in a row.
    fn flat(&self) -> Result<Tensor> {
        let all = self.all()?;
        Tensor::cat(&all.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?, 0)
    }

    /// The same with a first map that asks for a gradient.
    fn tracked(mut self) -> Self {
        self.maps[0] = Var::from_tensor(&self.maps[0]).unwrap().into_inner();
        self
    }

    /// Every step but the window; reads inputs late, changes values in place and keeps one that is
    /// read again.
    fn pixels(&self) -> (Chain, [Value; 3]) {
        let mut chain = Chain::new();
        let [a, b] = self.maps.each_ref().map(|map| chain.input(map));
        let normed = chain.norm(a, &self.norm);
        let wide = chain.linear(normed, &self.widen, Some(&self.widen_bias));
        let wide = chain.linear_add(b, &self.widen, wide);
        let wide = chain.norm(wide, &self.wide_norm);
        let scaled = chain.scale_add(wide, &self.scale, wide);
        let gated = chain.silu_gate(scaled, wide);
        let sum = chain.add(gated, scaled);
        let out = chain.linear(sum, &self.narrow, None);
        let out = chain.scale_add(a, &self.skip, out);
        let other = chain.add(b, out);
        (chain, [out, other, b])
    }

    fn window(&self) -> (Chain, [Value; 2]) {
        let mut chain = Chain::new();
        let [a, b] = self.maps.each_ref().map(|map| chain.input(map));
        let x = chain.norm(a, &self.norm);
        let x = chain.linear(x, &self.widen, None);
        let x = chain.depthwise_silu(x, &self.window);
        let narrow = chain.linear(x, &self.narrow, None);
        let gated = chain.silu_gate(narrow, b);
        (chain, [x, gated])
    }

    /// What comes before the window is read after it, and there are two windows: never in blocks.
    fn tangled(&self) -> (Chain, [Value; 1]) {
        let mut chain = Chain::new();
        let a = chain.input(&self.maps[0]);
        let x = chain.linear(a, &self.widen, None);
        let y = chain.depthwise_silu(x, &self.window);
        let y = chain.add(y, x);
        let y = chain.depthwise_silu(y, &self.window);
        (chain, [y])
    }

    /// Steps that read one value twice, its last time.
    fn twice(&self) -> [(Chain, [Value; 1]); 4] {
        let with = |step: &dyn Fn(&mut Chain, Value) -> Value| {
            let mut chain = Chain::new();
            let x = chain.input(&self.maps[0]);
            let x = chain.norm(x, &self.norm);
            let x = step(&mut chain, x);
            (chain, [x])
        };
        let square = self.narrow.matmul(&self.widen).unwrap();
        [
            with(&|chain, x| chain.add(x, x)),
            with(&|chain, x| chain.silu_gate(x, x)),
            with(&|chain, x| chain.linear_add(x, &square, x)),
            with(&|chain, x| chain.scale_add(x, &self.skip, x)),
        ]
    }

    fn all(&self) -> Result<Vec<Tensor>> {
        let (chain, wanted) = self.pixels();
        let mut all = chain.maps(wanted)?.to_vec();
        let (chain, wanted) = self.window();
        all.extend(chain.maps(wanted)?);
        let (chain, wanted) = self.tangled();
        all.extend(chain.maps(wanted)?);
        for (chain, wanted) in self.twice() {
            all.extend(chain.maps(wanted)?);
        }
        let (chain, [_, value, _]) = self.pixels();
        all.push(chain.mean(value)?);
        let (chain, [_, value]) = self.window();
        all.push(chain.mean(value)?);
        Ok(all)
    }
}

/// One pixel, one line, several blocks and bands, more than one image.
const SIZES: [[usize; 4]; 6] =
    [[1, 1, 1, 3], [2, 1, 7, 5], [3, 5, 1, 16], [2, 13, 17, 6], [1, 70, 3, 8], [1, 3, 210, 1]];

#[test]
fn blocks_agree_with_operations() {
    for size in SIZES {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 3e-6)] {
            let got = Tensors::new(size, dtype).all().unwrap();
            let want = Tensors::new(size, dtype).tracked().all().unwrap();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(!got.track_op());
                assert_close(got, want, tolerance, &format!("{size:?} {dtype:?} result {i}"));
            }
        }
    }
}

#[test]
fn a_tracked_chain_keeps_the_graph() {
    let tensors = Tensors::new([1, 4, 5, 6], DType::F64).tracked();
    for map in tensors.all().unwrap().iter().filter(|map| map.track_op()) {
        let grads = map.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&tensors.maps[0]).is_some());
    }
    // All but the input that is a result itself.
    let tracked = tensors.all().unwrap().iter().filter(|map| map.track_op()).count();
    assert_eq!(tracked, 11);
}

#[test]
fn finite_differences() {
    for size in [[1, 1, 1, 3], [2, 3, 4, 3]] {
        let tensors = Tensors::new(size, DType::F64).list();
        let how = Differences { tolerance: 2e-6, ..Differences::default() };
        check_gradients(&format!("chains of {size:?}"), &tensors, how, |list| {
            Tensors::from_list(list).flat()
        });
    }
}

/// Against the operations one by one, each a chain of one step, over several blocks.
#[test]
fn gradients_of_blocks_agree_with_operations() {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-4)] {
        let tensors = Tensors::new([2, 20, 29, 6], dtype).list();
        let both = |apart: bool| {
            gradients(&tensors, |list| {
                let t = Tensors::from_list(list);
                let [a, b] = &t.maps;
                let normed = |x: &Tensor, norm: &LayerNorm| norm.forward(x);
                if apart {
                    let wide = isfm_ops::linear(
                        &normed(a, &t.norm)?,
                        &t.widen,
                        Some(&t.widen_bias),
                        Epilogue::None,
                    )?;
                    let x = isfm_ops::linear(b, &t.widen, None, Epilogue::Add(&wide))?;
                    let x = normed(&x, &t.wide_norm)?;
                    let scaled = isfm_ops::scale_add(&x, &t.scale, &x)?;
                    let gated = isfm_ops::silu_gate(&scaled, &x)?;
                    let sum = isfm_ops::weighted_sum(&gated, 1., &scaled, 1.)?;
                    let (weight, bias) = (t.window.weight(), t.window.bias());
                    let sum = isfm_ops::depthwise_conv2d(&sum, weight, bias, Epilogue::Silu)?;
                    let out = isfm_ops::linear(&sum, &t.narrow, None, Epilogue::None)?;
                    return isfm_ops::scale_add(a, &t.skip, &out);
                }
                let mut chain = Chain::new();
                let [a, b] = [chain.input(a), chain.input(b)];
                let x = chain.norm(a, &t.norm);
                let x = chain.linear(x, &t.widen, Some(&t.widen_bias));
                let x = chain.linear_add(b, &t.widen, x);
                let x = chain.norm(x, &t.wide_norm);
                let scaled = chain.scale_add(x, &t.scale, x);
                let gated = chain.silu_gate(scaled, x);
                let sum = chain.add(gated, scaled);
                let sum = chain.depthwise_silu(sum, &t.window);
                let out = chain.linear(sum, &t.narrow, None);
                let out = chain.scale_add(a, &t.skip, out);
                Ok(chain.maps([out])?[0].clone())
            })
        };
        for (i, (got, want)) in both(false).iter().zip(both(true)).enumerate() {
            assert_close(got, &want, tolerance, &format!("{dtype:?} gradient {i}"));
        }
    }
}

/// A gradient that reaches one result only, inputs and weights without gradients, and a backward
/// pass that runs twice.
#[test]
fn some_gradients() {
    let mut tensors = Tensors::new([2, 9, 15, 4], DType::F64);
    let weight = Var::from_tensor(&tensors.narrow).unwrap();
    tensors.narrow = weight.as_tensor().clone();
    let (chain, wanted) = tensors.pixels();
    let [out, ..] = chain.maps(wanted).unwrap();
    let loss = out.sqr().unwrap().sum_all().unwrap();
    let grads = [loss.backward().unwrap(), loss.backward().unwrap()];
    let [first, second] = grads.each_ref().map(|grads| grads.get(&weight).unwrap());
    assert_eq!(bits(first), bits(second));
    let list = tensors.list();
    let how = Differences { tolerance: 2e-6, ..Differences::default() };
    check_gradients("one weight", &[weight.as_tensor().detach()], how, |x| {
        let mut list: Vec<Tensor> = list.iter().map(Tensor::detach).collect();
        list[10] = x[0].clone();
        let (chain, wanted) = Tensors::from_list(&list).pixels();
        Ok(chain.maps(wanted)?[0].clone())
    });
}

#[test]
fn gradients_do_not_depend_on_threads() {
    let tensors = Tensors::new([2, 37, 29, 6], DType::F32).list();
    let run = || {
        let grads = gradients(&tensors, |list| Tensors::from_list(list).flat());
        grads.iter().map(bits).collect::<Vec<_>>()
    };
    same_on_any_threads("gradients of chains", run);
}

#[test]
fn blocks_do_not_depend_on_threads() {
    let tensors = Tensors::new([2, 37, 29, 6], DType::F32);
    let run = || tensors.all().unwrap().iter().map(bits).collect::<Vec<_>>();
    same_on_any_threads("chains", run);
}

/// The operation that does not fit says so, whichever way the chain would run.
#[test]
fn steps_that_do_not_fit_are_named() {
    let map = Tensor::zeros((1, 2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let weight = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
    let mut chain = Chain::new();
    let x = chain.input(&map);
    let y = chain.linear(x, &weight, None);
    refused(chain.maps([y]), &["linear: weight is [2, 5]"]);
    let mut chain = Chain::new();
    let (a, b) = (chain.input(&map), chain.input(&map.narrow(2, 0, 2).unwrap()));
    let y = chain.add(a, b);
    refused(chain.maps([y]), &["[1, 2, 2, 4]", "[1, 2, 3, 4]"]);
    refused(Chain::new().mean(y), &["another chain"]);
    let mut chain = Chain::new();
    let x = chain.input(&map);
    let x = chain.add(x, a);
    refused(chain.maps([x]), &["another chain"]);
}

/// Inputs that never meet need not be alike; then the chain runs op by op.
#[test]
fn inputs_may_differ() {
    let random = |dims: &[usize]| random(dims, 1);
    let (a, b) = (random(&[1, 4, 5, 6]), random(&[1, 4, 5, 6, 2]));
    let norm = |c: usize| LayerNorm::new(random(&[c]), random(&[c]), 1e-2);
    let mut chain = Chain::new();
    let (x, y) = (chain.input(&a), chain.input(&b));
    let (x, y) = (chain.norm(x, &norm(6)), chain.norm(y, &norm(2)));
    let [x, y] = chain.maps([x, y]).unwrap();
    assert!(x.dims() == a.dims() && y.dims() == b.dims());
    let mut chain = Chain::new();
    let (x, y) = (chain.input(&a), chain.input(&a.to_dtype(DType::F32).unwrap()));
    let (x, y) = (chain.add(x, x), chain.add(y, y));
    let [x, y] = chain.maps([x, y]).unwrap();
    assert!(x.dtype() == DType::F64 && y.dtype() == DType::F32);
}

#[test]
fn an_empty_map_stays_empty() {
    let tensors = Tensors::new([1, 0, 5, 3], DType::F32);
    let (chain, wanted) = tensors.pixels();
    assert!(chain.maps(wanted).unwrap().iter().all(|map| map.dims() == [1, 0, 5, 3]));
}
