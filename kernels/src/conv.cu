// Dense k x k convolution of channel-last maps, stride 1, padding k/2, as a matrix product whose
// left side (pixels x taps and inputs) is read from the map itself: nothing of its size is ever
// stored. f32 on the FMA units (TF32 would cost 13 bits of the weights), f16 and bf16 on the tensor
// cores with sums in f32. The gradient of the input is the same convolution with mirrored,
// transposed weights; that of the weights sums over pixels in parts, in a fixed order.
#include "portable.cuh"

struct ConvSizes {
  u32 height, width, inputs, outputs, k, pixels;
  // Whether the sums start from a map like the result instead of a bias, and end in SiLU.
  u32 from_map, silu;
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

// 128 pixels of an image: 8 rows of 16. Pixels are by row and column from the first; above the
// image and left of it these wrap to large numbers.
struct ConvTile {
  static constexpr u32 ROWS = 8, COLUMNS = 16, PIXELS = ROWS * COLUMNS;
  u32 image, y, x;

  ISFM_INLINE ConvTile(const ConvSizes &s, u32 tile) {
    const u32 across = (s.width + COLUMNS - 1) / COLUMNS, down = (s.height + ROWS - 1) / ROWS;
    x = tile % across * COLUMNS;
    y = tile / across % down * ROWS;
    image = tile / across / down;
  }

  ISFM_INLINE bool inside(const ConvSizes &s, u32 row, u32 column) const {
    return y + row < s.height && x + column < s.width;
  }

  // The pixel's number in the map; also of one outside, to count on from.
  ISFM_INLINE long long place(const ConvSizes &s, u32 row, u32 column) const {
    const long long width = s.width;
    return (int)(image * s.height + y + row) * width + (int)(x + column);
  }
};

// A product on the FMA units: 128 x COLUMNS sums a block, 8 x EACH a thread, from lines of DEPTH
// rows and columns in shared memory, of which STAGES - 1 are on their way.
template <u32 COLUMNS>
struct FmaTile {
  static constexpr u32 ROWS = 128, EACH = COLUMNS == 16 ? 4 : 8, DEPTH = 16, STAGES = 2;
  static constexpr u32 THREADS = ROWS * COLUMNS / (8 * EACH);
  static constexpr u32 COLUMN_LANES = COLUMNS / EACH, ROW_LANES = 32 / COLUMN_LANES;
  // Lines of 4 more, and in the second eight pairs have changed places: copies to 2 neighbouring
  // places of 16 lines then meet every bank once.
  typedef float Left[DEPTH][ROWS + 4];
  typedef float Right[DEPTH][COLUMNS + 4];
  ISFM_INLINE static u32 at(u32 d, u32 i) { return i ^ d / 8 * 2; }

  // Fours of rows, and of columns, are half a warp's width apart.
  u32 first_row, first_column;
  float sums[8][EACH];

  ISFM_INLINE FmaTile() {
    // Every pair of lanes, and pair of pairs, shares rows or columns: reads of 16 bytes then take
    // half the time.
    const u32 lane = threadIdx.x % 32, high = lane / 4 & 4;
    const u32 row = lane / 2 % 2 | (lane / 4 & 2) | (COLUMN_LANES == 8 ? 0 : high);
    const u32 column = lane % 2 | (lane / 2 & 2) | (COLUMN_LANES == 8 ? high : 0);
    first_row = threadIdx.x / 32 * 8 * ROW_LANES + 4 * row;
    first_column = 4 * column;
    ISFM_UNROLL
    for (u32 i = 0; i < 8; ++i) {
      ISFM_UNROLL
      for (u32 j = 0; j < EACH; ++j) sums[i][j] = 0.0f;
    }
  }

  ISFM_INLINE u32 row(u32 i) const { return first_row + i / 4 * 4 * ROW_LANES + i % 4; }
  ISFM_INLINE u32 column(u32 j) const { return first_column + j / 4 * 4 * COLUMN_LANES + j % 4; }

