"""Image encoder, label encoder, denoiser, label decoder, and LDSeg that joins them."""
