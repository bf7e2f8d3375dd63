use candle_core::{Result, Shape, Tensor};

use super::pointwise::TASK;
use super::resize::add_scaled;
use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::parallel::{fill_parts, split};
use crate::simd::{Kernel, Real, Simd, dispatch};

/// Pictures at half the size: smoothed by [1 4 6 4 1]/16 along both axes, then every second pixel
/// from the first on. Outside, pictures go on as their mirror image without its edge (… c b | a b
/// c …). The same as OpenCV's `pyrDown`; a constant picture stays the same constant.
///
/// # Shapes
/// - `x`: …×H×W
/// - returns …×⌈H/2⌉×⌈W/2⌉
///
/// # Errors
/// If `x` has fewer than two axes, or the elements are not `F32` or `F64`.
pub fn pyr_down(x: &Tensor) -> Result<Tensor> {
    const OP: &str = Step::Down.name();
    check::types(OP, x, &[])?;
    apply_to_pictures(Pyramid { step: Step::Down, fine: picture(OP, x)?, adjoint: false }, x)
}

/// Pictures at twice the size: zeros between the pixels, then four times the smoothing of
/// [`pyr_down`]. That is (x₋ + 6x + x₊)/8 at even places and (x + x₊)/2 at odd ones, along both
/// axes. The pixel before the first is the second one, the pixel after the last is the last. The
/// same as OpenCV's `pyrUp` with this result size; a constant picture stays the same constant.
///
/// # Shapes
/// - `x`: …×⌈`height`/2⌉×⌈`width`/2⌉
/// - returns …×`height`×`width`
///
/// # Errors
/// If `x` has fewer than two axes or not half the size asked for, or the elements are not `F32` or
/// `F64`.
pub fn pyr_up(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    const OP: &str = Step::Up.name();
    check::types(OP, x, &[])?;
    let op = Pyramid { step: Step::Up, fine: [height, width], adjoint: false };
    if picture(OP, x)? != op.coarse() {
        let [h, w] = op.coarse();
        let needed = format!("[…, {h}, {w}] for a result of {height}x{width}");
        return Err(check::shape_error(OP, "x", x.dims(), needed));
    }
    apply_to_pictures(op, x)
}

/// The height and width.
fn picture(op: &str, x: &Tensor) -> Result<[usize; 2]> {
    match *x.dims() {
        [.., h, w] => Ok([h, w]),
        _ => Err(check::shape_error(op, "x", x.dims(), "[…, height, width]")),
    }
}

fn apply_to_pictures(op: Pyramid, x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Tensor::zeros(op.shape(&[x.shape()])?, x.dtype(), x.device());
    }
    apply(op, &[x])
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Down,
    Up,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Down => "pyr_down",
            Self::Up => "pyr_up",
        }
    }

    /// The places along an axis of `n` that place `at` of the result is the sum of, and their
    /// weights, which may be fewer.
    fn taps(self, at: usize, n: usize) -> ([usize; 5], &'static [f64]) {
        let (first, next) = (at / 2, (at / 2 + 1).min(n - 1));
        match self {
            Self::Down => {
                let places = std::array::from_fn(|k| mirrored((2 * at + k) as isize - 2, n));
                (places, &[0.0625, 0.25, 0.375, 0.25, 0.0625])
            }
            Self::Up if at.is_multiple_of(2) => {
                let before = first.checked_sub(1).unwrap_or(next);
                ([before, first, next, 0, 0], &[0.125, 0.75, 0.125])
            }
            Self::Up => ([first, next, 0, 0, 0], &[0.5, 0.5]),
        }
    }

    /// For each of the `n` places, the `to` places of the result that it is part of.
    fn transposed<E: Real>(self, n: usize, to: usize) -> Terms<E> {
        let mut terms = vec![Vec::new(); n];
        for at in 0..to {
            let (places, weights) = self.taps(at, n);
            for (place, &weight) in places.into_iter().zip(weights) {
                terms[place].push((at, E::of(weight)));
            }
        }
        terms
    }
}

/// Place `i` of an axis of `n` that goes on as its mirror image, the edges not repeated.
fn mirrored(mut i: isize, n: usize) -> usize {
    let last = n as isize - 1;
    if last == 0 {
        return 0;
    }
    while !(0..=last).contains(&i) {
        i = if i < 0 { -i } else { 2 * last - i };
    }
    i as usize
}

