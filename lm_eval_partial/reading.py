"""The one way in for a file that we did not write: bounded, and checked against a declared shape.

A shape is a `TypedDict`, or any type that pydantic knows. What is read stays a plain dictionary.

    class Index(Shape):
        weight_map: dict[str, str]

    index = read_json(Path("model.safetensors.index.json"), Index, "Fetch it again.")

Wrong values are named by their place in the file: ``weight_map.lm_head.weight``. No type is
converted into another, so ``"8"`` is no number. Fields that the shape does not name are kept.
"""

from __future__ import annotations

import functools
import json
import re
import stat
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml  # type: ignore[import-untyped]
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own has no such config before Python 3.12

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import readable_bytes

T = TypeVar("T")

SMALL = 64 * 2**20  # bytes of a config, an index, a manifest: real ones have at most a few MiB
LARGE = 2**30  # bytes of a result file
# libyaml where it is there: twenty times as fast, and it bounds the nesting of what it reads.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEPTH = 50  # lists and objects inside one another; real files have a dozen
NODES = 100_000  # of a YAML file once its aliases are written out; the largest suites have hundreds
_SHOWN = 60  # characters of a wrong value in a message


class Shape(TypedDict):
    """The base of declared shapes: strict types, and fields that are not named are kept."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]


def read_text(path: Path, hint: str, limit: int = SMALL) -> str:
    """Return the text of a regular file.

    Args:
        path: the file.
        hint: what to do, for the message; a sentence or several.
        limit: bytes that it may have.

    Raises:
        UserError: it is a folder, a pipe or the like, is too large, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            raise UserError(f"{path} is not a regular file. {hint}")
        if status.st_size > limit:
            raise UserError(
                f"{path} has {readable_bytes(status.st_size)}, more than such a file ever has"
                f" ({readable_bytes(limit)}). {hint}"
            )
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}). {hint}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}). {hint}") from error


def read_json(path: Path, shape: type[T], hint: str, limit: int = SMALL) -> T:
    """Return the content of a JSON file.

    Args:
        path: the file.
        shape: what it holds.
        hint: as `read_text`.
        limit: as `read_text`.

    Raises:
        UserError: as `read_text`, it is not JSON, or not of this shape; the place is named.
    """
    return parse_json(read_text(path, hint, limit), shape, str(path), hint)


def parse_json(text: str, shape: type[T], where: str, hint: str) -> T:
    """Return what a JSON text holds; `where` names it in messages. Raises as `read_json`."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be read. {hint}") from error
    except ValueError as error:  # not JSON, or a number of thousands of digits
        raise UserError(f"{where} is not JSON ({error}). {hint}") from error
    if _is_deep(found):  # whoever walks through it, or writes it again, would run out of stack
        raise UserError(f"{where} is nested too deeply to be read. {hint}")
    # Half of a character cannot be written to any file again.
    if re.search(r"\\u[dD][89a-fA-F]", text) and _has_lone_surrogate(found):
        raise UserError(f"{where} has a text with half of a surrogate pair. {hint}")
    return check_shape(found, shape, where, hint)


def check_shape(value: Any, shape: type[T], where: str, hint: str) -> T:
    """Return `value`, which is of this shape.

    Raises:
        UserError: it is not; the first wrong place is named, with what was found there.
    """
    try:
        adapter = _adapter(cast("Any", shape))  # to mypy, a type is not hashable
        return cast("T", adapter.validate_python(value))
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise UserError(f"{where} is nested too deeply to be read. {hint}") from error
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        expected = first["msg"][:1].lower() + first["msg"][1:]
        if first["type"] != "missing":
            expected += f", not {_shown(first['input'])}"
        raise UserError(f"{where}: {place}: {expected}. {hint}") from error


def compose_yaml(text: str, where: str, hint: str) -> Any:
    """Return the YAML node of a text, None if it is empty; nothing is constructed.

    Raises:
        UserError: it is not YAML, is nested too deeply, or its aliases stand for more than `NODES`
            values.
    """
    try:
        node = yaml.compose(text, Loader=LOADER)
        size = _expanded(node, {})
    except yaml.YAMLError as error:
        if "nesting" in str(error):
            raise UserError(f"{where} is nested too deeply to be read. {hint}") from error
        raise UserError(f"{where} is not YAML ({' '.join(str(error).split())}). {hint}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be read. {hint}") from error
    if size > NODES:
        raise UserError(
            f"{where} stands for {size:.1e} values once its aliases are written out; {NODES:,} are"
            f" read at most. {hint}"
        )
    return node


def read_yaml(path: Path, shape: type[T], hint: str) -> T:
    """Return the content of a YAML file.

    Args:
        path: the file.
        shape: what it holds.
        hint: as `read_text`.

    Raises:
        UserError: as `read_text` and `compose_yaml`, a key is there twice, or it is not of this
            shape; the place is named.
    """
    node = compose_yaml(read_text(path, hint), str(path), hint)
    if twice := _repeated_key(node):
        raise UserError(f"{path} has the key {twice} twice. {hint}")
    try:
        found = None if node is None else LOADER("").construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}). {hint}") from error
    return check_shape(found, shape, str(path), hint)


def _repeated_key(node: Any) -> str | None:
    """Return a key that stands twice in one mapping, of which YAML would keep the last."""
    if not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        return None
    children, keys = list(node.value), set[str]()
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                return str(key.value)
            keys.add(str(key.value))
        children = [value for _, value in node.value]
    return next(filter(None, map(_repeated_key, children)), None)


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep list
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _is_deep(value: Any) -> bool:
    """Return whether more than `DEPTH` lists and objects are inside one another."""
    level = [value]
    for _ in range(DEPTH + 1):
        inside: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inside.extend(each.values())
            elif isinstance(each, list):
                inside.extend(each)
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _expanded(node: Any, sizes: dict[int, float]) -> float:
    """Return how many values a YAML node stands for; infinite for one that holds itself."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = float("inf")  # until it is known: an alias to it from inside is a circle
    children: Any = ()
    if isinstance(node, yaml.MappingNode):
        children = (each for pair in node.value for each in pair)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = 1 + sum(_expanded(child, sizes) for child in children)
    return sizes[id(node)]
