"""Timings side by side with stock: `load`, and `scoring` on a loaded model."""
