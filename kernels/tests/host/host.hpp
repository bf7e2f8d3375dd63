// A stand-in for a GPU, to run the kernels' own source where there is none: arithmetic, indexing,
// barriers, shuffles and the tensor cores' fragments, one block after another. The threads of a
// block are fibers; a fiber runs until it meets a barrier. Running them in ascending and in
// descending order gives the same result unless a barrier is missing.
#ifndef ISFM_HOST_HPP
#define ISFM_HOST_HPP

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#define ISFM_INLINE inline
#define ISFM_UNROLL
#define ISFM_ROLLED
#define ISFM_UNROLL_8
#define __global__
#define __shared__ static
#define __launch_bounds__(threads, blocks)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned int x, y, z;
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace isfm_host {

[[noreturn]] inline void fail(const char *what) {
  fprintf(stderr, "host: %s\n", what);
  exit(1);
}

enum class State { Runs, AtWarp, AtBlock, Done };

struct Fiber {
  static constexpr size_t STACK = 1 << 16;
  // Not a vector, which would write every byte.
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t start;
  jmp_buf place;
  bool begun = false;
  State state = State::Done;
  unsigned int shuffles = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  jmp_buf place;
  std::function<void()> body;
  size_t current = 0;
  // What the lanes of each warp show one another, twice: a lane may be one shuffle ahead.
  std::vector<unsigned int> shown[2];
  std::vector<std::array<unsigned int, 6>> fragments[2];
};
inline Machine machine;

inline void enter() {
  machine.body();
  machine.fibers[machine.current].state = State::Done;
  _longjmp(machine.place, 1);
}

inline void wait(State state) {
  Fiber &fiber = machine.fibers[machine.current];
  fiber.state = state;
  if (_setjmp(fiber.place) == 0) _longjmp(machine.place, 1);
}

// Runs a fiber until it waits or ends.
inline void resume(size_t i) {
  machine.current = i;
  threadIdx = {(unsigned int)i, 0, 0};
  Fiber &fiber = machine.fibers[i];
  if (_setjmp(machine.place) == 0) {
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = Fiber::STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    setcontext(&fiber.start);
  }
}

// Lets the fibers of `from..to` go on if all of them wait at the same kind of barrier.
inline bool release(size_t from, size_t to, State at) {
  for (size_t i = from; i < to; ++i)
    if (machine.fibers[i].state != at) return false;
  for (size_t i = from; i < to; ++i) machine.fibers[i].state = State::Runs;
  return true;
}

inline void run_block(bool descending) {
  const size_t n = blockDim.x;
  if (machine.fibers.size() < n) machine.fibers.resize(n);
  for (auto &shown : machine.shown) shown.assign(n + 32, 0);
  for (size_t i = 0; i < n; ++i) {
    machine.fibers[i].begun = false;
    machine.fibers[i].state = State::Runs;
    machine.fibers[i].shuffles = 0;
  }
  for (;;) {
    bool ran = false;
    for (size_t j = 0; j < n; ++j) {
      const size_t i = descending ? n - 1 - j : j;
      if (machine.fibers[i].state != State::Runs) continue;
      resume(i);
      ran = true;
    }
    for (size_t w = 0; w < n; w += 32)
      ran |= release(w, w + 32 < n ? w + 32 : n, State::AtWarp);
    ran |= release(0, n, State::AtBlock);
    if (ran) continue;
    for (size_t i = 0; i < n; ++i)
      if (machine.fibers[i].state != State::Done) fail("a barrier that not all threads reach");
    return;
  }
}

using Call = std::function<void(void **)>;
inline std::map<std::string, std::pair<Call, unsigned int>> &kernels() {
  static std::map<std::string, std::pair<Call, unsigned int>> all;
  return all;
}

template <typename... Params, size_t... I>
Call caller(void (*kernel)(Params...), std::index_sequence<I...>) {
  return [kernel](void **args) { kernel(*static_cast<Params *>(args[I])...); };
}

struct Registered {
  template <typename... Params>
  Registered(const char *name, void (*kernel)(Params...)) {
    kernels()[name] = {caller(kernel, std::index_sequence_for<Params...>()), sizeof...(Params)};
  }
};

// As cuLaunchKernel: `args` points to the values of the kernel's parameters.
inline void launch(const std::string &name, unsigned int grid, unsigned int block,
                   std::vector<void *> args, bool descending) {
  const auto found = kernels().find(name);
  if (found == kernels().end()) fail(("no kernel " + name).c_str());
  if (found->second.second != args.size()) fail((name + ": wrong number of arguments").c_str());
  gridDim = {grid, 1, 1};
  blockDim = {block, 1, 1};
  machine.body = [&] { found->second.first(args.data()); };
  for (unsigned int i = 0; i < grid; ++i) {
    blockIdx = {descending ? grid - 1 - i : i, 0, 0};
    run_block(descending);
  }
}

// Every lane shows a word; gives back the one that `from` shows.
inline unsigned int exchange(unsigned int value, unsigned int from) {
  Fiber &fiber = machine.fibers[machine.current];
  auto &shown = machine.shown[fiber.shuffles++ % 2];
  const size_t warp = machine.current / 32 * 32;
  shown[machine.current] = value;
  wait(State::AtWarp);
  return shown[warp + from % 32];
}

using Fragments = std::array<unsigned int, 6>;

// Every lane shows what it holds of two matrices; gives back all lanes'.
inline const Fragments *exchange_fragments(Fragments mine) {
  Fiber &fiber = machine.fibers[machine.current];
  auto &shown = machine.fragments[fiber.shuffles++ % 2];
  shown.resize(blockDim.x);
  shown[machine.current] = mine;
  wait(State::AtWarp);
  return &shown[machine.current / 32 * 32];
}

}  // namespace isfm_host

