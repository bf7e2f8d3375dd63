// SiLU and the gate x * SiLU(z), element by element, with their gradients.
//
// Grid: x over elements. Threads stride over what a smaller grid leaves.
#include "silu.cuh"

// y = SiLU(x).
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    silu_forward_f32(const float *__restrict__ x, float *__restrict__ y, unsigned long long n) {
  const Span span = span_x();
  for (unsigned long long i = span.first; i < n; i += span.step) y[i] = silu(x[i]);
}

// dx = dy * SiLU'(x).
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    silu_backward_f32(const float *__restrict__ x, const float *__restrict__ dy,
                      float *__restrict__ dx, unsigned long long n) {
  const Span span = span_x();
  for (unsigned long long i = span.first; i < n; i += span.step)
    dx[i] = dy[i] * silu_derivative(x[i]);
}

// y = x * SiLU(z).
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    silu_gate_forward_f32(const float *__restrict__ x, const float *__restrict__ z,
                          float *__restrict__ y, unsigned long long n) {
  const Span span = span_x();
  for (unsigned long long i = span.first; i < n; i += span.step) y[i] = x[i] * silu(z[i]);
}

// dx = dy * SiLU(z), dz = dy * x * SiLU'(z).
extern "C" __global__ void __launch_bounds__(ISFM_THREADS)
    silu_gate_backward_f32(const float *__restrict__ x, const float *__restrict__ z,
                           const float *__restrict__ dy, float *__restrict__ dx,
                           float *__restrict__ dz, unsigned long long n) {
  const Span span = span_x();
  for (unsigned long long i = span.first; i < n; i += span.step) {
    dx[i] = dy[i] * silu(z[i]);
    dz[i] = dy[i] * x[i] * silu_derivative(z[i]);
  }
}
