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
//!
//! On a pyramid the tiles are those of the base, which has 1/4ᴸ of the pixels and so is seldom cut at
//! all. What is done on the picture itself depends on near neighbours alone: it is done on
//! [`Pieces`], which overlap by margins and give the same bits however they are cut.

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
    /// Tiles of at most so many pixels a side, whatever the memory; at least [`Tiling::MIN_EDGE`].
    ///
    /// With a pyramid the picture is cut into pieces of this size (or 2ᴸ⁺¹, if that is more), which
    /// changes nothing in the result, and its base, which the network sees, into tiles of this size,
    /// at least 64. So with the embedded weights, whose base has an eighth of the pixels a side,
    /// tiles of 512 give what the whole picture gives up to 3968×3968.
    Edge(usize),
}

impl Tiling {
    /// The smallest edge that can be asked for: below it the overlaps are most of the work and
    /// the network sees too little of the scene around a pixel.
    pub const MIN_EDGE: usize = 32;
    /// The overlap of neighbouring tiles, in pixels of what the network sees; a quarter of the edge
    /// for tiles below 256.
    pub const OVERLAP: usize = 64;
}

/// The edge of the smallest tiles that a memory limit is answered with.
pub(crate) const MIN_AUTO_EDGE: usize = 128;

/// The smallest tiles of a pyramid's base that can be asked for, and the smallest pieces of a picture
/// that a memory limit is answered with.
pub(crate) const MIN_BASE_EDGE: usize = 64;

/// One direction of a tile grid: equal lengths, even starts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Axis {
    tile: usize,
    starts: Vec<usize>,
}

