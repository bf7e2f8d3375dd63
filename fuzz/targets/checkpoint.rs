//! A file of weights, whatever its form, as an ISFM network's.
#![no_main]

use candle_core::Device;
use isfm_model::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The reader alone takes every tensor, the network's only its own.
    _ = isfm_files::checkpoint::from_bytes("fuzz", bytes, &Device::Cpu, |_| true);
    if let Ok(checkpoint) = Checkpoint::from_bytes("fuzz", bytes, None, &Device::Cpu) {
        checkpoint.config.validate().expect("a configuration that was read is a valid one");
    }
});
