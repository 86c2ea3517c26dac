"""Noise schedules and samplers: pure functions that know nothing of images."""
