// Dense k x k convolution of channel-last maps, stride 1, padding k/2, as a matrix product whose
// left side (pixels x taps and inputs) is read from the map itself: nothing of its size is ever
// stored. f32 on the FMA units (TF32 would cost 13 bits of the weights), f16 and bf16 on the tensor
// cores with sums in f32. The gradient of the input is the same convolution with mirrored,
// transposed weights; that of the weights sums over pixels in parts, in a fixed order.
#include "portable.cuh"

struct ConvSizes {
  u32 height, width, inputs, outputs, k, pixels;
};

// To rows of taps and channels: packed[o][tap][i] = w[o][i][tap], for the adjoint
// packed[i][tap][o] = w[o][i][last - tap].
template <typename T>
ISFM_INLINE void conv_pack(const T *w, T *packed, u32 outputs, u32 inputs, u32 taps, u32 adjoint) {
  const Span s = span();
  const u32 columns = adjoint ? outputs : inputs;
  for (u32 i = s.first; i < outputs * inputs * taps; i += s.step) {
    const u32 column = i % columns, tap = i / columns % taps, row = i / columns / taps;
    packed[i] = adjoint ? w[(column * inputs + row) * taps + taps - 1 - tap]
                        : w[(row * inputs + column) * taps + tap];
  }
}

constexpr u32 CONV_ROWS = 128;  // pixels a block
constexpr u32 CONV_PAD = ~0u;

// The pixels of a block: row and column, and the place, or CONV_PAD past the end.
struct ConvPixels {
  u32 place[CONV_ROWS], x[CONV_ROWS], y[CONV_ROWS];

  ISFM_INLINE void find(const ConvSizes &s, u32 first) {
    for (u32 i = threadIdx.x; i < CONV_ROWS; i += blockDim.x) {
      const u32 p = first + i;
      place[i] = p < s.pixels ? p : CONV_PAD;
      x[i] = p % s.width;
      y[i] = p / s.width % s.height;
    }
  }

  // The first channel of what tap (ky, kx) of pixel i reads, or null outside.
  template <typename T>
  ISFM_INLINE const T *tap(const ConvSizes &s, const T *map, u32 i, u32 ky, u32 kx) const {
    const u32 pad = s.k / 2, row = y[i] + ky - pad, column = x[i] + kx - pad;
    // Left of zero wraps to a large number.
    if (place[i] == CONV_PAD || row >= s.height || column >= s.width) return nullptr;
    const size_t at = (size_t)place[i] + ky * s.width + kx - pad * s.width - pad;
    return map + at * s.inputs;
  }
};

// FMA: 128 pixels x 16 WIDE outputs a block of 256 threads, 8 x WIDE each; 16 of the taps and
// channels at a time, the next ones on their way while these are used.
template <typename T, int WIDE>
ISFM_INLINE void conv_fma(const ConvSizes &s, const T *map, const T *packed, const T *bias, T *out) {
  constexpr u32 COLUMNS = 16 * WIDE, DEPTH = 16;
  __shared__ __align__(16) float a[DEPTH][CONV_ROWS + 4], b[DEPTH][COLUMNS + 4];
  __shared__ ConvPixels pixels;

  const u32 blocks = (s.outputs + COLUMNS - 1) / COLUMNS;
  const u32 first_pixel = blockIdx.x / blocks * CONV_ROWS;
  const u32 first_output = blockIdx.x % blocks * COLUMNS;
  const u32 depth = s.k * s.k * s.inputs;
  const u32 kk = threadIdx.x % 16, line = threadIdx.x / 16;
  pixels.find(s, first_pixel);
  __syncthreads();

  float next_a[8], next_b[WIDE], sums[8][WIDE];
  ISFM_UNROLL
  for (int i = 0; i < 8; ++i) {
    ISFM_UNROLL
    for (int j = 0; j < WIDE; ++j) sums[i][j] = 0.0f;
  }
  const auto fetch = [&](u32 first) {
    const u32 at = first + kk, tap = at / s.inputs, channel = at % s.inputs;
    const u32 ky = tap / s.k, kx = tap % s.k;
    ISFM_UNROLL
    for (int i = 0; i < 8; ++i) {
      const T *from = at < depth ? pixels.tap(s, map, line + 16 * i, ky, kx) : nullptr;
      next_a[i] = from ? to_float(from[channel]) : 0.0f;
    }
    ISFM_UNROLL
    for (int j = 0; j < WIDE; ++j) {
      const u32 o = first_output + line + 16 * j;
      next_b[j] = at < depth && o < s.outputs ? to_float(packed[(size_t)o * depth + at]) : 0.0f;
    }
  };

  fetch(0);
  for (u32 first = 0; first < depth; first += DEPTH) {
    ISFM_UNROLL
    for (int i = 0; i < 8; ++i) a[kk][line + 16 * i] = next_a[i];
    ISFM_UNROLL
    for (int j = 0; j < WIDE; ++j) b[kk][line + 16 * j] = next_b[j];
    __syncthreads();
    if (first + DEPTH < depth) fetch(first + DEPTH);
    ISFM_UNROLL
    for (u32 d = 0; d < DEPTH; ++d) {
      float left[8], right[WIDE];
      ISFM_UNROLL
      for (int i = 0; i < 8; ++i) left[i] = a[d][8 * line + i];
      ISFM_UNROLL
      for (int j = 0; j < WIDE; ++j) right[j] = b[d][WIDE * kk + j];
      ISFM_UNROLL
      for (int i = 0; i < 8; ++i) {
        ISFM_UNROLL
        for (int j = 0; j < WIDE; ++j) sums[i][j] += left[i] * right[j];
      }
    }
    __syncthreads();
  }

  ISFM_UNROLL
  for (int i = 0; i < 8; ++i) {
    const u32 place = pixels.place[8 * line + i];
    ISFM_UNROLL
    for (int j = 0; j < WIDE; ++j) {
      const u32 o = first_output + WIDE * kk + j;
      if (place != CONV_PAD && o < s.outputs)
        out[(size_t)place * s.outputs + o] =
            from_float<T>(sums[i][j] + (bias ? to_float(bias[o]) : 0.0f));
    }
  }
}

