//! One channel of an image as floats.

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

    pub(crate) fn view(&self) -> View<'_> {
        View { width: self.width, height: self.height, data: &self.data }
    }
}

/// One channel that lies elsewhere, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: &'a [f32],
}

impl View<'_> {
    pub(crate) fn to_plane(self) -> Plane {
        Plane { width: self.width, height: self.height, data: self.data.to_vec() }
    }

    /// The plane grown to `width`×`height` by repeating its outermost pixels, `margin` times above
    /// and to the left, which is the continuation that gives a 2×2 wavelet no edge to see.
    pub(crate) fn extended(self, margin: usize, width: usize, height: usize) -> Plane {
        let from = |i: usize, n: usize| i.saturating_sub(margin).min(n - 1);
        let mut data = Vec::with_capacity(width * height);
        for y in 0..height {
            let row = &self.data[from(y, self.height) * self.width..][..self.width];
            data.extend((0..width).map(|x| row[from(x, self.width)]));
        }
        Plane { width, height, data }
    }

    /// The rectangle with the top left corner `x`, `y`.
    pub(crate) fn crop(self, x: usize, y: usize, width: usize, height: usize) -> Plane {
        let mut data = Vec::with_capacity(width * height);
        for row in self.data.chunks_exact(self.width).skip(y).take(height) {
            data.extend_from_slice(&row[x..x + width]);
        }
        Plane { width, height, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_repeats_the_edge_and_cropping_undoes_it() {
        let plane = Plane { width: 3, height: 1, data: vec![1., 2., 3.] };
        let padded = plane.view().extended(0, 4, 2);
        assert_eq!(padded.data, [1., 2., 3., 3., 1., 2., 3., 3.]);
        assert_eq!(padded.view().crop(0, 0, 3, 1), plane);
        assert_eq!(padded.view().crop(2, 1, 2, 1).data, [3., 3.]);
        let around = plane.view().extended(2, 7, 5);
        assert_eq!(around.view().crop(0, 4, 7, 1).data, [1., 1., 1., 2., 3., 3., 3.]);
        assert_eq!(around.view().crop(2, 2, 3, 1), plane);
    }
}
