"""Losses, augmentation, batches, the loop, checkpoints."""
