// SiLU, its derivative, and the gate x * SiLU(z).
#ifndef ISFM_SILU_CUH
#define ISFM_SILU_CUH

#include "portable.cuh"

// For very negative x expf(-x) is infinite and the result 0, as it should be.
ISFM_INLINE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

ISFM_INLINE float silu(float x) { return x * sigmoid(x); }

ISFM_INLINE float silu_derivative(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

#endif
