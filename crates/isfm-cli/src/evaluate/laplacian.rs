//! Laplacian pyramid fusion: the classical rule, which needs no training, on the levels that
//! OpenCV's `pyrDown` and `pyrUp` make with their default borders.

use image::GrayImage;

/// Values row by row, in grey levels.
struct Plane {
    width: usize,
    data: Vec<f32>,
}

/// Fuses two luminances of one size over `levels` levels of detail: at each place of each level the
/// detail whose mean square over the 5×5 places around is larger (of equal ones the visible
/// picture's), on the larger of the two bases. The sum is rounded, halves to even, and clamped.
///
/// Levels below one of a single place have no detail; with 0 levels the result is the larger
/// luminance.
pub fn fuse(visible: &GrayImage, infrared: &GrayImage, levels: usize) -> GrayImage {
    let plane = |image: &GrayImage| Plane {
        width: image.width() as usize,
        data: image.iter().map(|&v| f32::from(v)).collect(),
    };
    let fused = fuse_planes(&plane(visible), &plane(infrared), levels);
    let mut image = visible.clone();
    for (to, from) in image.iter_mut().zip(fused.data) {
        *to = from.round_ties_even().clamp(0., 255.) as u8;
    }
    image
}

fn fuse_planes(visible: &Plane, infrared: &Plane, levels: usize) -> Plane {
    if levels == 0 || visible.data.len() <= 1 {
        return visible.with(infrared, f32::max);
    }
    let (v, i) = (down(visible), down(infrared));
    let mut fused = up(&fuse_planes(&v, &i, levels - 1), visible);
    let detail = |plane: &Plane, base| plane.with(&up(base, plane), |whole, base| whole - base);
    let (v, i) = (detail(visible, &v), detail(infrared, &i));
    let details = v.data.iter().zip(&i.data);
    let energies = energy(&v).data.into_iter().zip(energy(&i).data);
    for ((to, (v, i)), (v_energy, i_energy)) in fused.data.iter_mut().zip(details).zip(energies) {
        *to += if v_energy >= i_energy { v } else { i };
    }
    fused
}

impl Plane {
    fn height(&self) -> usize {
        self.data.len() / self.width
    }

    /// `f` of each value and of the other plane's at its place.
    fn with(&self, other: &Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Self { width: self.width, data }
    }

    /// Makes every row one of `len` values, each by `at`, and exchanges rows and columns: two passes
    /// treat the rows, then the columns.
    fn pass(&self, len: usize, at: impl Fn(&[f32], usize) -> f32) -> Self {
        let (at, rows) = (&at, self.data.chunks_exact(self.width));
        let data = (0..len).flat_map(|x| rows.clone().map(move |row| at(row, x))).collect();
        Self { width: self.height(), data }
    }
}

/// Place `i` of a row of `n` that goes on mirrored in its first and last place.
fn mirrored(i: isize, n: usize) -> usize {
    let period = (2 * n - 2).max(1);
    let i = i.rem_euclid(period as isize) as usize;
    i.min(period - i)
}

/// The five values around place `x`.
fn around(row: &[f32], x: usize) -> [f32; 5] {
    std::array::from_fn(|i| row[mirrored((x + i) as isize - 2, row.len())])
}

/// Half the size, rounded up: every other place of what (1 4 6 4 1)/16 makes.
fn down(plane: &Plane) -> Plane {
    let at = |row: &[f32], x: usize| {
        let [a, b, c, d, e] = around(row, 2 * x);
        (6. * c + 4. * (b + d) + a + e) / 16.
    };
    plane.pass(plane.width.div_ceil(2), at).pass(plane.height().div_ceil(2), at)
}

/// The size of `like`, half of which `plane` has: what (1 4 6 4 1)/8 makes of the values with a
/// zero after each. The zeros are mirrored too.
fn up(plane: &Plane, like: &Plane) -> Plane {
    let at = |row: &[f32], x: usize| {
        let value = |i: isize| row[mirrored(2 * i, 2 * row.len()) / 2];
        let i = (x / 2) as isize;
        if x.is_multiple_of(2) {
            (6. * value(i) + value(i - 1) + value(i + 1)) / 8.
        } else {
            (value(i) + value(i + 1)) / 2.
        }
    };
    plane.pass(like.width, at).pass(like.height(), at)
}

/// The sum of squares over the 5×5 places around each.
fn energy(plane: &Plane) -> Plane {
    let at = |row: &[f32], x: usize| around(row, x).iter().sum::<f32>();
    plane.with(plane, |a, b| a * b).pass(plane.width, at).pass(plane.height(), at)
}
