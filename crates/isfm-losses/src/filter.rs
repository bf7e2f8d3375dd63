//! The two linear filters of the losses and their adjoints, on one row-major plane.

use candle_core::WithDType;

/// Taps of the SSIM window. An even number, so the filtered plane is one larger than the image.
pub(crate) const TAPS: usize = 12;
/// Zeros in front of the image; the window is centred on tap 6.
pub(crate) const PAD: usize = 6;
const SIGMA: f64 = 1.5;

/// The SSIM window along one axis: exp(−(i−6)²/(2·1.5²)), normalised.
pub(crate) fn gaussian() -> [f64; TAPS] {
    let taps: [f64; TAPS] = std::array::from_fn(|i| {
        let d = i as f64 - PAD as f64;
        (-d * d / (2. * SIGMA * SIGMA)).exp()
    });
    let sum: f64 = taps.iter().sum();
    taps.map(|t| t / sum)
}

/// 3·(Kx + Ky), the gradient operator as one 3×3 filter. It is odd: turned by 180° it changes
/// sign, so its adjoint is its negative.
pub(crate) const GRADIENT: [[f64; 3]; 3] = [[0., 3., 1.2], [-3., 0., 3.], [-1.2, -3., 0.]];

/// Height and width of a plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) h: usize,
    pub(crate) w: usize,
}

impl Size {
    pub(crate) fn len(self) -> usize {
        self.h * self.w
    }
    /// The size after the SSIM window.
    pub(crate) fn windowed(self) -> Self {
        Self { h: self.h + 1, w: self.w + 1 }
    }
}

/// The SSIM window and its adjoint.
pub(crate) struct Window<E> {
    forward: [E; TAPS],
    reversed: [E; TAPS],
}

impl<E: WithDType> Window<E> {
    pub(crate) fn new() -> Self {
        let forward = gaussian().map(E::from_f64);
        let mut reversed = forward;
        reversed.reverse();
        Self { forward, reversed }
    }

    /// From an image of `size` to a plane one larger each way.
    pub(crate) fn apply(&self, image: &[E], size: Size) -> Vec<E> {
        correlate(image, size, &self.forward, PAD, size.windowed())
    }

    /// The transpose of [`Window::apply`]: from a plane one larger back to `size`.
    pub(crate) fn adjoint(&self, plane: &[E], size: Size) -> Vec<E> {
        correlate(plane, size.windowed(), &self.reversed, TAPS - 1 - PAD, size)
    }
}

/// out\[y\]\[x\] = Σ taps\[j\]·taps\[k\]·src\[y+j−pad\]\[x+k−pad\], zero outside `src`.
fn correlate<E: WithDType>(
    src: &[E],
    size: Size,
    taps: &[E; TAPS],
    pad: usize,
    out_size: Size,
) -> Vec<E> {
    let mut padded = vec![E::zero(); out_size.w + TAPS - 1];
    let mut rows = vec![E::zero(); size.h * out_size.w];
    for (row, src) in rows.chunks_exact_mut(out_size.w).zip(src.chunks_exact(size.w)) {
        padded[pad..pad + size.w].copy_from_slice(src);
        for (k, &tap) in taps.iter().enumerate() {
            add_scaled(row, tap, &padded[k..]);
        }
    }
    let mut out = vec![E::zero(); out_size.len()];
    for (y, out) in out.chunks_exact_mut(out_size.w).enumerate() {
        for (k, &tap) in taps.iter().enumerate() {
            // Rows before the first wrap to huge numbers, so one comparison bounds both ends.
            let from = (y + k).wrapping_sub(pad);
            if from < size.h {
                add_scaled(out, tap, &rows[from * out_size.w..]);
            }
        }
    }
    out
}

fn add_scaled<E: WithDType>(out: &mut [E], scale: E, src: &[E]) {
    for (o, &s) in out.iter_mut().zip(src) {
        *o += scale * s;
    }
}

/// G(image), zero padded, same size.
pub(crate) fn gradient<E: WithDType>(image: &[E], size: Size) -> Vec<E> {
    let Size { h, w } = size;
    let mut out = vec![E::zero(); size.len()];
    for (y, out) in out.chunks_exact_mut(w).enumerate() {
        for (j, taps) in GRADIENT.iter().enumerate() {
            let from = (y + j).wrapping_sub(1);
            if from >= h {
                continue;
            }
            let row = &image[from * w..][..w];
            let [left, centre, right] = taps.map(E::from_f64);
            add_scaled(&mut out[1..], left, row);
            add_scaled(out, centre, row);
            add_scaled(out, right, &row[1..]);
        }
    }
    out
}
