//! Times of wavelet transforms and of copies, as one line of JSON: what
//! `benches/python/wavelets_vs_pywavelets.py` of the repository runs beside PyWavelets.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use isfm_dwt::{
    Border, DataFormat, Result, Wavelet, dwt2, idwt2, iswt2, swt2, wavedec, wavedec2, waverec2,
};
use rayon::prelude::*;

const LAYOUT: DataFormat = DataFormat::ChannelsFirst;

/// A tensor of standard normal values.
fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// The shortest of five runs after one that warms up, in milliseconds.
fn best<T>(work: impl FnMut() -> Result<T>) -> Result<f64> {
    Ok(1e3 * isfm_testing::best(5, work)?)
}

/// A copy into fresh memory by all threads: the least a transform has to do.
fn copy(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    x.par_chunks(1 << 16)
        .zip(out.spare_capacity_mut()[..x.len()].par_chunks_mut(1 << 16))
        .for_each(|(x, out)| {
            for (out, &x) in out.iter_mut().zip(x) {
                out.write(x);
            }
        });
    // SAFETY: every chunk was written.
    unsafe { out.set_len(x.len()) };
    out
}

fn main() -> Result<()> {
    let (haar, db4, sym8) = (Wavelet::haar(), Wavelet::named("db4")?, Wavelet::named("sym8")?);
    let mut times = BTreeMap::new();
    let mut put = |name: String, ms: f64| times.insert(name, ms);
    for side in [2048, 1024, 512, 256] {
        let x = random(&[1, 1, side, side]);
        let plain = x.flatten_all()?.to_vec1::<f32>()?;
        put(format!("copy {side}"), best(|| Ok(copy(&plain)))?);
        put(format!("candle copy {side}"), best(|| Ok(x.copy()?))?);
        let run = || dwt2(&x, &haar, Border::Symmetric, LAYOUT);
        put(format!("dwt2 haar {side}"), best(run)?);
        let bands = run()?;
        let back = || idwt2(&bands.approx, &bands.details, &haar, Border::Symmetric, LAYOUT);
        put(format!("idwt2 haar {side}"), best(back)?);
    }
    let x = random(&[1, 1, 2048, 2048]);
    for (name, wavelet) in [("haar", &haar), ("db4", &db4), ("sym8", &sym8)] {
        for (mode, border) in
            [("symmetric", Border::Symmetric), ("periodization", Border::Periodization)]
        {
            let levels = wavelet.max_level(2048);
            let run = || wavedec2(&x, wavelet, border, LAYOUT, levels);
            put(format!("wavedec2 {name} {mode}"), best(run)?);
            let c = run()?;
            let back = || waverec2(&c, wavelet, border, LAYOUT);
            put(format!("waverec2 {name} {mode}"), best(back)?);
        }
    }
    let small = random(&[1, 1, 1024, 1024]);
    let run = || swt2(&small, &db4, LAYOUT, 2);
    put("swt2 db4".into(), best(run)?);
    let c = run()?;
    put("iswt2 db4".into(), best(|| iswt2(&c, &db4, LAYOUT))?);
    let line = random(&[1 << 22]);
    put("wavedec db4".into(), best(|| wavedec(&line, &db4, Border::Symmetric, 0, 10))?);

    let threads = rayon::current_num_threads();
    let times: Vec<_> = times.iter().map(|(name, ms)| format!("{name:?}: {ms:.4}")).collect();
    println!("{{\"threads\": {threads}, {}}}", times.join(", "));
    Ok(())
}
