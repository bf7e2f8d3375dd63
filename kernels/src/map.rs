//! Channel-last maps, as `map.cuh` has them.

use crate::launch::{at_most, count};
use crate::{Arg, Limit};

/// A stack of maps, batch×height×width×channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Map {
    /// The number of elements, as the kernels count it.
    pub(crate) fn count(&self, op: &'static str) -> Result<u32, Limit> {
        let &Self { batch, height, width, channels } = self;
        count(op, "the number of elements", &[batch, height, width, channels])
    }

    /// Height, width and channels as arguments.
    pub(crate) fn sizes(&self) -> [Arg; 3] {
        [self.height, self.width, self.channels].map(|n| Arg::U32(n as u32))
    }
}

/// The side of a window as the kernels count it: its square, with room to spare, in 32 bits.
pub(crate) fn check_window(op: &'static str, k: usize) -> Result<u32, Limit> {
    at_most(op, "the window", k, 1023)?;
    Ok(k as u32)
}
