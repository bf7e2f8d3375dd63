// One-level 2-D Haar transform of channel-last maps and its inverse. The matrix is orthonormal, so
// the inverse is its transpose, and each of the two is the other's gradient. One thread a 2x2 block
// of one channel at a time.
#include "map.cuh"

// x: B,H,W,C. approx: B,H/2,W/2,C. details: B,H/2,W/2,3C with LH, HL, HH one after another. Either
// of the two may be null. An odd last row or column of x is not read. n elements of approx.
template <typename T>
ISFM_INLINE void haar(const T *x, T *approx, T *details, u32 height, u32 width, u32 channels,
                      u32 n) {
  const u32 half_h = height / 2, half_w = width / 2;
  const size_t line = (size_t)width * channels;
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, half_h, half_w, channels);
    const size_t image = p.image / ((size_t)half_h * half_w) * height * width;
    const T *in = x + image + 2 * p.y * line + 2 * (size_t)p.x * channels + p.c;
    const float a = to_float(in[0]), b = to_float(in[channels]);
    const float c = to_float(in[line]), d = to_float(in[line + channels]);
    const float top = a + b, top_diff = a - b, bottom = c + d, bottom_diff = c - d;
    if (approx) approx[i] = from_float<T>(0.5f * (top + bottom));
    if (details) {
      T *high = details + 3 * (size_t)(i - p.c) + p.c;
      high[0] = from_float<T>(0.5f * (top - bottom));
      high[channels] = from_float<T>(0.5f * (top_diff + bottom_diff));
      high[2 * (size_t)channels] = from_float<T>(0.5f * (top_diff - bottom_diff));
    }
  }
}

// The inverse to a map of H x W; a band that is null is zero. Where H or W is odd the last row or
// column, which no sub-band describes, becomes zero: that makes this the gradient of the transform
// of an H x W map too. n blocks times channels, those cut by the border too.
template <typename T>
ISFM_INLINE void haar_inverse(const T *approx, const T *details, T *x, u32 height, u32 width,
                              u32 channels, u32 n) {
  const u32 half_h = height / 2, half_w = width / 2;
  const u32 blocks_h = half_h + height % 2, blocks_w = half_w + width % 2;
  const size_t line = (size_t)width * channels;
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, blocks_h, blocks_w, channels);
    const size_t number = p.image / ((size_t)blocks_h * blocks_w * channels);
    const bool right = p.x < half_w, below = p.y < half_h;
    float ll = 0.0f, lh = 0.0f, hl = 0.0f, hh = 0.0f;
    if (right && below) {
      const size_t place = ((number * half_h + p.y) * half_w + p.x) * channels;
      if (approx) ll = to_float(approx[place + p.c]);
      if (details) {
        const T *high = details + 3 * place + p.c;
        lh = to_float(high[0]);
        hl = to_float(high[channels]);
        hh = to_float(high[2 * (size_t)channels]);
      }
    }
    const float top = ll + lh, top_diff = hl + hh, bottom = ll - lh, bottom_diff = hl - hh;
    T *out = x + (number * height + 2 * p.y) * line + 2 * (size_t)p.x * channels + p.c;
    out[0] = from_float<T>(0.5f * (top + top_diff));
    if (right) out[channels] = from_float<T>(0.5f * (top - top_diff));
    if (below) out[line] = from_float<T>(0.5f * (bottom + bottom_diff));
    if (right && below) out[line + channels] = from_float<T>(0.5f * (bottom - bottom_diff));
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(haar_##S, ISFM_THREADS,                                                             \
              (const T *x, T *approx, T *details, u32 height, u32 width, u32 channels, u32 n),    \
              haar(x, approx, details, height, width, channels, n))                               \
  ISFM_KERNEL(haar_inverse_##S, ISFM_THREADS,                                                     \
              (const T *approx, const T *details, T *x, u32 height, u32 width, u32 channels,      \
               u32 n),                                                                            \
              haar_inverse(approx, details, x, height, width, channels, n))
ISFM_FOR_TYPES(INSTANCE)