  ISFM_INLINE void add(const Left &a, const Right &b) {
    ISFM_UNROLL
    for (u32 d = 0; d < DEPTH; ++d) {
      Pack<float, 4> left[2], right[EACH / 4];
      ISFM_UNROLL
      for (u32 i = 0; i < 2; ++i) left[i] = load_pack<float, 4>(&a[d][row(4 * i)]);
      ISFM_UNROLL
      for (u32 j = 0; j < EACH / 4; ++j) right[j] = load_pack<float, 4>(&b[d][column(4 * j)]);
      ISFM_UNROLL
      for (u32 i = 0; i < 8; ++i) {
        ISFM_UNROLL
        for (u32 j = 0; j < EACH; ++j)
          sums[i][j] += left[i / 4].v[at(d, i % 4)] * right[j / 4].v[at(d, j % 4)];
      }
    }
  }

  // All steps, each of which `fetch` brings to the next stage.
  template <typename Fetch>
  ISFM_INLINE void add_all(const Left (&a)[STAGES], const Right (&b)[STAGES], u32 steps,
                           Fetch fetch) {
    for (u32 step = 0; step + 1 < STAGES; ++step) {
      if (step < steps) fetch();
      copies_commit();
    }
    for (u32 step = 0, used = 0; step < steps; ++step) {
      copies_wait<STAGES - 2>();
      // The stage that is fetched now has been used by all.
      __syncthreads();
      if (step + STAGES - 1 < steps) fetch();
      copies_commit();
      add(a[used], b[used]);
      used = used + 1 == STAGES ? 0 : used + 1;
    }
  }
};

ISFM_INLINE void conv_copy(float *to, const float *from, bool ok) { copy_4(to, from, ok); }
template <typename T>
ISFM_INLINE void conv_copy(float *to, const T *from, bool ok) {
  *to = ok ? to_float(*from) : 0.0f;
}

// FMA: 128 pixels x COLUMNS outputs a block, 16 of the taps and channels at a time.
template <u32 COLUMNS>
ISFM_INLINE void conv_fma(const ConvSizes &s, const float *map, const float *packed,
                          const float *start, float *out) {
  typedef FmaTile<COLUMNS> Tile;
  constexpr u32 DEPTH = Tile::DEPTH, STAGES = Tile::STAGES, LINES = Tile::THREADS / DEPTH;
  __shared__ __align__(16) typename Tile::Left a[STAGES];
  __shared__ __align__(16) typename Tile::Right b[STAGES];

  const u32 blocks = (s.outputs + COLUMNS - 1) / COLUMNS, pad = s.k / 2;
  const ConvTile pixels(s, blockIdx.x / blocks);
  const u32 first_output = blockIdx.x % blocks * COLUMNS;
  const u32 depth = s.k * s.k * s.inputs, steps = (depth + DEPTH - 1) / DEPTH;
  const u32 kk = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH % LINES;

  // Pixel j of a thread is so many rows and columns from its first.
  const auto down = [](u32 j) { return LINES * j / ConvTile::COLUMNS; };
  const auto along = [](u32 j) { return LINES * j % ConvTile::COLUMNS; };
  const long long next_row = (long long)s.width * s.inputs;
  u32 channel = kk, ky = 0, kx = 0, at = kk, stage = 0, ok = 0;
  const float *from = map, *weights = packed + (size_t)(first_output + line) * depth + kk;
  // Where the tap's values of the first pixel are, and which pixels have them.
  const auto find = [&] {
    ok = 0;
    const u32 row = ky - pad, column = line + kx - pad;
    ISFM_UNROLL
    for (u32 j = 0; j < Tile::ROWS / LINES; ++j)
      ok |= (ky < s.k && pixels.inside(s, row + down(j), column + along(j)) ? 1u : 0u) << j;
    from = map + pixels.place(s, row, column) * s.inputs + channel;
  };
  find();
  // Each call takes the next values.
  const auto fetch = [&] {
    if (channel >= s.inputs) {
      for (; channel >= s.inputs; channel -= s.inputs) {
        if (++kx == s.k) kx = 0, ++ky;
      }
      find();
    }
    ISFM_UNROLL
    for (u32 j = 0; j < Tile::ROWS / LINES; ++j)
      conv_copy(&a[stage][kk][Tile::at(kk, line) + LINES * j],
                from + down(j) * next_row + along(j) * s.inputs, (ok & 1u << j) != 0);
    ISFM_UNROLL
    for (u32 j = 0; j < COLUMNS / LINES; ++j)
      conv_copy(&b[stage][kk][Tile::at(kk, line) + LINES * j],
                weights + (size_t)(LINES * j) * depth,
                at < depth && first_output + line + LINES * j < s.outputs);
    channel += DEPTH;
    at += DEPTH;
    from += DEPTH;
    weights += DEPTH;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  };

  Tile tile;
  tile.add_all(a, b, steps, fetch);

  const bool whole = s.outputs % 4 == 0 && packable<4>(out);
  ISFM_UNROLL
  for (u32 i = 0; i < 8; ++i) {
    const u32 row = tile.row(i) / ConvTile::COLUMNS, column = tile.row(i) % ConvTile::COLUMNS;
    if (!pixels.inside(s, row, column)) continue;
    const size_t there = pixels.place(s, row, column) * s.outputs;
    ISFM_UNROLL
    for (u32 j = 0; j < Tile::EACH; j += 4) {
      const u32 o = first_output + tile.column(j);
      float done[4];
      ISFM_UNROLL
      for (u32 v = 0; v < 4; ++v) {
        float sum = tile.sums[i][j + v];
        if (start && o + v < s.outputs) sum += start[(s.from_map ? there : 0) + o + v];
        done[v] = s.silu ? sum * sigmoid(sum) : sum;
      }
      if (whole && o < s.outputs) store_pack<float, 4>(out + there + o, done);
      ISFM_UNROLL
      for (u32 v = 0; v < 4; ++v) {
        if (!whole && o + v < s.outputs) out[there + o + v] = done[v];
      }
    }
  }
}

ISFM_INLINE u32 bits_of(f16 x) {
  return *reinterpret_cast<const unsigned short *>(&x);
}
ISFM_INLINE u32 bits_of(bf16 x) {
  return *reinterpret_cast<const unsigned short *>(&x);
}

// Of conv_mma, in elements of shared memory.
template <u32 COLUMNS, bool NEAR>
struct MmaSizes {
  static constexpr u32 THREADS = 128, DEPTH = 32, STAGES = 3, LINES = THREADS / 4;
  static constexpr u32 SIDE = NEAR ? 3 : 1, WIDTH = ConvTile::COLUMNS + SIDE - 1;
  static constexpr u32 PIXELS = WIDTH * (ConvTile::ROWS + SIDE - 1);
  static constexpr u32 SLICES = (PIXELS + LINES - 1) / LINES;
  static constexpr u32 LEFTS = NEAR ? 2 : STAGES, LEFT = PIXELS * DEPTH, RIGHT = COLUMNS * DEPTH;
  static constexpr u32 ROOM = LEFTS * LEFT + STAGES * RIGHT;
  // Of the result, which takes the place of all that.
  static constexpr u32 PITCH = COLUMNS + 8;
  static_assert(ConvTile::PIXELS * PITCH <= ROOM, "the result has room");
};

// Tensor cores: 128 pixels x COLUMNS outputs a block of 4 warps, 64 x COLUMNS / 2 each, a tap of 32
// channels at a time. With NEAR (a 3x3 window, a multiple of 32 channels, rows that start on 16
// bytes) the pixels and those around them are brought to shared memory once for all nine taps of 32
// channels. Without, every step has its own pixels, and 32 of all taps and channels.
template <typename T, u32 COLUMNS, bool NEAR>
ISFM_INLINE void conv_mma(const ConvSizes &s, const T *map, const T *packed, const T *start,
                          T *out, unsigned short *room) {
  typedef MmaSizes<COLUMNS, NEAR> Sizes;
  constexpr u32 THREADS = Sizes::THREADS, DEPTH = Sizes::DEPTH, STAGES = Sizes::STAGES;
  constexpr u32 LINES = Sizes::LINES, SIDE = Sizes::SIDE, WIDTH = Sizes::WIDTH;
  constexpr u32 LEFT = Sizes::LEFT, RIGHT = Sizes::RIGHT, PITCH = Sizes::PITCH;
  T *left = reinterpret_cast<T *>(room), *right = left + Sizes::LEFTS * LEFT;

  const u32 blocks = (s.outputs + COLUMNS - 1) / COLUMNS, pad = s.k / 2;
  const ConvTile pixels(s, blockIdx.x / blocks);
  const u32 first_output = blockIdx.x % blocks * COLUMNS;
  const u32 depth = s.k * s.k * s.inputs, steps = (depth + DEPTH - 1) / DEPTH;
  const u32 line = threadIdx.x / 4, part = threadIdx.x % 4;
  // Whole vectors of 8 channels, where rows of the map and the weights start on 16 bytes.
  const bool whole = s.inputs % 8 == 0 && packable<8>(map, packed);

  // A line holds four vectors, in an order by its number: of any 8 lines that follow one another,
  // the same vectors of all meet every bank once.
  const auto vector = [](u32 line, u32 number, u32 vector) {
    return line * DEPTH + (vector ^ number / 2 % 4) * 8;
  };

  // With NEAR, a slice of the pixels for a block of channels.
  const T *corner = map + pixels.place(s, 0u - 1, 0u - 1) * s.inputs + 8 * part;
  const auto fetch_near = [&](u32 block, u32 slice) {
    const u32 pixel = slice * LINES + line, row = pixel / WIDTH, column = pixel % WIDTH;
    if (pixel < Sizes::PIXELS)
      copy_16(left + block % 2 * LEFT + vector(pixel, column, part),
              corner + ((row * s.width + column) * s.inputs + block * DEPTH),
              pixels.inside(s, row - 1, column - 1));
  };

  // Without, the pixels of a step, and in either case the weights of one. Each call takes the next.
  u32 channel = 8 * part, ky = 0, kx = 0, next = 0, next_stage = 0, next_tap = 0, next_at = 0;
  const auto walk = [&](u32 &channel, u32 &ky, u32 &kx) {
    for (; channel >= s.inputs; channel -= s.inputs) {
      if (++kx == s.k) kx = 0, ++ky;
    }
  };
  const auto fetch_left = [&] {
    walk(channel, ky, kx);
    ISFM_UNROLL
    for (u32 j = 0; j < ConvTile::PIXELS / LINES; ++j) {
      const u32 pixel = line + LINES * j;
      const u32 row = pixel / ConvTile::COLUMNS, column = pixel % ConvTile::COLUMNS;
      T *to = left + next_stage * LEFT + vector(pixel, column, part);
      const auto find = [&](u32 channel, u32 ky, u32 kx, bool &ok) {
        ok = ky < s.k && pixels.inside(s, row + ky - pad, column + kx - pad);
        return map + pixels.place(s, row + ky - pad, column + kx - pad) * s.inputs + channel;
      };
      bool ok;
      const T *from = find(channel, ky, kx, ok);
      if (whole) {
        copy_16(to, from, ok);
        continue;
      }
      u32 c = channel, y = ky, x = kx;
      ISFM_ROLLED
      for (u32 e = 0; e < 8; ++e, ++c) {
        walk(c, y, x);
        from = find(c, y, x, ok);
        to[e] = ok ? *from : from_float<T>(0.0f);
      }
    }
    channel += DEPTH;
  };
  const u32 place = vector(line, line, part);
  const T *weights = packed + (size_t)(first_output + line) * depth + 8 * part;
  const auto fetch = [&] {
    if (!NEAR && next < steps) fetch_left();
    ISFM_UNROLL
    for (u32 j = 0; j < COLUMNS / LINES; ++j) {
      T *to = right + next_stage * RIGHT + place + LINES * DEPTH * j;
      const T *from = weights + (size_t)(LINES * j) * depth + next_at;
      const bool ok = next < steps && first_output + line + LINES * j < s.outputs;
      if constexpr (NEAR) {
        copy_16(to, from, ok);
      } else {
        const u32 at = next_at + 8 * part;
        if (whole) copy_16(to, from, ok && at < depth);
        ISFM_ROLLED
        for (u32 e = 0; !whole && e < 8; ++e)
          to[e] = ok && at + e < depth ? from[e] : from_float<T>(0.0f);
      }
    }
    copies_commit();
    ++next;
    next_stage = next_stage + 1 == STAGES ? 0 : next_stage + 1;
    next_at += NEAR ? s.inputs : DEPTH;
    if (NEAR && ++next_tap == SIDE * SIDE) {
      next_tap = 0;
      next_at += DEPTH - depth;
    }
  };

  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 first_row = warp / 2 * 4, first_column = warp % 2 * (COLUMNS / 2);
  float sums[4][COLUMNS / 16][4];
  ISFM_UNROLL
  for (u32 i = 0; i < 4; ++i) {
    ISFM_UNROLL
    for (u32 j = 0; j < COLUMNS / 16; ++j) {
      ISFM_UNROLL
      for (u32 v = 0; v < 4; ++v) sums[i][j][v] = 0.0f;
    }
  }

  if (NEAR) {
    for (u32 slice = 0; slice < Sizes::SLICES; ++slice) fetch_near(0, slice);
  }
  for (u32 step = 0; step + 1 < STAGES; ++step) fetch();
  // The line of a lane's row of the first matrix, of the map without a tap and of the weights.
  const u32 a_line = lane % 16, b_line = first_column + lane / 16 * 8 + lane % 8;
  u32 stage = 0, block = 0, tap_row = 0, tap_column = 0;
  for (u32 step = 0; step < steps; ++step) {
    copies_wait<STAGES - 2>();
    // What is fetched now overwrites what all threads have used.
    __syncthreads();
    const u32 column = a_line + tap_column;
    const T *a = left + (NEAR ? block % 2 : stage) * LEFT + (first_row + tap_row) * WIDTH * DEPTH;
    const T *b = right + stage * RIGHT;
    ISFM_UNROLL
    for (u32 half = 0; half < 2; ++half) {
      u32 rows[4][4], columns[COLUMNS / 32][4];
      ISFM_UNROLL
      for (u32 i = 0; i < 4; ++i)
        load_matrices(rows[i],
                      a + i * WIDTH * DEPTH + vector(column, column, 2 * half + lane / 16));
      ISFM_UNROLL
      for (u32 j = 0; j < COLUMNS / 32; ++j)
        load_matrices(columns[j],
                      b + 16 * DEPTH * j + vector(b_line, b_line, 2 * half + lane / 8 % 2));
      // After the first reads, on which everything depends.
      if (half == 0) {
        const u32 slice = SIDE * tap_row + tap_column;
        if (NEAR && slice < Sizes::SLICES && (block + 1) * DEPTH < s.inputs)
          fetch_near(block + 1, slice);
        fetch();
      }
      ISFM_UNROLL
      for (u32 i = 0; i < 4; ++i) {
        ISFM_UNROLL
        for (u32 j = 0; j < COLUMNS / 16; ++j) {
          const u32 pair[2] = {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]};
          mma_16x8x16<T>(sums[i][j], rows[i], pair);
        }
      }
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    if (++tap_column == SIDE) {
      tap_column = 0;
      if (++tap_row == SIDE) tap_row = 0, ++block;
    }
  }

  // The result passes through shared memory, and before it the map that it starts from, so that
  // both are read and written in whole vectors. No copy, be it of zeros, may still be on its way.
  copies_wait<0>();
  T *result = left;
  const bool vectors = s.outputs % 8 == 0 && packable<8>(out, start);
  const auto pass = [&](bool in) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < ConvTile::PIXELS * (COLUMNS / 8); i += THREADS) {
      const u32 pixel = i / (COLUMNS / 8), from = i % (COLUMNS / 8) * 8;
      const u32 row = pixel / ConvTile::COLUMNS, column = pixel % ConvTile::COLUMNS;
      const u32 o = first_output + from;
      if (o >= s.outputs || !pixels.inside(s, row, column)) continue;
      T *here = result + pixel * PITCH + from;
      const size_t there = pixels.place(s, row, column) * s.outputs + o;
      if (vectors) {
        typedef Pack<u32, 4> Eight;
        *reinterpret_cast<Eight *>(in ? here : out + there) =
            *reinterpret_cast<const Eight *>(in ? start + there : here);
        continue;
      }
      ISFM_ROLLED
      for (u32 e = 0; e < 8 && o + e < s.outputs; ++e) {
        if (in)
          here[e] = start[there + e];
        else
          out[there + e] = here[e];
      }
    }
    __syncthreads();
  };
  const bool from_map = start && s.from_map;
  if (from_map)
    pass(true);
  else
    __syncthreads();
  ISFM_UNROLL
  for (u32 j = 0; j < COLUMNS / 16; ++j) {
    const u32 column = first_column + 8 * j + 2 * (lane % 4);
    float bias[2];
    ISFM_UNROLL
    for (u32 v = 0; v < 2; ++v) {
      const u32 o = first_output + column + v;
      bias[v] = start && !from_map && o < s.outputs ? to_float(start[o]) : 0.0f;
    }
    ISFM_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      ISFM_UNROLL
      for (u32 h = 0; h < 2; ++h) {
        const u32 pixel = (first_row + i) * ConvTile::COLUMNS + lane / 4 + 8 * h;
        T *here = result + pixel * PITCH + column;
        u32 word = 0;
        ISFM_UNROLL
        for (u32 v = 0; v < 2; ++v) {
          float sum = sums[i][j][2 * h + v] + (from_map ? to_float(here[v]) : bias[v]);
          if (s.silu) sum *= sigmoid_fast(sum);
          word |= bits_of(from_float<T>(sum)) << 16 * v;
        }
        *reinterpret_cast<u32 *>(here) = word;
      }
    }
  }
  pass(false);
}

