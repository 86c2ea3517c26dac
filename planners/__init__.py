"""Fingerprint, rules and plans."""