/// For each place along an axis of the result, the places that it reads and their weights.
type Terms<E> = Vec<Vec<(usize, E)>>;

/// A step of a pyramid whose larger picture is `fine`, or its adjoint.
#[derive(Clone, Copy)]
pub(super) struct Pyramid {
    pub(super) step: Step,
    pub(super) fine: [usize; 2],
    pub(super) adjoint: bool,
}

impl Pyramid {
    fn coarse(self) -> [usize; 2] {
        self.fine.map(|n| n.div_ceil(2))
    }

    fn shrinks(self) -> bool {
        (self.step == Step::Down) != self.adjoint
    }

    /// The sizes of an input picture and of a result.
    fn sizes(self) -> [[usize; 2]; 2] {
        if self.shrinks() { [self.fine, self.coarse()] } else { [self.coarse(), self.fine] }
    }
}

impl Op for Pyramid {
    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let dims = inputs[0].dims();
        Ok([&dims[..dims.len() - 2], &self.sizes()[1]].concat().into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, [from, to]) = (inputs[0].data, self.sizes());
        let ([h, w], [height, width]) = (from, to);
        let terms = self.adjoint.then(|| [0, 1].map(|a| self.step.transposed(to[a], from[a])));
        let lines = x.len() / (h * w) * height;
        let task = TASK.div_ceil(width);
        Ok(fill_parts(lines * width, task * width, |start, part, buffer| {
            let mut buffers = split(buffer, [w + 2, width + 2, width + 1].into_iter());
            let [line, even, odd] = &mut buffers[..] else { unreachable!("three lengths") };
            for (k, out) in part.chunks_exact_mut(width).enumerate() {
                let (image, y) = ((start / width + k) / height, (start / width + k) % height);
                let picture = &x[image * h * w..][..h * w];
                let terms = terms.as_ref();
                dispatch(Line { op: *self, picture, from, y, terms, line, even, odd, out });
            }
        }))
    }

    fn gradients(&self, _: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        Ok([Some(apply_untracked(Self { adjoint: true, ..*self }, &[grad])?), None, None])
    }
}

/// One line of a result: the lines it is the sum of first, then their columns.
pub(super) struct Line<'a, E> {
    op: Pyramid,
    picture: &'a [E],
    from: [usize; 2],
    y: usize,
    /// Of an adjoint, along each axis.
    terms: Option<&'a [Terms<E>; 2]>,
    /// A line of the picture, and a place on either side.
    line: &'a mut [E],
    /// A place more than the result on either side; nothing where it grows.
    even: &'a mut [E],
    /// A place more than the result before it; nothing where it grows.
    odd: &'a mut [E],
    out: &'a mut [E],
}

impl<'a, E: Real> Line<'a, E> {
    /// Line `y` of `picture` enlarged to `fine`; `line` has two places more than the picture's width.
    pub(super) fn up(
        picture: &'a [E],
        fine: [usize; 2],
        y: usize,
        line: &'a mut [E],
        out: &'a mut [E],
    ) -> Self {
        let op = Pyramid { step: Step::Up, fine, adjoint: false };
        let (even, odd) = (Default::default(), Default::default());
        Self { op, picture, from: op.coarse(), y, terms: None, line, even, odd, out }
    }
}

impl<E: Real> Kernel<E> for Line<'_, E> {
    type Output = ();

    // Plain loops: the compiler makes vectors of them, and shuffles of every second element.
    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, _: S) {
        match self.terms {
            None => self.sum_lines(),
            Some([rows, _]) => {
                let w = self.from[1];
                let line = &mut self.line[1..=w];
                line.fill(E::of(0.));
                for &(y, weight) in &rows[self.y] {
                    add_scaled(line, &self.picture[y * w..][..w], weight);
                }
            }
        }
        // Away from the borders an adjoint is the other step but for a factor.
        match (self.op.shrinks(), self.op.adjoint) {
            (true, false) => self.shrink(E::of(1.), 0),
            (true, true) => self.shrink(E::of(2.), 2),
            (false, false) => self.grow(E::of(1.), 0),
            (false, true) => self.grow(E::of(0.5), 4),
        }
    }
}

