// Windows of k x k around each pixel, channel by channel, stride 1, padding k/2: depth-wise
// convolution, average and largest value, and their gradients. Small windows of channels that come
// in packs are walked: a thread goes down a strip of the map and reads every row of it once. Any
// other window is gathered for each element.
#include "map.cuh"

struct MapSizes {
  u32 height, width, channels;
};

template <u32 V, typename Step>
ISFM_INLINE void for_window(const Place &p, const MapSizes &m, u32 k, Step step) {
  const u32 pad = k / 2;
  for (u32 ky = 0; ky < k; ++ky) {
    if (!inside(p.y, ky, pad, m.height)) continue;
    for (u32 kx = 0; kx < k; ++kx) {
      if (!inside(p.x, kx, pad, m.width)) continue;
      const u32 place = (p.y + ky - pad) * m.width + p.x + kx - pad;
      step(ky * k + kx, place, V * (p.image + (size_t)place * (m.channels / V) + p.c));
    }
  }
}

// V channels of R columns from (x, y) on, `rows` rows down, and `pad` columns more on either side.
struct Strip {
  u32 c, x, y, rows;
  u32 first;    // the first column's place in row 0, and channel
  u32 columns;  // bit j: whether column x - pad + j is inside

  ISFM_INLINE Strip(u32 i, const MapSizes &m, u32 packs, u32 v, u32 r, u32 pad, u32 run) {
    const u32 groups = (m.width + r - 1) / r, runs = (m.height + run - 1) / run;
    c = i % packs * v;
    u32 p = i / packs;
    x = p % groups * r;
    p /= groups;
    y = p % runs * run;
    rows = m.height - y < run ? m.height - y : run;
    // Left and up from zero wraps to a large number, here and below.
    first = (p / runs * m.height * m.width + x - pad) * m.channels + c;
    const u32 left = x < pad ? pad - x : 0, right = m.width - x + pad;
    columns = (1u << (right < 31 ? right : 31)) - (1u << left);
  }

  ISFM_INLINE u32 place(const MapSizes &m, u32 row, u32 j) const {
    return first + (row * m.width + j) * m.channels;
  }
  ISFM_INLINE bool has(u32 j) const { return columns >> j & 1; }

  // Starts copying COLUMNS packs of a row, from column j on, which may lie outside.
  template <u32 COLUMNS, typename T, u32 V>
  ISFM_INLINE void ask(const T *map, const MapSizes &m, u32 row, u32 j, bool wanted, float outside,
                       Pack<T, V> *to) const {
    const u32 ok = wanted && row < m.height ? columns >> j : 0;
    u32 at = place(m, row, j);
    ISFM_UNROLL
    for (u32 i = 0; i < COLUMNS; ++i) {
      Pack<T, V> *slot = to + i * ISFM_THREADS;
      if (ok >> i & 1) {
        copy_near<sizeof(Pack<T, V>)>(slot, map + at);
      } else {
        ISFM_UNROLL
        for (u32 v = 0; v < V; ++v) slot->v[v] = from_float<T>(outside);
      }
      at += m.channels;
    }
  }
};

// Columns of a strip: more of them share more of what is read, and need more registers.
template <typename T>
constexpr u32 WALK_COLUMNS = 8 / sizeof(T);

// Bytes of shared memory for rows that are being copied.
constexpr u32 WALK_RING = 48 * 1024;

// `step(i, packs)` for every row; `ask(i, packs)` has asked for it rows before: it takes that many
// bytes on their way to keep the memory busy, and registers would not hold them. A thread reads
// only what it has asked for itself, so there are no barriers.
template <u32 COLUMNS, typename T, u32 V, typename Ask, typename Step>
ISFM_INLINE void walk(unsigned char *ring, u32 rows, Ask ask, Step step) {
  constexpr u32 STAGE = COLUMNS * ISFM_THREADS, FIT = WALK_RING / (STAGE * V * sizeof(T));
  constexpr u32 STAGES = FIT < 4 ? FIT : 4;
  static_assert(STAGES >= 2, "the ring is too small");
  Pack<T, V> *mine = reinterpret_cast<Pack<T, V> *>(ring) + threadIdx.x;
  for (u32 i = 0; i < STAGES - 1; ++i) {
    if (i < rows) ask(i, mine + i * STAGE);
    copies_commit();
  }
  u32 now = 0, free = STAGES - 1;
  for (u32 i = 0; i < rows; ++i) {
    copies_wait<STAGES - 2>();
    if (i + STAGES - 1 < rows) ask(i + STAGES - 1, mine + free * STAGE);
    copies_commit();
    step(i, mine + now * STAGE);
    free = now;
    now = now + 1 < STAGES ? now + 1 : 0;
  }
}

