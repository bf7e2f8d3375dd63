// One-level 2-D Haar transform of channel-last maps and its inverse.
//
// Grid: x over channels, y over columns of 2x2 blocks, z over their rows in all images. Threads
// stride over what a smaller grid leaves, so any launch is right. Neighbouring threads read and
// write neighbouring channels.
#include "haar.cuh"

// x: B,H,W,C. approx: B,H/2,W/2,C. details: B,H/2,W/2,3C with LH, HL, HH one after another.
// An odd last row or column of x is not read.
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    haar_forward_f32(const float *__restrict__ x, float *__restrict__ approx,
                     float *__restrict__ details, unsigned int batch, unsigned int height,
                     unsigned int width, unsigned int channels) {
  const unsigned int half_h = height / 2, half_w = width / 2, rows = batch * half_h;
  const size_t line = (size_t)width * channels;
  const Span span_row = span_z(), span_col = span_y(), span_channel = span_x();

  for (unsigned int row = span_row.first; row < rows; row += span_row.step) {
    const float *top = x + ((size_t)(row / half_h) * height + 2 * (row % half_h)) * line;
    for (unsigned int col = span_col.first; col < half_w; col += span_col.step) {
      const float *p = top + 2 * (size_t)col * channels;
      const size_t place = ((size_t)row * half_w + col) * channels;
      float *low = approx + place, *high = details + 3 * place;
      for (unsigned int c = span_channel.first; c < channels; c += span_channel.step) {
        const HaarBands s = haar_split(
            {p[c], p[(size_t)channels + c], p[line + c], p[line + channels + c]});
        low[c] = s.ll;
        high[c] = s.lh;
        high[(size_t)channels + c] = s.hl;
        high[2 * (size_t)channels + c] = s.hh;
      }
    }
  }
}

// The inverse to a map of H x W: approx: B,H/2,W/2,C. details: B,H/2,W/2,3C. x: B,H,W,C.
// Where H or W is odd the last row or column, which no sub-band describes, becomes zero: that
// makes this the gradient of the transform of an H x W map too.
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    haar_inverse_f32(const float *__restrict__ approx, const float *__restrict__ details,
                     float *__restrict__ x, unsigned int batch, unsigned int height,
                     unsigned int width, unsigned int channels) {
  const unsigned int half_h = height / 2, half_w = width / 2;
  const unsigned int blocks_h = half_h + height % 2, blocks_w = half_w + width % 2;
  const unsigned int rows = batch * blocks_h;
  const size_t line = (size_t)width * channels;
  const Span span_row = span_z(), span_col = span_y(), span_channel = span_x();

  for (unsigned int row = span_row.first; row < rows; row += span_row.step) {
    const unsigned int image = row / blocks_h, i = row % blocks_h;
    float *top = x + ((size_t)image * height + 2 * (size_t)i) * line;
    const size_t band_row = (size_t)image * half_h + i;
    for (unsigned int col = span_col.first; col < blocks_w; col += span_col.step) {
      float *p = top + 2 * (size_t)col * channels;
      const bool has_right = col < half_w, has_bottom = i < half_h;
      const bool whole = has_right && has_bottom;
      // Only whole blocks read: for the others this place need not exist.
      const size_t place = whole ? (band_row * half_w + col) * channels : 0;
      const float *low = approx + place, *high = details + 3 * place;
      for (unsigned int c = span_channel.first; c < channels; c += span_channel.step) {
        HaarBlock q = {0.0f, 0.0f, 0.0f, 0.0f};
        if (whole)
          q = haar_join({low[c], high[c], high[(size_t)channels + c],
                         high[2 * (size_t)channels + c]});
        p[c] = q.a;
        if (has_right) p[(size_t)channels + c] = q.b;
        if (has_bottom) p[line + c] = q.c;
        if (whole) p[line + channels + c] = q.d;
      }
    }
  }
}
