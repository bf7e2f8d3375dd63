// Lets one source be CUDA under nvcc or NVRTC, and plain C++17 under any other compiler, where
// host.hpp stands in for the device: blocks run one after another, the threads of a block as
// fibers with real barriers and shuffles.
#ifndef ISFM_PORTABLE_CUH
#define ISFM_PORTABLE_CUH

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef __half f16;
typedef __nv_bfloat16 bf16;

#define ISFM_INLINE __device__ __forceinline__
#define ISFM_UNROLL _Pragma("unroll")
// For loops that are rarely run: the shortest code.
#define ISFM_ROLLED _Pragma("unroll 1")
#define ISFM_UNROLL_8 _Pragma("unroll 8")
// Makes a kernel known to the host's simulator; nothing on a device.
#define ISFM_REGISTER(name)

ISFM_INLINE float to_float(float x) { return x; }
ISFM_INLINE float to_float(f16 x) { return __half2float(x); }
ISFM_INLINE float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T>
ISFM_INLINE T from_float(float x);
template <>
ISFM_INLINE float from_float<float>(float x) {
  return x;
}
template <>
ISFM_INLINE f16 from_float<f16>(float x) {
  return __float2half_rn(x);
}
template <>
ISFM_INLINE bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// 2^x by the special-function unit; relative error 2^-22, results below 2^-126 are zero.
ISFM_INLINE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x by the special-function unit; one unit in the last place, and 0 beyond 2^126.
ISFM_INLINE float inverse_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / sqrt(x), to two units in the last place.
ISFM_INLINE float inverse_sqrt(float x) { return rsqrtf(x); }

// Prefetches the memory at an address that will be read soon.
ISFM_INLINE void prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// d += a b on the tensor cores: 16x16 times 16x8, sums in f32. Fragments as in the PTX manual,
// "Matrix fragments for mma.m16n8k16": with g = lane / 4 and t = lane % 4, pairs of neighbours in
// one word, a = rows g, g+8, g, g+8 at k = 2t, 2t, 2t+8, 2t+8; b = column g at k = 2t, 2t+8;
// d = row g at columns 2t, 2t+1, row g+8 at the same.
template <typename T>
ISFM_INLINE void mma_16x8x16(float (&d)[4], const unsigned int (&a)[4], const unsigned int (&b)[2]);
template <>
ISFM_INLINE void mma_16x8x16<f16>(float (&d)[4], const unsigned int (&a)[4],
                                  const unsigned int (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
ISFM_INLINE void mma_16x8x16<bf16>(float (&d)[4], const unsigned int (&a)[4],
                                   const unsigned int (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Asynchronous copies to shared memory: 16 or 4 bytes, aligned to their size; zeros where `ok` is
// false, and `from` is not read then. Those of 16 bytes bypass the first cache. A group is all
// copies of a thread since its last group; copies_wait<N> waits for all but its last N groups.
ISFM_INLINE void copy_16(void *to, const void *from, bool ok) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"((unsigned int)__cvta_generic_to_shared(to)), "l"(from), "r"(ok ? 16 : 0)
               : "memory");
}
ISFM_INLINE void copy_4(void *to, const void *from, bool ok) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"((unsigned int)__cvta_generic_to_shared(to)), "l"(from), "r"(ok ? 4 : 0)
               : "memory");
}
// 4, 8 or 16 bytes by way of the first cache.
template <unsigned int BYTES>
ISFM_INLINE void copy_near(void *to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
               :
               : "r"((unsigned int)__cvta_generic_to_shared(to)), "l"(from), "n"(BYTES)
               : "memory");
}
ISFM_INLINE void copies_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int N>
ISFM_INLINE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

// Four matrices of 8 rows of 16 bytes from shared memory: lane l says where row l % 8 of matrix
// l / 8 is, and gets word l % 4 of row l / 4 of each: the layout that mma_16x8x16 takes.
ISFM_INLINE void load_matrices(unsigned int (&d)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"((unsigned int)__cvta_generic_to_shared(row))
               : "memory");
}