impl Axis {
    /// Cuts an even length into the fewest tiles of at most `edge` (at least 8).
    fn split(len: usize, edge: usize) -> Self {
        let edge = edge - edge % 2;
        if len <= edge {
            return Self { tile: len, starts: vec![0] };
        }
        let overlap = overlap(edge);
        let n = (len - overlap).div_ceil(edge - overlap);
        let tile = (len + (n - 1) * overlap).div_ceil(n).next_multiple_of(2);
        let last = len - tile;
        let starts = (0..n).map(|i| 2 * (i * (last / 2) / (n - 1))).collect();
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

fn overlap(edge: usize) -> usize {
    let quarter = edge / 4;
    Tiling::OVERLAP.min(quarter - quarter % 2)
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
    /// width and the height of a tile with its margin, which may reach beyond the image, and gives
    /// `channels` planes; `rows` the channel, the number of its first row and finished rows, from
    /// the top to the bottom of the image.
    pub(crate) fn run(
        &self,
        channels: usize,
        mut fuse: impl FnMut([isize; 2], usize, usize) -> Result<Vec<Plane>>,
        mut rows: impl FnMut(usize, usize, View<'_>),
    ) -> Result<()> {
        let (width, w, h) = (self.width(), self.across.tile, self.down.tile);
        let (margin, [seen_width, seen_height]) = (self.margin as isize, self.seen());
        let mut tile = |x: usize, y: usize| -> Result<Vec<Plane>> {
            let seen = fuse([x, y].map(|at| at as isize - margin), seen_width, seen_height)?;
            if margin == 0 {
                return Ok(seen);
            }
            Ok(seen.iter().map(|seen| seen.view().window(margin, margin, w, h)).collect())
        };
        if self.is_whole() {
            for (channel, plane) in tile(0, 0)?.iter().enumerate() {
                rows(channel, 0, plane.view());
            }
            return Ok(());
        }
        let mut bands = vec![vec![0.; width * h]; channels];
        for (j, &y0) in self.down.starts.iter().enumerate() {
            let down = self.down.weights(j);
            for (i, &x0) in self.across.starts.iter().enumerate() {
                let across = self.across.weights(i);
                for (band, tile) in bands.iter_mut().zip(tile(x0, y0)?) {
                    let lines = band.chunks_exact_mut(width).zip(tile.data.chunks_exact(w));
                    for ((to, from), wy) in lines.zip(&down) {
                        for ((to, from), wx) in to[x0..].iter_mut().zip(from).zip(&across) {
                            *to += wy * wx * from;
                        }
                    }
                }
            }
            let next = self.down.starts.get(j + 1).copied().unwrap_or(y0 + h);
            for (channel, band) in bands.iter_mut().enumerate() {
                let (done, rest) = band.split_at((next - y0) * width);
                rows(channel, y0, View { width, height: next - y0, data: done });
                let rest = rest.len();
                band.copy_within(width * h - rest.., 0);
                band[rest..].fill(0.);
            }
        }
        Ok(())
    }
}

/// What is cut into tiles: an image of even size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Pixels that are seen beyond a tile on every side.
    pub(crate) margin: usize,
    /// The edge of the smallest tiles.
    pub(crate) least: usize,
    /// Planes that a tile gives.
    pub(crate) channels: usize,
}

impl Grid {
    /// Tiles of at most `edge` pixels a side, which is at least 8.
    pub(crate) fn edge(&self, edge: usize) -> Plan {
        let split = |len| Axis::split(len, edge);
        Plan { across: split(self.width), down: split(self.height), margin: self.margin }
    }

    /// Bytes for each pixel of the rows that a plan holds.
    fn held(&self) -> usize {
        self.channels * size_of::<f32>()
    }

    /// Bytes that a plan's [`run`](Plan::run) takes if each pixel seen at once takes `per_pixel`.
    pub(crate) fn bytes(&self, plan: &Plan, per_pixel: usize) -> usize {
        let [width, height] = plan.seen();
        let band = if plan.is_whole() { 0 } else { plan.width().saturating_mul(plan.down.tile) };
        let tile = per_pixel.saturating_mul(width.saturating_mul(height));
        tile.saturating_add(band.saturating_mul(self.held()))
    }

    /// The plan that computes the fewest pixels in at most `limit` [`bytes`](Self::bytes); the
    /// smallest tiles, if even they take more.
    pub(crate) fn within(&self, limit: usize, per_pixel: usize) -> Plan {
        let &Self { width, height, margin, least, .. } = self;
        let fits = |p: &Plan| self.bytes(p, per_pixel) <= limit;
        let whole = Plan::whole(width, height, margin);
        if fits(&whole) {
            return whole;
        }
        let smallest = self.edge(least);
        let mut best = Some(smallest.clone()).filter(fits);
        for columns in 1..=width.div_ceil(least) {
            let overlaps = (columns - 1) * Tiling::OVERLAP;
            let edge = (width + overlaps).div_ceil(columns).next_multiple_of(2);
            if edge < least.min(width) {
                break;
            }
            let across = Axis::split(width, edge);
            let row = per_pixel.saturating_mul(across.tile + 2 * margin);
            let margins = row.saturating_mul(2 * margin);
            let row = row.saturating_add(width.saturating_mul(self.held()));
            let room = limit.saturating_sub(margins) / row.max(1);
            if room < least.min(height) {
                continue;
            }
            let plan = Plan { across, down: Axis::split(height, room), margin };
            // Among equals the squarer one: it sees more around its middle.
            let cost = |p: &Plan| (p.pixels(), p.across.tile.abs_diff(p.down.tile));
            if fits(&plan) && best.as_ref().is_none_or(|best| cost(&plan) < cost(best)) {
                best = Some(plan);
            }
        }
        best.unwrap_or(smallest)
    }
}

/// An image in pieces side by side, each seen with a margin, for what depends on near neighbours
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Width and height of the image, multiples of the pieces' unit.
    pub(crate) size: [usize; 2],
    /// Width and height of a piece; the last ones may be smaller.
    piece: [usize; 2],
    /// Pixels that are seen beyond a piece on every side.
    margin: usize,
    /// The most pixels beyond the image of them.
    around: usize,
}

impl Pieces {
    /// Pieces of at most `edge` pixels a side, a multiple of `unit`, and of at least `unit`; `size`,
    /// `margin` and `around` are multiples of it, too.
    pub(crate) fn edge(
        size: [usize; 2],
        edge: usize,
        unit: usize,
        margin: usize,
        around: usize,
    ) -> Self {
        let most = (edge - edge % unit).max(unit);
        Self { size, piece: size.map(|n| n.min(most)), margin, around }
    }

    /// The largest ones that take at most `limit` [`bytes`](Self::bytes), or the smallest.
    pub(crate) fn within(mut self, limit: usize, per_pixel: usize, unit: usize) -> Self {
        let least = MIN_BASE_EDGE.next_multiple_of(unit);
        while self.bytes(per_pixel) > limit && self.piece.iter().any(|&n| n > least) {
            let [width, height] = self.piece;
            // Strips of the whole width need no band; but margins are most of what a flat one sees.
            let side = usize::from(height > 4 * least || height >= width);
            self.piece[side] = (self.piece[side] / 2).next_multiple_of(unit).max(least);
        }
        self
    }

