//! Mamba selective scan for Candle: 1-D and four-direction, SS2D and VSS blocks, fast on the CPU, with gradients