#else
#include "host.hpp"
#endif

typedef unsigned int u32;

// A kernel by its C name, of at most `threads` threads a block, which calls a device function. Of
// its blocks `blocks` must fit on a multiprocessor: that bounds the registers of a thread.
#define ISFM_KERNEL_AT(name, threads, blocks, params, call)                           \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name params { call; } \
  ISFM_REGISTER(name)
#define ISFM_KERNEL(name, threads, params, call) ISFM_KERNEL_AT(name, threads, 1, params, call)

// INSTANCE(suffix, type) for every element type.
#define ISFM_FOR_TYPES(INSTANCE) INSTANCE(f32, float) INSTANCE(f16, f16) INSTANCE(bf16, bf16)

// The most threads in a block of an element-wise kernel.
#define ISFM_THREADS 256

// This thread's place among all threads of the grid, and how many there are.
struct Span {
  u32 first, step;
};
ISFM_INLINE Span span() {
  return {blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x};
}

// For very negative x expf(-x) is infinite and the result 0, as it should be.
ISFM_INLINE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// As `sigmoid`, to 2^-21 of 1, in a third of its instructions.
ISFM_INLINE float sigmoid_fast(float x) {
  return inverse_fast(1.0f + exp2_fast(-1.44269504f * x));
}

// Neighbours that are read and written at once.
template <typename T, u32 V>
struct alignas(V * sizeof(T)) Pack {
  T v[V];
};

template <typename T, u32 V>
ISFM_INLINE Pack<T, V> load_pack(const T *from) {
  return *reinterpret_cast<const Pack<T, V> *>(from);
}
template <typename T, u32 V>
ISFM_INLINE void unpack(Pack<T, V> pack, float (&to)[V]) {
  ISFM_UNROLL
  for (u32 v = 0; v < V; ++v) to[v] = to_float(pack.v[v]);
}
#ifdef __CUDACC__
// One instruction each, where the compiler needs two for the upper half of a word.
template <u32 V>
ISFM_INLINE void unpack(Pack<bf16, V> pack, float (&to)[V]) {
  static_assert(V % 2 == 0, "whole words");
  const u32 *words = reinterpret_cast<const u32 *>(&pack);
  ISFM_UNROLL
  for (u32 v = 0; v < V; v += 2) {
    to[v] = __uint_as_float(words[v / 2] << 16);
    to[v + 1] = __uint_as_float(words[v / 2] & 0xffff0000u);
  }
}
#endif
template <typename T, u32 V>
ISFM_INLINE void store_pack(T *to, const float (&values)[V]) {
  Pack<T, V> pack;
  ISFM_UNROLL
  for (u32 v = 0; v < V; ++v) pack.v[v] = from_float<T>(values[v]);
  *reinterpret_cast<Pack<T, V> *>(to) = pack;
}

// Whether packs of V may be read there; null is.
template <u32 V, typename... T>
ISFM_INLINE bool packable(const T *...at) {
  return ((... | ((size_t)at % (V * sizeof(T)))) == 0);
}

// The sums of `n` values over `count` parts in a fixed order, `finish(i, sum)` of each: 32 values a
// block of ISFM_THREADS, whose warps take every eighth part.
template <typename Finish>
ISFM_INLINE void sum_parts(const float *parts, u32 n, u32 count, Finish finish) {
  constexpr u32 WARPS = ISFM_THREADS / 32;
  __shared__ float sums[WARPS][32];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (u32 first = blockIdx.x * 32; first < n; first += gridDim.x * 32) {
    const u32 i = first + lane;
    float sum = 0.0f;
    if (i < n) {
      ISFM_UNROLL_8
      for (u32 p = warp; p < count; p += WARPS) sum += parts[(size_t)p * n + i];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && i < n) {
      for (u32 w = 1; w < WARPS; ++w) sum += sums[w][lane];
      finish(i, sum);
    }
    __syncthreads();
  }
}

#endif
