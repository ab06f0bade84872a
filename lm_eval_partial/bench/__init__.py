"""Timings side by side with stock: `load`, `scoring` on a loaded model, and a `sweep` over λ."""
