// Bilinear resize (PyTorch's align_corners=False, no antialiasing) and its adjoint. One thread an
// element at a time.
#include "map.cuh"

// What a place of the result takes from an axis: two neighbours and the second one's weight. In
// double: rounding would move the places of a long axis by 1e-5 of a pixel and more.
struct Between {
  u32 first, second;
  float weight;

  ISFM_INLINE Between(u32 i, u32 from, u32 to) {
    const double at = (double)from / (double)to * ((double)i + 0.5) - 0.5;
    const double place = at > 0.0 ? at : 0.0;
    first = (u32)place < from - 1 ? (u32)place : from - 1;
    second = first + 1 < from ? first + 1 : first;
    const double rest = place - (double)first;
    weight = (float)(rest < 1.0 ? rest : 1.0);
  }

  // How much of input place `at` is in this.
  ISFM_INLINE float share(u32 at) const {
    return (at == first ? 1.0f - weight : 0.0f) + (at == second ? weight : 0.0f);
  }
};

// y: height x width, x: from_height x from_width; n elements of y.
template <typename T>
ISFM_INLINE void resize(const T *x, T *y, u32 from_height, u32 from_width, u32 height, u32 width,
                        u32 channels, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, height, width, channels);
    const Between rows(p.y, from_height, height), columns(p.x, from_width, width);
    const size_t image = p.image / ((size_t)height * width) * from_height * from_width + p.c;
    const auto at = [&](u32 row, u32 column) {
      return to_float(x[image + ((size_t)row * from_width + column) * channels]);
    };
    const float w = rows.weight, v = 1.0f - rows.weight;
    const float left = v * at(rows.first, columns.first) + w * at(rows.second, columns.first);
    const float right = v * at(rows.first, columns.second) + w * at(rows.second, columns.second);
    y[i] = from_float<T>((1.0f - columns.weight) * left + columns.weight * right);
  }
}

// The places of the result that may take from input place `at`: a few too many, never too few.
ISFM_INLINE void reach(u32 at, u32 from, u32 to, u32 &first, u32 &end) {
  const double scale = (double)to / (double)from;
  const double low = ((double)at - 1.0) * scale - 2.0, high = ((double)at + 2.0) * scale + 2.0;
  first = low > 0.0 ? (u32)low : 0;
  end = high < (double)to ? (u32)high : to;
}

// dx: from_height x from_width, dy: height x width; n elements of dx.
template <typename T>
ISFM_INLINE void resize_backward(const T *dy, T *dx, u32 from_height, u32 from_width, u32 height,
                                 u32 width, u32 channels, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, from_height, from_width, channels);
    const size_t image = p.image / ((size_t)from_height * from_width) * height * width + p.c;
    u32 row0, row1, column0, column1;
    reach(p.y, from_height, height, row0, row1);
    reach(p.x, from_width, width, column0, column1);
    float sum = 0.0f;
    for (u32 row = row0; row < row1; ++row) {
      const float down = Between(row, from_height, height).share(p.y);
      if (down == 0.0f) continue;
      float line = 0.0f;
      for (u32 column = column0; column < column1; ++column) {
        const float across = Between(column, from_width, width).share(p.x);
        if (across != 0.0f)
          line += across * to_float(dy[image + ((size_t)row * width + column) * channels]);
      }
      sum += down * line;
    }
    dx[i] = from_float<T>(sum);
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(resize_##S, ISFM_THREADS,                                                           \
              (const T *x, T *y, u32 from_height, u32 from_width, u32 height, u32 width,          \
               u32 channels, u32 n),                                                              \
              resize(x, y, from_height, from_width, height, width, channels, n))                  \
  ISFM_KERNEL(resize_backward_##S, ISFM_THREADS,                                                  \
              (const T *dy, T *dx, u32 from_height, u32 from_width, u32 height, u32 width,        \
               u32 channels, u32 n),                                                              \
              resize_backward(dy, dx, from_height, from_width, height, width, channels, n))
ISFM_FOR_TYPES(INSTANCE)
