"""Which of the trained models predicts best, and how: cross-validation, choice, post-processing."""
