"""A model in half precision computes in float32 for a while, with the weights of one module at a time.

What two ways of computing differ by in float32 is not rounding: the self-check asks here before it gives up a way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

HALF = (torch.bfloat16, torch.float16)


def can_widen(model: torch.nn.Module) -> bool:
    """Return whether every weight is a plain floating-point number: quantised ones have no float32."""
    known = (*HALF, torch.float32)
    return all(parameter.dtype in known for parameter in model.parameters())


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Let every module of `model` compute in float32, widening its own weights only while it runs.

    Going there and back is exact, and the memory needed is that of the largest module's weights in float32. A module
    that reads another one's weights, or runs a kernel for half precision only, raises an error of torch's.
    """
    narrow: dict[torch.nn.Module, dict[str, torch.Tensor]] = {}  # what running modules had

    def widen(module: torch.nn.Module, _: Any) -> None:
        own = {name: tensor for name, tensor in _own(module) if tensor.dtype in HALF}
        narrow.setdefault(module, own)
        _put(module, {name: tensor.float() for name, tensor in own.items()})

    def restore(module: torch.nn.Module, *_: Any) -> None:
        _put(module, narrow.pop(module, {}))

    handles = []
    for module in model.modules():
        if next(_own(module), None):
            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(narrow):
            restore(module)


def _own(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the module's own parameters' data and buffers, not its children's."""
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter.data
    yield from module.named_buffers(recurse=False)


def _put(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name in module._parameters:
            module.get_parameter(name).data = tensor
        else:
            module._buffers[name] = tensor
