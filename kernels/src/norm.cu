// Layer norm over contiguous rows and its gradient. Rows that come in packs are held in registers
// by lanes of a warp, one row or several; any other row by a warp that reads it again for each
// pass.
#include "portable.cuh"

template <u32 LANES>
ISFM_INLINE float lanes_sum(float v) {
  ISFM_UNROLL
  for (int bit = LANES / 2; bit > 0; bit /= 2) v += __shfl_xor_sync(~0u, v, bit);
  return v;
}
ISFM_INLINE float warp_sum(float v) { return lanes_sum<32>(v); }

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
  return {mean, inverse_sqrt(warp_sum(squares) / (float)columns + eps)};
}

// How LANES lanes share a row of at most LANES * PACKS packs of V: lane l has packs l, l + LANES
// ... Places past the end count as zeros.
template <typename T, u32 V, u32 LANES, u32 PACKS>
struct NormRow {
  static constexpr u32 ROWS = ISFM_THREADS / LANES;  // at a time in a block
  u32 columns, lane;

  ISFM_INLINE explicit NormRow(u32 n) : columns(n), lane(threadIdx.x % LANES) {}
  ISFM_INLINE u32 column(u32 i) const { return (lane + i * LANES) * V; }
  ISFM_INLINE bool has(u32 i) const { return column(i) < columns; }

  ISFM_INLINE void load(const T *row, bool ok, Pack<T, V> (&to)[PACKS]) const {
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      to[i] = {};
      if (ok && has(i)) to[i] = load_pack<T, V>(row + column(i));
    }
  }

  // As `moments`; x becomes x - mean.
  ISFM_INLINE Moments centre(float (&x)[PACKS][V], float eps) const {
    const float inverse = 1.0f / (float)columns;
    float sum = 0.0f, squares = 0.0f;
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS * V; ++i) sum += x[i / V][i % V];
    const float mean = lanes_sum<LANES>(sum) * inverse;
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      float part = 0.0f;
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) {
        x[i][v] -= mean;
        part += x[i][v] * x[i][v];
      }
      squares += has(i) ? part : 0.0f;
    }
    return {mean, inverse_sqrt(lanes_sum<LANES>(squares) * inverse + eps)};
  }
};

template <typename T, u32 LANES, u32 PACKS>
ISFM_INLINE void layer_norm_packs(const T *x, const T *weight, const T *bias, T *y, float eps,
                                  u32 rows, u32 columns) {
  constexpr u32 V = 16 / sizeof(T);
  using Row = NormRow<T, V, LANES, PACKS>;
  const Row row(columns);
  // Long rows do not fit into registers.
  constexpr bool KEEP = PACKS <= 2;
  Pack<T, V> next[PACKS], packed[2][PACKS];
  float w[PACKS][V], b[PACKS][V];
  row.load(weight, true, packed[0]);
  row.load(bias, true, packed[1]);
  ISFM_UNROLL
  for (u32 i = 0; i < PACKS && KEEP; ++i) {
    unpack(packed[0][i], w[i]);
    unpack(packed[1][i], b[i]);
  }
  u32 r = blockIdx.x * Row::ROWS + threadIdx.x / LANES;
  row.load(x + (size_t)r * columns, r < rows, next);
  // All lanes of a warp take the same number of rounds, since they sum together.
  for (u32 first = blockIdx.x * Row::ROWS; first < rows; first += gridDim.x * Row::ROWS) {
    float value[PACKS][V];
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) unpack(next[i], value[i]);
    const u32 now = r;
    r += gridDim.x * Row::ROWS;
    row.load(x + (size_t)r * columns, r < rows, next);
    const float scale = row.centre(value, eps).scale;
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      if (now >= rows || !row.has(i)) continue;
      if (!KEEP) {
        unpack(load_pack<T, V>(weight + row.column(i)), w[i]);
        unpack(load_pack<T, V>(bias + row.column(i)), b[i]);
      }
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) value[i][v] = value[i][v] * scale * w[i][v] + b[i][v];
      store_pack<T, V>(y + (size_t)now * columns + row.column(i), value[i]);
    }
  }
}