    /// Bytes that [`run`](Self::run) takes if each pixel seen at once takes `per_pixel`.
    pub(crate) fn bytes(&self, per_pixel: usize) -> usize {
        let [width, height] = [0, 1].map(|axis| {
            let most = self.size[axis].saturating_add(2 * self.around);
            self.piece[axis].saturating_add(2 * self.margin).min(most)
        });
        let band = if self.columns() == 1 { 0 } else { self.size[0].saturating_mul(self.piece[1]) };
        let seen = per_pixel.saturating_mul(width.saturating_mul(height));
        seen.saturating_add(band.saturating_mul(size_of::<f32>()))
    }

    fn columns(&self) -> usize {
        self.size[0].div_ceil(self.piece[0])
    }

    /// The start and the length of a piece along an axis, and of what is seen of it.
    fn along(&self, axis: usize, number: usize) -> ([usize; 2], [isize; 2]) {
        let (size, piece, around) = (self.size[axis], self.piece[axis], self.around as isize);
        let start = number * piece;
        let length = piece.min(size - start);
        let (first, end) = (start as isize, (start + length) as isize);
        let margin = self.margin as isize;
        let (first, end) =
            ((first - margin).max(-around), (end + margin).min(size as isize + around));
        ([start, length], [first, end - first])
    }

