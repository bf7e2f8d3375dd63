// Mamba's selective scan and its adjoint, channel-last: along a line in groups, or along an H x W
// map in four directions at once. See scan.cuh for the sizes; docs/cuda.md for the design.
//
//   delta = softplus(raw + bias), h_t = exp(delta A) h_{t-1} + delta B u, y = C h + skip u,
//
// where raw is given, or the product of `rank` factors with a channel's weights. Sequences are cut
// into chunks: `walk` finds what each chunk makes of a zero state, `chunks` carries states over the
// chunks (the product of a chunk's decays is exp(A * sum of delta)), a second `walk` gives the
// outputs; the adjoint goes the same way backwards. No atomics: every sum has a fixed order.
#include "scan.cuh"

// ---- walk: one thread, one channel, all its states ----------------------------------------------

enum ScanMode {
  SCAN_END,      // the state after each chunk that began with zero, and the chunk's sum of delta
  SCAN_OUTPUT,   // the outputs, from the states before each chunk
  SCAN_ADJOINT,  // the gradient that reaches the state before each chunk, from its own outputs
};

template <typename T, int N, ScanMode MODE>
ISFM_INLINE void scan_walk(const ScanSizes &s, const T *u, const T *dt, const T *proj,
                           const float *weight, const float *bias, const float *a,
                           const float *skip, const T *dy, float *states, float *sums, float *acc,
                           T *out) {
  constexpr u32 STRIDE = SCAN_RANK + 2 * N, SHARE = STRIDE / SCAN_ROW_THREADS;
  __shared__ __align__(16) float rows[SCAN_TILE * STRIDE];
  // A column for each thread: the states leave no registers for them.
  __shared__ float weights[SCAN_RANK * SCAN_THREADS];

  const ScanBlock block(s, s.chunks);
  const u32 channel = block.lanes * SCAN_THREADS + threadIdx.x;
  const bool live = channel < s.channels;
  const u32 first_step = block.part * s.chunk;
  const u32 steps = min_of(s.length - first_step, s.chunk);
  // The threads of a block load the rows of a tile together, SCAN_ROW_THREADS a row.
  const u32 tile = blockDim.x / SCAN_ROW_THREADS, width = s.rank + 2 * s.states;
  const u32 my_row = threadIdx.x / SCAN_ROW_THREADS, my_column = threadIdx.x % SCAN_ROW_THREADS;

  for (u32 i = threadIdx.x; i < SCAN_TILE * STRIDE; i += blockDim.x) rows[i] = 0.0f;

  for (u32 turn = 0; turn < s.turns; ++turn) {
    const u32 group = block.group + 2 * turn;
    // The second direction of a block walks back where the first came from, and the adjoint walks
    // against its direction.
    const bool back = (s.rows != 0 && group >= 2) != (MODE == SCAN_ADJOINT);
    const size_t row = (size_t)group * s.channels + channel;
    const u32 column = s.rows ? channel : group * s.channels + channel;
    const size_t sequence = ((size_t)block.batch * s.groups + group) * s.chunks + block.part;
    const size_t image = (size_t)block.batch * s.length;

    float decay[N], h[N];
    ISFM_UNROLL
    for (int n = 0; n < N; ++n) {
      const bool there = live && n < (int)s.states;
      decay[n] = there ? scan_decay(s, a, row, n) : 0.0f;
      h[n] = 0.0f;
      if (MODE == SCAN_OUTPUT && there)
        h[n] = states[(sequence * s.states + n) * s.channels + channel];
    }
    for (u32 r = 0; r < SCAN_RANK; ++r)
      weights[r * SCAN_THREADS + threadIdx.x] =
          live && r < s.rank ? weight[row * s.rank + r] : 0.0f;
    const float shift = live && bias ? bias[row] : 0.0f;
    const float factor = live && skip ? skip[row] : 0.0f;
    float total = 0.0f;

    // This thread's part of the tile that is walked next, and the inputs of the steps that are.
    // Kept in the input's type: converting would wait for the load.
    T next_part[SHARE], next_in[SCAN_AHEAD];
    u32 next_at[SCAN_AHEAD];
    const auto fetch_part = [&](u32 done) {
      const u32 i = min_of(done + my_row, steps - 1);
      const u32 place = scan_place(s, group, first_step + (back ? steps - 1 - i : i));
      const T *from = proj + ((image + place) * s.groups + group) * width;
      ISFM_UNROLL
      for (u32 k = 0; k < SHARE; ++k) {
        const u32 j = my_column + k * SCAN_ROW_THREADS;
        next_part[k] = j < width ? from[j] : from_float<T>(0.0f);
      }
    };
    const T *values = MODE == SCAN_ADJOINT ? dy : u;
    const size_t start = image * s.width + column;
    ScanCursor cursor(s, group, first_step + (back ? steps - 1 : 0), back);
    // Both ways give the same values; each kernel takes the one that its registers allow.
    if (MODE == SCAN_END)
      values += start;
    else
      cursor.at += (u32)start;
    const auto fetch_inputs = [&](u32 done) {
      ISFM_UNROLL
      for (u32 q = 0; q < SCAN_AHEAD; ++q) {
        const bool there = live && done + q < steps;
        next_at[q] = cursor.at;
        next_in[q] = there ? values[cursor.at] : from_float<T>(0.0f);
        cursor.advance();
      }
    };

    fetch_part(0);
    fetch_inputs(0);
    for (u32 first = 0; first < steps; first += tile) {
      const u32 end = min_of(first + tile, steps);
      __syncthreads();
      ISFM_UNROLL
      for (u32 k = 0; k < SHARE; ++k) {
        const u32 j = my_column + k * SCAN_ROW_THREADS;
        if (j < width) rows[my_row * STRIDE + scan_column<N>(s, j)] = to_float(next_part[k]);
      }
      __syncthreads();
      if (end < steps) fetch_part(end);

      for (u32 done = first; done < end; done += SCAN_AHEAD) {
        const float *line = rows + (done - first) * STRIDE;
        u32 at[SCAN_AHEAD];
        float in[SCAN_AHEAD], delta[SCAN_AHEAD], seen[SCAN_AHEAD];
        ISFM_UNROLL
        for (u32 q = 0; q < SCAN_AHEAD; ++q) {
          at[q] = next_at[q];
          in[q] = to_float(next_in[q]);
          const bool there = live && done + q < steps;
          delta[q] = shift;
          if (there && !s.rank) delta[q] += to_float(dt[MODE == SCAN_END ? start + at[q] : at[q]]);
          seen[q] = 0.0f;
          if (MODE == SCAN_OUTPUT && there && s.turn + turn)
            seen[q] = acc[at[q]];
        }
        if (done + SCAN_AHEAD < steps) fetch_inputs(done + SCAN_AHEAD);

        ISFM_UNROLL
        for (u32 r = 0; r < SCAN_RANK; r += 4) {
          if (r >= s.rank) break;
          float w[4];
          ISFM_UNROLL
          for (u32 i = 0; i < 4; ++i) w[i] = weights[(r + i) * SCAN_THREADS + threadIdx.x];
          ISFM_UNROLL
          for (u32 q = 0; q < SCAN_AHEAD; ++q) {
            const auto factors = load_pack<float, 4>(line + q * STRIDE + r);
            ISFM_UNROLL
            for (u32 i = 0; i < 4; ++i) delta[q] += factors.v[i] * w[i];
          }
        }
        if (s.flags & SCAN_SOFTPLUS) {
          ISFM_UNROLL
          for (u32 q = 0; q < SCAN_AHEAD; ++q) delta[q] = softplus(delta[q]);
        }
        // A step past the end leaves the states as they are.
        if (done + SCAN_AHEAD > steps) {
          ISFM_UNROLL
          for (u32 q = 0; q < SCAN_AHEAD; ++q) delta[q] = done + q < steps ? delta[q] : 0.0f;
        }

        ISFM_UNROLL
        for (u32 q = 0; q < SCAN_AHEAD; ++q) {
          const float *b = line + q * STRIDE + SCAN_RANK, *c = b + N;
          total += delta[q];
          if (MODE == SCAN_ADJOINT) {
            ISFM_UNROLL
            for (int first = 0; first < N; first += 4) {
              const auto gain = load_pack<float, 4>(c + first);
              ISFM_UNROLL
              for (int i = 0; i < 4; ++i)
                h[first + i] =
                    exp2_fast(delta[q] * decay[first + i]) * (h[first + i] + in[q] * gain.v[i]);
            }
            continue;
          }
          const float step = delta[q] * in[q];
          float y = seen[q] + factor * in[q], y2 = 0.0f;
          ISFM_UNROLL
          for (int first = 0; first < N; first += 4) {
            const auto gain = load_pack<float, 4>(b + first);
            ISFM_UNROLL
            for (int i = 0; i < 4; ++i)
              h[first + i] =
                  exp2_fast(delta[q] * decay[first + i]) * h[first + i] + step * gain.v[i];
            if (MODE == SCAN_OUTPUT) {
              const auto mix = load_pack<float, 4>(c + first);
              y += h[first] * mix.v[0];
              y2 += h[first + 1] * mix.v[1];
              y += h[first + 2] * mix.v[2];
              y2 += h[first + 3] * mix.v[3];
            }
          }
          if (MODE == SCAN_OUTPUT && live && done + q < steps) {
            if (s.turn + turn + 1 == s.all_turns)
              out[at[q]] = from_float<T>(y + y2);
            else
              acc[at[q]] = y + y2;
          }
        }
      }
    }
    if (MODE != SCAN_OUTPUT && live) {
      ISFM_UNROLL
      for (int n = 0; n < N; ++n)
        if (n < (int)s.states) states[(sequence * s.states + n) * s.channels + channel] = h[n];
      sums[sequence * s.channels + channel] = total;
    }
  }
}

