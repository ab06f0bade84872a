"""Log-likelihoods that compute every shared prefix once; knows transformers, not lm-eval.

Requests become a tree of shared prefixes (`tree`). A long prefix with much below it runs once and
leaves its keys and values (`cache`). What follows is packed into rows, each token once, under a
mask in which a token sees its own sequence alone (drawn in `tree.Row`). Only the outputs that
predict a continuation's token meet the head.

    answers = list(score(PrefixModel(model, budget=2048), [Request(tokens=[5, 7, 9, 2],
    continuation=2)]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size

from lm_eval_partial.prefix import self_check
from lm_eval_partial.prefix.device import on_cpu, on_device
from lm_eval_partial.prefix.masks import Rows
from lm_eval_partial.prefix.model import AnyCache, PrefixModel
from lm_eval_partial.prefix.own_cache import OwnCache
from lm_eval_partial.prefix.precision import perturbed
from lm_eval_partial.prefix.self_check import AFTER_CACHE, Kind
from lm_eval_partial.prefix.tree import Ints, PrefixTree, Range

ROW_TOKENS = 512
"""Tokens of a row of sequences that share nothing.

Attention computes, and then masks, what one sequence must not see of another: longer rows waste it.
"""


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

    Requests in rows of a kind that the self-check finds wrong on this model are left unanswered;
    `model.failed` says why.
    """
    if not requests:
        return
    tree = _tree_of(requests)
    questions = _Questions(model, tree, requests, softmax_dtype)
    work: list[tuple[Range, int, AnyCache | None]] = [(tree.root, 0, None)]
    # Answers are read one batch late: reading waits for the GPU, which until then computes while
    # the next batch is laid out on the CPU.
    answers: Callable[[], list[Answer]] = list
    while work:
        part, done, cache = work.pop()
        if done < part.start:
            with model.trying(*AFTER_CACHE):
                if not model.failed.keys() >= AFTER_CACHE:
                    cache = model.after(cache, tree.sequences[part.first][done : part.start])
            if model.failed.keys() >= AFTER_CACHE:
                continue
        rows, deeper = _cut(model, tree, part)
        for asked in _batches(questions, rows, cache):
            yield from answers()
            answers = asked.answers
            del asked
        # The first part is taken next: its prefix goes on from the one that was just run.
        work += [(below, part.start, cache) for below in reversed(deeper)]
    yield from answers()


def score_in_full(
    model: PrefixModel, requests: Sequence[Request], softmax_dtype: torch.dtype | None = None
) -> Iterator[Answer]:
    """Yield the answers to requests that cannot be shared, each in a row of its own.

    Arguments are those of `score`. The model's own mask is used, and its head meets only what is
    asked for: stock's logits of every position can take more memory than the model.
    """
    if not requests:
        return
    tree = _tree_of(requests)
    questions = _Questions(model, tree, requests, softmax_dtype, in_full=True)
    rows = [Range(place, place + 1, 0) for place in range(len(tree.sequences))]
    answers: Callable[[], list[Answer]] = list
    for asked in _batches(questions, rows, None):
        yield from answers()
        answers = asked.answers
        del asked
    yield from answers()


def _tree_of(requests: Sequence[Request]) -> PrefixTree:
    inputs = [request.tokens[:-1] for request in requests]
    first_scored = [len(request.tokens) - 1 - request.continuation for request in requests]
    return PrefixTree(inputs, first_scored)


def _cut(model: PrefixModel, tree: PrefixTree, part: Range) -> tuple[list[Range], list[Range]]:
    """Return the rows to run after a prefix, and the parts to run after more of it."""
    if model.packs:
        most = model.row_tokens(part.start)
        return tree.cut(part, min(ROW_TOKENS, most), most)
    alone, deeper = tree.cut_singly(part)
    return [Range(place, place + 1, part.start) for place in alone], deeper