    /// Piece by piece: `make` is given the top left corner, the width and the height of one with its
    /// margin, which may reach beyond the image, and gives a plane of 1/2ˢ of its size, s being
    /// `halvings`; `rows` the number of a first row of the result and finished rows, from the top to
    /// the bottom.
    pub(crate) fn run(
        &self,
        halvings: usize,
        mut make: impl FnMut([isize; 2], usize, usize) -> Result<Plane>,
        mut rows: impl FnMut(usize, View<'_>),
    ) -> Result<()> {
        let columns = self.columns();
        let held = if columns == 1 { 0 } else { self.size[0] >> halvings };
        let mut band = Plane::zeros(held, self.piece[1] >> halvings);
        for y in 0..self.size[1].div_ceil(self.piece[1]) {
            let ([top, height], [seen_top, seen_height]) = self.along(1, y);
            let (y, height) = (top >> halvings, height >> halvings);
            for x in 0..columns {
                let ([left, width], [seen_left, seen_width]) = self.along(0, x);
                let corner = [seen_left, seen_top];
                let seen = make(corner, seen_width as usize, seen_height as usize)?;
                let inside = |start: usize, seen: isize| (start as isize - seen) >> halvings;
                let (x, width) = (left >> halvings, width >> halvings);
                let at = [inside(left, seen_left), inside(top, seen_top)];
                let piece = seen.view().window(at[0], at[1], width, height);
                if columns == 1 {
                    rows(y, piece.view());
                    continue;
                }
                let lines = band.data.chunks_exact_mut(held);
                for (to, from) in lines.zip(piece.data.chunks_exact(width)) {
                    to[x..x + width].copy_from_slice(from);
                }
            }
            if columns > 1 {
                rows(y, View { width: held, height, data: &band.data[..held * height] });
            }
        }
        Ok(())
    }
}

/// # Errors
/// [`Error::Option`] for an edge below [`Tiling::MIN_EDGE`].
pub(crate) fn validate(tiling: Tiling) -> Result<()> {
    match tiling {
        Tiling::Edge(edge) if edge < Tiling::MIN_EDGE => Err(Error::Option {
            what: "the tile edge",
            got: edge.to_string(),
            needed: format!("at least {} pixels", Tiling::MIN_EDGE),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plane::append;

    fn check(axis: &Axis, len: usize, edge: usize) {
        assert!(axis.tile <= edge && axis.tile.is_multiple_of(2));
        assert_eq!(axis.starts[0], 0);
        assert_eq!(axis.starts.last().unwrap() + axis.tile, len);
        for pair in axis.starts.windows(2) {
            assert!(pair[1].is_multiple_of(2));
            let lap = (pair[0] + axis.tile).checked_sub(pair[1]).unwrap();
            assert!(lap >= overlap(edge - edge % 2), "{axis:?}");
        }
        // A pixel belongs to two tiles at most, else three weights would not add up to one.
        for three in axis.starts.windows(3) {
            assert!(three[0] + axis.tile <= three[2], "{axis:?}");
        }
    }

    fn gradient(width: usize, height: usize) -> Plane {
        let data = (0..width * height).map(|i| (i % 97) as f32 / 97.).collect();
        Plane { width, height, data }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn tiles_cover_the_length_and_weights_add_up(half in 1usize..2000, edge in 32usize..700) {
            let len = 2 * half;
            let axis = Axis::split(len, edge);
            check(&axis, len, edge);
            let mut sum = vec![0f32; len];
            for (i, &start) in axis.starts.iter().enumerate() {
                for (s, w) in sum[start..].iter_mut().zip(axis.weights(i)) {
                    prop_assert!((0. ..=1.).contains(&w));
                    *s += w;
                }
            }
            prop_assert!(sum.iter().all(|s| (s - 1.).abs() < 1e-6));
        }

        /// What is seen at once, and the rows held besides, stay within the bytes that are named, and
        /// these within the limit where anything does.
        #[test]
        fn a_limit_holds(
            w in 1usize..800,
            h in 1usize..800,
            edge in Tiling::MIN_EDGE..700,
            area in 1000usize..1_000_000,
            margin in prop::sample::select(vec![0, 8]),
            channels in 1usize..4,
            least in prop::sample::select(vec![64, 128]),
        ) {
            const PER_PIXEL: usize = 1000;
            let (width, height) = (2 * w, 2 * h);
            let grid = Grid { width, height, margin, least, channels };
            let limit = PER_PIXEL * area;
            let within = grid.within(limit, PER_PIXEL);
            if grid.bytes(&within, PER_PIXEL) > limit {
                prop_assert_eq!(&within, &grid.edge(least));
            }
            for plan in [within, Plan::whole(width, height, margin), grid.edge(edge)] {
                check(&plan.across, width, plan.across.tile);
                check(&plan.down, height, plan.down.tile);
                let rows = if plan.is_whole() { 0 } else { width * plan.down.tile };
                let held = 4 * channels * rows;
                plan.run(
                    channels,
                    |_, w, h| {
                        assert!(PER_PIXEL * w * h + held <= grid.bytes(&plan, PER_PIXEL), "{plan:?}");
                        Ok(vec![Plane::zeros(w, h); channels])
                    },
                    |_, _, _| (),
                )
                .unwrap();
            }
        }

        #[test]
        fn pieces_cover_a_picture_within_their_limit(
            w in 1usize..700,
            h in 1usize..700,
            levels in 1usize..5,
            edge in Tiling::MIN_EDGE..700,
            limit in 1_000usize..100_000_000,
            around in 0usize..6,
        ) {
            let (unit, margin) = (2 << levels, 8 << levels);
            let size = [w, h].map(|n| n.next_multiple_of(unit));
            let around = around * unit;
            let whole = Pieces::edge(size, usize::MAX, unit, margin, around);
            let within = whole.within(limit, 100, unit);
            if within.bytes(100) > limit {
                prop_assert!(within.piece.iter().all(|&n| n <= 64));
            }
            let picture = gradient(w, h);
            for pieces in [whole, within, Pieces::edge(size, edge, unit, margin, around)] {
                prop_assert!(pieces.piece.iter().all(|n| n.is_multiple_of(unit)));
                let mut back = Vec::new();
                let see = |[x, y]: [isize; 2], w: usize, h: usize| {
                    let ends = [(x, w, size[0]), (y, h, size[1])];
                    for (start, length, size) in ends {
                        let end = start + length as isize;
                        assert!(start >= -(around as isize) && end <= (size + around) as isize);
                        assert_eq!([start.unsigned_abs() % unit, length % unit], [0, 0]);
                    }
                    assert!(100 * w * h <= pieces.bytes(100), "{pieces:?}");
                    Ok(picture.view().window(x, y, w, h))
                };
                pieces.run(0, see, |y, rows| append(&mut back, [w, h], y, rows)).unwrap();
                prop_assert_eq!(&back, &picture.data);
            }
        }
    }

    #[test]
    fn identity_comes_back_whole() {
        let plane = gradient(230, 150);
        for margin in [0, 8] {
            let grid = Grid { width: 230, height: 150, margin, least: 32, channels: 2 };
            let plan = grid.edge(64);
            assert!(plan.tiles() > 6);
            let mut back = [Vec::new(), Vec::new()];
            let fuse = |[x, y]: [isize; 2], w, h| {
                let tile = plane.view().window(x, y, w, h);
                Ok(vec![tile.clone(), tile])
            };
            plan.run(2, fuse, |channel, y, rows| {
                assert_eq!((y * 230, rows.width), (back[channel].len(), 230));
                assert!(rows.height < 64 + 1);
                back[channel].extend_from_slice(rows.data);
            })
            .unwrap();
            for back in back {
                assert_eq!(back.len(), plane.data.len());
                for (a, b) in back.iter().zip(&plane.data) {
                    assert!((a - b).abs() < 1e-6);
                }
            }
        }
    }
}
