// Sums over the rows of a matrix in two steps, each in a fixed order: parts of the rows, then over
// the parts.
#include "portable.cuh"

// parts[p][c] = sum of a b over the rows p * rows ... of the matrix; b may be null. One thread a
// column and part; neighbouring threads have neighbouring columns.
template <typename T>
ISFM_INLINE void column_sums(const T *a, const T *b, float *parts, u32 all_rows, u32 columns,
                             u32 rows, u32 count) {
  const Span s = span();
  for (u32 i = s.first; i < columns * count; i += s.step) {
    const u32 c = i % columns, first = i / columns * rows;
    const u32 end = all_rows - first < rows ? all_rows : first + rows;
    float sum = 0.0f;
    for (u32 r = first; r < end; ++r) {
      const size_t at = (size_t)r * columns + c;
      sum += to_float(a[at]) * (b ? to_float(b[at]) : 1.0f);
    }
    parts[i] = sum;
  }
}

// out[g][i] = sum over p of parts[g][p][i], `count` parts of `n` values for each of `groups`.
template <typename T>
ISFM_INLINE void add_parts(const float *parts, T *out, u32 n, u32 count, u32 groups) {
  const Span s = span();
  for (u32 i = s.first; i < n * groups; i += s.step) {
    const float *from = parts + (size_t)(i / n) * count * n + i % n;
    float sum = 0.0f;
    for (u32 p = 0; p < count; ++p) sum += from[(size_t)p * n];
    out[i] = from_float<T>(sum);
  }
}

// Elements of a part of `magnitudes`.
#define ISFM_PART 4096

// Of each part of `a`, by a block: the sum of the squares, and the largest magnitude of those that are
// numbers.
ISFM_INLINE void magnitudes(const float *a, float *out, u32 n) {
  __shared__ float sums[ISFM_THREADS], largest[ISFM_THREADS];
  const u32 first = blockIdx.x * ISFM_PART;
  const u32 end = n - first < ISFM_PART ? n : first + ISFM_PART;
  float sum = 0.0f, most = 0.0f;
  for (u32 i = first + threadIdx.x; i < end; i += ISFM_THREADS) {
    sum += a[i] * a[i];
    most = fmaxf(most, fabsf(a[i]));
  }
  sums[threadIdx.x] = sum;
  largest[threadIdx.x] = most;
  for (u32 half = ISFM_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[threadIdx.x] += sums[threadIdx.x + half];
      largest[threadIdx.x] = fmaxf(largest[threadIdx.x], largest[threadIdx.x + half]);
    }
  }
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = sums[0];
    out[2 * blockIdx.x + 1] = largest[0];
  }
}
ISFM_KERNEL(magnitudes_f32, ISFM_THREADS, (const float *a, float *out, u32 n),
            magnitudes(a, out, n))

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(column_sums_##S, ISFM_THREADS,                                                      \
              (const T *a, const T *b, float *parts, u32 all_rows, u32 columns, u32 rows,         \
               u32 count),                                                                        \
              column_sums(a, b, parts, all_rows, columns, rows, count))                           \
  ISFM_KERNEL(add_parts_##S, ISFM_THREADS,                                                        \
              (const float *parts, T *out, u32 n, u32 count, u32 groups),                         \
              add_parts(parts, out, n, count, groups))
ISFM_FOR_TYPES(INSTANCE)
