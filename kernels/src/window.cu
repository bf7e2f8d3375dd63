// Windows of k x k around each pixel, channel by channel, stride 1, padding k/2: depth-wise
// convolution, average and largest value, and their gradients. One thread an element at a time.
#include "map.cuh"

// K = 3 and 5 with loops unrolled; 0 for any.
template <typename T, u32 K, typename Step>
ISFM_INLINE void for_window(const T *x, const Place &p, u32 height, u32 width, u32 channels,
                            u32 any_k, Step step) {
  const u32 k = K ? K : any_k, pad = k / 2;
  ISFM_UNROLL
  for (u32 ky = 0; ky < k; ++ky) {
    if (!inside(p.y, ky, pad, height)) continue;
    ISFM_UNROLL
    for (u32 kx = 0; kx < k; ++kx) {
      if (!inside(p.x, kx, pad, width)) continue;
      const u32 place = (p.y + ky - pad) * width + p.x + kx - pad;
      step(ky * k + kx, place, x[p.image + (size_t)place * channels + p.c]);
    }
  }
}

// weight: channels x k x k. With `flip` the mirrored windows: the adjoint. bias may be null.
template <typename T, u32 K>
ISFM_INLINE void depthwise_k(const T *x, const T *weight, const T *bias, T *y, u32 height,
                             u32 width, u32 channels, u32 any_k, u32 flip, u32 n) {
  const u32 k = K ? K : any_k, taps = k * k;
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, height, width, channels);
    float sum = bias ? to_float(bias[p.c]) : 0.0f;
    const T *w = weight + (size_t)p.c * taps;
    for_window<T, K>(x, p, height, width, channels, k, [&](u32 tap, u32, T v) {
      sum += to_float(v) * to_float(w[flip ? taps - 1 - tap : tap]);
    });
    y[i] = from_float<T>(sum);
  }
}

template <typename T>
ISFM_INLINE void depthwise(const T *x, const T *weight, const T *bias, T *y, u32 height, u32 width,
                           u32 channels, u32 k, u32 flip, u32 n) {
  if (k == 3)
    depthwise_k<T, 3>(x, weight, bias, y, height, width, channels, k, flip, n);
  else if (k == 5)
    depthwise_k<T, 5>(x, weight, bias, y, height, width, channels, k, flip, n);
  else
    depthwise_k<T, 0>(x, weight, bias, y, height, width, channels, k, flip, n);
}

// parts[p][tap][c], then the bias as one more tap: what the pixels p * pixels ... of all images
// add to the gradient. One thread a channel, a tap and a part.
template <typename T>
ISFM_INLINE void depthwise_weight(const T *x, const T *dy, float *parts, u32 height, u32 width,
                                  u32 channels, u32 k, u32 all_pixels, u32 pixels, u32 count) {
  const u32 taps = k * k, pad = k / 2;
  const Span s = span();
  for (u32 i = s.first; i < channels * (taps + 1) * count; i += s.step) {
    const u32 c = i % channels, tap = i / channels % (taps + 1);
    const u32 first = i / channels / (taps + 1) * pixels;
    const u32 end = all_pixels - first < pixels ? all_pixels : first + pixels;
    const u32 ky = tap / k, kx = tap % k;
    u32 column = first % width, row = first / width % height;
    float sum = 0.0f;
    for (u32 p = first; p < end; ++p) {
      const size_t at = (size_t)p * channels + c;
      if (tap == taps) {
        sum += to_float(dy[at]);
      } else if (inside(row, ky, pad, height) && inside(column, kx, pad, width)) {
        const size_t from = ((size_t)p + ky * width + kx - pad * width - pad) * channels + c;
        sum += to_float(dy[at]) * to_float(x[from]);
      }
      if (++column == width) {
        column = 0;
        if (++row == height) row = 0;
      }
    }
    parts[i] = sum;
  }
}

// The gradient from `count` parts: channels x k x k, then the bias.
template <typename T>
ISFM_INLINE void depthwise_weight_sum(const float *parts, T *out, u32 channels, u32 taps,
                                      u32 count) {
  const u32 n = channels * (taps + 1);
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const u32 c = i % channels, tap = i / channels;
    float sum = 0.0f;
    for (u32 p = 0; p < count; ++p) sum += parts[(size_t)p * n + i];
    out[tap < taps ? c * taps + tap : i] = from_float<T>(sum);
  }
}

