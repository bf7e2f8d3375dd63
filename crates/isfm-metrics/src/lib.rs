//! Image-fusion quality metrics on plain pixels: EN, SD, SF, AG, MI, SCD, VIF, Qabf, SSIM and more
