//! The range of a 16-bit stream, without flicker.

use std::time::Duration;

use crate::normalize::{LEAST_COUNTS, Span, counted_scene};

/// Pixels by which frames are compared.
const SAMPLES: usize = 16_384;
/// How far an end of the range moves in a frame of a scene that stands still, in levels of 8 bits.
const STILL: f32 = 0.5;
/// The same while the scene moves, where nobody sees it.
const MOVING: f32 = 4.;
/// For so long a frame of a closed shutter, or of a scene that has gone flat, changes nothing.
const HOLD: Duration = Duration::from_secs(1);

/// Follows a stream of 16-bit frames with the range of [`Normalize::Auto`](crate::Normalize::Auto):
///
/// - What moves all counts alike (the camera's drift, the correction after its shutter has closed) moves
///   the range at once, so that the picture stays as it is: the difference that most pixels have to the frame
///   before, where most of them have the same.
/// - What changes the range otherwise (something hot comes into view) is followed with a time constant,
///   and by at most half a level of 8 bits in a frame as long as most of the picture stands still.
/// - A frame that is flat beside those before it changes nothing for a second: the shutter is closed.
/// - A scene that has next to nothing of the range before (another camera, a cut) begins anew.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    counts: Vec<u32>,
    /// The pixels of the last frame that was not flat.
    before: Vec<u16>,
    now: Vec<u16>,
    differences: Vec<i32>,
    size: usize,
    span: Option<Span>,
    /// When the frames became flat, if they are.
    flat_since: Option<Duration>,
    /// The last frame's.
    time: Duration,
}

impl Steady {
    /// The range of the next frame. `read` gives a row's values; `time` is the frame's.
    pub(crate) fn next<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [u8]>,
        value: impl Fn([u8; 2]) -> u16,
        pixels: usize,
        time: Duration,
        constant: Duration,
    ) -> Span {
        self.count(rows, value, pixels);
        let target = counted_scene(&self.counts);
        let passed = time.saturating_sub(self.time);
        self.time = time;
        let Some(span) = self.span.filter(|_| self.size == pixels) else {
            return self.begin(target, pixels);
        };
        let flat = target.width() < span.width() / 4. && span.width() > 2. * LEAST_COUNTS;
        if flat {
            let since = *self.flat_since.get_or_insert(time);
            if time.saturating_sub(since) < HOLD {
                return span;
            }
        }
        let shift = self.shift(span);
        // What a closed shutter leaves behind is compared with what was before it.
        self.flat_since = if flat { self.flat_since } else { None };
        std::mem::swap(&mut self.before, &mut self.now);
        let span = match shift {
            Some(shift) => span.moved(shift),
            None if span.overlap(target) < 0.25 => return self.begin_with(target),
            None => span,
        };
        let share = match constant.as_secs_f32() {
            0. => 1.,
            constant => 1. - (-passed.as_secs_f32() / constant).exp(),
        };
        let most = span.width() / 255. * if shift.is_some() { STILL } else { MOVING };
        let span = span.toward(target, share, most);
        self.span = Some(span);
        span
    }

    fn begin(&mut self, target: Span, pixels: usize) -> Span {
        self.size = pixels;
        self.flat_since = None;
        std::mem::swap(&mut self.before, &mut self.now);
        self.begin_with(target)
    }

    fn begin_with(&mut self, target: Span) -> Span {
        self.span = Some(target);
        target
    }

    fn count<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [u8]>,
        value: impl Fn([u8; 2]) -> u16,
        pixels: usize,
    ) {
        self.counts.clear();
        self.counts.resize(1 << 16, 0);
        self.now.clear();
        // An odd step: rows are mostly of even length, and the samples then fall into all columns.
        let every = (pixels / SAMPLES).max(1) | 1;
        let mut next = 0;
        let mut at = 0;
        for row in rows {
            for pixel in row.as_chunks::<2>().0 {
                let value = value(*pixel);
                self.counts[usize::from(value)] += 1;
                if at == next {
                    self.now.push(value);
                    next += every;
                }
                at += 1;
            }
        }
    }

    /// By how much the counts of most pixels have moved since the frame before, if they have moved alike.
    fn shift(&mut self, span: Span) -> Option<f32> {
        let pairs = self.now.iter().zip(&self.before);
        self.differences.clear();
        self.differences.extend(pairs.map(|(&now, &before)| i32::from(now) - i32::from(before)));
        if self.differences.is_empty() {
            return None;
        }
        let middle = self.differences.len() / 2;
        let median = *self.differences.select_nth_unstable(middle).1;
        let near = (span.width() / 16.).max(LEAST_COUNTS / 8.) as i32;
        let like = self.differences.iter().filter(|&&d| (d - median).abs() <= near);
        let (mut count, mut sum) = (0_u32, 0_i64);
        for &difference in like {
            count += 1;
            sum += i64::from(difference);
        }
        (2 * count as usize > self.differences.len()).then(|| sum as f32 / count as f32)
    }
}
