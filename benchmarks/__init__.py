"""Measurements: accuracy against baselines, ablations at equal compute, and speed."""
