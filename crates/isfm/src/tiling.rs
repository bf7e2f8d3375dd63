//! Large images in overlapping pieces.
//!
//! Tiles start on even pixels of what the network sees, so that the 2×2 wavelet blocks of a tile are
//! those of the whole image. Where two tiles overlap, the outer quarter on either side is thrown away (there the
//! zero padding of the convolutions shows) and in the middle half the one fades into the other
//! along a raised cosine; the two weights add up to one by construction. Rows leave as soon as no
//! further tile reaches them, so that no more of the result is held than a row of tiles.
//!
//! The network sees every tile with a margin around it, which is cropped off again and counts in
//! the memory that a tile takes.

use crate::plane::{Channel, Plane, View};
use crate::{Error, Result};

/// How an image is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Tiling {
    /// The whole image if the memory limit allows it, else the fewest tiles that it allows.
    #[default]
    Auto,
    /// Never: the whole image at once, whatever the memory.
    Whole,
    /// Tiles of at most so many pixels a side, whatever the memory; at least
    /// [`Tiling::MIN_EDGE`], and with a pyramid of L levels at least 64·2ᴸ: the network, which sees
    /// 1/2ᴸ of them, judges a scene by more than a smaller tile shows.
    Edge(usize),
}

impl Tiling {
    /// The smallest edge that can be asked for: below it the overlaps are most of the work and
    /// the network sees too little of the scene around a pixel.
    pub const MIN_EDGE: usize = 32;
    /// The overlap of neighbouring tiles, in pixels; a quarter of the edge for tiles below 256. With a
    /// pyramid of L levels it is at least 2ᴸ⁺⁴.
    pub const OVERLAP: usize = 64;
}

/// The edge of the smallest tiles that a memory limit is answered with.
const MIN_AUTO_EDGE: usize = 128;

/// One direction of a tile grid: equal lengths, starts at multiples of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Axis {
    tile: usize,
    starts: Vec<usize>,
}

impl Axis {
    /// Cuts a length, a multiple of `unit`, into the fewest tiles of at most `edge` (at least 4
    /// units).
    fn split(len: usize, edge: usize, unit: usize) -> Self {
        let edge = edge - edge % unit;
        if len <= edge {
            return Self { tile: len, starts: vec![0] };
        }
        let overlap = overlap(edge, unit);
        let n = (len - overlap).div_ceil(edge - overlap);
        let tile = (len + (n - 1) * overlap).div_ceil(n).next_multiple_of(unit);
        let last = len - tile;
        let starts = (0..n).map(|i| unit * (i * (last / unit) / (n - 1))).collect();
        Self { tile, starts }
    }

    /// The weight of each pixel of tile `i`.
    fn weights(&self, i: usize) -> Vec<f32> {
        let mut weights = vec![1.; self.tile];
        let start = self.starts[i];
        if i > 0 {
            let overlap = self.starts[i - 1] + self.tile - start;
            for (x, w) in weights[..overlap].iter_mut().enumerate() {
                *w = fade_in(x, overlap);
            }
        }
        if let Some(next) = self.starts.get(i + 1) {
            let overlap = start + self.tile - next;
            for (x, w) in weights[self.tile - overlap..].iter_mut().enumerate() {
                *w = 1. - fade_in(x, overlap);
            }
        }
        weights
    }
}

/// The overlap of tiles: 64 pixels, or 8 units of a pyramid whose unit is larger than 8.
fn most_overlap(unit: usize) -> usize {
    Tiling::OVERLAP.max(8 * unit)
}

fn overlap(edge: usize, unit: usize) -> usize {
    let quarter = edge / 4;
    most_overlap(unit).min(quarter - quarter % unit)
}

/// From 0 to 1 over the middle half of an overlap.
fn fade_in(x: usize, overlap: usize) -> f32 {
    let margin = overlap / 4;
    let place = (x as f32 + 0.5 - margin as f32) / (overlap - 2 * margin) as f32;
    0.5 - 0.5 * (std::f32::consts::PI * place.clamp(0., 1.)).cos()
}

/// A grid of tiles over an image of even size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    across: Axis,
    down: Axis,
    /// Pixels that are seen beyond a tile on every side.
    margin: usize,
}

impl Plan {
    /// One tile, of any size.
    pub(crate) fn whole(width: usize, height: usize, margin: usize) -> Self {
        let [across, down] = [width, height].map(|tile| Axis { tile, starts: vec![0] });
        Self { across, down, margin }
    }

    /// Whether the grid is one tile.
    pub(crate) fn is_whole(&self) -> bool {
        self.tiles() == 1
    }

    /// Width and height of what is seen at once: a tile and its margin.
    fn seen(&self) -> [usize; 2] {
        [&self.across, &self.down].map(|axis| axis.tile.saturating_add(2 * self.margin))
    }