// 8 values of two bytes.
struct __align__(16) Eight {
  u32 words[4];
};

ISFM_INLINE u32 bits_of(f16 x) {
  return *reinterpret_cast<const unsigned short *>(&x);
}
ISFM_INLINE u32 bits_of(bf16 x) {
  return *reinterpret_cast<const unsigned short *>(&x);
}

// Tensor cores: 128 pixels x 64 outputs a block of 8 warps, 32 x 32 each, 32 of the taps and
// channels at a time. Rows of 20 words: a warp's fragment loads then meet every bank once.
template <typename T>
ISFM_INLINE void conv_mma(const ConvSizes &s, const T *map, const T *packed, const T *bias, T *out) {
  constexpr u32 COLUMNS = 64, DEPTH = 32, ROW = 20;
  __shared__ __align__(16) u32 a[CONV_ROWS * ROW], b[COLUMNS * ROW];
  __shared__ ConvPixels pixels;

  const u32 blocks = (s.outputs + COLUMNS - 1) / COLUMNS;
  const u32 first_pixel = blockIdx.x / blocks * CONV_ROWS;
  const u32 first_output = blockIdx.x % blocks * COLUMNS;
  const u32 depth = s.k * s.k * s.inputs;
  const u32 line = threadIdx.x / 4, part = threadIdx.x % 4;
  // Whole vectors of 8 channels, where rows of the map and the weights start on 16 bytes.
  const bool whole = s.inputs % 8 == 0 && (size_t)map % 16 == 0 && (size_t)packed % 16 == 0;
  pixels.find(s, first_pixel);
  __syncthreads();

  Eight next_a[2], next_b;
  const auto fetch = [&](u32 first) {
    const Eight none = {{0, 0, 0, 0}};
    const u32 at = first + 8 * part;
    const u32 o = first_output + line;
    next_b = none;
    if (whole) {
      const u32 tap = at / s.inputs, channel = at % s.inputs;
      ISFM_UNROLL
      for (int i = 0; i < 2; ++i) {
        const T *from = at < depth
                            ? pixels.tap(s, map, line + 64 * i, tap / s.k, tap % s.k)
                            : nullptr;
        next_a[i] = from ? *reinterpret_cast<const Eight *>(from + channel) : none;
      }
      if (at < depth && o < s.outputs)
        next_b = *reinterpret_cast<const Eight *>(packed + (size_t)o * depth + at);
      return;
    }
    next_a[0] = next_a[1] = none;
    ISFM_UNROLL
    for (u32 e = 0; e < 8; ++e) {
      if (at + e >= depth) break;
      const u32 tap = (at + e) / s.inputs, channel = (at + e) % s.inputs;
      ISFM_UNROLL
      for (int i = 0; i < 2; ++i) {
        const T *from = pixels.tap(s, map, line + 64 * i, tap / s.k, tap % s.k);
        if (from) next_a[i].words[e / 2] |= bits_of(from[channel]) << (e % 2 * 16);
      }
      if (o < s.outputs)
        next_b.words[e / 2] |= bits_of(packed[(size_t)o * depth + at + e]) << (e % 2 * 16);
    }
  };

  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 g = lane / 4, t = lane % 4;
  const u32 first_row = warp / 2 * 32, first_column = warp % 2 * 32;
  float sums[2][4][4];
  ISFM_UNROLL
  for (int i = 0; i < 2; ++i) {
    ISFM_UNROLL
    for (int j = 0; j < 4; ++j) {
      ISFM_UNROLL
      for (int v = 0; v < 4; ++v) sums[i][j][v] = 0.0f;
    }
  }

  fetch(0);
  for (u32 first = 0; first < depth; first += DEPTH) {
    ISFM_UNROLL
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<Eight *>(&a[(line + 64 * i) * ROW + 4 * part]) = next_a[i];
    *reinterpret_cast<Eight *>(&b[line * ROW + 4 * part]) = next_b;
    __syncthreads();
    if (first + DEPTH < depth) fetch(first + DEPTH);
    ISFM_UNROLL
    for (u32 half = 0; half < 2; ++half) {
      u32 left[2][4], right[4][2];
      const u32 word = 8 * half + t;
      ISFM_UNROLL
      for (int i = 0; i < 2; ++i) {
        ISFM_UNROLL
        for (u32 v = 0; v < 4; ++v)
          left[i][v] = a[(first_row + 16 * i + g + 8 * (v % 2)) * ROW + word + 4 * (v / 2)];
      }
      ISFM_UNROLL
      for (int j = 0; j < 4; ++j) {
        ISFM_UNROLL
        for (u32 v = 0; v < 2; ++v)
          right[j][v] = b[(first_column + 8 * j + g) * ROW + word + 4 * v];
      }
      ISFM_UNROLL
      for (int i = 0; i < 2; ++i) {
        ISFM_UNROLL
        for (int j = 0; j < 4; ++j) mma_16x8x16<T>(sums[i][j], left[i], right[j]);
      }
    }
    __syncthreads();
  }

  ISFM_UNROLL
  for (int i = 0; i < 2; ++i) {
    ISFM_UNROLL
    for (int j = 0; j < 4; ++j) {
      ISFM_UNROLL
      for (u32 v = 0; v < 4; ++v) {
        const u32 place = pixels.place[first_row + 16 * i + g + 8 * (v / 2)];
        const u32 o = first_output + first_column + 8 * j + 2 * t + v % 2;
        if (place != CONV_PAD && o < s.outputs)
          out[(size_t)place * s.outputs + o] =
              from_float<T>(sums[i][j][v] + (bias ? to_float(bias[o]) : 0.0f));
      }
    }
  }
}

