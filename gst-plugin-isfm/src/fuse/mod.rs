//! The element `isfmfuse`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element `isfmfuse`; `gst-inspect-1.0 isfmfuse` tells its pads and properties.
    pub struct IsfmFuse(ObjectSubclass<imp::IsfmFuse>)
        @extends gst_base::Aggregator, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "isfmfuse", gst::Rank::NONE, IsfmFuse::static_type())
}
