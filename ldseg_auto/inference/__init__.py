"""Sliding window, predictor, export."""
