//! Files of weights that people reported, beside the repository.

use candle_core::{DType, Device};
use isfm_model::Checkpoint;
use isfm_testing::{refused, same_bits, shared};

use super::Outcome;

pub(crate) fn reported_weights_are_read_or_named() -> Outcome {
    let cases = shared().join("cases");
    if !cases.join("plain.pth").exists() {
        return Err("no ../shared/cases".to_string());
    }
    let read = |name: &str| Checkpoint::read(cases.join(name), None, &Device::Cpu);
    let plain = read("plain.pth").unwrap();
    for name in [
        "nested_ema.pth",
        "compiled.pth",
        "dataparallel.safetensors",
        "channels_last.pth",
        "deflated.pth",
    ] {
        let other = read(name).unwrap();
        assert_eq!(other.config, plain.config, "{name}");
        assert!(other.weights.keys().eq(plain.weights.keys()), "{name}");
        for (tensor, want) in &plain.weights {
            assert!(same_bits(&other.weights[tensor], want), "{name}: {tensor}");
        }
    }
    refused(read("missing1.pth"), &["missing1.pth", "1 missing: conv1_before.2.weight"]);
    refused(read("bomb_1e12.pth"), &["conv1_before.2.weight", "storage of 40 bytes"]);
    let huge = read("huge1.pth").unwrap();
    refused(huge.to_safetensors(DType::F16), &["conv1_before.2.weight", "2.5583248e28", "F16"]);
    let kept = huge.to_safetensors(DType::F32).unwrap();
    Checkpoint::from_bytes("kept", &kept, None, &Device::Cpu).unwrap();
    Ok(())
}
