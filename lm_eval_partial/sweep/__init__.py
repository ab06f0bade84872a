"""Many λ, one folder of results."""
