// Sizes, addresses and small pieces of the selective scan.
#ifndef ISFM_SCAN_CUH
#define ISFM_SCAN_CUH

#include "portable.cuh"

#define SCAN_RANK 16              // the most factors of dt
#define SCAN_TILE 16u             // the most steps whose rows a walk loads at once
#define SCAN_AHEAD 4u             // steps whose inputs a walk loads at once
#define SCAN_ROW_THREADS 8u       // threads that load a row together in a walk
#define SCAN_KEPT 32u             // the longest chunk of a scan whose gradient is computed
#define SCAN_THREADS 128u         // the most threads, and channels, in a block of a walk
#define SCAN_ADJOINT_THREADS 256u // the most threads in a block of the adjoint
#define SCAN_ADJOINT_CHANNELS 64u // the most channels there, 4 threads each

#define SCAN_SOFTPLUS 1u // delta goes through softplus
#define SCAN_LOG_A 2u    // `a` holds ln(-A)

// u, y: batch x length x width. proj: batch x length x groups x (rank + 2 states), the factors of
// dt, B, C. A line: rows = 0, width = groups * channels. A map: rows * cols = length, 4 groups,
// width = channels; group 0 walks it row by row, 1 column by column, 2 and 3 their reverses.
// Chunks are numbered along groups 0 and 1.
// States: batch x groups x chunks x states x channels. Sums: batch x groups x chunks x channels.
struct ScanSizes {
  u32 batch, length, rows, cols, width, groups, channels, states, rank, chunk, chunks;
  // The first group of this launch, and how many of them blocks share out.
  u32 group, launch_groups;
  // Groups that a block takes in turn (group, group + 2), turns before this launch, and in all.
  u32 turns, turn, all_turns;
  u32 flags;
  // Chunks that a block of the adjoint takes.
  u32 run;
  // Channel blocks.
  u32 blocks;
  u32 unused;
};

template <typename T>
ISFM_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}

// What a block works on, of `parts` parts of each sequence.
struct ScanBlock {
  u32 lanes, part, group, batch;

  ISFM_INLINE ScanBlock(const ScanSizes &s, u32 parts) {
    u32 i = blockIdx.x;
    lanes = i % s.blocks;
    i /= s.blocks;
    part = i % parts;
    i /= parts;
    group = s.group + i % s.launch_groups;
    batch = i / s.launch_groups;
  }
};

// The position of a step along the path of group 0 or 2 (even), or 1 or 3.
ISFM_INLINE u32 scan_place(const ScanSizes &s, u32 group, u32 step) {
  return s.rows && group % 2 ? step % s.rows * s.cols + step / s.rows : step;
}

// The places of steps one after the other, as elements of a map: divisions once, sums after that.
struct ScanCursor {
  u32 at, stride, jump, left, period;

  ISFM_INLINE ScanCursor(const ScanSizes &s, u32 group, u32 step, bool back) {
    // On a row `left` wraps from 0 and does not come back to it: there is no jump.
    stride = s.width, jump = left = period = 0;
    if (s.rows && group % 2) {
      stride = s.cols * s.width, jump = s.width - s.rows * stride, period = s.rows;
      left = back ? step % s.rows + 1 : s.rows - step % s.rows;
    }
    at = scan_place(s, group, step) * s.width;
    if (back) stride = 0 - stride, jump = 0 - jump;
  }
  ISFM_INLINE void advance() {
    at += stride;
    if (--left == 0) {
      at += jump;
      left = period;
    }
  }
};

// Where column j of a row of `proj` is kept in shared memory: factors, B and C at fixed places,
// whatever their number.
template <int N>
ISFM_INLINE u32 scan_column(const ScanSizes &s, u32 j) {
  if (j < s.rank) return j;
  j -= s.rank;
  return SCAN_RANK + (j < s.states ? j : N + j - s.states);
}