#define ISFM_REGISTER(name) static isfm_host::Registered registered_##name(#name, name);

inline void __syncthreads() { isfm_host::wait(isfm_host::State::AtBlock); }

inline float __shfl_sync(unsigned int, float v, unsigned int lane) {
  unsigned int bits;
  memcpy(&bits, &v, 4);
  bits = isfm_host::exchange(bits, lane);
  memcpy(&v, &bits, 4);
  return v;
}
inline float __shfl_xor_sync(unsigned int mask, float v, unsigned int bits) {
  return __shfl_sync(mask, v, (threadIdx.x % 32) ^ bits);
}

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline float to_float(f16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  float y = exponent == 31  ? (fraction ? NAN : INFINITY)
            : exponent == 0 ? ldexpf((float)fraction, -24)
                            : ldexpf((float)(fraction + 1024), exponent - 25);
  return x.bits >> 15 ? -y : y;
}

template <typename T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
  if (x != x) return {0x7fff};
  uint32_t bits;
  memcpy(&bits, &x, 4);
  // To nearest, ties to even.
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline f16 from_float<f16>(float x) {
  if (x != x) return {0x7fff};
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  const float size = fabsf(x);
  if (size >= 65520.0f) return {(uint16_t)(sign | 0x7c00)};
  int exponent;
  frexpf(size, &exponent);
  // One unit in the last place is 2^(exponent - 11), and at least 2^-24.
  const int unit = size < 0x1p-14f ? -24 : exponent - 11;
  const uint32_t count = (uint32_t)rintf(ldexpf(size, -unit));
  // Bit 10 of the count adds to the exponent; a count of 2048 carries into it twice.
  return {(uint16_t)(sign | (((uint32_t)(unit + 24) << 10) + count))};
}

inline float exp2_fast(float x) { return exp2f(x); }
inline void prefetch(const void *) {}
inline float inverse_fast(float x) { return 1.0f / x; }
inline float inverse_sqrt(float x) { return 1.0f / sqrtf(x); }

// A copy is done at once, which shows a buffer that is still being read.
inline void copy_bytes(void *to, const void *from, size_t bytes, bool ok) {
  if ((size_t)to % bytes || (ok && (size_t)from % bytes)) isfm_host::fail("a copy not aligned");
  ok ? memcpy(to, from, bytes) : memset(to, 0, bytes);
}
inline void copy_16(void *to, const void *from, bool ok) { copy_bytes(to, from, 16, ok); }
inline void copy_4(void *to, const void *from, bool ok) { copy_bytes(to, from, 4, ok); }
template <unsigned int BYTES>
void copy_near(void *to, const void *from) {
  copy_bytes(to, from, BYTES, true);
}
inline void copies_commit() {}
template <int N>
void copies_wait() {}

inline void load_matrices(unsigned int (&d)[4], const void *row) {
  isfm_host::Fragments mine{};
  if ((size_t)row % 16) isfm_host::fail("a matrix's row not aligned");
  memcpy(mine.data(), &row, sizeof row);
  const auto all = isfm_host::exchange_fragments(mine);
  const unsigned int lane = threadIdx.x % 32;
  for (unsigned int i = 0; i < 4; ++i) {
    const char *from;
    memcpy(&from, all[8 * i + lane / 4].data(), sizeof from);
    memcpy(&d[i], from + 4 * (lane % 4), 4);
  }
}

template <typename T>
void mma_16x8x16(float (&d)[4], const unsigned int (&a)[4], const unsigned int (&b)[2]) {
  const auto all = isfm_host::exchange_fragments({a[0], a[1], a[2], a[3], b[0], b[1]});
  // Sixteen values: words `from` and `from` + `step` of the four lanes from `lane` on.
  const auto line = [&](float (&to)[16], unsigned int lane, unsigned int from, unsigned int step) {
    for (unsigned int k = 0; k < 16; ++k) {
      const unsigned int word = all[lane + k / 2 % 4][from + k / 8 * step];
      to[k] = to_float(T{(uint16_t)(word >> 16 * (k % 2))});
    }
  };
  const unsigned int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float rows[2][16], columns[2][16];
  for (unsigned int i = 0; i < 2; ++i) {
    line(rows[i], 4 * g, i, 2);
    line(columns[i], 4 * (2 * t + i), 4, 1);
  }
  for (unsigned int j = 0; j < 4; ++j)
    for (unsigned int k = 0; k < 16; ++k) d[j] += rows[j / 2][k] * columns[j % 2][k];
}

#endif