impl<E: Real> Line<'_, E> {
    #[inline(always)]
    fn sum_lines(&mut self) {
        let [h, w] = self.from;
        let (places, weights) = self.op.step.taps(self.y, h);
        let [a, b, c, d, e] = places.map(|y| &self.picture[y * w..][..w]);
        let line = &mut self.line[1..=w];
        match weights.len() {
            5 => {
                for (((((to, &a), &b), &c), &d), &e) in
                    line.iter_mut().zip(a).zip(b).zip(c).zip(d).zip(e)
                {
                    *to = smooth(a, b, c, d, e);
                }
            }
            3 => {
                for (((to, &a), &b), &c) in line.iter_mut().zip(a).zip(b).zip(c) {
                    *to = at_pixel(a, b, c);
                }
            }
            _ => {
                for ((to, &a), &b) in line.iter_mut().zip(a).zip(b) {
                    *to = between(a, b);
                }
            }
        }
    }

    /// The line at half the size; its outermost `edge` places by their terms.
    #[inline(always)]
    fn shrink(&mut self, scale: E, edge: usize) {
        let (w, n) = (self.from[1], self.out.len());
        let line = &self.line[1..=w];
        let (even, odd) = (&mut *self.even, &mut *self.odd);
        let pairs = line.chunks_exact(2);
        for ((pair, even), odd) in pairs.zip(&mut even[1..]).zip(&mut odd[1..]) {
            *even = pair[0];
            *odd = pair[1];
        }
        if w % 2 == 1 {
            even[n] = line[w - 1];
            odd[n] = line[mirrored(w as isize, w)];
        }
        even[0] = line[mirrored(-2, w)];
        odd[0] = line[mirrored(-1, w)];
        even[n + 1] = line[mirrored(2 * n as isize, w)];
        let (a, b) = (&even[..n], &odd[..n]);
        let (c, d, e) = (&even[1..=n], &odd[1..=n], &even[2..n + 2]);
        for (((((to, &a), &b), &c), &d), &e) in
            self.out.iter_mut().zip(a).zip(b).zip(c).zip(d).zip(e)
        {
            *to = smooth(a, b, c, d, e) * scale;
        }
        self.edges(edge);
    }

    /// The line at twice the size; its outermost `edge` places by their terms.
    #[inline(always)]
    fn grow(&mut self, scale: E, edge: usize) {
        let w = self.from[1];
        self.line[0] = self.line[1 + (w - 1).min(1)];
        self.line[w + 1] = self.line[w];
        let (before, at, after) = (&self.line[..w], &self.line[1..=w], &self.line[2..w + 2]);
        for (((to, &a), &b), &c) in self.out.chunks_exact_mut(2).zip(before).zip(at).zip(after) {
            to[0] = at_pixel(a, b, c) * scale;
            to[1] = between(b, c) * scale;
        }
        if let [last] = self.out.chunks_exact_mut(2).into_remainder() {
            *last = at_pixel(before[w - 1], at[w - 1], after[w - 1]) * scale;
        }
        self.edges(edge);
    }

    #[inline(always)]
    fn edges(&mut self, edge: usize) {
        let (Some([_, columns]), n) = (self.terms, self.out.len()) else { return };
        for x in (0..n).filter(|x| *x < edge || x + edge >= n) {
            self.out[x] = E::of(0.);
            for &(from, weight) in &columns[x] {
                self.out[x] += self.line[1 + from] * weight;
            }
        }
    }
}

// Written so that equal values give the same value without a rounding: sums of two and four equal
// numbers are exact, and differences of them are 0.

/// (a + 4b + 6c + 4d + e)/16.
#[inline(always)]
fn smooth<E: Real>(a: E, b: E, c: E, d: E, e: E) -> E {
    let twice = c + c;
    ((b + d) + twice) * E::of(0.25) + ((a + e) - twice) * E::of(0.0625)
}

/// (a + 6b + c)/8.
#[inline(always)]
fn at_pixel<E: Real>(a: E, b: E, c: E) -> E {
    b + ((a + c) - (b + b)) * E::of(0.125)
}

/// (a + b)/2.
#[inline(always)]
fn between<E: Real>(a: E, b: E) -> E {
    (a + b) * E::of(0.5)
}
