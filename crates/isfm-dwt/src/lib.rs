//! Differentiable discrete wavelet transforms for Candle tensors
