//! Training losses for infrared-visible image fusion, for Candle