template <u32 COLUMNS, typename T, u32 V>
ISFM_INLINE void take(float (&values)[COLUMNS][V], const Pack<T, V> *from) {
  ISFM_UNROLL
  for (u32 j = 0; j < COLUMNS; ++j) unpack(from[j * ISFM_THREADS], values[j]);
}

// Walks all strips of a map with windows of K: `start(strip)`, then `step(strip, i, row, done)` for
// its rows from K/2 above to K/2 below. From i = K - 1 on `done` is the result for the strip's row
// i - (K - 1), which is written unless y is null.
template <typename T, u32 V, u32 K, u32 R, typename Start, typename Step>
ISFM_INLINE void walk_map(unsigned char *ring, const T *x, T *y, const MapSizes &m, u32 n, u32 run,
                          float outside, Start start, Step step) {
  constexpr u32 N = R + K - 1, PAD = K / 2;
  const u32 groups = (m.width + R - 1) / R, runs = (m.height + run - 1) / run;
  const u32 strips = n / (m.height * m.width) / V * groups * runs;
  const Span all = span();
  for (u32 i = all.first; i < strips; i += all.step) {
    const Strip s(i, m, m.channels / V, V, R, PAD, run);
    start(s);
    const auto ask = [&](u32 r, Pack<T, V> *to) {
      s.ask<N>(x, m, s.y + r - PAD, 0, true, outside, to);
    };
    walk<N, T, V>(ring, s.rows + K - 1, ask, [&](u32 r, const Pack<T, V> *from) {
      float row[N][V], done[R][V];
      take(row, from);
      step(s, r, row, done);
      if (r < K - 1 || !y) return;
      const u32 at = s.place(m, s.y + r - (K - 1), PAD);
      ISFM_UNROLL
      for (u32 j = 0; j < R; ++j)
        if (s.has(PAD + j)) store_pack<T, V>(y + (at + j * m.channels), done[j]);
    });
  }
}

// What the sums of K rows that are under way become with a new row, whose part of the sum for the
// window's row ky `part(ky, j, v)` gives.
template <u32 K, u32 R, u32 V, typename Sum, typename Part>
ISFM_INLINE void add_row(Sum (&sums)[K - 1][R][V], Sum (&done)[R][V], Part part) {
  ISFM_UNROLL
  for (u32 j = 0; j < R; ++j) {
    ISFM_UNROLL
    for (u32 v = 0; v < V; ++v) {
      done[j][v] = part(K - 1, j, v, sums[0][j][v]);
      ISFM_UNROLL
      for (u32 q = 0; q + 2 < K; ++q) sums[q][j][v] = part(K - 2 - q, j, v, sums[q + 1][j][v]);
      sums[K - 2][j][v] = part(0, j, v, Sum());
    }
  }
}

#define FLIP 1u  // the mirrored windows: the adjoint
#define SILU 2u  // SiLU of the sums