    /// Bytes that [`run`](Self::run) takes if each pixel seen at once takes `per_pixel`.
    pub(crate) fn bytes(&self, per_pixel: usize) -> usize {
        let [width, height] = self.seen();
        let band = if self.is_whole() { 0 } else { self.width().saturating_mul(self.down.tile) };
        let tile = per_pixel.saturating_mul(width.saturating_mul(height));
        tile.saturating_add(band.saturating_mul(size_of::<f32>()))
    }

    /// Pixels computed, overlaps and margins counted as often as they are.
    fn pixels(&self) -> usize {
        self.tiles() * self.seen().iter().product::<usize>()
    }

    fn tiles(&self) -> usize {
        self.across.starts.len() * self.down.starts.len()
    }

    fn width(&self) -> usize {
        self.across.starts.last().map_or(0, |start| start + self.across.tile)
    }

    /// Fuses tile by tile, one after the other, and blends. `fuse` is given the top left corner, the
    /// width and the height of a tile with its margin, which may reach beyond the image; `rows` the
    /// number of its first row and finished rows, from the top to the bottom of the image.
    pub(crate) fn run(
        &self,
        mut fuse: impl FnMut([isize; 2], usize, usize) -> Result<Plane>,
        mut rows: impl FnMut(usize, View<'_>),
    ) -> Result<()> {
        let (width, w, h) = (self.width(), self.across.tile, self.down.tile);
        let (margin, [seen_width, seen_height]) = (self.margin as isize, self.seen());
        let mut tile = |x: usize, y: usize| -> Result<Plane> {
            let seen = fuse([x, y].map(|at| at as isize - margin), seen_width, seen_height)?;
            Ok(if margin == 0 { seen } else { seen.view().window(margin, margin, w, h) })
        };
        if self.is_whole() {
            rows(0, tile(0, 0)?.view());
            return Ok(());
        }
        let mut band = vec![0.; width * h];
        for (j, &y0) in self.down.starts.iter().enumerate() {
            let down = self.down.weights(j);
            for (i, &x0) in self.across.starts.iter().enumerate() {
                let across = self.across.weights(i);
                let tile = tile(x0, y0)?;
                let lines = band.chunks_exact_mut(width).zip(tile.data.chunks_exact(w));
                for ((to, from), wy) in lines.zip(&down) {
                    for ((to, from), wx) in to[x0..].iter_mut().zip(from).zip(&across) {
                        *to += wy * wx * from;
                    }
                }
            }
            let next = self.down.starts.get(j + 1).copied().unwrap_or(y0 + h);
            let (done, rest) = band.split_at((next - y0) * width);
            rows(y0, View { width, height: next - y0, data: done });
            let rest = rest.len();
            band.copy_within(width * h - rest.., 0);
            band[rest..].fill(0.);
        }
        Ok(())
    }
}

/// What an image is cut up on: its size and that of the tiles are multiples of `unit`, which is two of
/// the network's pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Pixels that are seen beyond a tile on every side.
    pub(crate) margin: usize,
    pub(crate) unit: usize,
}

impl Grid {
    /// Tiles of at most `edge` pixels a side, which is at least [`min_edge`].
    pub(crate) fn edge(&self, edge: usize) -> Plan {
        let split = |len| Axis::split(len, edge, self.unit);
        Plan { across: split(self.width), down: split(self.height), margin: self.margin }
    }

    /// The edge of the smallest tiles that a memory limit is answered with: 128 pixels, or what [`min_edge`] is
    /// with a pyramid.
    fn least(&self) -> usize {
        if self.unit == 2 { MIN_AUTO_EDGE } else { 32 * self.unit }
    }

    /// The smallest tiles that a memory limit is answered with.
    pub(crate) fn smallest(&self) -> Plan {
        self.edge(self.least())
    }

    /// The grid that computes the fewest pixels in at most `limit` [`bytes`](Self::bytes); `None`
    /// if not even the [`smallest`](Self::smallest) tiles take so few.
    pub(crate) fn within(&self, limit: usize, per_pixel: usize) -> Option<Plan> {
        let &Self { width, height, margin, unit } = self;
        let fits = |p: &Plan| p.bytes(per_pixel) <= limit;
        let whole = Plan::whole(width, height, margin);
        if fits(&whole) {
            return Some(whole);
        }
        let mut best = Some(self.smallest()).filter(fits);
        let mut columns = 1;
        loop {
            let overlaps = (columns - 1) * most_overlap(unit);
            let edge = (width + overlaps).div_ceil(columns).next_multiple_of(unit);
            if edge < self.least().min(width) {
                return best;
            }
            let across = Axis::split(width, edge, unit);
            let row = per_pixel.saturating_mul(across.tile + 2 * margin);
            let margins = row.saturating_mul(2 * margin);
            let row = row.saturating_add(width.saturating_mul(size_of::<f32>()));
            let room = limit.saturating_sub(margins) / row.max(1);
            if room >= self.least().min(height) {
                let plan = Plan { across, down: Axis::split(height, room, unit), margin };
                // Among equals the squarer one: it sees more around its middle.
                let cost = |p: &Plan| (p.pixels(), p.across.tile.abs_diff(p.down.tile));
                if fits(&plan) && best.as_ref().is_none_or(|best| cost(&plan) < cost(best)) {
                    best = Some(plan);
                }
            }
            if edge <= self.least() {
                return best;
            }
            columns += 1;
        }
    }
}

