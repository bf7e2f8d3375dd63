// Layer norm over contiguous rows and its gradient. One warp a row.
#include "portable.cuh"

ISFM_INLINE float warp_sum(float v) {
  ISFM_UNROLL
  for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(~0u, v, bit);
  return v;
}

struct Moments {
  float mean, scale;
};

// A row's mean and 1 / sqrt(variance + eps); two passes, the second from the cache.
template <typename T>
ISFM_INLINE Moments moments(const T *x, u32 columns, float eps, u32 lane) {
  float sum = 0.0f, squares = 0.0f;
  for (u32 c = lane; c < columns; c += 32) sum += to_float(x[c]);
  const float mean = warp_sum(sum) / (float)columns;
  for (u32 c = lane; c < columns; c += 32) {
    const float d = to_float(x[c]) - mean;
    squares += d * d;
  }
  return {mean, 1.0f / sqrtf(warp_sum(squares) / (float)columns + eps)};
}

// y = (x - mean) / sqrt(variance + eps) weight + bias.
template <typename T>
ISFM_INLINE void layer_norm(const T *x, const T *weight, const T *bias, T *y, float eps, u32 rows,
                            u32 columns) {
  const Span s = span();
  const u32 lane = threadIdx.x % 32;
  for (u32 r = s.first / 32; r < rows; r += s.step / 32) {
    const T *in = x + (size_t)r * columns;
    T *out = y + (size_t)r * columns;
    const Moments m = moments(in, columns, eps, lane);
    for (u32 c = lane; c < columns; c += 32)
      out[c] = from_float<T>((to_float(in[c]) - m.mean) * m.scale * to_float(weight[c]) +
                             to_float(bias[c]));
  }
}

// dx, and each row's mean and scale for `layer_norm_sums`. With g = dy weight and h the normalised
// row, dx = scale (g - mean(g) - h mean(g h)).
template <typename T>
ISFM_INLINE void layer_norm_backward(const T *x, const T *weight, const T *dy, T *dx, float *rows_m,
                                     float eps, u32 rows, u32 columns) {
  const Span s = span();
  const u32 lane = threadIdx.x % 32;
  for (u32 r = s.first / 32; r < rows; r += s.step / 32) {
    const size_t start = (size_t)r * columns;
    const Moments m = moments(x + start, columns, eps, lane);
    float g_sum = 0.0f, gh_sum = 0.0f;
    for (u32 c = lane; c < columns; c += 32) {
      const float g = to_float(dy[start + c]) * to_float(weight[c]);
      g_sum += g;
      gh_sum += g * (to_float(x[start + c]) - m.mean) * m.scale;
    }
    const float g_mean = warp_sum(g_sum) / (float)columns;
    const float gh_mean = warp_sum(gh_sum) / (float)columns;
    for (u32 c = lane; c < columns; c += 32) {
      const float g = to_float(dy[start + c]) * to_float(weight[c]);
      const float h = (to_float(x[start + c]) - m.mean) * m.scale;
      dx[start + c] = from_float<T>(m.scale * (g - g_mean - h * gh_mean));
    }
    if (lane == 0) {
      rows_m[2 * (size_t)r] = m.mean;
      rows_m[2 * (size_t)r + 1] = m.scale;
    }
  }
}

// parts[p][c] = sum of dy h, parts[p][columns + c] = sum of dy, over the rows p * part_rows ...
template <typename T>
ISFM_INLINE void layer_norm_sums(const T *x, const T *dy, const float *rows_m, float *parts,
                                 u32 rows, u32 columns, u32 part_rows, u32 count) {
  const Span s = span();
  for (u32 i = s.first; i < columns * count; i += s.step) {
    const u32 c = i % columns, p = i / columns, first = p * part_rows;
    const u32 end = rows - first < part_rows ? rows : first + part_rows;
    float weight = 0.0f, bias = 0.0f;
    for (u32 r = first; r < end; ++r) {
      const size_t at = (size_t)r * columns + c;
      const float d = to_float(dy[at]);
      const float mean = rows_m[2 * (size_t)r], scale = rows_m[2 * (size_t)r + 1];
      weight += d * (to_float(x[at]) - mean) * scale;
      bias += d;
    }
    parts[2 * (size_t)p * columns + c] = weight;
    parts[(2 * (size_t)p + 1) * columns + c] = bias;
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(layer_norm_##S, ISFM_THREADS,                                                       \
              (const T *x, const T *weight, const T *bias, T *y, float eps, u32 rows,             \
               u32 columns),                                                                      \
              layer_norm(x, weight, bias, y, eps, rows, columns))                                 \
  ISFM_KERNEL(layer_norm_backward_##S, ISFM_THREADS,                                              \
              (const T *x, const T *weight, const T *dy, T *dx, float *rows_m, float eps,         \
               u32 rows, u32 columns),                                                            \
              layer_norm_backward(x, weight, dy, dx, rows_m, eps, rows, columns))                 \
  ISFM_KERNEL(layer_norm_sums_##S, ISFM_THREADS,                                                  \
              (const T *x, const T *dy, const float *rows_m, float *parts, u32 rows, u32 columns, \
               u32 part_rows, u32 count),                                                         \
              layer_norm_sums(x, dy, rows_m, parts, rows, columns, part_rows, count))
ISFM_FOR_TYPES(INSTANCE)
