//! Fuses a visible and an infrared picture. Without arguments it paints a night road first.
//!
//! ```text
//! cargo run --release --example fuse
//! cargo run --release --example fuse -- VISIBLE INFRARED FUSED
//! ```

use std::time::Instant;

use anyhow::{Result, bail};
use isfm::Isfm;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (visible, infrared, output) = match &args[..] {
        [visible, infrared, output] => {
            (isfm::read_image(visible)?, isfm::read_image(infrared)?, output.as_str())
        }
        [] => {
            let (visible, infrared) = isfm_testing::paint::night_road();
            let (visible, infrared) = (visible.into(), infrared.into());
            isfm::write_image(&visible, "out/visible.png")?;
            isfm::write_image(&infrared, "out/infrared.png")?;
            println!("painted out/visible.png and out/infrared.png");
            (visible, infrared, "out/fused.png")
        }
        _ => bail!("needs VISIBLE INFRARED FUSED, or nothing"),
    };
    let isfm = Isfm::embedded()?;
    let start = Instant::now();
    let fused = isfm.fuse(&visible, &infrared)?;
    println!(
        "fused {}x{} in {:.2} s",
        fused.width(),
        fused.height(),
        start.elapsed().as_secs_f64()
    );
    isfm::write_image(&fused, output)?;
    println!("{output}");
    Ok(())
}