// y = (x - mean) / sqrt(variance + eps) weight + bias.
template <typename T>
ISFM_INLINE void layer_norm(const T *x, const T *weight, const T *bias, T *y, float eps, u32 rows,
                            u32 columns) {
  constexpr u32 V = 16 / sizeof(T);
  const u32 packs = columns % V == 0 && packable<V>(x, weight, bias, y) ? columns / V : ~0u;
  if (packs <= 16) return layer_norm_packs<T, 8, 2>(x, weight, bias, y, eps, rows, columns);
  if (packs <= 32) return layer_norm_packs<T, 16, 2>(x, weight, bias, y, eps, rows, columns);
  if (packs <= 64) return layer_norm_packs<T, 32, 2>(x, weight, bias, y, eps, rows, columns);
  if (packs <= 128) return layer_norm_packs<T, 32, 4>(x, weight, bias, y, eps, rows, columns);
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

// The rows first ... end of a block, and what they add to the gradients of weight and bias.
template <typename T, u32 LANES, u32 PACKS>
ISFM_INLINE void layer_norm_backward_packs(float *shared, const T *x, const T *weight, const T *dy,
                                           T *dx, float *sums, float eps, u32 first, u32 end,
                                           u32 columns) {
  constexpr u32 V = 4;
  using Row = NormRow<T, V, LANES, PACKS>;
  const Row row(columns);
  const float inverse = 1.0f / (float)columns;
  Pack<T, V> packed[PACKS];
  float w[PACKS][V], added[2][PACKS][V];
  row.load(weight, true, packed);
  ISFM_UNROLL
  for (u32 i = 0; i < PACKS; ++i) {
    unpack(packed[i], w[i]);
    ISFM_UNROLL
    for (u32 v = 0; v < V; ++v) added[0][i][v] = added[1][i][v] = 0.0f;
  }
  // All lanes of a warp take the same number of rounds, since they sum together.
  for (u32 from = first; from < end; from += Row::ROWS) {
    const u32 r = from + threadIdx.x / LANES;
    const size_t start = (size_t)r * columns;
    Pack<T, V> grads[PACKS];
    float h[PACKS][V], d[PACKS][V];
    row.load(x + start, r < end, packed);
    row.load(dy + start, r < end, grads);
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      unpack(packed[i], h[i]);
      unpack(grads[i], d[i]);
    }
    const Moments m = row.centre(h, eps);
    // Past the end 1 / sqrt(eps) may be infinite.
    const float scale = r < end ? m.scale : 0.0f;
    float g_sum = 0.0f, gh_sum = 0.0f;
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) {
        h[i][v] *= scale;
        added[0][i][v] += d[i][v] * h[i][v];
        added[1][i][v] += d[i][v];
        d[i][v] *= w[i][v];
        g_sum += d[i][v];
        gh_sum += d[i][v] * h[i][v];
      }
    }
    const float g_mean = lanes_sum<LANES>(g_sum) * inverse;
    const float gh_mean = lanes_sum<LANES>(gh_sum) * inverse;
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS; ++i) {
      if (r >= end || !row.has(i)) continue;
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) d[i][v] = scale * (d[i][v] - g_mean - h[i][v] * gh_mean);
      store_pack<T, V>(dx + start + row.column(i), d[i]);
    }
  }
  // For each column the sums of the rows worked on at a time, added in order.
  constexpr u32 WIDTH = LANES * PACKS * V;
  ISFM_UNROLL
  for (u32 which = 0; which < 2; ++which) {
    ISFM_UNROLL
    for (u32 i = 0; i < PACKS * V; ++i)
      shared[threadIdx.x / LANES * WIDTH + row.column(i / V) + i % V] = added[which][i / V][i % V];
    __syncthreads();
    for (u32 c = threadIdx.x; c < columns; c += ISFM_THREADS) {
      float sum = 0.0f;
      for (u32 i = 0; i < Row::ROWS; ++i) sum += shared[i * WIDTH + c];
      sums[which * columns + c] = sum;
    }
    __syncthreads();
  }
}

// dx; and parts[p][c] = sum of dy h, parts[p][columns + c] = sum of dy, over the rows p * part_rows
// ... of a block. With g = dy weight and h the normalised row, dx = scale (g - mean(g) - h mean(g
// h)). `rows_m`: room for two numbers a row.
template <typename T>
ISFM_INLINE void layer_norm_backward(const T *x, const T *weight, const T *dy, T *dx, float *rows_m,
                                     float *parts, float eps, u32 rows, u32 columns,
                                     u32 part_rows) {
  __shared__ __align__(16) float shared[ISFM_THREADS * 8];
  const u32 first = blockIdx.x * part_rows;
  const u32 end = rows - first < part_rows ? rows : first + part_rows;
  float *sums = parts + 2 * (size_t)blockIdx.x * columns;
  const u32 packs = columns % 4 == 0 && packable<4>(x, weight, dy, dx) ? columns / 4 : ~0u;
  if (packs <= 32)
    return layer_norm_backward_packs<T, 16, 2>(shared, x, weight, dy, dx, sums, eps, first, end,
                                               columns);
  if (packs <= 64)
    return layer_norm_backward_packs<T, 32, 2>(shared, x, weight, dy, dx, sums, eps, first, end,
                                               columns);
  const u32 lane = threadIdx.x % 32;
  for (u32 r = first + threadIdx.x / 32; r < end; r += ISFM_THREADS / 32) {
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
  __syncthreads();
  for (u32 c = threadIdx.x; c < columns; c += ISFM_THREADS) {
    float weight_sum = 0.0f, bias_sum = 0.0f;
    for (u32 r = first; r < end; ++r) {
      const size_t at = (size_t)r * columns + c;
      const float d = to_float(dy[at]);
      weight_sum += d * (to_float(x[at]) - rows_m[2 * (size_t)r]) * rows_m[2 * (size_t)r + 1];
      bias_sum += d;
    }
    sums[c] = weight_sum;
    sums[columns + c] = bias_sum;
  }
}

// The gradients of weight and bias from `count` parts.
template <typename T>
ISFM_INLINE void layer_norm_sums(const float *parts, T *out, u32 columns, u32 count) {
  sum_parts(parts, 2 * columns, count, [&](u32 i, float sum) { out[i] = from_float<T>(sum); });
}

#define INSTANCE(S, T)                                                                             \
  ISFM_KERNEL_AT(layer_norm_##S, ISFM_THREADS, 3,                                                  \
                 (const T *x, const T *weight, const T *bias, T *y, float eps, u32 rows,           \
                  u32 columns),                                                                    \
                 layer_norm(x, weight, bias, y, eps, rows, columns))                               \
  ISFM_KERNEL_AT(layer_norm_backward_##S, ISFM_THREADS, 4,                                         \
                 (const T *x, const T *weight, const T *dy, T *dx, float *rows_m, float *parts,    \
                  float eps, u32 rows, u32 columns, u32 part_rows),                                \
                 layer_norm_backward(x, weight, dy, dx, rows_m, parts, eps, rows, columns,         \
                                     part_rows))                                                   \
  ISFM_KERNEL(layer_norm_sums_##S, ISFM_THREADS,                                                   \
              (const float *parts, T *out, u32 columns, u32 count),                                \
              layer_norm_sums(parts, out, columns, count))
ISFM_FOR_TYPES(INSTANCE)