// parts[p][tap][input][output] = sum over the pixels p * part ... of x at the tap times dy: 64 taps
// and inputs x 64 outputs a block of 256 threads, 4 x 4 each, 16 pixels at a time.
template <typename T>
ISFM_INLINE void conv_weight(const ConvSizes &s, const T *map, const T *dy, float *parts,
                             u32 part_pixels) {
  constexpr u32 SIDE = 64, DEPTH = 16;
  __shared__ __align__(16) float a[DEPTH][SIDE], b[DEPTH][SIDE];

  const u32 rows = s.k * s.k * s.inputs, pad = s.k / 2;
  const u32 row_blocks = (rows + SIDE - 1) / SIDE, column_blocks = (s.outputs + SIDE - 1) / SIDE;
  const u32 first_row = blockIdx.x % row_blocks * SIDE;
  const u32 first_column = blockIdx.x / row_blocks % column_blocks * SIDE;
  const u32 part = blockIdx.x / row_blocks / column_blocks;
  const u32 begin = part * part_pixels;
  const u32 end = s.pixels - begin < part_pixels ? s.pixels : begin + part_pixels;

  const u32 mine = threadIdx.x % SIDE, line = threadIdx.x / SIDE;
  const u32 row = first_row + mine, column = first_column + mine;
  const u32 tap = row / s.inputs, channel = row % s.inputs, ky = tap / s.k, kx = tap % s.k;
  u32 x[4], y[4];
  ISFM_UNROLL
  for (u32 i = 0; i < 4; ++i) {
    const u32 p = begin + line + 4 * i;
    x[i] = p % s.width;
    y[i] = p / s.width % s.height;
  }

  float next_a[4], next_b[4], sums[4][4];
  ISFM_UNROLL
  for (int i = 0; i < 4; ++i) {
    ISFM_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
  }
  // Calls must follow one another: x and y move on.
  const auto fetch = [&](u32 first) {
    ISFM_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      const u32 p = first + line + 4 * i;
      const u32 from_y = y[i] + ky - pad, from_x = x[i] + kx - pad;
      const size_t at = (size_t)p + ky * s.width + kx - pad * s.width - pad;
      // Left of zero wraps to a large number.
      next_a[i] = p < end && row < rows && from_y < s.height && from_x < s.width
                      ? to_float(map[at * s.inputs + channel])
                      : 0.0f;
      next_b[i] = p < end && column < s.outputs ? to_float(dy[(size_t)p * s.outputs + column])
                                                : 0.0f;
      x[i] += DEPTH;
      while (x[i] >= s.width) {
        x[i] -= s.width;
        if (++y[i] == s.height) y[i] = 0;
      }
    }
  };

  fetch(begin);
  for (u32 first = begin; first < end; first += DEPTH) {
    ISFM_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      a[line + 4 * i][mine] = next_a[i];
      b[line + 4 * i][mine] = next_b[i];
    }
    __syncthreads();
    if (first + DEPTH < end) fetch(first + DEPTH);
    ISFM_UNROLL
    for (u32 d = 0; d < DEPTH; ++d) {
      float left[4], right[4];
      ISFM_UNROLL
      for (u32 i = 0; i < 4; ++i) {
        left[i] = a[d][threadIdx.x / 16 * 4 + i];
        right[i] = b[d][threadIdx.x % 16 * 4 + i];
      }
      ISFM_UNROLL
      for (int i = 0; i < 4; ++i) {
        ISFM_UNROLL
        for (int j = 0; j < 4; ++j) sums[i][j] += left[i] * right[j];
      }
    }
    __syncthreads();
  }

  ISFM_UNROLL
  for (u32 i = 0; i < 4; ++i) {
    ISFM_UNROLL
    for (u32 j = 0; j < 4; ++j) {
      const u32 r = first_row + threadIdx.x / 16 * 4 + i;
      const u32 o = first_column + threadIdx.x % 16 * 4 + j;
      if (r < rows && o < s.outputs)
        parts[((size_t)part * rows + r) * s.outputs + o] = sums[i][j];
    }
  }
}

