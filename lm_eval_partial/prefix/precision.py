"""A model in half precision computes in float32 for a while, one module's weights at a time.

What two ways of computing differ by in float32 is not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

HALF = (torch.bfloat16, torch.float16)


def can_widen(model: torch.nn.Module) -> bool:
    """Return whether every weight is a plain floating-point number, not a quantised one."""
    known = (*HALF, torch.float32)
    return all(parameter.dtype in known for parameter in model.parameters())


@contextmanager
def in_float32(model: torch.nn.Module, at_once: bool = False) -> Iterator[None]:
    """Let every module of `model` compute in float32.

    Going there and back is exact. torch raises an error where a kernel exists for half precision
    only.

    Args:
        model: whose weights `can_widen`.
        at_once: whether all weights are widened together, which takes the memory of the model in
            float32. If not, a module's own are, only while it runs. Then torch also raises an error
            where a module reads the weights of another, as Mamba 2 does.
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
        if at_once:
            widen(module, None)
        elif next(_own(module), None):
            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(narrow):
            restore(module)


@contextmanager
def perturbed(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Let the embeddings of tokens be off by one step of their dtype, in a random direction.

    What depends on rounding comes out otherwise then, and a fault as before. Each call of the model
    has noise of its own.
    """
    random = torch.Generator().manual_seed(seed)

    def shake(module: torch.nn.Module, _: Any, found: torch.Tensor) -> torch.Tensor:
        steps = torch.randint(-1, 2, found.shape, generator=random).to(found)
        return found * (1 + torch.finfo(found.dtype).eps * steps)

    try:
        handle = model.get_input_embeddings().register_forward_hook(shake)  # type: ignore[operator]
    except (AttributeError, NotImplementedError):  # a stranger's model may not say which they are
        yield
        return
    try:
        yield
    finally:
        handle.remove()


def _own(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the module's own parameters' data and buffers, not its children's."""
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter.data
    yield from module.named_buffers(recurse=False)


def _put(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        own = getattr(module, name)
        if isinstance(own, torch.nn.Parameter):
            own.data = tensor
        else:
            setattr(module, name, tensor)
