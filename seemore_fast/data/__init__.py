"""Pictures for evaluation and training: pairs of HR and LR, MATLAB's bicubic, PSNR and SSIM."""