/// The smallest edge that can be asked for with a pyramid of so many levels.
fn min_edge(levels: usize) -> usize {
    if levels == 0 { Tiling::MIN_EDGE } else { 64 << levels }
}

/// # Errors
/// [`Error::Option`] for an edge below [`min_edge`].
pub(crate) fn validate(tiling: Tiling, levels: usize) -> Result<()> {
    match tiling {
        Tiling::Edge(edge) if edge < min_edge(levels) => Err(Error::Option {
            what: "the tile edge",
            got: edge.to_string(),
            needed: format!("at least {} pixels", min_edge(levels)),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(axis: &Axis, len: usize, edge: usize, unit: usize) {
        assert!(axis.tile <= edge && axis.tile.is_multiple_of(unit));
        assert_eq!(axis.starts[0], 0);
        assert_eq!(axis.starts.last().unwrap() + axis.tile, len);
        for pair in axis.starts.windows(2) {
            assert!(pair[1].is_multiple_of(unit));
            let lap = (pair[0] + axis.tile).checked_sub(pair[1]).unwrap();
            assert!(lap >= overlap(edge - edge % unit, unit), "{axis:?}");
        }
        // A pixel belongs to two tiles at most, else three weights would not add up to one.
        for three in axis.starts.windows(3) {
            assert!(three[0] + axis.tile <= three[2], "{axis:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn tiles_cover_the_length_and_weights_add_up(
            units in 1usize..1000,
            edge in 64usize..700,
            levels in 0usize..4,
        ) {
            let unit = 2 << levels;
            let (len, edge) = (unit * units, edge.max(min_edge(levels)));
            let axis = Axis::split(len, edge, unit);
            check(&axis, len, edge, unit);
            let mut sum = vec![0f32; len];
            for (i, &start) in axis.starts.iter().enumerate() {
                for (s, w) in sum[start..].iter_mut().zip(axis.weights(i)) {
                    prop_assert!((0. ..=1.).contains(&w));
                    *s += w;
                }
            }
            prop_assert!(sum.iter().all(|s| (s - 1.).abs() < 1e-6));
        }

        /// What is seen at once, and the rows held besides, stay within the bytes that a plan names,
        /// and these within the limit.
        #[test]
        fn a_limit_holds(
            w in 1usize..800,
            h in 1usize..800,
            edge in Tiling::MIN_EDGE..700,
            area in 1000usize..1_000_000,
            margin in prop::sample::select(vec![0, 8]),
            levels in 0usize..4,
        ) {
            const PER_PIXEL: usize = 1000;
            let unit = 2 << levels;
            let [width, height] = [w, h].map(|n| (2 * n).next_multiple_of(unit));
            let grid = Grid { width, height, margin: margin << levels, unit };
            let edge = edge.max(min_edge(levels));
            let limit = PER_PIXEL * area;
            let within = grid.within(limit, PER_PIXEL);
            match &within {
                Some(plan) => prop_assert!(plan.bytes(PER_PIXEL) <= limit),
                None => {
                    prop_assert!(grid.smallest().bytes(PER_PIXEL) > limit);
                }
            }
            let (whole, cut) = (Plan::whole(width, height, grid.margin), grid.edge(edge));
            for plan in within.iter().chain([&whole, &cut]) {
                check(&plan.across, width, plan.across.tile, unit);
                check(&plan.down, height, plan.down.tile, unit);
                let held = if plan.is_whole() { 0 } else { 4 * width * plan.down.tile };
                plan.run(
                    |_, w, h| {
                        assert!(PER_PIXEL * w * h + held <= plan.bytes(PER_PIXEL), "{plan:?}");
                        Ok(Plane::zeros(w, h))
                    },
                    |_, _| (),
                )
                .unwrap();
            }
        }
    }

    #[test]
    fn identity_comes_back_whole() {
        let mut plane = Plane::zeros(230, 150);
        for (i, v) in plane.data.iter_mut().enumerate() {
            *v = (i % 97) as f32 / 97.;
        }
        for margin in [0, 8] {
            let plan = Grid { width: 230, height: 150, margin, unit: 2 }.edge(64);
            assert!(plan.tiles() > 6);
            let mut back = Vec::new();
            let fuse = |[x, y]: [isize; 2], w, h| Ok(plane.view().window(x, y, w, h));
            plan.run(fuse, |y, rows| {
                assert_eq!((y * 230, rows.width), (back.len(), 230));
                assert!(rows.height < 64 + 1);
                back.extend_from_slice(rows.data);
            })
            .unwrap();
            assert_eq!(back.len(), plane.data.len());
            for (a, b) in back.iter().zip(&plane.data) {
                assert!((a - b).abs() < 1e-6);
            }
        }
        let grid = Grid { width: 4000, height: 4000, margin: 0, unit: 2 };
        assert!(grid.within(1_000_000, 1000).is_none());
    }
}