// ---- chunks: one thread, one state of one channel, over all chunks ------------------------------

// Replaces what each chunk makes of a zero state by the state that enters the chunk. `initial`
// and `last` may be null.
template <typename From, typename To>
ISFM_INLINE void scan_chunks(const ScanSizes &s, const float *a, const float *sums, float *states,
                             const From *initial, To *last, bool adjoint) {
  const u32 all = s.batch * s.groups * s.states * s.channels;
  const Span threads = span();
  for (u32 i = threads.first; i < all; i += threads.step) {
    const u32 channel = i % s.channels, n = i / s.channels % s.states;
    const u32 sequence = i / s.channels / s.states, group = sequence % s.groups;
    const size_t row = (size_t)group * s.channels + channel;
    const size_t outside = ((size_t)sequence * s.channels + channel) * s.states + n;
    const bool back = (s.rows != 0 && group >= 2) != adjoint;
    const float decay = scan_decay(s, a, row, n);
    float h = initial ? to_float(initial[outside]) : 0.0f;
    constexpr u32 AHEAD = 16;
    for (u32 first = 0; first < s.chunks; first += AHEAD) {
      size_t at[AHEAD];
      float own[AHEAD], sum[AHEAD];
      ISFM_UNROLL
      for (u32 q = 0; q < AHEAD; ++q) {
        const u32 step = min_of(first + q, s.chunks - 1);
        const size_t chunk = (size_t)sequence * s.chunks + (back ? s.chunks - 1 - step : step);
        at[q] = (chunk * s.states + n) * s.channels + channel;
        own[q] = states[at[q]];
        sum[q] = sums[chunk * s.channels + channel];
      }
      ISFM_UNROLL
      for (u32 q = 0; q < AHEAD; ++q) {
        if (first + q >= s.chunks) break;
        states[at[q]] = h;
        h = exp2_fast(sum[q] * decay) * h + own[q];
      }
    }
    if (last) last[outside] = from_float<To>(h);
  }
}

