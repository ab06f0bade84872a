"""Seeded damage to files: their bytes, or the structure of their JSON.

    rng = random.Random(seed)
    path.write_bytes(damaged(rng, path.read_bytes()))

What comes back is a function of the seed alone.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

# What stands where another type, a small number or an ordinary text was expected. Each is already
# JSON, because some of it no Python value stands for.
STRANGE = (
    *("null", "true", "false", "0", "-1", "1", "3.5", "1e400", "-1e400", "NaN", "Infinity"),
    *("1000000000", "-1000000000", "9223372036854775808", "1" + "0" * 400, "9" * 5000),
    *('""', '"x"', '"\\ud800"', '"\\u0000"', '"../x"', '"/etc/passwd"', '"float8_e4m3fn"'),
    *('"(a+)+$"', '"(.*)*x"', '"["', '"' + "x" * 5000 + '"', '"<b>\\u001b[31m"', '"1e5"'),
    *("[]", "{}", "[0]", "[null]", '["x"]', '{"x": 1}', '{"": {}}', "[[[[]]]]", "[1e400, -5]"),
    "[" * 200 + "]" * 200,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 300 + "1" + "}" * 300,
    "[" + ",".join(["0"] * 20_000) + "]",
)
_MARK = "\ue000strange "  # begins a text that stands for an entry of STRANGE
_CHANGES = 3  # at most, in one file

Path = tuple[Any, ...]


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return a file's content with its JSON changed, if it is JSON, or its bytes."""
    try:
        value = json.loads(content)
    except ValueError:
        return damaged_bytes(rng, content)
    if rng.random() < 0.15:
        return damaged_bytes(rng, content)
    return damaged_json(rng, value).encode("utf-8", "surrogatepass")


def damaged_lines(rng: random.Random, content: bytes) -> bytes:
    """Return the content of a file of JSON lines with one line changed, doubled or left out."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return damaged_bytes(rng, content)
    index = rng.randrange(len(lines))
    way = rng.randrange(8)
    if way == 0:
        del lines[index]
    elif way == 1:
        lines.insert(index, lines[index])
    else:
        lines[index] = damaged(rng, lines[index].rstrip(b"\n")) + b"\n"
    return b"".join(lines)


def damaged_json(rng: random.Random, value: Any) -> str:
    """Return the JSON text of a value in which up to three places are changed.

    A place is given another type, a huge, negative or non-finite number, deep nesting, half of a
    surrogate pair, or another place's value; or it is left out, doubled or renamed.
    """
    found = copy.deepcopy(value)
    for _ in range(rng.randint(1, _CHANGES)):
        places = list(_places(found))
        if not places:
            return rng.choice(STRANGE)
        found = _changed(rng, found, rng.choice(places))
    return _text(found)


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return bytes that are cut, overwritten, doubled or filled with others."""
    found = bytearray(content)
    for _ in range(rng.randint(1, _CHANGES)):
        at = rng.randrange(len(found) + 1)
        way = rng.randrange(6)
        if way == 0:
            del found[at:]
        elif way == 1:
            del found[at : at + rng.randint(1, 64)]
        elif way == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 64))
        elif way == 3:
            found[at:at] = found[at : at + rng.randint(1, 256)]
        elif way == 4:  # one bit
            if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
        else:
            size = rng.randint(1, 8)
            found[at : at + size] = rng.choice((b"\xff", b"\0", b"[", b"9")) * size
    return bytes(found)


def _places(value: Any, path: Path = ()) -> Any:
    """Yield the path of every value inside of `value`, at most 2,000."""
    waiting, count = [(path, value)], 0
    while waiting and count < 2000:
        path, each = waiting.pop()
        inside: Any = ()
        if isinstance(each, dict):
            inside = each.items()
        elif isinstance(each, list):
            inside = enumerate(each)
        for key, child in inside:
            count += 1
            yield (*path, key)
            waiting.append(((*path, key), child))


def _changed(rng: random.Random, found: Any, path: Path) -> Any:
    """Return `found`, changed at one place in it."""
    if rng.random() < 0.02:
        return f"{_MARK}{rng.randrange(len(STRANGE))}"
    *before, key = path
    parent = found
    for part in before:
        parent = parent[part]
    way = rng.randrange(10)
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, dict):
        parent[rng.choice(("x", "", "a" * 300, "\ud800", "9" * 5000))] = parent.pop(key)
    elif way == 2 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif way == 3:
        parent[key] = copy.deepcopy(rng.choice(list(_values(parent))))
    elif way == 4 and isinstance(parent[key], int | float):
        parent[key] = parent[key] * rng.choice((-1, 0, 2, 10**6)) + rng.choice((0, 1, -1, 0.5))
    else:
        parent[key] = f"{_MARK}{rng.randrange(len(STRANGE))}"
    return found


def _values(parent: Any) -> Any:
    return parent.values() if isinstance(parent, dict) else parent


def _text(value: Any) -> str:
    """Return a value as JSON, with the marked texts replaced by what they stand for."""
    text = json.dumps(value)
    start = json.dumps(_MARK)[:-1]  # the opening quotation mark, and the mark as it is escaped
    first, *others = text.split(start)
    for other in others:
        number, _, rest = other.partition('"')
        first += STRANGE[int(number)] + rest
    return first
