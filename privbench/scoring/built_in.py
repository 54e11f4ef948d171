"""The table of the suite's metrics; a new one is a line here."""

__all__ = ["BUILT_IN"]

BUILT_IN = {
    "psnr": "privbench.scoring.metrics:PSNR",
    "ssim": "privbench.scoring.metrics:SSIM",
    "lpips": "privbench.scoring.perceptual:LPIPS",
    "mse": "privbench.scoring.metrics:MSE",
    "psnr_patch": "privbench.scoring.patches:PSNR_PATCH",
    "ssim_patch": "privbench.scoring.patches:SSIM_PATCH",
    "fft2d_cosine": "privbench.scoring.fourier:FFT2D_COSINE",
    "fft2d_mse": "privbench.scoring.fourier:FFT2D_MSE",
    "ssim_zero_padded": "privbench.scoring.metrics:SSIM_ZERO_PADDED",
}
"""The metrics of the suite as `module:attribute`, in the order of the columns."""
