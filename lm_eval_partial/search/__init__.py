"""The best λ with a guarantee, for a part of the grid."""
