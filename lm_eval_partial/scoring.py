"""Log-likelihoods that compute every shared prefix once; knows transformers, not lm-eval.

Requests become a tree of shared prefixes (`prefix_tree`). A long prefix with much below it runs once and leaves its
keys and values (`prefix_cache`); what follows is packed into rows, each token once, under a mask in which a token
sees its own sequence alone. Only the outputs that predict a continuation's token meet the head.

    answers = list(score(PrefixModel(model, budget=2048), [Request(tokens=[5, 7, 9, 2], continuation=2)]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size

from lm_eval_partial.gpu import on_cpu, on_device
from lm_eval_partial.prefix_cache import PrefixCache, PrefixModel
from lm_eval_partial.prefix_tree import Ints, PrefixTree, Range

ROW_TOKENS = 512
"""Tokens of a row of strangers. They are masked from one another, not skipped: longer rows waste attention."""


class Request(NamedTuple):
    """One question: the log-likelihood of the last `continuation` tokens after the others.

    Attributes:
        tokens: context and continuation, at least two ids.
        continuation: how many of them are scored, in [1, len(tokens) - 1].
    """

    tokens: Sequence[int] | Ints
    continuation: int


class Answer(NamedTuple):
    """The answer to a `Request`.

    Attributes:
        request: which one.
        logprob: natural logarithm of the continuation's probability.
        is_greedy: whether each token of it is the likeliest one.
    """

    request: int
    logprob: float
    is_greedy: bool


def score(
    model: PrefixModel, requests: Sequence[Request], softmax_dtype: torch.dtype | None = None
) -> Iterator[Answer]:
    """Yield the answers, in no particular order.

    Args:
        model: a model that is not `unsupported`.
        requests: none longer than the model's `longest`.
        softmax_dtype: dtype of the log-softmax; by default that of the logits.

    Raises:
        DisagreementError: before an answer of that kind of row is given, if packed rows do not have this model's own
            numbers.
    """
    if not requests:
        return
    tree = PrefixTree(
        [request.tokens[:-1] for request in requests],
        [len(request.tokens) - 1 - request.continuation for request in requests],
    )
    questions = _Questions(model, tree, requests, softmax_dtype)
    work: list[tuple[Range, int, PrefixCache | None]] = [(tree.root, 0, None)]
    asked: Callable[[], list[Answer]] = list  # the last batch, whose answers a GPU may still be computing
    while work:
        part, done, cache = work.pop()
        if done < part.start:
            with model.first("forking rows after a cache"):
                cache = model.after(cache, tree.sequences[part.first][done : part.start])
        rows, deeper = tree.cut(part, min(ROW_TOKENS, model.budget), model.budget)
        rows.sort(key=tree.size)
        while rows:
            size = tree.size(rows[-1])
            width = model.rounded(size)
            batch = [rows.pop()]
            while rows and (len(batch) + 1) * width <= model.budget and 2 * tree.size(rows[-1]) > size:
                batch.append(rows.pop())
            way = _way(batch, cache)
            try:
                with model.first(way):
                    answers = questions.ask(batch, cache)
                    if way not in model.checked:
                        questions.check(answers())
                        model.checked.add(way)
            except RuntimeError as error:
                smaller = batch if len(batch) > 1 else _halves(batch[0])
                if len(smaller) == 1 or not should_reduce_batch_size(error):
                    raise
                model.halve(len(batch) * width)
                rows = sorted([*rows, *smaller], key=tree.size)
                continue
            yield from asked()
            asked = answers
        work += [(below, part.start, cache) for below in reversed(deeper)]
    yield from asked()


class _Questions:
    """What is asked of each sequence of a tree."""

    def __init__(
        self,
        model: PrefixModel,
        tree: PrefixTree,
        requests: Sequence[Request],
        softmax_dtype: torch.dtype | None,
    ) -> None:
        self._model = model
        self._tree = tree
        self._requests = requests
        self._softmax_dtype = softmax_dtype
        self._of: list[list[int]] = [[] for _ in tree.sequences]
        for index, place in enumerate(tree.index):
            self._of[place].append(index)

    def ask(self, parts: list[Range], cache: PrefixCache | None) -> Callable[[], list[Answer]]:
        """Ask all that is asked of the sequences of `parts`, one row each, in one call.

        Returns:
            what waits for the answers and returns them: until then a GPU works while the next batch is laid out.
        """
        rows = [self._tree.lay_out(part) for part in parts]
        start = parts[0].start
        alone = not start and len(rows) == 1 and len(rows[0].paths) == 1  # the model's own causal mask will do
        longest = max(len(row.tokens) for row in rows)
        width = longest if alone else self._model.rounded(longest)
        indices: list[int] = []
        outputs: list[Ints] = []  # positions of those wanted, in rows put end to end
        targets: list[Sequence[int] | Ints] = []
        for number, (part, row) in enumerate(zip(parts, rows, strict=True)):
            for sequence, path in zip(range(part.first, part.last), row.paths, strict=True):
                for index in self._of[sequence]:
                    tokens, length = self._requests[index]
                    indices.append(index)
                    outputs.append(path[-length:] + number * width)
                    targets.append(tokens[-length:])
        wanted, where = np.unique(np.concatenate(outputs), return_inverse=True)
        device = self._model.model.device
        ids, positions, ends = (
            on_device(_padded([getattr(row, name) for row in rows], width), device)
            for name in ("tokens", "positions", "ends")
        )
        logits = self._model.logits(
            ids,
            wanted,
            position_ids=positions,
            attention_mask=None if alone else self._model.mask(ends, start),
            **self._model.with_cache(PrefixCache(0, cache, keep=False) if cache else None),
        )
        target = on_device(np.concatenate(targets), logits.device)
        place = on_device(where, logits.device)
        all_logprobs = F.log_softmax(logits, dim=-1, dtype=self._softmax_dtype)
        are_target = on_cpu(all_logprobs.argmax(dim=-1)[place] == target)  # ties are decided as stock does
        logprobs = on_cpu(all_logprobs[place, target])
        begins = np.cumsum([0, *(len(each) for each in outputs[:-1])])

        def answers() -> list[Answer]:
            sums = torch.from_numpy(np.add.reduceat(logprobs().double().numpy(), begins))
            rounded = sums.to(logprobs().dtype).tolist()  # as the sum of such numbers is
            are_greedy = np.logical_and.reduceat(are_target().numpy(), begins).tolist()
            return [Answer(*answer) for answer in zip(indices, rounded, are_greedy, strict=True)]

        return answers

    def check(self, answers: list[Answer]) -> None:
        """Compare some answers, the last too, with those of the model asked one sequence at a time.

        Raises:
            DisagreementError: they differ by more than rounding.
        """
        for answer in {answers[index * (len(answers) - 1) // 3] for index in range(4)}:
            tokens, length = self._requests[answer.request]
            ids = on_device(np.asarray(tokens), self._model.model.device)
            logits = self._model.logits(ids[None, :-1], np.arange(len(ids) - 1 - length, len(ids) - 1))
            logprobs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
            plain = logprobs.gather(1, ids[-length:, None].to(logits.device)).sum().item()
            self._model.check(answer.logprob, plain, length)


def _way(batch: list[Range], cache: PrefixCache | None) -> str:
    """Return how `batch` is asked: only a row that forks shows whether the mask does its work."""
    forking = "forking rows" if any(part.last - part.first > 1 for part in batch) else "plain rows"
    return f"{forking} after a cache" if cache else forking


def _padded(arrays: list[Ints], width: int) -> Ints:
    """Return `arrays` as rows of one array, zeros at the ends, [rows, width]."""
    rows = np.zeros((len(arrays), width), dtype=np.int64)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows


def _halves(part: Range) -> list[Range]:
    """Return `part` as two rows, or as it is if it is one sequence."""
    middle = (part.first + part.last) // 2
    return [part] if middle == part.first else [part._replace(last=middle), part._replace(first=middle)]