// The mean over k x k, zeros outside counted. Its own adjoint.
template <typename T, u32 K>
ISFM_INLINE void avg_pool_k(const T *x, T *y, u32 height, u32 width, u32 channels, u32 any_k,
                            u32 n) {
  const u32 k = K ? K : any_k;
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, height, width, channels);
    float sum = 0.0f;
    for_window<T, K>(x, p, height, width, channels, k,
                     [&](u32, u32, T v) { sum += to_float(v); });
    y[i] = from_float<T>(sum / ((float)k * (float)k));
  }
}

template <typename T>
ISFM_INLINE void avg_pool(const T *x, T *y, u32 height, u32 width, u32 channels, u32 k, u32 n) {
  if (k == 3)
    avg_pool_k<T, 3>(x, y, height, width, channels, k, n);
  else if (k == 5)
    avg_pool_k<T, 5>(x, y, height, width, channels, k, n);
  else
    avg_pool_k<T, 0>(x, y, height, width, channels, k, n);
}

// The largest of the window, line by line the first one; a NaN is larger than all before it. Either
// result may be null: the value, or the pixel that has it.
template <typename T>
ISFM_INLINE void max_pool(const T *x, T *y, u32 *places, u32 height, u32 width, u32 channels, u32 k,
                          u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, height, width, channels);
    const u32 up = p.y < k / 2 ? p.y : k / 2, left = p.x < k / 2 ? p.x : k / 2;
    u32 where = (p.y - up) * width + p.x - left;
    float best = to_float(x[p.image + (size_t)where * channels + p.c]);
    for_window<T, 0>(x, p, height, width, channels, k, [&](u32, u32 place, T v) {
      const float value = to_float(v);
      if (value > best || value != value) {
        best = value;
        where = place;
      }
    });
    if (y) y[i] = from_float<T>(best);
    if (places) places[i] = where;
  }
}

// Every pixel collects from the windows whose largest value it has.
template <typename T>
ISFM_INLINE void max_pool_backward(const u32 *places, const T *dy, T *dx, u32 height, u32 width,
                                   u32 channels, u32 k, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, height, width, channels);
    const u32 here = p.y * width + p.x;
    float sum = 0.0f;
    // The windows that cover a pixel lie where the window around it lies.
    for_window<T, 0>(dy, p, height, width, channels, k, [&](u32, u32 place, T d) {
      if (places[p.image + (size_t)place * channels + p.c] == here) sum += to_float(d);
    });
    dx[i] = from_float<T>(sum);
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(depthwise_##S, ISFM_THREADS,                                                        \
              (const T *x, const T *weight, const T *bias, T *y, u32 height, u32 width,           \
               u32 channels, u32 k, u32 flip, u32 n),                                             \
              depthwise(x, weight, bias, y, height, width, channels, k, flip, n))                 \
  ISFM_KERNEL(depthwise_weight_##S, ISFM_THREADS,                                                 \
              (const T *x, const T *dy, float *parts, u32 height, u32 width, u32 channels, u32 k, \
               u32 all_pixels, u32 pixels, u32 count),                                            \
              depthwise_weight(x, dy, parts, height, width, channels, k, all_pixels, pixels,      \
                               count))                                                            \
  ISFM_KERNEL(depthwise_weight_sum_##S, ISFM_THREADS,                                             \
              (const float *parts, T *out, u32 channels, u32 taps, u32 count),                    \
              depthwise_weight_sum(parts, out, channels, taps, count))                            \
  ISFM_KERNEL(avg_pool_##S, ISFM_THREADS,                                                         \
              (const T *x, T *y, u32 height, u32 width, u32 channels, u32 k, u32 n),              \
              avg_pool(x, y, height, width, channels, k, n))                                      \
  ISFM_KERNEL(max_pool_##S, ISFM_THREADS,                                                         \
              (const T *x, T *y, u32 *places, u32 height, u32 width, u32 channels, u32 k, u32 n), \
              max_pool(x, y, places, height, width, channels, k, n))                              \
  ISFM_KERNEL(max_pool_backward_##S, ISFM_THREADS,                                                \
              (const u32 *places, const T *dy, T *dx, u32 height, u32 width, u32 channels, u32 k, \
               u32 n),                                                                            \
              max_pool_backward(places, dy, dx, height, width, channels, k, n))
ISFM_FOR_TYPES(INSTANCE)
