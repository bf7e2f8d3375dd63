// Element by element: SiLU, gates, scaled sums and their gradients, and Adam. Memory bandwidth bounds them, so a
// thread takes 16 bytes of each map at a time where all of them start on 16 bytes.
#include "portable.cuh"

template <typename T>
struct __align__(16) Packet {
  static constexpr u32 COUNT = 16 / sizeof(T);
  T v[COUNT];
};

// out[0][i], ... = f of in[0][i], ... for i < n. `f` gets the inputs, the outputs and i.
template <int IN, int OUT, typename T, typename F>
ISFM_INLINE void for_elements(const T *const (&in)[IN], T *const (&out)[OUT], u32 n, F f) {
  constexpr u32 COUNT = Packet<T>::COUNT;
  const Span s = span();
  bool whole = true;
  ISFM_UNROLL
  for (int k = 0; k < IN; ++k) whole = whole && (size_t)in[k] % 16 == 0;
  ISFM_UNROLL
  for (int k = 0; k < OUT; ++k) whole = whole && (size_t)out[k] % 16 == 0;
  const u32 packets = whole ? n / COUNT : 0;
  float x[IN], y[OUT];
  for (u32 p = s.first; p < packets; p += s.step) {
    Packet<T> from[IN], to[OUT];
    ISFM_UNROLL
    for (int k = 0; k < IN; ++k) from[k] = reinterpret_cast<const Packet<T> *>(in[k])[p];
    ISFM_UNROLL
    for (u32 i = 0; i < COUNT; ++i) {
      ISFM_UNROLL
      for (int k = 0; k < IN; ++k) x[k] = to_float(from[k].v[i]);
      f(x, y, p * COUNT + i);
      ISFM_UNROLL
      for (int k = 0; k < OUT; ++k) to[k].v[i] = from_float<T>(y[k]);
    }
    ISFM_UNROLL
    for (int k = 0; k < OUT; ++k) reinterpret_cast<Packet<T> *>(out[k])[p] = to[k];
  }
  for (u32 i = packets * COUNT + s.first; i < n; i += s.step) {
    ISFM_UNROLL
    for (int k = 0; k < IN; ++k) x[k] = to_float(in[k][i]);
    f(x, y, i);
    ISFM_UNROLL
    for (int k = 0; k < OUT; ++k) out[k][i] = from_float<T>(y[k]);
  }
}

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
  for_elements<1, 1>({x}, {y}, n, [](const float (&v)[1], float (&out)[1], u32) {
    out[0] = silu_slope(v[0]).value;
  });
}

// dx = dy SiLU'(x).
template <typename T>
ISFM_INLINE void silu_backward(const T *x, const T *dy, T *dx, u32 n) {
  for_elements<2, 1>({x, dy}, {dx}, n, [](const float (&v)[2], float (&out)[1], u32) {
    out[0] = v[1] * silu_slope(v[0]).slope;
  });
}

// y = x F(z).
template <typename T, Slope (*F)(float)>
ISFM_INLINE void gate(const T *x, const T *z, T *y, u32 n) {
  for_elements<2, 1>({x, z}, {y}, n, [](const float (&v)[2], float (&out)[1], u32) {
    out[0] = v[0] * F(v[1]).value;
  });
}

// dx = dy F(z), dz = dy x F'(z).
template <typename T, Slope (*F)(float)>
ISFM_INLINE void gate_backward(const T *x, const T *z, const T *dy, T *dx, T *dz, u32 n) {
  for_elements<3, 2>({x, z, dy}, {dx, dz}, n, [](const float (&v)[3], float (&out)[2], u32) {
    const Slope f = F(v[1]);
    out[0] = v[2] * f.value;
    out[1] = v[2] * v[0] * f.slope;
  });
}

// out = alpha x + beta y.
template <typename T>
ISFM_INLINE void weighted_sum(const T *x, const T *y, T *out, float alpha, float beta, u32 n) {
  for_elements<2, 1>({x, y}, {out}, n, [=](const float (&v)[2], float (&sum)[1], u32) {
    sum[0] = alpha * v[0] + beta * v[1];
  });
}

// out = x + bias, of each row of `channels`, with `with_silu` SiLU of that.
template <typename T>
ISFM_INLINE void add_bias(const T *x, const T *bias, T *out, u32 channels, u32 with_silu, u32 n) {
  for_elements<1, 1>({x}, {out}, n, [=](const float (&v)[1], float (&sum)[1], u32 i) {
    const float y = v[0] + to_float(bias[i % channels]);
    sum[0] = with_silu ? y * sigmoid(y) : y;
  });
}

// out = scale x + y, y may be null; `channels` factors for each `image` elements, or, with image =
// 0, for all.
template <typename T>
ISFM_INLINE void scale_add(const T *x, const T *scale, const T *y, T *out, u32 channels, u32 image,
                           u32 n) {
  const auto factor = [=](u32 i) {
    return to_float(scale[i % channels + (image ? i / image * channels : 0)]);
  };
  if (y)
    for_elements<2, 1>({x, y}, {out}, n, [=](const float (&v)[2], float (&sum)[1], u32 i) {
      sum[0] = v[0] * factor(i) + v[1];
    });
  else
    for_elements<1, 1>({x}, {out}, n, [=](const float (&v)[1], float (&product)[1], u32 i) {
      product[0] = v[0] * factor(i);
    });
}

// One step of Adam: weights, then the running means of the gradient and of its square. `state` is both
// means, `out` all three.
ISFM_INLINE void adam(const float *weights, const float *gradient, const float *state, float *out,
                      float gain, float mean_rest, float square_keep, float square_rest, float keep,
                      float rate, float root, float eps, u32 n) {
  for_elements<4, 3>({weights, gradient, state, state + n}, {out, out + n, out + 2 * (size_t)n}, n,
                     [=](const float (&v)[4], float (&next)[3], u32) {
                       const float g = v[1] * gain;
                       const float mean = v[2] + (g - v[2]) * mean_rest;
                       const float square = v[3] * square_keep + g * g * square_rest;
                       next[0] = v[0] * keep - rate * (mean / (sqrtf(square) / root + eps));
                       next[1] = mean;
                       next[2] = square;
                     });
}
ISFM_KERNEL(adam_f32, ISFM_THREADS,
            (const float *weights, const float *gradient, const float *state, float *out, float gain,
             float mean_rest, float square_keep, float square_rest, float keep, float rate,
             float root, float eps, u32 n),
            adam(weights, gradient, state, out, gain, mean_rest, square_keep, square_rest, keep,
                 rate, root, eps, n))

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
              (const T *x, const T *bias, T *out, u32 channels, u32 with_silu, u32 n),            \
              add_bias(x, bias, out, channels, with_silu, n))                                     \
  ISFM_KERNEL(scale_add_##S, ISFM_THREADS,                                                        \
              (const T *x, const T *scale, const T *y, T *out, u32 channels, u32 image, u32 n),   \
              scale_add(x, scale, y, out, channels, image, n))
ISFM_FOR_TYPES(INSTANCE)