template <typename T, u32 V, u32 K>
ISFM_INLINE void depthwise_walk(unsigned char *ring, const T *x, const T *weight, const T *bias,
                                T *y, const MapSizes &m, u32 flags, u32 n, u32 run) {
  constexpr u32 R = WALK_COLUMNS<T>, N = R + K - 1, TAPS = K * K;
  float w[TAPS][V], first[V], sums[K - 1][R][V];
  const auto start = [&](const Strip &s) {
    // The taps of V channels are V * TAPS neighbours.
    ISFM_UNROLL
    for (u32 t = 0; t < TAPS; ++t) {
      const Pack<T, V> pack = load_pack<T, V>(weight + s.c * TAPS + t * V);
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) w[(t * V + v) % TAPS][(t * V + v) / TAPS] = to_float(pack.v[v]);
    }
    ISFM_UNROLL
    for (u32 v = 0; v < V; ++v) {
      first[v] = bias ? to_float(bias[s.c + v]) : 0.0f;
      ISFM_UNROLL
      for (u32 t = 0; t < TAPS / 2; ++t) {
        const float a = w[t][v], b = w[TAPS - 1 - t][v];
        w[t][v] = flags & FLIP ? b : a;
        w[TAPS - 1 - t][v] = flags & FLIP ? a : b;
      }
      // The first results are of rows above the strip and are dropped.
      ISFM_UNROLL
      for (u32 j = 0; j < (K - 1) * R; ++j) sums[j / R][j % R][v] = 0.0f;
    }
  };
  const auto step = [&](const Strip &, u32, const float(&row)[N][V], float(&done)[R][V]) {
    add_row<K>(sums, done, [&](u32 ky, u32 j, u32 v, float sum) {
      if (ky == 0) sum = first[v];
      ISFM_UNROLL
      for (u32 kx = 0; kx < K; ++kx) sum += row[j + kx][v] * w[ky * K + kx][v];
      return sum;
    });
    if (!(flags & SILU)) return;
    ISFM_UNROLL
    for (u32 j = 0; j < R; ++j) {
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) done[j][v] *= sigmoid_fast(done[j][v]);
    }
  };
  walk_map<T, V, K, R>(ring, x, y, m, n, run, 0.0f, start, step);
}

// weight: channels x k x k. bias may be null. Strips are of `run` rows, 0 for
// windows and channels that are not walked; here and below.
template <typename T>
ISFM_INLINE void depthwise(const T *x, const T *weight, const T *bias, T *y, const MapSizes &m,
                           u32 k, u32 flags, u32 n, u32 run) {
  __shared__ __align__(16) unsigned char ring[WALK_RING];
  if (run && k == 3 && packable<4>(x, weight, y))
    return depthwise_walk<T, 4, 3>(ring, x, weight, bias, y, m, flags, n, run);
  if (run && k == 5 && packable<2>(x, weight, y))
    return depthwise_walk<T, 2, 5>(ring, x, weight, bias, y, m, flags, n, run);
  const u32 taps = k * k;
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, m.height, m.width, m.channels);
    float sum = bias ? to_float(bias[p.c]) : 0.0f;
    const T *w = weight + (size_t)p.c * taps;
    for_window<1>(p, m, k, [&](u32 tap, u32, size_t at) {
      sum += to_float(x[at]) * to_float(w[flags & FLIP ? taps - 1 - tap : tap]);
    });
    y[i] = from_float<T>(flags & SILU ? sum * sigmoid_fast(sum) : sum);
  }
}

// The strips of a part of the maps, `units` of them or what is left, go to the slices of a block
// in turn; a slice is one thread for every pack of a tile of channels. parts[p][tap][c], then the
// bias as one more tap.
template <u32 V>
struct WeightTile {
  u32 lanes, slices, lane, slice, tiles;

  ISFM_INLINE WeightTile(u32 channels) {
    const u32 packs = channels / V;
    lanes = 1;
    while (lanes < 32 && lanes < packs) lanes *= 2;
    slices = ISFM_THREADS / lanes;
    lane = threadIdx.x % lanes;
    slice = threadIdx.x / lanes;
    tiles = (packs + lanes - 1) / lanes;
  }

