//! Fusing on a pyramid: the network on the whole base, the picture itself in pieces.

use candle_core::{Device, Tensor};
use isfm_model::Pyramid;

use isfm_ops::internal::keep;

use crate::plane::{Channel, Plane, View, append, plane, planes, tensor};
use crate::tiling::{Grid, MIN_BASE_EDGE, Pieces, Plan};
use crate::{Result, memory};

/// How a picture is fused on a pyramid of one level or more.
#[derive(Clone, Debug)]
pub(crate) struct PyramidPlan {
    pyramid: Pyramid,
    /// Pixels that the base shows beyond the picture on every side.
    extension: usize,
    base: Pieces,
    network: Plan,
    picture: Pieces,
    bytes: usize,
}

/// How much of a picture is seen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it.
    Whole,
    /// Tiles of so many pixels a side.
    Edge(usize),
    /// What fits into so many bytes, or the smallest pieces.
    Within(usize),
}

impl PyramidPlan {
    /// For a picture of `size`, width and height; `maps` is what the network takes in bytes for each
    /// pixel that it sees.
    pub(crate) fn new(
        pyramid: Pyramid,
        maps: usize,
        size: [usize; 2],
        extension: usize,
        share: Share,
    ) -> Self {
        // Even bases.
        let unit = 2 << pyramid.levels;
        let size = size.map(|n| n.next_multiple_of(unit));
        let extended = size.map(|n| n.saturating_add(2 * extension));
        let [width, height] = extended.map(|n| n >> pyramid.levels);
        let pixels = width.saturating_mul(height);
        let channels = pyramid.outputs();
        // A result depends on what is less than eight pixels of the base away.
        let margin = 8 << pyramid.levels;
        let grid = Grid { width, height, margin: 0, least: MIN_BASE_EDGE, channels };
        // Both see the same, so that a picture's base is that of its details, up to the border.
        let base_pieces = |edge| Pieces::edge(extended, edge, unit, margin, 0);
        let pieces = |edge| Pieces::edge(size, edge, unit, margin, extension);
        let (bases, outputs) = (memory::base_planes(2), memory::base_planes(2 + channels));
        let [held, around] = [bases, outputs].map(|bytes| pixels.saturating_mul(bytes));
        let fit = |pieces: Pieces, limit: usize, held: usize| {
            pieces.within(limit.saturating_sub(held), memory::PYRAMID_PLANES, unit)
        };
        let (base, network, picture) = match share {
            Share::Whole => {
                let network = Plan::whole(width, height, 0);
                (base_pieces(usize::MAX), network, pieces(usize::MAX))
            }
            Share::Edge(edge) => {
                (base_pieces(edge), grid.edge(edge.max(MIN_BASE_EDGE)), pieces(edge))
            }
            Share::Within(limit) => (
                fit(base_pieces(usize::MAX), limit, held),
                grid.within(limit.saturating_sub(around), maps),
                fit(pieces(usize::MAX), limit, around),
            ),
        };
        let steps = [
            base.bytes(memory::PYRAMID_PLANES).saturating_add(held),
            grid.bytes(&network, maps).saturating_add(around),
            pixels.saturating_mul(memory::merged_bases(channels)),
            picture.bytes(memory::PYRAMID_PLANES).saturating_add(around),
        ];
        let bytes = steps.into_iter().max().unwrap_or(0);
        Self { pyramid, extension, base, network, picture, bytes }
    }

    /// Bytes that [`run`](Self::run) takes at its peak.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fuses two channels; `network` gives [`Pyramid::outputs`] planes for two bases, `rows` is handed
    /// finished rows and the number of the first.
    pub(crate) fn run(
        &self,
        [visible, infrared]: [&dyn Channel; 2],
        mut network: impl FnMut(Plane, Plane) -> Result<Vec<Plane>>,
        rows: &mut dyn FnMut(usize, View<'_>),
    ) -> Result<()> {
        let levels = self.pyramid.levels;
        let bases = [self.base_of(visible)?, self.base_of(infrared)?];
        let (width, height) = (bases[0].width, bases[0].height);
        let mut outputs =
            vec![Plane { width, height: 0, data: Vec::new() }; self.pyramid.outputs()];
        let see = |[x, y]: [isize; 2], width, height| {
            let [visible, infrared] =
                bases.each_ref().map(|base| base.view().window(x, y, width, height));
            network(visible, infrared)
        };
        self.network.run(outputs.len(), see, |channel, y, rows| {
            append(&mut outputs[channel].data, [width, height], y, rows);
        })?;
        let fused = {
            let data = outputs.iter().flat_map(|plane| plane.data.iter().copied()).collect();
            let outputs =
                Tensor::from_vec(data, (1, self.pyramid.outputs(), height, width), &Device::Cpu)?;
            let [visible, infrared] = bases.map(tensor);
            planes(&self.pyramid.fuse_bases([&visible?, &infrared?], &outputs)?)?
        };
        let piece = |[x, y]: [isize; 2], width: usize, height: usize| {
            let picture = |side: &dyn Channel| tensor(side.window(x, y, width, height));
            let (visible, infrared) = (picture(visible)?, picture(infrared)?);
            let [left, top] = [x, y].map(|at| (at + self.extension as isize) >> levels);
            let (width, height) = (width >> levels, height >> levels);
            let around = fused.iter().map(|p| p.view().window(left, top, width, height));
            let around = around.flat_map(|plane| plane.data.clone()).collect();
            let shape = (1, fused.len(), height, width);
            let below = Tensor::from_vec(around, shape, &Device::Cpu)?;
            let fused = self.pyramid.fuse_details(&visible, &infrared, &below)?;
            [visible, infrared].into_iter().for_each(|picture| keep(picture, &fused));
            Ok(plane(fused)?.clamped())
        };
        self.picture.run(0, piece, rows)
    }

    /// The base of a channel and what lies around it.
    fn base_of(&self, channel: &dyn Channel) -> Result<Plane> {
        let levels = self.pyramid.levels;
        let [width, height] = self.base.size.map(|n| n >> levels);
        let mut base = Plane { width, height, data: Vec::with_capacity(width * height) };
        let piece = |corner: [isize; 2], width, height| {
            let [x, y] = corner.map(|at| at - self.extension as isize);
            let picture = tensor(channel.window(x, y, width, height))?;
            let base = self.pyramid.base(&picture)?;
            keep(picture, &base);
            plane(base)
        };
        self.base.run(levels, piece, |y, rows| append(&mut base.data, [width, height], y, rows))?;
        Ok(base)
    }
}
