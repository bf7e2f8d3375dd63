// The Haar transform of one 2x2 block. The matrix is orthonormal, so the inverse is its transpose,
// and each of the two functions is the other's gradient.
#ifndef ISFM_HAAR_CUH
#define ISFM_HAAR_CUH

#include "portable.cuh"

// Pixels [[a, b], [c, d]].
struct HaarBlock {
  float a, b, c, d;
};

// cA, cH, cV, cD in PyWavelets' names.
struct HaarBands {
  float ll, lh, hl, hh;
};

ISFM_INLINE HaarBands haar_split(HaarBlock p) {
  const float top = p.a + p.b, top_diff = p.a - p.b;
  const float bottom = p.c + p.d, bottom_diff = p.c - p.d;
  return {0.5f * (top + bottom), 0.5f * (top - bottom), 0.5f * (top_diff + bottom_diff),
          0.5f * (top_diff - bottom_diff)};
}

ISFM_INLINE HaarBlock haar_join(HaarBands s) {
  const float top = s.ll + s.lh, top_diff = s.hl + s.hh;
  const float bottom = s.ll - s.lh, bottom_diff = s.hl - s.hh;
  return {0.5f * (top + top_diff), 0.5f * (top - top_diff), 0.5f * (bottom + bottom_diff),
          0.5f * (bottom - bottom_diff)};
}

#endif
