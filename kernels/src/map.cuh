// Channel-last maps: batch x height x width x channels.
#ifndef ISFM_MAP_CUH
#define ISFM_MAP_CUH

#include "portable.cuh"

// The place of element `i`: channel, column, row, and the image's first element.
struct Place {
  u32 c, x, y;
  size_t image;

  ISFM_INLINE Place(u32 i, u32 height, u32 width, u32 channels) {
    c = i % channels;
    u32 p = i / channels;
    x = p % width;
    p /= width;
    y = p % height;
    image = (size_t)(p / height) * height * width * channels;
  }
};

// Whether `at + k - pad` lies in 0..n.
ISFM_INLINE bool inside(u32 at, u32 k, u32 pad, u32 n) { return at + k >= pad && at + k - pad < n; }

#endif