  // Adds up what the slices have for TAPS taps.
  template <u32 TAPS>
  ISFM_INLINE void add(unsigned char *ring, const float (*mine)[V], float *to, u32 tile,
                       u32 channels) const {
    static_assert(TAPS * V * ISFM_THREADS * sizeof(float) <= WALK_RING, "too many taps");
    float *sums = reinterpret_cast<float *>(ring);
    const u32 columns = lanes * V, first = tile * columns;
    __syncthreads();
    ISFM_UNROLL
    for (u32 i = 0; i < TAPS * V; ++i)
      sums[(i / V * slices + slice) * columns + lane * V + i % V] = mine[i / V][i % V];
    __syncthreads();
    for (u32 i = threadIdx.x; i < TAPS * columns; i += ISFM_THREADS) {
      const u32 tap = i / columns, c = i % columns;
      float sum = 0.0f;
      for (u32 s = 0; s < slices; ++s) sum += sums[(tap * slices + s) * columns + c];
      if (first + c < channels) to[(size_t)tap * channels + first + c] = sum;
    }
    __syncthreads();
  }
};

constexpr u32 WEIGHT_COLUMNS = 2;

// One thread has the sums of all taps of V channels.
template <typename T, u32 V, u32 K>
ISFM_INLINE void depthwise_weight_walk(unsigned char *ring, const T *x, const T *dy, float *parts,
                                       const MapSizes &m, u32 run, u32 all_units, u32 units,
                                       u32 count) {
  constexpr u32 R = WEIGHT_COLUMNS, N = R + K - 1, PAD = K / 2, TAPS = K * K;
  const WeightTile<V> t(m.channels);
  for (u32 b = blockIdx.x; b < t.tiles * count; b += gridDim.x) {
    const u32 tile = b % t.tiles, part = b / t.tiles, first = part * units;
    const u32 end = all_units - first < units ? all_units : first + units;
    const u32 pack = tile * t.lanes + t.lane;
    float sums[TAPS + 1][V];
    ISFM_UNROLL
    for (u32 i = 0; i < (TAPS + 1) * V; ++i) sums[i / V][i % V] = 0.0f;
    for (u32 u = first + t.slice; u < end && pack < m.channels / V; u += t.slices) {
      Strip s(u, m, 1, V, R, PAD, run);
      s.first += pack * V;
      float grad[K][R][V];  // rows of dy, the last one first
      ISFM_UNROLL
      for (u32 i = 0; i < K * R * V; ++i) grad[i / V / R][i / V % R][i % V] = 0.0f;
      const auto ask = [&](u32 i, Pack<T, V> *to) {
        s.ask<N>(x, m, s.y + i - PAD, 0, true, 0.0f, to);
        s.ask<R>(dy, m, s.y + i, PAD, i < s.rows, 0.0f, to + N * ISFM_THREADS);
      };
      walk<N + R, T, V>(ring, s.rows + K - 1, ask, [&](u32, const Pack<T, V> *from) {
        float row[N][V];
        take(row, from);
        ISFM_UNROLL
        for (u32 i = (K - 1) * R * V; i-- > 0;)
          grad[i / V / R + 1][i / V % R][i % V] = grad[i / V / R][i / V % R][i % V];
        take(grad[0], from + N * ISFM_THREADS);
        ISFM_UNROLL
        for (u32 v = 0; v < V; ++v) {
          ISFM_UNROLL
          for (u32 j = 0; j < R; ++j) {
            sums[TAPS][v] += grad[0][j][v];
            ISFM_UNROLL
            for (u32 tap = 0; tap < TAPS; ++tap)
              sums[tap][v] += grad[tap / K][j][v] * row[j + tap % K][v];
          }
        }
      });
    }
    constexpr u32 HALF = (TAPS + 1) / 2;
    ISFM_UNROLL
    for (u32 tap = 0; tap <= TAPS; tap += HALF) {
      float *to = parts + ((size_t)part * (TAPS + 1) + tap) * m.channels;
      t.template add<HALF>(ring, sums + tap, to, tile, m.channels);
    }
  }
}