// The rows of `proj` of `count` steps from `from` on, in the order that they are walked in, with
// their places. The block must wait before and after. What lies beyond is not touched.
template <int N, typename T>
ISFM_INLINE void scan_load_rows(const ScanSizes &s, const T *proj, u32 batch, u32 group, u32 from,
                                u32 count, bool back, u32 *places, float *rows) {
  constexpr u32 STRIDE = SCAN_RANK + 2 * N;
  const u32 width = s.rank + 2 * s.states;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x)
    places[i] = scan_place(s, group, from + (back ? count - 1 - i : i));
  for (u32 e = threadIdx.x; e < count * width; e += blockDim.x) {
    const u32 i = e / width, j = e % width;
    const u32 place = scan_place(s, group, from + (back ? count - 1 - i : i));
    const size_t row = ((size_t)batch * s.length + place) * s.groups + group;
    rows[i * STRIDE + scan_column<N>(s, j)] = to_float(proj[row * width + j]);
  }
}

// A log2(e), so that a decay is a power of two.
ISFM_INLINE float scan_decay(const ScanSizes &s, const float *a, size_t row, u32 n) {
  const float LOG2_E = 1.44269504f;
  const float x = a[row * s.states + n];
  return (s.flags & SCAN_LOG_A ? -expf(x) : x) * LOG2_E;
}

constexpr float LN_2 = 0.693147181f;

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), the logarithm by a polynomial of relative error 3e-8;
// above 20 it rounds to x.
ISFM_INLINE float softplus(float x) {
  const float LOG2_E = 1.44269504f;
  const float y = exp2_fast(-LOG2_E * fabsf(x));
  float p = 5.232690027468886e-3f;
  p = p * y + -2.9505219919230236e-2f;
  p = p * y + 7.822591750629002e-2f;
  p = p * y + -1.3663242502300021e-1f;
  p = p * y + 1.9106004994412523e-1f;
  p = p * y + -2.4842981692976743e-1f;
  p = p * y + 3.331909673175758e-1f;
  p = p * y + -4.9999493136559914e-1f;
  p = p * y + 9.999999698798083e-1f;
  return p * y + (x > 0.0f ? x : 0.0f);
}

// What a lane of the adjoint owns: one step of one channel. A step past the end has delta = 0,
// which leaves states and gradients as they are.
struct ScanOwn {
  u32 at;
  bool there;
  float u, raw, delta;
};

// `weights` are the channel's, `SCAN_ADJOINT_CHANNELS` apart.
template <typename T>
ISFM_INLINE ScanOwn scan_own(const ScanSizes &s, const T *u, const T *dt, const float *rows,
                             u32 stride, const u32 *places, const float *weights, float shift,
                             u32 batch, u32 column, u32 step, u32 steps, bool live) {
  const u32 near = min_of(step, steps - 1);
  const float *line = rows + near * stride;
  ScanOwn o = {0, live && step < steps, 0.0f, shift, 0.0f};
  o.at = (batch * s.length + places[near]) * s.width + column;
  if (o.there) {
    o.u = to_float(u[o.at]);
    if (!s.rank) o.raw += to_float(dt[o.at]);
  }
  ISFM_UNROLL
  for (u32 r = 0; r < SCAN_RANK; r += 4) {
    if (r >= s.rank) break;
    const auto factors = load_pack<float, 4>(line + r);
    ISFM_UNROLL
    for (u32 i = 0; i < 4; ++i) o.raw += factors.v[i] * weights[(r + i) * SCAN_ADJOINT_CHANNELS];
  }
  if (o.there) o.delta = s.flags & SCAN_SOFTPLUS ? softplus(o.raw) : o.raw;
  return o;
}

// Sums V values over the lanes that differ in the bits FIRST, FIRST / 2, ... LAST, sharing out the
// sums: afterwards a lane has those from value `index` on in v[0], v[1], ...
template <int V, int FIRST, int LAST>
struct ScatterSum {
  static ISFM_INLINE void run(float *v, u32 lane, u32 &index) {
    if constexpr (V > 1) {
      const bool upper = lane & FIRST;
      ISFM_UNROLL
      for (int i = 0; i < V / 2; ++i) {
        const float mine = upper ? v[V / 2 + i] : v[i];
        const float theirs = upper ? v[i] : v[V / 2 + i];
        v[i] = mine + __shfl_xor_sync(~0u, theirs, FIRST);
      }
      if (upper) index += V / 2;
    } else {
      v[0] += __shfl_xor_sync(~0u, v[0], FIRST);
    }
    if constexpr (FIRST > LAST)
      ScatterSum<(V > 1 ? V / 2 : 1), FIRST / 2, LAST>::run(v, lane, index);
  }
};

#endif
