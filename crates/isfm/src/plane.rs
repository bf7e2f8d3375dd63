//! One channel of an image as floats.

use candle_core::{Device, Tensor};
use isfm_ops::internal::{into_elements, keep_buffer, scratch};
use rayon::prelude::*;

use crate::Result;

/// One channel of an image, of which pieces are taken as floats.
pub(crate) trait Channel: Sync {
    /// Width and height, neither of them 0.
    fn size(&self) -> (usize, usize);

    /// Writes the pixels from (`x`, `y`) on to the right, all of which are in the image.
    fn read(&self, x: usize, y: usize, out: &mut [f32]);

    /// The rectangle with the top left corner `x`, `y`, which may reach beyond the image: there the
    /// outermost pixels are repeated, the continuation that gives a 2×2 wavelet no edge to see.
    /// Neither side of it is 0.
    fn window(&self, x: isize, y: isize, width: usize, height: usize) -> Plane {
        let (own_width, own_height) = self.size();
        let inside = |i: isize, n: usize| i.clamp(0, n as isize - 1) as usize;
        let (first, last) = (inside(x, own_width), inside(x + width as isize - 1, own_width));
        let left = (first as isize - x).clamp(0, width as isize - 1) as usize;
        let count = (last - first + 1).min(width - left);
        let mut plane = Plane { width, height, data: scratch(width * height) };
        plane.data.par_chunks_mut(width).enumerate().for_each(|(i, row)| {
            self.read(first, inside(y + i as isize, own_height), &mut row[left..left + count]);
            let (from, to) = (row[left], row[left + count - 1]);
            row[..left].fill(from);
            row[left + count..].fill(to);
        });
        plane
    }
}

/// One channel, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plane {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<f32>,
}

impl Plane {
    /// A plane of zeros.
    pub(crate) fn zeros(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0.; width * height] }
    }

    /// With every value in [0, 1].
    pub(crate) fn clamped(mut self) -> Self {
        self.data.par_chunks_mut(1 << 16).for_each(|values| {
            values.iter_mut().for_each(|v| *v = v.clamp(0., 1.));
        });
        self
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { width: self.width, height: self.height, data: &self.data }
    }
}

/// Its memory is for the next plane of its size.
impl Drop for Plane {
    fn drop(&mut self) {
        keep_buffer(std::mem::take(&mut self.data));
    }
}

/// One channel that lies elsewhere, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: &'a [f32],
}

impl Channel for View<'_> {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn read(&self, x: usize, y: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[y * self.width + x..][..out.len()]);
    }
}

/// A plane as 1×1×H×W.
pub(crate) fn tensor(mut plane: Plane) -> Result<Tensor> {
    let data = std::mem::take(&mut plane.data);
    Ok(Tensor::from_vec(data, (1, 1, plane.height, plane.width), &Device::Cpu)?)
}

/// The channels of 1×C×H×W.
pub(crate) fn planes(tensor: &Tensor) -> Result<Vec<Plane>> {
    let (_, _, height, width) = tensor.dims4()?;
    let all = tensor.flatten_all()?.to_vec1::<f32>()?;
    let plane = |data: &[f32]| Plane { width, height, data: data.to_vec() };
    Ok(all.chunks_exact(width * height).map(plane).collect())
}

/// The only channel of 1×1×H×W, which shares its memory with no other tensor.
pub(crate) fn plane(tensor: Tensor) -> Result<Plane> {
    let (_, _, height, width) = tensor.dims4()?;
    Ok(Plane { width, height, data: into_elements(tensor)? })
}

/// Adds what of some rows, the first of which is row `y`, lies in an image of `width`×`height`.
pub(crate) fn append(to: &mut Vec<f32>, [width, height]: [usize; 2], y: usize, rows: View<'_>) {
    for row in rows.data.chunks_exact(rows.width).take(height - y.min(height)) {
        to.extend_from_slice(&row[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_repeats_the_edge_and_one_inside_it_undoes_that() {
        let plane = Plane { width: 3, height: 1, data: vec![1., 2., 3.] };
        let padded = plane.view().window(0, 0, 4, 2);
        assert_eq!(padded.data, [1., 2., 3., 3., 1., 2., 3., 3.]);
        assert_eq!(padded.view().window(0, 0, 3, 1), plane);
        assert_eq!(padded.view().window(2, 1, 2, 1).data, [3., 3.]);
        let around = plane.view().window(-2, -2, 7, 5);
        assert_eq!(around.view().window(0, 4, 7, 1).data, [1., 1., 1., 2., 3., 3., 3.]);
        assert_eq!(around.view().window(2, 2, 3, 1), plane);
        // Off the image altogether.
        assert_eq!(plane.view().window(-5, 7, 2, 1).data, [1., 1.]);
        assert_eq!(plane.view().window(5, -7, 2, 1).data, [3., 3.]);
    }
}
