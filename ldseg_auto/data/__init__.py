"""Datasets in nnU-Net's raw format: reading, writing, labels, splits."""
