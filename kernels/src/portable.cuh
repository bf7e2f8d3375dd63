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

#endif
