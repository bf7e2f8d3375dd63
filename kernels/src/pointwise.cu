// Element by element: SiLU, gates, scaled sums, and their gradients. One thread an element at a
// time; threads stride over what a smaller grid leaves.
#include "portable.cuh"

struct Slope {
  float value, slope;
};

ISFM_INLINE Slope silu_slope(float x) {
  const float s = sigmoid(x);
  return {x * s, s * (1.0f + x * (1.0f - s))};
}

ISFM_INLINE Slope sigmoid_slope(float x) {
  const float s = sigmoid(x);
  return {s, s * (1.0f - s)};
}

// y = SiLU(x).
template <typename T>
ISFM_INLINE void silu(const T *x, T *y, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) y[i] = from_float<T>(silu_slope(to_float(x[i])).value);
}

// dx = dy SiLU'(x).
template <typename T>
ISFM_INLINE void silu_backward(const T *x, const T *dy, T *dx, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step)
    dx[i] = from_float<T>(to_float(dy[i]) * silu_slope(to_float(x[i])).slope);
}

// y = x F(z).
template <typename T, Slope (*F)(float)>
ISFM_INLINE void gate(const T *x, const T *z, T *y, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step)
    y[i] = from_float<T>(to_float(x[i]) * F(to_float(z[i])).value);
}

// dx = dy F(z), dz = dy x F'(z).
template <typename T, Slope (*F)(float)>
ISFM_INLINE void gate_backward(const T *x, const T *z, const T *dy, T *dx, T *dz, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Slope f = F(to_float(z[i]));
    const float d = to_float(dy[i]);
    dx[i] = from_float<T>(d * f.value);
    dz[i] = from_float<T>(d * to_float(x[i]) * f.slope);
  }
}

// out = alpha x + beta y.
template <typename T>
ISFM_INLINE void weighted_sum(const T *x, const T *y, T *out, float alpha, float beta, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step)
    out[i] = from_float<T>(alpha * to_float(x[i]) + beta * to_float(y[i]));
}

// out = x + bias, of each row of `channels`.
template <typename T>
ISFM_INLINE void add_bias(const T *x, const T *bias, T *out, u32 channels, u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step)
    out[i] = from_float<T>(to_float(x[i]) + to_float(bias[i % channels]));
}

// out = scale x + y, y may be null; `channels` factors for each `image` elements, or, with image =
// 0, for all.
template <typename T>
ISFM_INLINE void scale_add(const T *x, const T *scale, const T *y, T *out, u32 channels, u32 image,
                           u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const u32 c = i % channels + (image ? i / image * channels : 0);
    const float v = to_float(x[i]) * to_float(scale[c]);
    out[i] = from_float<T>(y ? v + to_float(y[i]) : v);
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(silu_##S, ISFM_THREADS, (const T *x, T *y, u32 n), silu(x, y, n))                   \
  ISFM_KERNEL(silu_backward_##S, ISFM_THREADS, (const T *x, const T *dy, T *dx, u32 n),           \
              silu_backward(x, dy, dx, n))                                                        \
  ISFM_KERNEL(silu_gate_##S, ISFM_THREADS, (const T *x, const T *z, T *y, u32 n),                 \
              (gate<T, silu_slope>)(x, z, y, n))                                                  \
  ISFM_KERNEL(silu_gate_backward_##S, ISFM_THREADS,                                               \
              (const T *x, const T *z, const T *dy, T *dx, T *dz, u32 n),                         \
              (gate_backward<T, silu_slope>)(x, z, dy, dx, dz, n))                                \
  ISFM_KERNEL(sigmoid_gate_##S, ISFM_THREADS, (const T *x, const T *z, T *y, u32 n),              \
              (gate<T, sigmoid_slope>)(x, z, y, n))                                               \
  ISFM_KERNEL(sigmoid_gate_backward_##S, ISFM_THREADS,                                            \
              (const T *x, const T *z, const T *dy, T *dx, T *dz, u32 n),                         \
              (gate_backward<T, sigmoid_slope>)(x, z, dy, dx, dz, n))                             \
  ISFM_KERNEL(weighted_sum_##S, ISFM_THREADS,                                                     \
              (const T *x, const T *y, T *out, float alpha, float beta, u32 n),                   \
              weighted_sum(x, y, out, alpha, beta, n))                                            \
  ISFM_KERNEL(add_bias_##S, ISFM_THREADS,                                                         \
              (const T *x, const T *bias, T *out, u32 channels, u32 n),                           \
              add_bias(x, bias, out, channels, n))                                                \
  ISFM_KERNEL(scale_add_##S, ISFM_THREADS,                                                        \
              (const T *x, const T *scale, const T *y, T *out, u32 channels, u32 image, u32 n),   \
              scale_add(x, scale, y, out, channels, image, n))
ISFM_FOR_TYPES(INSTANCE)
