//! What the element is told, and the [`Stream`] that comes of it.

use std::error::Error;
use std::time::Duration;

use candle_core::Device;
use gst::glib;
use isfm::{Alignment, Builder, Isfm, Normalize, Stream, StreamRange};

/// How the counts of 16-bit infrared frames become black and white.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstIsfmNormalize")]
pub enum Normalization {
    /// A range that follows the scene without flicker, see [`StreamRange::Steady`].
    #[default]
    #[enum_value(name = "Follow the scene without flicker", nick = "steady")]
    Steady,
    /// A range for each frame alone.
    #[enum_value(name = "Choose black and white for each frame alone", nick = "each-frame")]
    EachFrame,
    /// Fixed counts.
    #[enum_value(name = "The counts range-low and range-high", nick = "range")]
    Range,
}

/// What happens where there is no infrared frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstIsfmInfraredLoss")]
pub enum InfraredLoss {
    /// Visible frames pass as they are.
    #[default]
    #[enum_value(name = "Visible frames pass as they are", nick = "pass")]
    Pass,
    /// The fused stream ends, unless there was no infrared frame yet.
    #[enum_value(name = "The fused stream ends", nick = "eos")]
    Eos,
}

/// The properties.
#[derive(Clone, Debug)]
pub struct Settings {
    pub weights: Option<String>,
    pub device: Option<String>,
    pub threads: u32,
    pub pyramid_levels: i32,
    pub normalize: Normalization,
    pub range_low: f64,
    pub range_high: f64,
    /// Nanoseconds, as all times here.
    pub time_constant: u64,
    pub homography: Option<String>,
    /// [`AUTOMATIC`] for a frame of the visible stream.
    pub processing_time: u64,
    /// [`u64::MAX`] for ever.
    pub infrared_hold: u64,
    pub infrared_loss: InfraredLoss,
    pub qos: bool,
}

/// A time that the element chooses.
pub const AUTOMATIC: u64 = u64::MAX;

impl Default for Settings {
    fn default() -> Self {
        Self {
            weights: None,
            device: Some("cpu".to_owned()),
            threads: 0,
            pyramid_levels: -1,
            normalize: Normalization::default(),
            range_low: 0.,
            range_high: 65_535.,
            time_constant: 500_000_000,
            homography: None,
            processing_time: AUTOMATIC,
            infrared_hold: 1_000_000_000,
            infrared_loss: InfraredLoss::default(),
            qos: true,
        }
    }
}

impl Settings {
    /// Reads the weights and makes the network.
    ///
    /// # Errors
    /// What is wrong, with the property's name.
    pub fn stream(&self) -> Result<Stream, String> {
        let mut builder = Isfm::builder().device(self.device()?);
        if self.threads > 0 {
            let most = std::thread::available_parallelism().map_or(1, usize::from);
            builder = builder.threads((self.threads as usize).min(most).min(Builder::MAX_THREADS));
        }
        if let Some(path) = given(&self.weights) {
            builder = builder.weights(path);
        }
        if let Ok(levels) = usize::try_from(self.pyramid_levels) {
            builder = builder.pyramid(levels);
        }
        let isfm = builder.build().map_err(|error| chain(&error))?;
        let range = match self.normalize {
            Normalization::Steady => {
                StreamRange::Steady { time_constant: Duration::from_nanos(self.time_constant) }
            }
            Normalization::EachFrame => StreamRange::EachFrame(Normalize::Auto),
            Normalization::Range => StreamRange::EachFrame(Normalize::Range {
                low: self.range_low,
                high: self.range_high,
            }),
        };
        let stream = Stream::new(isfm).range(range).map_err(|error| chain(&error))?;
        let Some(homography) = given(&self.homography) else { return Ok(stream) };
        let inline = homography.trim_start().starts_with(['[', '{']);
        let read =
            if inline { Alignment::from_json(homography) } else { Alignment::read(homography) };
        Ok(stream.alignment(read.map_err(|error| chain(&error))?))
    }

    fn device(&self) -> Result<Device, String> {
        let name = given(&self.device).unwrap_or("cpu");
        let number = match name.strip_prefix("cuda") {
            None if name == "cpu" => return Ok(Device::Cpu),
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(|number| number.parse::<usize>().ok()),
            None => None,
        };
        let Some(number) = number else {
            return Err(format!("the device is {name:?}, needs cpu, cuda or cuda:N"));
        };
        if !cfg!(feature = "cuda") {
            return Err(format!(
                "the device is {name}, but this build has no CUDA support; build with --features cuda"
            ));
        }
        Device::new_cuda(number).map_err(|error| format!("device cuda:{number}: {error}"))
    }
}

/// A text that is not empty: gst-launch-1.0 cannot take a property back.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// An error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(settings: &Settings) -> String {
        settings.stream().expect_err("these settings make no sense")
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let text = |text: &str| Some(text.to_owned());
        for (settings, says) in [
            (Settings { device: text("tpu"), ..Default::default() }, "needs cpu, cuda or cuda:N"),
            (Settings { device: text("cuda:x"), ..Default::default() }, "\"cuda:x\""),
            (Settings { weights: text("none.pth"), ..Default::default() }, "none.pth"),
            (Settings { homography: text("[1, 2]"), ..Default::default() }, "2 numbers"),
            (
                Settings { homography: text("[1,0,0,2,0,0,0,0,1]"), ..Default::default() },
                "inverted",
            ),
            (Settings { homography: text("none.json"), ..Default::default() }, "none.json"),
            (Settings { pyramid_levels: 1, ..Default::default() }, "pyramid"),
            (
                Settings {
                    normalize: Normalization::Range,
                    range_low: 9.,
                    range_high: 9.,
                    ..Default::default()
                },
                "range",
            ),
        ] {
            let problem = refused(&settings);
            assert!(problem.contains(says), "{problem:?} does not say {says:?}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_needs_its_feature() {
        let settings = Settings { device: Some("cuda".to_owned()), ..Default::default() };
        assert!(refused(&settings).contains("--features cuda"));
    }

    #[test]
    fn empty_texts_are_none() {
        let empty = Some(String::new());
        let settings = Settings {
            weights: empty.clone(),
            device: empty.clone(),
            homography: empty,
            ..Default::default()
        };
        assert!(settings.stream().is_ok());
    }
}
