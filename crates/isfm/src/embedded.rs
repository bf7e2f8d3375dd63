//! The weights inside the crate.

use std::sync::OnceLock;

use candle_core::Device;
use isfm_model::Checkpoint;

use crate::Result;

static BYTES: &[u8] = include_bytes!("../weights/embedded.safetensors");

/// The embedded weights as a file of safetensors: to tell which they are, or to keep them.
pub fn embedded_weights() -> &'static [u8] {
    BYTES
}

/// The embedded checkpoint: decoded once for the process, because the f16 file becomes f32
/// tensors that any number of [`Isfm`](crate::Isfm) can share.
pub(crate) fn checkpoint() -> Result<&'static Checkpoint> {
    static DECODED: OnceLock<Checkpoint> = OnceLock::new();
    if let Some(decoded) = DECODED.get() {
        return Ok(decoded);
    }
    let decoded = Checkpoint::from_bytes("(embedded)", BYTES, None, &Device::Cpu)?;
    Ok(DECODED.get_or_init(|| decoded))
}