def _batches(questions: _Questions, rows: list[Range], cache: AnyCache | None) -> Iterator[Asked]:
    """Ask `rows` in batches of like length, the longest first; smaller ones if memory runs out.

    A batch is cut beforehand by the memory that it will take: on a CPU nobody says that it runs
    out, the process is killed.
    """
    model, size_of, wanted_of = questions.model, questions.tree.size, questions.wanted
    copied = model.copied_tokens(cache)
    seen = cache.start if cache else 0
    rows.sort(key=size_of)
    while rows:
        size = size_of(rows[-1])
        width = model.rounded(size) + copied
        batch = [rows.pop()]
        wanted = wanted_of(batch[0])
        if not model.has_room(1, width, seen, wanted) and len(halves := _halves(batch[0])) > 1:
            rows = sorted([*rows, *halves], key=size_of)
            continue
        while rows and (len(batch) + 1) * width <= model.budget and 2 * size_of(rows[-1]) > size:
            wanted += wanted_of(rows[-1])
            if not model.has_room(len(batch) + 1, width, seen, wanted):
                break
            batch.append(rows.pop())
        try:
            asked = questions.ask_checked(batch, cache)
        except RuntimeError as error:
            smaller = batch if len(batch) > 1 else _halves(batch[0])
            if len(smaller) == 1 or not should_reduce_batch_size(error):
                raise
            model.halve(len(batch) * width)
            rows = sorted([*rows, *smaller], key=size_of)
            continue
        if asked is not None:
            yield asked
        del asked  # its logits, before the next batch makes its own


class Asked(NamedTuple):
    """One call of the model.

    Attributes:
        answers: waits for the answers and returns them: until then a GPU works while the next batch
            is laid out.
        logits: at the positions asked for, [wanted, vocabulary].
        rows: for each sequence, which rows of `logits` are at its last positions, the last of all
            last.
    """

    answers: Callable[[], list[Answer]]
    logits: torch.Tensor
    rows: dict[int, Ints]