// ---- adjoint: four lanes, one channel, a quarter of its states each -----------------------------

// Gradients of everything, from the states that enter each chunk forwards (`states`) and the
// gradients that enter it backwards (`carries`). A warp has 8 channels; lane = 8 * quarter +
// channel. A chunk is recomputed from its first state, whose tiles of 4 steps are then walked
// backwards; of the 4 steps each quarter also owns one, for what has no state index.
template <typename T, int N>
ISFM_INLINE void scan_adjoint(const ScanSizes &s, const T *u, const T *dt, const T *proj,
                              const float *weight, const float *bias, const float *a,
                              const float *skip, const T *dy, const float *states,
                              const float *carries, float *acc, T *du, T *ddt, float *proj_parts,
                              float *param_parts) {
  constexpr u32 STRIDE = SCAN_RANK + 2 * N;
  constexpr int OWN = N / 4;
  constexpr u32 TILES = SCAN_KEPT / 4, WARPS = SCAN_ADJOINT_THREADS / 32;
  __shared__ __align__(16) float rows[SCAN_KEPT * STRIDE];
  __shared__ u32 places[SCAN_KEPT];
  __shared__ float kept[(TILES - 1) * OWN * SCAN_ADJOINT_THREADS];
  __shared__ float sums[WARPS * 4 * STRIDE];
  __shared__ float weights[SCAN_RANK * SCAN_ADJOINT_CHANNELS];

  const u32 runs = (s.chunks + s.run - 1) / s.run;
  const ScanBlock block(s, runs);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const u32 quarter = lane / 8, local = warp * 8 + lane % 8;
  const u32 channel = block.lanes * SCAN_ADJOINT_CHANNELS + local;
  const bool live = channel < s.channels;
  const int first_state = (int)quarter * OWN;
  const u32 width = s.rank + 2 * s.states;
  // Which of a tile's sums this thread adds up first; in most blocks there is no second.
  const u32 first_which = threadIdx.x / width, first_column = threadIdx.x % width;
  // B of this lane's states at the chunk's first step; C lies N further.
  const float *own_rows = rows + SCAN_RANK + first_state;

  for (u32 i = threadIdx.x; i < SCAN_KEPT * STRIDE; i += blockDim.x) rows[i] = 0.0f;

  for (u32 turn = 0; turn < s.turns; ++turn) {
    const u32 group = block.group + 2 * turn;
    const bool back = s.rows != 0 && group >= 2;
    const size_t row = (size_t)group * s.channels + channel;
    const u32 column = s.rows ? channel : group * s.channels + channel;

    // Of the gradient of dt's weights each quarter sums a quarter.
    float decay[OWN], ddecay[OWN], dweight[SCAN_RANK / 4], dbias = 0.0f, dskip = 0.0f;
    ISFM_UNROLL
    for (int n = 0; n < OWN; ++n) {
      decay[n] = live && first_state + n < (int)s.states ? scan_decay(s, a, row, first_state + n)
                                                         : 0.0f;
      ddecay[n] = 0.0f;
    }
    ISFM_UNROLL
    for (u32 i = 0; i < SCAN_RANK / 4; ++i) {
      const u32 r = SCAN_RANK / 4 * quarter + i;
      dweight[i] = 0.0f;
      weights[r * SCAN_ADJOINT_CHANNELS + local] =
          live && r < s.rank ? weight[row * s.rank + r] : 0.0f;
    }
    const float shift = live && bias ? bias[row] : 0.0f;
    const float factor = live && skip ? skip[row] : 0.0f;

    const u32 chunk_end = min_of((block.part + 1) * s.run, s.chunks);
    for (u32 chunk = block.part * s.run; chunk < chunk_end; ++chunk) {
      const u32 first_step = chunk * s.chunk;
      const u32 steps = min_of(s.length - first_step, s.chunk);
      const size_t sequence = ((size_t)block.batch * s.groups + group) * s.chunks + chunk;
      if (chunk + 1 < chunk_end) {
        // Prefetches what the next chunk reads first.
        const u32 begin = first_step + s.chunk, count = min_of(s.length - begin, s.chunk);
        const u32 left = column - local, columns = min_of(s.channels - (channel - local),
                                                          SCAN_ADJOINT_CHANNELS);
        constexpr u32 LINE = 32;
        const u32 lines = (columns + LINE - 1) / LINE;
        for (u32 i = threadIdx.x; i < count * lines; i += blockDim.x) {
          const u32 place = scan_place(s, group, begin + i / lines);
          const size_t at = ((size_t)block.batch * s.length + place) * s.width + left +
                            i % lines * LINE;
          prefetch(u + at);
          prefetch(dy + at);
          if (s.turn + turn) prefetch(acc + at);
        }
        for (u32 i = threadIdx.x; i < s.states * lines; i += blockDim.x) {
          const size_t at = ((sequence + 1) * s.states + i / lines) * s.channels +
                            (channel - local) + i % lines * LINE;
          prefetch(states + at);
          prefetch(carries + at);
        }
      }
      __syncthreads();
      scan_load_rows<N>(s, proj, block.batch, group, first_step, steps, back, places, rows);
      // Steps past the end, up to a whole tile.
      for (u32 i = threadIdx.x + steps * STRIDE; i < (steps + 3) / 4 * 4 * STRIDE; i += blockDim.x)
        rows[i] = 0.0f;
      __syncthreads();

      float h[OWN], carry[OWN];
      ISFM_UNROLL
      for (int n = 0; n < OWN; ++n) {
        const bool there = live && first_state + n < (int)s.states;
        const size_t at = (sequence * s.states + first_state + n) * s.channels + channel;
        h[n] = there ? states[at] : 0.0f;
        carry[n] = there ? carries[at] : 0.0f;
      }

      const u32 tiles = (steps + 3) / 4;
      // Forwards, to the state before each tile.
      for (u32 tile = 0; tile + 1 < tiles; ++tile) {
        const ScanOwn o = scan_own(s, u, dt, rows, STRIDE, places, weights + local, shift,
                                   block.batch, column, 4 * tile + quarter, steps, live);
        ISFM_UNROLL
        for (u32 i = 0; i < 4; ++i) {
          const u32 owner = 8 * i + lane % 8;
          const float delta = __shfl_sync(~0u, o.delta, owner);
          const float step = __shfl_sync(~0u, o.delta * o.u, owner);
          const auto b = load_pack<float, OWN>(own_rows + (4 * tile + i) * STRIDE);
          ISFM_UNROLL
          for (int n = 0; n < OWN; ++n)
            h[n] = exp2_fast(delta * decay[n]) * h[n] + step * b.v[n];
        }
        ISFM_UNROLL
        for (int n = 0; n < OWN; ++n)
          kept[(tile * OWN + n) * SCAN_ADJOINT_THREADS + threadIdx.x] = h[n];
      }

      for (u32 tile = tiles; tile-- > 0;) {
        const ScanOwn o = scan_own(s, u, dt, rows, STRIDE, places, weights + local, shift,
                                   block.batch, column, 4 * tile + quarter, steps, live);
        const float out = o.there ? to_float(dy[o.at]) : 0.0f;
        const float before = o.there && s.turn + turn ? acc[o.at] : 0.0f;
        ISFM_UNROLL
        for (int n = 0; n < OWN; ++n) {
          if (tile > 0)
            h[n] = kept[((tile - 1) * OWN + n) * SCAN_ADJOINT_THREADS + threadIdx.x];
          else
            h[n] = live && first_state + n < (int)s.states
                       ? states[(sequence * s.states + first_state + n) * s.channels + channel]
                       : 0.0f;
        }

        // Forwards through the tile: decays, and decayed states.
        float e[4][OWN], eh[4][OWN], delta[4], step[4];
        ISFM_UNROLL
        for (u32 i = 0; i < 4; ++i) {
          const u32 owner = 8 * i + lane % 8;
          delta[i] = __shfl_sync(~0u, o.delta, owner);
          step[i] = __shfl_sync(~0u, o.delta * o.u, owner);
          const auto b = load_pack<float, OWN>(own_rows + (4 * tile + i) * STRIDE);
          ISFM_UNROLL
          for (int n = 0; n < OWN; ++n) {
            e[i][n] = exp2_fast(delta[i] * decay[n]);
            eh[i][n] = e[i][n] * h[n];
            h[n] = eh[i][n] + step[i] * b.v[n];
          }
        }

        // And back, with g the gradient of a state.
        float over_states[8];
        ISFM_UNROLL
        for (int back_i = 0; back_i < 4; ++back_i) {
          const int i = 3 - back_i;
          const float grad = __shfl_sync(~0u, out, 8 * i + lane % 8);
          const auto b = load_pack<float, OWN>(own_rows + (4 * tile + i) * STRIDE);
          const auto c = load_pack<float, OWN>(own_rows + (4 * tile + i) * STRIDE + N);
          float gb = 0.0f, gah = 0.0f, over_channels[2 * OWN];
          ISFM_UNROLL
          for (int n = 0; n < OWN; ++n) {
            const float g = grad * c.v[n] + carry[n];
            const float product = g * eh[i][n];
            over_channels[n] = g * step[i];
            over_channels[OWN + n] = grad * (eh[i][n] + step[i] * b.v[n]);
            gb += g * b.v[n];
            gah += decay[n] * product;
            ddecay[n] += delta[i] * product;
            carry[n] = e[i][n] * g;
          }
          over_states[2 * i] = gb;
          over_states[2 * i + 1] = gah;
          u32 index = 0;
          ScatterSum<2 * OWN, 4, 1>::run(over_channels, lane, index);
          sums[(warp * 4 + i) * STRIDE + SCAN_RANK + (index / OWN) * N + first_state +
               index % OWN] = over_channels[0];
        }
        u32 index = 0;
        ScatterSum<8, 16, 8>::run(over_states, lane, index);
        // `decay` is in units of log2(e).
        const float gb = over_states[0], gah = LN_2 * over_states[1];

        float draw = o.u * gb + gah;
        if (s.flags & SCAN_SOFTPLUS && o.raw <= 20.0f) draw *= sigmoid_fast(o.raw);
        if (!o.there) draw = 0.0f;
        dbias += draw;
        dskip += out * o.u;
        if (o.there) {
          const float grad = before + (factor * out + o.delta * gb);
          if (s.turn + turn + 1 == s.all_turns)
            du[o.at] = from_float<T>(grad);
          else
            acc[o.at] = grad;
          if (!s.rank) ddt[o.at] = from_float<T>(draw);
        }
        if (s.rank) {
          ISFM_UNROLL
          for (u32 i = 0; i < 4; ++i) {
            const float d = __shfl_sync(~0u, draw, 8 * i + lane % 8);
            const float *line = rows + (4 * tile + i) * STRIDE + SCAN_RANK / 4 * quarter;
            ISFM_UNROLL
            for (u32 r = 0; r < SCAN_RANK / 4; ++r) dweight[r] += d * line[r];
          }
          ISFM_UNROLL
          for (u32 half = 0; half < SCAN_RANK; half += SCAN_RANK / 2) {
            if (half >= s.rank) break;
            float factors[SCAN_RANK / 2];
            ISFM_UNROLL
            for (u32 r = 0; r < SCAN_RANK / 2; ++r)
              factors[r] = draw * weights[(half + r) * SCAN_ADJOINT_CHANNELS + local];
            u32 first = half;
            ScatterSum<SCAN_RANK / 2, 4, 1>::run(factors, lane, first);
            sums[(warp * 4 + quarter) * STRIDE + first] = factors[0];
          }
        }

        // The block's sum over its channels, in the order of its warps.
        __syncthreads();
        const u32 count = min_of(steps - 4 * tile, 4u);
        for (u32 i = threadIdx.x, which = first_which, j = first_column; i < count * width;
             i += blockDim.x, which = i / width, j = i % width) {
          float sum = 0.0f;
          for (u32 v = 0; v < warps; ++v)
            sum += sums[(v * 4 + which) * STRIDE + scan_column<N>(s, j)];
          const size_t place = (size_t)block.batch * s.length + places[4 * tile + which];
          const size_t part = (size_t)block.lanes * s.batch * s.length + place;
          proj_parts[(part * s.groups + group) * width + j] = sum;
        }
        __syncthreads();
      }
    }

    // Over the quarters' steps.
    dbias += __shfl_xor_sync(~0u, dbias, 8);
    dbias += __shfl_xor_sync(~0u, dbias, 16);
    dskip += __shfl_xor_sync(~0u, dskip, 8);
    dskip += __shfl_xor_sync(~0u, dskip, 16);
    const size_t part = ((size_t)block.part * s.batch + block.batch) * s.groups + group;
    float *to = param_parts + part * (s.states + s.rank + 2) * s.channels + channel;
    ISFM_UNROLL
    for (int n = 0; n < OWN; ++n)
      if (live && first_state + n < (int)s.states)
        to[(size_t)(first_state + n) * s.channels] = ddecay[n];
    ISFM_UNROLL
    for (u32 i = 0; i < SCAN_RANK / 4; ++i) {
      const u32 r = SCAN_RANK / 4 * quarter + i;
      if (live && r < s.rank) to[(size_t)(s.states + r) * s.channels] = dweight[i];
    }
    if (live && quarter == 0) {
      to[(size_t)(s.states + s.rank) * s.channels] = dbias;
      to[(size_t)(s.states + s.rank + 1) * s.channels] = dskip;
    }
  }
}