// The weights' gradient, outputs x inputs x taps, from `count` parts.
template <typename T>
ISFM_INLINE void conv_weight_sum(const float *parts, T *out, u32 outputs, u32 inputs, u32 taps,
                                 u32 count) {
  const Span s = span();
  const u32 n = outputs * inputs * taps;
  for (u32 i = s.first; i < n; i += s.step) {
    const u32 o = i % outputs, channel = i / outputs % inputs, tap = i / outputs / inputs;
    float sum = 0.0f;
    for (u32 p = 0; p < count; ++p) sum += parts[(size_t)p * n + i];
    out[(o * inputs + channel) * taps + tap] = from_float<T>(sum);
  }
}

#define INSTANCE(S, T)                                                                            \
  ISFM_KERNEL(conv_pack_##S, ISFM_THREADS,                                                        \
              (const T *w, T *packed, u32 outputs, u32 inputs, u32 taps, u32 adjoint),            \
              conv_pack(w, packed, outputs, inputs, taps, adjoint))                               \
  ISFM_KERNEL(conv_weight_##S, 256,                                                               \
              (ConvSizes s, const T *map, const T *dy, float *parts, u32 part_pixels),            \
              conv_weight(s, map, dy, parts, part_pixels))                                        \
  ISFM_KERNEL(conv_weight_sum_##S, ISFM_THREADS,                                                  \
              (const float *parts, T *out, u32 outputs, u32 inputs, u32 taps, u32 count),         \
              conv_weight_sum(parts, out, outputs, inputs, taps, count))
ISFM_FOR_TYPES(INSTANCE)

#define PRODUCT(name, T, call)                                                                    \
  ISFM_KERNEL(name, 256,                                                                          \
              (ConvSizes s, const T *map, const T *packed, const T *bias, T *out), call)
PRODUCT(conv_f32, float, (conv_fma<float, 4>)(s, map, packed, bias, out))
PRODUCT(conv_narrow_f32, float, (conv_fma<float, 1>)(s, map, packed, bias, out))
PRODUCT(conv_f16, f16, conv_mma(s, map, packed, bias, out))
PRODUCT(conv_bf16, bf16, conv_mma(s, map, packed, bias, out))
