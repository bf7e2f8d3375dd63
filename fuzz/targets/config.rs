//! A configuration as JSON: what is read is valid, and comes back the same.
#![no_main]

use isfm_model::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(config) = Config::from_json(text) else { return };
    config.validate().expect("a configuration that was read is a valid one");
    assert!(config.dt_rank() > 0 && config.d_inner() > 0 && config.layers() > 0);
    _ = config.pyramid.outputs();
});