template <typename T>
ISFM_INLINE void depthwise_weight(const T *x, const T *dy, float *parts, const MapSizes &m, u32 k,
                                  u32 run, u32 all_units, u32 units, u32 count) {
  __shared__ __align__(16) unsigned char ring[WALK_RING];
  if (k == 3 && m.channels % 4 == 0 && packable<4>(x, dy))
    return depthwise_weight_walk<T, 4, 3>(ring, x, dy, parts, m, run, all_units, units, count);
  if (k == 5 && m.channels % 2 == 0 && packable<2>(x, dy))
    return depthwise_weight_walk<T, 2, 5>(ring, x, dy, parts, m, run, all_units, units, count);
  const WeightTile<1> t(m.channels);
  const u32 taps = k * k, pad = k / 2;
  for (u32 b = blockIdx.x; b < t.tiles * count; b += gridDim.x) {
    const u32 tile = b % t.tiles, part = b / t.tiles, first = part * units;
    const u32 end = all_units - first < units ? all_units : first + units;
    const u32 c = tile * t.lanes + t.lane;
    for (u32 tap = 0; tap <= taps; ++tap) {
      const u32 ky = tap / k, kx = tap % k;
      float sum = 0.0f;
      for (u32 u = first + t.slice; u < end && c < m.channels; u += t.slices) {
        const Strip s(u, m, 1, 1, WEIGHT_COLUMNS, 0, run);
        for (u32 i = 0; i < s.rows * WEIGHT_COLUMNS; ++i) {
          const u32 row = s.y + i / WEIGHT_COLUMNS, j = i % WEIGHT_COLUMNS;
          if (!s.has(j)) continue;
          const float grad = to_float(dy[s.place(m, row, j) + c]);
          if (tap == taps)
            sum += grad;
          else if (inside(row, ky, pad, m.height) && inside(s.x + j, kx, pad, m.width))
            sum += grad * to_float(x[s.place(m, row + ky - pad, j + kx - pad) + c]);
        }
      }
      float *to = parts + ((size_t)part * (taps + 1) + tap) * m.channels;
      const float mine[1][1] = {{sum}};
      t.template add<1>(ring, mine, to, tile, m.channels);
    }
  }
}

// The gradient from `count` parts: channels x k x k, then the bias.
template <typename T>
ISFM_INLINE void depthwise_weight_sum(const float *parts, T *out, u32 channels, u32 taps,
                                      u32 count) {
  sum_parts(parts, channels * (taps + 1), count, [&](u32 i, float sum) {
    const u32 c = i % channels, tap = i / channels;
    out[tap < taps ? c * taps + tap : i] = from_float<T>(sum);
  });
}

template <typename T, u32 K>
ISFM_INLINE void avg_pool_walk(unsigned char *ring, const T *x, T *y, const MapSizes &m, u32 n,
                               u32 run) {
  constexpr u32 V = 4, R = WALK_COLUMNS<T>, N = R + K - 1;
  float sums[K - 1][R][V];
  const auto start = [&](const Strip &) {
    ISFM_UNROLL
    for (u32 i = 0; i < (K - 1) * R * V; ++i) sums[i / V / R][i / V % R][i % V] = 0.0f;
  };
  const auto step = [&](const Strip &, u32, const float(&row)[N][V], float(&done)[R][V]) {
    float parts[R][V];
    ISFM_UNROLL
    for (u32 i = 0; i < R * V; ++i) {
      parts[i / V][i % V] = row[i / V][i % V];
      ISFM_UNROLL
      for (u32 kx = 1; kx < K; ++kx) parts[i / V][i % V] += row[i / V + kx][i % V];
    }
    add_row<K>(sums, done, [&](u32, u32 j, u32 v, float sum) { return sum + parts[j][v]; });
    ISFM_UNROLL
    for (u32 i = 0; i < R * V; ++i) done[i / V][i % V] *= 1.0f / (K * K);
  };
  walk_map<T, V, K, R>(ring, x, y, m, n, run, 0.0f, start, step);
}

// The mean over k x k, zeros outside counted. Its own adjoint.
template <typename T>
ISFM_INLINE void avg_pool(const T *x, T *y, const MapSizes &m, u32 k, u32 n, u32 run) {
  __shared__ __align__(16) unsigned char ring[WALK_RING];
  if (run && packable<4>(x, y)) {
    if (k == 3) return avg_pool_walk<T, 3>(ring, x, y, m, n, run);
    if (k == 5) return avg_pool_walk<T, 5>(ring, x, y, m, n, run);
  }
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    float sum = 0.0f;
    for_window<1>(Place(i, m.height, m.width, m.channels), m, k,
                  [&](u32, u32, size_t at) { sum += to_float(x[at]); });
    y[i] = from_float<T>(sum / ((float)k * (float)k));
  }
}

