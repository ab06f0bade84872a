"""Comparison of logged samples."""

from __future__ import annotations


def agree(ours: object, stock: object, tolerance: float = 1e-4) -> bool:
    """Return whether two logged values are equal, log-likelihoods within `tolerance`."""
    if type(ours) is not type(stock):
        return False
    if isinstance(ours, dict):
        return ours.keys() == stock.keys() and all(
            agree(ours[key], stock[key], tolerance) for key in ours
        )
    if isinstance(ours, list | tuple):
        return len(ours) == len(stock) and all(
            agree(*pair, tolerance) for pair in zip(ours, stock, strict=True)
        )
    try:
        return ours == stock or abs(float(ours) - float(stock)) <= tolerance
    except (TypeError, ValueError):
        return False
