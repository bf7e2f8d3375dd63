//! The selective scan: its sizes, how its parameters lie in memory, and its plans, `scan.cu`.

mod plan;

use std::ops::Range;

pub use plan::{MOST_RANK, MOST_STATES};

/// How the steps of a scan map to positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Step t is position t; each group has columns of its own.
    Line,
    /// Four groups walk a map of rows×cols positions over the same columns: row by row, column by
    /// column, and the reverse of each.
    Cross {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
}

/// The sizes of a scan and which of its optional parts are there: δ = softplus(raw + bias),
/// h_t = exp(δA) h_{t−1} + δBu, y = C·h + skip·u, where raw is given, or the product of `rank`
/// factors with weights. At first every option is off and the rank 0.
///
/// The kernels and the CPU's scan rely on what the constructors ensure: a map has rows·cols steps
/// and four groups. So the fields are private:
///
/// ```compile_fail,E0451
/// let line = isfm_kernels::scan::Scan::line(1, 16, 1, 8, 16);
/// let wrong = isfm_kernels::scan::Scan { groups: 3, ..line };
/// ```
///
/// ```compile_fail,E0616
/// let mut map = isfm_kernels::scan::Scan::map(1, 4, 4, 8, 16);
/// map.length = 17;
/// ```
///
/// Sizes too large for `usize` become its largest value, which no plan takes.
#[derive(Clone, Debug)]
#[must_use]
pub struct Scan {
    batch: usize,
    length: usize,
    path: Path,
    groups: usize,
    channels: usize,
    states: usize,
    rank: usize,
    bias: bool,
    skip: bool,
    initial: bool,
    softplus: bool,
    log_a: bool,
    last: bool,
}

/// Where each parameter lies in the flat parameters: dt's weights, bias, A, skip, initial states,
/// without those that are not there.
#[derive(Clone, Debug)]
pub struct ParamRanges {
    dt_weight: Range<usize>,
    bias: Range<usize>,
    a: Range<usize>,
    skip: Range<usize>,
    initial: Range<usize>,
}

/// A setter and an accessor of each option.
macro_rules! options {
    ($($set:ident, $get:ident: $type:ty, $what:literal;)*) => {
        $(
            #[doc = concat!("Sets ", $what, ".")]
            pub fn $set(mut self, $set: $type) -> Self {
                self.$set = $set;
                self
            }

            #[doc = concat!("Returns ", $what, ".")]
            #[inline]
            pub fn $get(&self) -> $type {
                self.$set
            }
        )*
    };
}

impl Scan {
    /// A scan along `batch` sequences of `length` steps. Each of `groups` has B and C of its own
    /// and `channels` channels with `states` states.
    pub fn line(
        batch: usize,
        length: usize,
        groups: usize,
        channels: usize,
        states: usize,
    ) -> Self {
        #[rustfmt::skip]
        let scan = Self {
            batch, length, path: Path::Line, groups, channels, states, rank: 0, bias: false,
            skip: false, initial: false, softplus: false, log_a: false, last: false,
        };
        scan
    }

    /// A scan over `batch` maps of `rows`×`cols`, in four directions that share the `channels`
    /// channels of the map and have `states` states each.
    pub fn map(batch: usize, rows: usize, cols: usize, channels: usize, states: usize) -> Self {
        let path = Path::Cross { rows, cols };
        Self { path, ..Self::line(batch, product([rows, cols]), 4, channels, states) }
    }

    read! {
        /// The number of sequences or maps.
        batch: usize,
        /// The number of steps; on a map rows·cols.
        length: usize,
        /// How steps map to positions.
        path: Path,
        /// The number of groups (directions) with B and C of their own; 4 on a map.
        groups: usize,
        /// The number of channels of a group.
        channels: usize,
        /// The number of states of a channel.
        states: usize,
    }

    options! {
        rank, dt_rank: usize,
            "the number of dt's factors in a row of projections; with 0 dt itself follows u in the \
             first input";
        bias, has_bias: bool, "whether dt has a bias";
        skip, has_skip: bool, "whether there is a skip";
        initial, has_initial: bool, "whether there are initial states";
        softplus, has_softplus: bool, "whether δ goes through softplus";
        log_a, has_log_a: bool, "whether the parameters hold ln(−A) instead of A";
        last, has_last: bool, "whether the last states follow y in the output";
    }

    /// Elements in a row of u and y: on a line those of all groups, on a map the channels.
    #[inline]
    pub fn width(&self) -> usize {
        match self.path {
            Path::Line => product([self.groups, self.channels]),
            Path::Cross { .. } => self.channels,
        }
    }

    /// Elements of u, and of y without the last states.
    pub fn elements(&self) -> usize {
        product([self.batch, self.length, self.width()])
    }

    /// Elements of the initial or last states.
    pub fn state_elements(&self) -> usize {
        product([self.batch, self.groups, self.channels, self.states])
    }

    /// Elements in a group's row of projections: dt's factors, B, C.
    #[inline]
    pub fn proj_width(&self) -> usize {
        self.states.saturating_mul(2).saturating_add(self.rank)
    }

    /// Elements of the projections, batch×length×groups×[`proj_width`](Self::proj_width).
    pub fn proj_elements(&self) -> usize {
        product([self.batch, self.length, self.groups, self.proj_width()])
    }

    /// Where each of the flat parameters lies.
    pub fn params(&self) -> ParamRanges {
        let &Self { rank, bias, skip, initial, .. } = self;
        let rows = product([self.groups, self.channels]);
        let mut at = 0usize;
        let mut next = |there: bool, size: usize| {
            let start = at;
            at = at.saturating_add(if there { size } else { 0 });
            start..at
        };
        ParamRanges {
            dt_weight: next(true, product([rows, rank])),
            bias: next(bias, rows),
            a: next(true, product([rows, self.states])),
            skip: next(skip, rows),
            initial: next(initial, self.state_elements()),
        }
    }
}

#[expect(clippy::len_without_is_empty, reason = "a number to allocate, not a collection")]
impl ParamRanges {
    read! {
        /// The weights of dt's factors, groups×channels×rank; empty with rank 0.
        dt_weight: Range<usize> = clone,
        /// The bias of dt, groups×channels; empty where there is none.
        bias: Range<usize> = clone,
        /// A or ln(−A), groups×channels×states.
        a: Range<usize> = clone,
        /// The skip, groups×channels; empty where there is none.
        skip: Range<usize> = clone,
        /// The initial states, batch×groups×channels×states; empty where there are none.
        initial: Range<usize> = clone,
    }

    /// The number of all parameters.
    pub fn len(&self) -> usize {
        self.initial.end
    }
}

/// The product, or the largest number where it is larger.
#[inline]
fn product<const N: usize>(factors: [usize; N]) -> usize {
    factors.into_iter().fold(1, usize::saturating_mul)
}
