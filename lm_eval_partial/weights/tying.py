"""Weights that a model uses twice: settled, so that both sides have the same tensors.

Most models may use the embedding as their output head. Some tie more: BERT the head's bias, Zamba
the weights of one layer in others. Which names are tied, and to what, says the model class; whether
they are, its config.
"""

from __future__ import annotations

from collections.abc import Mapping

from lm_eval_partial.weights.architecture import Architecture, Placed

Side = dict[str, Placed]


def settle(placed: Mapping[str, Side], architectures: Mapping[str, Architecture]) -> bool:
    """Settle the tied weights of both sides; return whether both tie their head to the embedding.

    A side's head is its embedding where its own config ties them, whatever else the file holds
    (`HFLM` ties by the config), and nowhere else: a head that is missing is not made up. If both
    tie, the result has no head of its own; if one does, both sides get one. Other tied weights go
    with the head, as in transformers.

    Args:
        placed: of each side, by its role: its tensors by their name in the model; changed here.
        architectures: of each side.
    """
    ties = {role: architectures[role].tied for role in placed}
    together = all(architectures[role].head in ties[role] for role in placed)
    for role, side in placed.items():
        for target, source in ties[role].items():
            _settle(side, target, source, together)
    return together


def _settle(side: Side, target: str, source: str, together: bool) -> None:
    """Leave `source` only if weights are used `together`; else give both names its tensor."""
    if source not in side and target in side:  # transformers takes the one that is there
        side[source] = _called(source, side.pop(target))
    if together:
        side.pop(target, None)
    elif source in side:
        side[target] = _called(target, side[source])


def _called(name: str, placed: Placed) -> Placed:
    return Placed(name, name, True, placed.tensor)
