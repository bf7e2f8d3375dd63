// Lets one source be CUDA under nvcc or NVRTC, and plain C++17 under any other compiler.
//
// The C++ form is for checking a kernel's arithmetic and indexing on a machine without a GPU:
// isfm_launch runs the threads of a grid one after another. A kernel with barriers, shared memory
// or shuffles would need its threads to run side by side, which this does not do.
#ifndef ISFM_PORTABLE_CUH
#define ISFM_PORTABLE_CUH

// The most threads in a block. The compiler shares out registers by it.
#define ISFM_THREADS 256

#ifdef __CUDACC__

#define ISFM_INLINE __device__ __forceinline__

#else

#include <math.h>
#include <stddef.h>

#define ISFM_INLINE inline
#define __global__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned int x, y, z;
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

template <typename... Params, typename... Args>
void isfm_launch(dim3 grid, dim3 block, void (*kernel)(Params...), Args... args) {
  gridDim = grid;
  blockDim = block;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
        for (threadIdx.z = 0; threadIdx.z < block.z; ++threadIdx.z)
          for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
            for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel(args...);
}

#endif

// This thread's place among all threads of the grid, and how many there are, along each axis.
struct Span {
  unsigned int first, step;
};
ISFM_INLINE Span span_x() {
  return {blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x};
}
ISFM_INLINE Span span_y() {
  return {blockIdx.y * blockDim.y + threadIdx.y, gridDim.y * blockDim.y};
}
ISFM_INLINE Span span_z() {
  return {blockIdx.z * blockDim.z + threadIdx.z, gridDim.z * blockDim.z};
}

#endif