template <typename T, u32 COLUMNS>
ISFM_INLINE void conv_any(const ConvSizes &s, const T *map, const T *packed, const T *start,
                          T *out) {
  __shared__ __align__(128) unsigned short room[MmaSizes<COLUMNS, false>::ROOM];
  conv_mma<T, COLUMNS, false>(s, map, packed, start, out, room);
}
// For 3x3 windows and a multiple of 32 channels.
template <typename T, u32 COLUMNS>
ISFM_INLINE void conv_near(const ConvSizes &s, const T *map, const T *packed, const T *start,
                           T *out) {
  constexpr u32 ANY = MmaSizes<COLUMNS, false>::ROOM, NEAR = MmaSizes<COLUMNS, true>::ROOM;
  __shared__ __align__(128) unsigned short room[ANY < NEAR ? NEAR : ANY];
  if (packable<8>(map, packed))
    conv_mma<T, COLUMNS, true>(s, map, packed, start, out, room);
  else
    conv_mma<T, COLUMNS, false>(s, map, packed, start, out, room);
}

// parts[p][tap][input][output] = sum of x at the tap times dy over a part of the pixels: 128 taps
// and inputs x 64 outputs a block, 16 pixels of a row of a map at a time. `part` counts these.
template <typename T>
ISFM_INLINE void conv_weight(const ConvSizes &s, const T *map, const T *dy, float *parts,
                             u32 part) {
  constexpr u32 COLUMNS = 64;
  typedef FmaTile<COLUMNS> Tile;
  constexpr u32 DEPTH = Tile::DEPTH, STAGES = Tile::STAGES;
  constexpr u32 LINES = Tile::THREADS / COLUMNS;
  static_assert(Tile::THREADS == Tile::ROWS, "a thread fetches a row");
  __shared__ __align__(16) typename Tile::Left a[STAGES];
  __shared__ __align__(16) typename Tile::Right b[STAGES];

  const u32 rows = s.k * s.k * s.inputs, pad = s.k / 2;
  const u32 row_blocks = (rows + Tile::ROWS - 1) / Tile::ROWS;
  const u32 column_blocks = (s.outputs + COLUMNS - 1) / COLUMNS;
  const u32 first_row = blockIdx.x % row_blocks * Tile::ROWS;
  const u32 first_column = blockIdx.x / row_blocks % column_blocks * COLUMNS;
  const u32 number = blockIdx.x / row_blocks / column_blocks;
  const u32 across = (s.width + DEPTH - 1) / DEPTH, all = s.pixels / s.width * across;
  const u32 begin = number * part, steps = all - begin < part ? all - begin : part;

  const u32 row = first_row + threadIdx.x, tap = row / s.inputs, channel = row % s.inputs;
  const u32 ky = tap / s.k, kx = tap % s.k;
  const u32 column = threadIdx.x % COLUMNS, line = threadIdx.x / COLUMNS;
  // Rows of all maps are numbered through.
  u32 map_row = begin / across, y = map_row % s.height, x = begin % across * DEPTH, stage = 0;
  // Each call takes the next pixels.
  const auto fetch = [&] {
    // Pixels where both the map at the tap and dy have values.
    const u32 from_x = x + kx - pad, left = s.width - x;
    const u32 before = x + kx < pad ? pad - x - kx : 0;
    const u32 most = kx > pad ? left + pad - kx : left;
    const bool some = row < rows && y + ky - pad < s.height;
    const long long place = (long long)(int)(map_row + ky - pad) * s.width + (int)from_x;
    const T *from = map + place * s.inputs + channel;
    ISFM_UNROLL
    for (u32 d = 0; d < DEPTH; ++d)
      conv_copy(&a[stage][d][Tile::at(d, threadIdx.x)], from + (size_t)d * s.inputs,
                some && d >= before && (int)d < (int)most);
    const T *of = dy + ((size_t)map_row * s.width + x) * s.outputs + first_column + column;
    ISFM_UNROLL
    for (u32 i = 0; i < DEPTH / LINES; ++i) {
      const u32 d = line + LINES * i;
      conv_copy(&b[stage][d][Tile::at(d, column)], of + (size_t)d * s.outputs,
                first_column + column < s.outputs && d < left);
    }
    if ((x += DEPTH) >= s.width) {
      x = 0;
      ++map_row;
      if (++y == s.height) y = 0;
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  };

  Tile tile;
  tile.add_all(a, b, steps, fetch);

  ISFM_UNROLL
  for (u32 i = 0; i < 8; ++i) {
    ISFM_UNROLL
    for (u32 j = 0; j < Tile::EACH; ++j) {
      const u32 r = first_row + tile.row(i), o = first_column + tile.column(j);
      if (r < rows && o < s.outputs)
        parts[((size_t)number * rows + r) * s.outputs + o] = tile.sums[i][j];
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
  ISFM_KERNEL_AT(conv_weight_##S, 128, 4,                                                         \
                 (ConvSizes s, const T *map, const T *dy, float *parts, u32 part),                \
                 conv_weight(s, map, dy, parts, part))                                            \
  ISFM_KERNEL(conv_weight_sum_##S, ISFM_THREADS,                                                  \
              (const float *parts, T *out, u32 outputs, u32 inputs, u32 taps, u32 count),         \
              conv_weight_sum(parts, out, outputs, inputs, taps, count))
ISFM_FOR_TYPES(INSTANCE)

#define PRODUCT(name, T, threads, blocks, call)                                                   \
  ISFM_KERNEL_AT(name, threads, blocks,                                                           \
                 (ConvSizes s, const T *map, const T *packed, const T *start, T *out), call)
PRODUCT(conv_f32, float, 128, 4, conv_fma<64>(s, map, packed, start, out))
PRODUCT(conv_narrow_f32, float, 64, 8, conv_fma<16>(s, map, packed, start, out))
#define HALVES(S, T)                                                                              \
  PRODUCT(conv_##S, T, 128, 4, (conv_any<T, 64>)(s, map, packed, start, out))                     \
  PRODUCT(conv_near_##S, T, 128, 3, (conv_near<T, 64>)(s, map, packed, start, out))               \
  PRODUCT(conv_near_wide_##S, T, 128, 2, (conv_near<T, 128>)(s, map, packed, start, out))
HALVES(f16, f16)
HALVES(bf16, bf16)
