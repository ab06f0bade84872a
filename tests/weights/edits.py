"""Checkpoints changed on disk, as they are found damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]


def edit(folder: Path, change: Callable[[Weights], Any], file: str = "model.safetensors") -> None:
    """Rewrite a file of weights after `change` of the dictionary of its tensors."""
    weights = load_file(folder / file)
    # Its own copy: the file that is mapped is about to be written.
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})


def set_config(folder: Path, file: str = "config.json", **fields: object) -> None:
    """Change fields of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def poison(folder: Path, name: str, value: float = float("nan"), **where: str) -> None:
    """Give the last value of a tensor another one."""

    def change(weights: Weights) -> None:
        weights[name].view(-1)[-1] = value

    edit(folder, change, **where)