// The gradient of the rows of dt's factors, B and C: the sum over the channel blocks.
template <typename T>
ISFM_INLINE void scan_sum_rows(const float *parts, T *dproj, u32 n, u32 count) {
  const Span threads = span();
  for (u32 i = threads.first; i < n; i += threads.step) {
    float sum = 0.0f;
    for (u32 part = 0; part < count; ++part) sum += parts[(size_t)part * n + i];
    dproj[i] = from_float<T>(sum);
  }
}

// The gradients of the parameters: sums over runs and images, in order. `dweight`, `dbias` and
// `dskip` may be null.
ISFM_INLINE void sum_params(const ScanSizes &s, const float *parts, const float *a,
                                 float *dweight, float *dbias, float *da, float *dskip) {
  const u32 values = s.states + s.rank + 2;
  const u32 count = (s.chunks + s.run - 1) / s.run * s.batch;
  const size_t stride = (size_t)s.groups * values * s.channels;
  const Span threads = span();
  for (u32 i = threads.first; i < (u32)stride; i += threads.step) {
    const u32 channel = i % s.channels, j = i / s.channels % values;
    const size_t row = (size_t)(i / s.channels / values) * s.channels + channel;
    float sum = 0.0f;
    for (u32 part = 0; part < count; ++part) sum += parts[part * stride + i];
    if (j < s.states) {
      const size_t at = row * s.states + j;
      // A = -exp(ln(-A)), so A is its own slope.
      da[at] = s.flags & SCAN_LOG_A ? -expf(a[at]) * sum : sum;
    } else if (j < s.states + s.rank) {
      if (dweight) dweight[row * s.rank + j - s.states] = sum;
    } else if (j == s.states + s.rank) {
      if (dbias) dbias[row] = sum;
    } else if (dskip) {
      dskip[row] = sum;
    }
  }
}

