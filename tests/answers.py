"""Comparison of logged samples and of state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def agree(ours: Any, stock: Any, tolerance: float = 1e-4) -> bool:
    """Return whether two logged values are equal, log-likelihoods within `tolerance`.

    Or within two steps of float32, which are more beyond 400: sums are logged in it.
    """
    if type(ours) is not type(stock):
        return False
    if isinstance(ours, dict):
        if ours.keys() != stock.keys():
            return False
        return all(agree(value, stock[name], tolerance) for name, value in ours.items())
    if isinstance(ours, list | tuple):
        if len(ours) != len(stock):
            return False
        return all(agree(a, b, tolerance) for a, b in zip(ours, stock, strict=True))
    try:
        allowed = max(tolerance, 2**-22 * abs(float(stock))) if ours != stock else 0
        return bool(ours == stock or abs(float(ours) - float(stock)) <= allowed)
    except (TypeError, ValueError):
        return False


def equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Return whether two state dicts have the same names, and under each the same values."""
    if ours.keys() != theirs.keys():
        return False
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
