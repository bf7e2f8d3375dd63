//! GStreamer plugin with one element, `isfmfuse`: the frames of a visible and an infrared camera, fused by the
//! ISFM network while they come in.
//!
//! ```text
//! gst-launch-1.0 isfmfuse name=f ! videoconvert ! autovideosink \
//!     v4l2src device=/dev/video0 ! videoconvert ! queue leaky=downstream max-size-buffers=1 ! f.visible \
//!     v4l2src device=/dev/video2 ! video/x-raw,format=GRAY16_LE ! queue leaky=downstream max-size-buffers=1 ! f.infrared
//! ```
//!
//! It is an `Aggregator` that the visible stream drives: each visible frame comes out once, with its own time, and
//! with the luma that [`isfm::Stream`] gives it and the infrared frame of that moment. A `VideoAggregator` would
//! put frames on a clock of its own, fuse some twice and leave others out, and take no camera without a frame
//! rate.
//!
//! [`register_static`] makes the element known to a program that links this crate; `libgstisfm.so` in a folder of
//! `GST_PLUGIN_PATH` does for all others.

mod frames;
mod fuse;
mod settings;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use fuse::IsfmFuse;
pub use settings::{InfraredLoss, Normalization};

use gst::glib;

/// Registers the element without a plugin file. `gst::init` comes before.
///
/// # Errors
/// If GStreamer refuses.
pub fn register_static() -> Result<(), glib::BoolError> {
    plugin::plugin_register_static()
}

mod plugin {
    use gst::glib;

    gst::plugin_define!(
        isfm,
        "Fusion of infrared and visible video with the ISFM network",
        init,
        env!("CARGO_PKG_VERSION"),
        // Of MIT OR Apache-2.0, the one in GStreamer's list.
        "MIT/X11",
        "gst-plugin-isfm",
        "gst-plugin-isfm",
        env!("CARGO_PKG_REPOSITORY")
    );

    fn init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
        super::fuse::register(plugin)
    }
}