// ---- entries ------------------------------------------------------------------------------------

#define WALK(name, S, T, N, MODE, BLOCKS)                                                        \
  ISFM_KERNEL_AT(name##_n##N##_##S, SCAN_THREADS, BLOCKS,                                        \
              (ScanSizes s, const T *u, const T *dt, const T *proj, const float *weight,         \
               const float *bias, const float *a, const float *skip, const T *dy, float *states, \
               float *sums, float *acc, T *out),                                                 \
              (scan_walk<T, N, MODE>)(s, u, dt, proj, weight, bias, a, skip, dy, states, sums,   \
                                      acc, out))
#define ADJOINT(S, T, N)                                                                          \
  ISFM_KERNEL_AT(scan_adjoint_n##N##_##S, SCAN_ADJOINT_THREADS, 2,                                \
              (ScanSizes s, const T *u, const T *dt, const T *proj, const float *weight,          \
               const float *bias, const float *a, const float *skip, const T *dy,                 \
               const float *states, const float *carries, float *acc, T *du, T *ddt,              \
               float *proj_parts, float *param_parts),                                            \
              (scan_adjoint<T, N>)(s, u, dt, proj, weight, bias, a, skip, dy, states, carries,    \
                                   acc, du, ddt, proj_parts, param_parts))
#define INSTANCE(S, T)                                                                            \
  WALK(scan_end, S, T, 8, SCAN_END, 5)                                                            \
  WALK(scan_end, S, T, 16, SCAN_END, 4)                                                           \
  WALK(scan_output, S, T, 8, SCAN_OUTPUT, 4)                                                      \
  WALK(scan_output, S, T, 16, SCAN_OUTPUT, 4)                                                     \
  WALK(scan_carry, S, T, 8, SCAN_ADJOINT, 5)                                                      \
  WALK(scan_carry, S, T, 16, SCAN_ADJOINT, 4)                                                     \
  ADJOINT(S, T, 8)                                                                                \
  ADJOINT(S, T, 16)                                                                               \
  ISFM_KERNEL(scan_chunks_##S, ISFM_THREADS,                                                      \
              (ScanSizes s, const float *a, const float *sums, float *states,                     \
               const float *initial, T *last),                                                    \
              scan_chunks(s, a, sums, states, initial, last, false))                              \
  ISFM_KERNEL(scan_chunks_adjoint_##S, ISFM_THREADS,                                              \
              (ScanSizes s, const float *a, const float *sums, float *states, const T *last,      \
               float *initial),                                                                   \
              scan_chunks(s, a, sums, states, last, initial, true))                               \
  ISFM_KERNEL(scan_sum_rows_##S, ISFM_THREADS, (const float *parts, T *dproj, u32 n, u32 count),  \
              scan_sum_rows(parts, dproj, n, count))
ISFM_FOR_TYPES(INSTANCE)

ISFM_KERNEL(scan_sum_params, ISFM_THREADS,
            (ScanSizes s, const float *parts, const float *a, float *dweight, float *dbias,
             float *da, float *dskip),
            sum_params(s, parts, a, dweight, dbias, da, dskip))
