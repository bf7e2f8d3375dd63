//! A run file, TOML or JSON: what is read can be checked, and its text read again.
#![no_main]

use isfm_train::RunFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(run) = RunFile::parse("run", text) else { return };
    let again = RunFile::parse("again", run.text()).expect("its own text");
    // NaN is not equal to itself, and no setting that may be one passes.
    if run.train.validate().is_ok() {
        assert_eq!(again.train, run.train);
    }
});
