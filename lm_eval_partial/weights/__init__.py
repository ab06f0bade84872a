"""Two checkpoints become θ(λ)."""
