"""Encoded requests as questions to a model, some at a time: a suite's would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lm_eval_partial.models.encoding import Encoded
from lm_eval_partial.prefix.loglikelihood import Request
from lm_eval_partial.prefix.tree import SHORTEST_PREFIX

PART = 8192
"""Requests at a time; of a thousand tokens each, they take some 12 KB each while they are asked."""


def question(request: Encoded, max_length: int) -> Request:
    """Return a request as a question; it loses its beginning if it is too long.

    Args:
        request: with a context of one token or more.
        max_length: of the model. Its last token is only predicted, so one more fits.
    """
    _, context, continuation = request
    kept = max_length + 1 - len(continuation)
    return Request(np.concatenate([context[-kept:], continuation]), len(continuation))


def parts(
    indices: Sequence[int], requests: Sequence[Encoded], max_length: int
) -> Iterator[list[int]]:
    """Yield the numbers of some requests in parts of about `PART`, those that begin alike together.

    The choices of a question stay together. A prefix that several parts share is computed once for
    each, which is little beside what follows it in so many requests.

    Args:
        indices: which requests.
        requests: all of them.
        max_length: of the model.
    """
    if len(indices) <= PART:
        yield list(indices)
        return
    begins: dict[int, bytes] = {}
    for index in indices:
        _, context, continuation = requests[index]
        kept = max_length + 1 - len(continuation)
        first = np.asarray(context[-kept:][:SHORTEST_PREFIX], dtype=np.int32)
        begins[index] = first.tobytes()
    part: list[int] = []
    for index in sorted(indices, key=begins.__getitem__):
        # Choices share the array of their context.
        if len(part) >= PART and requests[index][1] is not requests[part[-1]][1]:
            yield part
            part = []
        part.append(index)
    yield part
