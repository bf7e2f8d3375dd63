//! A chain gives the same in blocks (no tensor asks for a gradient) as op by op.

use candle_core::{DType, Device, Result, Tensor, Var};
use isfm_ops::chain::{Chain, Value};
use isfm_ops::nn::{DepthwiseConv2d, LayerNorm};
use isfm_testing::{assert_close, bits, random, refused, same_on_any_threads};

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