// A largest value and, if asked for, its pixel.
template <bool PLACES>
struct Largest {
  float value;
  u32 place;

  // `next` comes later in the window. Merging pixel by pixel or line by line gives the same result.
  ISFM_INLINE void take_in(const Largest &next) {
    if (next.value > value || next.value != next.value) {
      value = next.value;
      if (PLACES) place = next.place;
    }
  }
};

template <typename T, u32 K, bool PLACES>
ISFM_INLINE void max_pool_walk(unsigned char *ring, const T *x, T *y, u32 *places,
                               const MapSizes &m, u32 n, u32 run) {
  // Pixel positions take registers of their own.
  constexpr u32 V = 4, R = PLACES ? 2 : WALK_COLUMNS<T>, N = R + K - 1, PAD = K / 2;
  using Best = Largest<PLACES>;
  Best best[K - 1][R][V];
  const auto start = [&](const Strip &) {
    ISFM_UNROLL
    for (u32 i = 0; i < (K - 1) * R * V; ++i) best[i / V / R][i / V % R][i % V] = {0.0f, 0};
  };
  const auto step = [&](const Strip &s, u32 r, const float(&row)[N][V], float(&done)[R][V]) {
    const u32 left = (s.y + r - PAD) * m.width + s.x - PAD;
    Best line[R][V], all[R][V];
    ISFM_UNROLL
    for (u32 i = 0; i < R * V; ++i) {
      const u32 j = i / V, v = i % V;
      line[j][v] = {row[j][v], left + j};
      ISFM_UNROLL
      for (u32 kx = 1; kx < K; ++kx) line[j][v].take_in({row[j + kx][v], left + j + kx});
    }
    add_row<K>(best, all, [&](u32 ky, u32 j, u32 v, Best sum) {
      if (ky == 0) return line[j][v];
      sum.take_in(line[j][v]);
      return sum;
    });
    ISFM_UNROLL
    for (u32 i = 0; i < R * V; ++i) done[i / V][i % V] = all[i / V][i % V].value;
    if (!PLACES || r < K - 1) return;
    const u32 top = s.y + r - (K - 1);
    ISFM_UNROLL
    for (u32 j = 0; j < R; ++j) {
      if (!s.has(PAD + j)) continue;
      // Where nothing is above -inf it is the first pixel inside.
      const u32 from = s.x + j < PAD ? 0 : s.x + j - PAD;
      const u32 first = (top < PAD ? 0 : top - PAD) * m.width + from;
      Pack<u32, V> pack;
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v)
        pack.v[v] = all[j][v].value == -INFINITY ? first : all[j][v].place;
      *reinterpret_cast<Pack<u32, V> *>(places + s.place(m, top, PAD + j)) = pack;
    }
  };
  walk_map<T, V, K, R>(ring, x, y, m, n, run, -INFINITY, start, step);
}

// The largest of the window, line by line the first one; a NaN is larger than all before it. Either
// result may be null: the value, or the pixel that has it.
template <typename T>
ISFM_INLINE void max_pool(const T *x, T *y, u32 *places, const MapSizes &m, u32 k, u32 n,
                          u32 run) {
  __shared__ __align__(16) unsigned char ring[WALK_RING];
  if (run && k == 3 && packable<4>(x, y) && packable<4>(places)) {
    if (places) return max_pool_walk<T, 3, true>(ring, x, y, places, m, n, run);
    return max_pool_walk<T, 3, false>(ring, x, y, places, m, n, run);
  }
  const Span s = span();
  for (u32 i = s.first; i < n; i += s.step) {
    const Place p(i, m.height, m.width, m.channels);
    const u32 up = p.y < k / 2 ? p.y : k / 2, left = p.x < k / 2 ? p.x : k / 2;
    Largest<true> best = {-INFINITY, (p.y - up) * m.width + p.x - left};
    for_window<1>(p, m, k, [&](u32, u32 place, size_t at) {
      best.take_in({to_float(x[at]), place});
    });
    if (y) y[i] = from_float<T>(best.value);
    if (places) places[i] = best.place;
  }
}