class _Questions:
    """What is asked of each sequence of a tree."""

    def __init__(
        self,
        model: PrefixModel,
        tree: PrefixTree,
        requests: Sequence[Request],
        softmax_dtype: torch.dtype | None,
        in_full: bool = False,
    ) -> None:
        self.model = model
        self.tree = tree
        self._requests = requests
        self._softmax_dtype = softmax_dtype
        self._in_full = in_full
        self._compared = self_check.compared(len(tree.sequences), model.dtype)
        self._of: list[list[int]] = [[] for _ in tree.sequences]
        for index, place in enumerate(tree.index):
            self._of[place].append(index)
        longest = [max(requests[index].continuation for index in of) for of in self._of]
        self._wanted = np.cumsum([0, *longest])

    def wanted(self, part: Range) -> int:
        """Return how many logits are asked for in a row, at most."""
        return int(self._wanted[part.last] - self._wanted[part.first])

    def ask_checked(self, parts: list[Range], cache: AnyCache | None) -> Asked | None:
        """Ask what `ask` asks; None if the self-check has found rows of this kind wrong."""
        kind = _kind(parts, cache)
        if self._in_full:
            return self.ask(parts, cache)
        if kind in self.model.failed:
            return None
        with self.model.trying(kind):
            asked = self.ask(parts, cache)
            if not self.is_plain(parts) and not self.model.has_passed(kind, self._compared):
                self.check(parts, cache, asked)
                self.model.note_passed(kind, self._compared)
            return asked
        return None

    def is_plain(self, parts: list[Range]) -> bool:
        """Return whether `parts` are one whole sequence, which takes the model's own mask."""
        return len(parts) == 1 and not parts[0].start and parts[0].last - parts[0].first == 1

    def ask(self, parts: list[Range], cache: AnyCache | None) -> Asked:
        """Ask all that is asked of the sequences of `parts`, one row each, in one call."""
        rows = [self.tree.lay_out(part) for part in parts]
        alone = self._in_full or self.is_plain(parts)
        longest = max(len(row.tokens) for row in rows)
        width = longest if alone else self.model.rounded(longest)
        indices: list[int] = []
        outputs: list[Ints] = []  # positions of those wanted, in rows put end to end
        targets: list[Sequence[int] | Ints] = []
        last: dict[int, Ints] = {}  # the longest of a sequence's outputs
        for number, (part, row) in enumerate(zip(parts, rows, strict=True)):
            for sequence, path in zip(range(part.first, part.last), row.paths, strict=True):
                for index in self._of[sequence]:
                    tokens, length = self._requests[index]
                    indices.append(index)
                    outputs.append(path[-length:] + number * width)
                    if length > len(last.get(sequence, ())):
                        last[sequence] = outputs[-1]
                    targets.append(tokens[-length:])
        wanted, where = np.unique(np.concatenate(outputs), return_inverse=True)
        device = self.model.model.device
        ids, positions, ends = (
            on_device(_padded([getattr(row, name) for row in rows], width), device)
            for name in ("tokens", "positions", "ends")
        )
        logits = self.model.ask(ids, wanted, Rows(positions, ends), cache, alone)
        target = on_device(np.concatenate(targets), logits.device)
        place = on_device(where, logits.device)
        all_logprobs = F.log_softmax(logits, dim=-1, dtype=self._softmax_dtype)
        are_target = on_cpu(_likeliest(all_logprobs)[place] == target)
        logprobs = on_cpu(all_logprobs[place, target])
        begins = np.cumsum([0, *(len(each) for each in outputs[:-1])])

        def answers() -> list[Answer]:
            sums = torch.from_numpy(np.add.reduceat(logprobs().double().numpy(), begins))
            rounded = sums.to(logprobs().dtype).tolist()  # as the sum of such numbers is
            are_greedy = np.logical_and.reduceat(are_target().numpy(), begins).tolist()
            return [Answer(*answer) for answer in zip(indices, rounded, are_greedy, strict=True)]

        rows_of = {
            sequence: np.searchsorted(wanted, positions) for sequence, positions in last.items()
        }
        return Asked(answers, logits, rows_of)

    def check(self, parts: list[Range], cache: AnyCache | None, asked: Asked) -> None:
        """Compare logits of one call, `asked` of `parts`, with the plain way's.

        Raises:
            DisagreementError: they differ by more than rounding.
        """
        model = self.model
        prefix = self.tree.sequences[parts[0].first][: parts[0].start]

        def shared(sequences: list[int]) -> list[float]:
            return self._deviations(asked, sequences)

        def again(sequences: list[int]) -> list[float]:
            anew = self.ask(parts, model.after(None, prefix) if cache else None)
            return self._deviations(anew, sequences)

        def shared_in_float32(sequences: list[int]) -> list[float] | None:
            return model.in_float32(lambda: again(sequences))

        def plain(sequences: list[int]) -> list[float]:
            return [self._own_noise(asked, sequence) for sequence in sequences]

        # A fault shows where a long continuation sees what it must not. One token after a context
        # has no branch.
        by_length = sorted(asked.rows, key=lambda sequence: len(asked.rows[sequence]))
        longer = by_length[len(by_length) // 2 :]
        if self._compared < self_check.SEQUENCES:
            # The first and the last of these are compared. The last in its row has most before it
            # that it must not see; a first choice has no other choice before it.
            longer.insert(0, longer.pop(longer.index(max(longer))))
        measures = self_check.Measures(
            shared, again, shared_in_float32, plain, partial(perturbed, model.model)
        )
        fades = isinstance(cache, OwnCache)
        layers = len(model.layers)
        self_check.check(longer, measures, model.dtype, layers, fades, self._compared)

    def _deviations(self, asked: Asked, sequences: list[int]) -> list[float]:
        deviations = []
        for sequence in sequences:
            rows = _last(asked, sequence)
            alone = self.model.alone(self.tree.sequences[sequence], len(rows))
            deviations.append(self_check.deviation(asked.logits[rows], alone))
        return deviations

    def _own_noise(self, asked: Asked, sequence: int) -> float:
        tokens, last = self.tree.sequences[sequence], len(_last(asked, sequence))
        crowded = self.model.alone(tokens, last, crowded=True)
        return self_check.deviation(crowded, self.model.alone(tokens, last))


def _likeliest(logprobs: torch.Tensor) -> torch.Tensor:
    """Return the likeliest token of each row, the first of equal ones, as `argmax` in stock."""
    # On a CPU `argmax` takes twice the time of `max`, which finds the same.
    return logprobs.max(dim=-1).indices if logprobs.is_cpu else logprobs.argmax(dim=-1)


def _last(asked: Asked, sequence: int) -> Ints:
    """Return which rows of the logits are compared for a sequence."""
    return asked.rows[sequence][-self_check.POSITIONS :]


def _kind(batch: list[Range], cache: AnyCache | None) -> Kind:
    """Return how `batch` is asked: only a row that forks shows whether the mask does its work."""
    if any(part.last - part.first > 1 for part in batch):
        return Kind.PACKED_AFTER_CACHE if cache else Kind.PACKED
    return Kind.SINGLE_AFTER_CACHE if cache else Kind.SINGLE


def _padded(arrays: list[Ints], width: int) -> Ints:
    """Return `arrays` as rows of one array, zeros at the ends, [rows, width]."""
    rows = np.zeros((len(arrays), width), dtype=np.int64)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows


def _halves(part: Range) -> list[Range]:
    """Return `part` as two rows, or as it is if it is one sequence."""
    middle = (part.first + part.last) // 2
    return (
        [part]
        if middle == part.first
        else [part._replace(last=middle), part._replace(first=middle)]
    )
