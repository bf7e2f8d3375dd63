//! Scores a fused picture against its sources, beside what costs nothing: the pixel-wise maximum.
//!
//! ```text
//! cargo run --release --example score
//! cargo run --release --example score -- VISIBLE INFRARED FUSED
//! ```

use anyhow::{Result, bail};
use image::GrayImage;
use isfm::Isfm;
use isfm_metrics::{Metric, Plane, Scores, Triple};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [visible, infrared, fused] = match &args[..] {
        [_, _, _] => {
            let read = |at: usize| Ok::<_, isfm::Error>(isfm::read_image(&args[at])?.to_luma8());
            [read(0)?, read(1)?, read(2)?]
        }
        [] => {
            let (visible, infrared) = isfm_testing::paint::night_road();
            let fused =
                Isfm::embedded()?.fuse(&visible.clone().into(), &infrared.clone().into())?;
            let visible = image::DynamicImage::from(visible).to_luma8();
            [visible, infrared, fused.to_luma8()]
        }
        _ => bail!("needs VISIBLE INFRARED FUSED, or nothing"),
    };
    let mut largest = visible.clone();
    largest.iter_mut().zip(infrared.iter()).for_each(|(v, i)| *v = *i.max(v));

    let score = |fused: &GrayImage| -> Result<Scores> {
        let triple = Triple::new(plane(&visible)?, plane(&infrared)?, plane(fused)?)?;
        // The nine of the ISFM authors' evaluation; `Scores::evaluate` has all.
        Ok(Scores::evaluate_only(&triple, Metric::RELEASED))
    };
    let (fused, largest) = (score(&fused)?, score(&largest)?);
    println!("         fused  maximum");
    for (metric, value) in fused.iter() {
        let other = largest.get(metric).unwrap_or(f64::NAN);
        println!("{metric:<5} {value:8.4} {other:8.4}  ({:?} is better)", metric.direction());
    }
    Ok(())
}

fn plane(picture: &GrayImage) -> Result<Plane<'_, u8>> {
    Ok(Plane::new(picture, picture.width() as usize, picture.height() as usize)?)
}
