//! Stored values of every depth, brought to 8 bits by every rule.
#![no_main]

use isfm::Side;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "frames.rs"]
mod frames;

fn run(bytes: &[u8]) -> Result<()> {
    let mut bytes = Unstructured::new(bytes);
    let (low, high) = (bytes.arbitrary::<f32>()?.into(), bytes.arbitrary::<f32>()?.into());
    let rule = frames::rule(bytes.arbitrary()?, low, high);
    let picture = frames::picture(&mut bytes)?;
    for side in [Side::Visible, Side::Infrared] {
        if let Ok((black, white)) = rule.range_of(&picture, side) {
            assert!(black.is_finite() && white.is_finite() && black <= white);
        }
        if let Ok(eight) = isfm::to_8_bits(&picture, side, rule) {
            assert_eq!((eight.width(), eight.height()), (picture.width(), picture.height()));
        }
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    _ = run(bytes);
});