// Every pixel collects from the windows whose largest value it has.
template <typename T, u32 V>
ISFM_INLINE void max_pool_gather(const u32 *places, const T *dy, T *dx, const MapSizes &m, u32 k,
                                 u32 n) {
  const Span s = span();
  for (u32 i = s.first; i < n / V; i += s.step) {
    const Place p(i, m.height, m.width, m.channels / V);
    const u32 here = p.y * m.width + p.x;
    float sums[V];
    ISFM_UNROLL
    for (u32 v = 0; v < V; ++v) sums[v] = 0.0f;
    // The windows that cover a pixel lie where the window around it lies.
    for_window<V>(p, m, k, [&](u32, u32, size_t at) {
      const Pack<u32, V> from = load_pack<u32, V>(places + at);
      const Pack<T, V> grad = load_pack<T, V>(dy + at);
      ISFM_UNROLL
      for (u32 v = 0; v < V; ++v) sums[v] += from.v[v] == here ? to_float(grad.v[v]) : 0.0f;
    });
    store_pack<T, V>(dx + (size_t)i * V, sums);
  }
}

template <typename T>
ISFM_INLINE void max_pool_backward(const u32 *places, const T *dy, T *dx, const MapSizes &m, u32 k,
                                   u32 n) {
  if (m.channels % 4 == 0 && packable<4>(places) && packable<4>(dy, dx))
    max_pool_gather<T, 4>(places, dy, dx, m, k, n);
  else
    max_pool_gather<T, 1>(places, dy, dx, m, k, n);
}

#define INSTANCE(S, T)                                                                             \
  ISFM_KERNEL_AT(depthwise_##S, ISFM_THREADS, 2,                                                   \
                 (const T *x, const T *weight, const T *bias, T *y, u32 height, u32 width,         \
                  u32 channels, u32 k, u32 flags, u32 n, u32 run),                                 \
                 depthwise(x, weight, bias, y, {height, width, channels}, k, flags, n, run))       \
  ISFM_KERNEL_AT(depthwise_weight_##S, ISFM_THREADS, 2,                                            \
                 (const T *x, const T *dy, float *parts, u32 height, u32 width, u32 channels,      \
                  u32 k, u32 run, u32 all_units, u32 units, u32 count),                            \
                 depthwise_weight(x, dy, parts, {height, width, channels}, k, run, all_units,      \
                                  units, count))                                                   \
  ISFM_KERNEL(depthwise_weight_sum_##S, ISFM_THREADS,                                              \
              (const float *parts, T *out, u32 channels, u32 taps, u32 count),                     \
              depthwise_weight_sum(parts, out, channels, taps, count))                             \
  ISFM_KERNEL_AT(avg_pool_##S, ISFM_THREADS, 2,                                                    \
                 (const T *x, T *y, u32 height, u32 width, u32 channels, u32 k, u32 n, u32 run),   \
                 avg_pool(x, y, {height, width, channels}, k, n, run))                             \
  ISFM_KERNEL_AT(max_pool_##S, ISFM_THREADS, 2,                                                    \
                 (const T *x, T *y, u32 *places, u32 height, u32 width, u32 channels, u32 k,       \
                  u32 n, u32 run),                                                                 \
                 max_pool(x, y, places, {height, width, channels}, k, n, run))                     \
  ISFM_KERNEL(max_pool_backward_##S, ISFM_THREADS,                                                 \
              (const u32 *places, const T *dy, T *dx, u32 height, u32 width, u32 channels, u32 k,  \
               u32 n),                                                                             \
              max_pool_backward(places, dy, dx, {height, width, channels}, k, n))
ISFM_FOR_TYPES(INSTANCE)
