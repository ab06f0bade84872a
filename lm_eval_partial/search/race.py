"""A race between λ on the same documents: which are out, which leads, and by how much it may err.

Multiple comparisons with the best (Hsu 1984) on a stratified sample of a finite population, at
several looks. This module knows arrays alone, no model and no file, so that simulations
(``lm-eval-partial bench search``) drive the very code that ``lm-eval-partial search`` runs:

    race = Race(pools, distance=[1.0, 0.5, 0.0], within=0.5, confidence=0.95)
    while not race.over:
        race.look([scores[pool][: race.drawn[pool], race.arms] for pool in range(len(pools))])

An arm is a λ, or a schedule. Scores are in the unit in which `within` is given (points), more being
better. docs/search.md has the method, its sources and its limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lm_eval_partial.results.metrics import Array
from lm_eval_partial.search.limits import differences, limits
from lm_eval_partial.search.sampling import (
    Counts,
    Pool,
    allocate,
    covariances,
    error_of,
    means,
    spreads,
)

LOOKS = (32, 64, 128, 256, 384, 512, 768, 1024)
"""Documents a task at every look; each has those of the one before."""
LEAST = 0.5
"""What a pool gives in any case, as a share of what it would give if all spreads were equal."""
TIE = 1e-9
"""Points by which equal scores may differ after rounding."""


class Race:
    """A race, look by look.

    With the confidence asked for, two things are true at every look: the best arm is not out, and
    no arm's score on all documents exceeds the leader's by more than the bound. Both follow from
    one event: no arm is ahead of the best one by more than its limit of standard errors.

    Args:
        pools: of which the score is the weighted sum of means.
        distance: [arms], from λ = 1: of equal arms the nearest leads.
        within: the race ends once the bound is no larger, in points.
        confidence: in (0, 1).

    Attributes:
        arms: numbers of those still in.
        drawn: [pools], documents that the next look is at, or that the last one was.
        scores: [arms], of the last look that each was in.
        leader: the arm that leads; None before the first look.
        bound: the best arm of all exceeds the leader by no more than this; None likewise.
        looks: how many there were.
        spent: documents times arms so far, with those of the next look.
        over: whether another look would decide nothing, or there is none left.
    """

    def __init__(
        self, pools: Sequence[Pool], distance: Sequence[float], within: float, confidence: float
    ) -> None:
        self.pools, self.within = list(pools), within
        self.distance = np.array(distance, dtype=float)
        self.error = 1 - confidence
        self.arms = list(range(len(distance)))
        self.scores = np.full(len(distance), np.nan)
        self.weights = np.array([pool.weight for pool in pools])
        self.most = np.array([pool.available for pool in pools], dtype=np.int64)
        self.drawn = np.zeros(len(pools), np.int64)
        self._spread = np.ones(len(pools))
        self._before: list[tuple[Counts, Array]] = []
        self.looks, self.spent = 0, 0
        self.leader: int | None = None
        self.bound: float | None = None
        self.over = False
        self._draw()

    def _draw(self) -> None:
        """Say how many documents of each pool the next look is at."""
        # A pool that counts less than the largest gives less.
        equal = np.ceil(LOOKS[self.looks] * self.weights / self.weights.max()).astype(np.int64)
        floor = np.ceil(LEAST * equal).astype(np.int64) if self.looks else equal
        floor = np.minimum(np.maximum(np.maximum(floor, 2), self.drawn), self.most)
        total = int(np.minimum(equal, self.most).sum())
        before = self.drawn
        self.drawn = allocate(self.weights * self._spread, floor, self.most, total)
        self.spent += int((self.drawn - before).sum()) * len(self.arms)

    def look(self, scores: Sequence[Array]) -> None:
        """Take scores; say who is out, who leads, and what the best may be ahead of the leader.

        Args:
            scores: of every pool, those of the first `drawn` documents at the `arms`,
                [documents drawn, arms].
        """
        total = means(scores, self.pools)
        margin = self._margins(scores)
        # The better of two equals is not out for a rounding error.
        out = (total - total[:, None] > margin + TIE).any(1)
        best = total > total.max() - TIE
        leader = int(np.where(best, self.distance[self.arms], np.inf).argmin())
        bound = (total - total[leader] + margin[:, leader])[~out].max()
        self.scores[self.arms] = total
        self.leader, self.bound = self.arms[leader], float(max(0.0, bound))
        kept = np.flatnonzero(~out)
        self._spread = spreads([values[:, kept] for values in scores])
        self.arms = [self.arms[place] for place in kept]
        self.looks += 1
        decided = self.bound <= self.within or len(self.arms) == 1
        exhausted = self.looks == len(LOOKS) or bool((self.drawn == self.most).all())
        self.over = decided or exhausted
        if not self.over:
            self._draw()

    def _margins(self, scores: Sequence[Array]) -> Array:
        """Return what each arm (columns) may be ahead of each other (rows) by chance, in points."""
        spread = covariances(scores)
        counts = [drawn for drawn, _ in self._before] + [self.drawn]
        errors = [error_of(spread, drawn, self.pools) for drawn in counts]
        now, before = spent_error(self.looks), spent_error(self.looks - 1)
        passed = [limit[self.arms] for _, limit in self._before]
        limit = limits(errors, passed, self.error * (now - before))
        of_all = np.full(len(self.distance), np.nan)
        of_all[self.arms] = limit
        self._before.append((self.drawn, of_all))
        return np.asarray(limit[:, None] * differences(errors[-1]))


def spent_error(look: int) -> float:
    """Return the share of the error that is spent after a look, numbered from 0; 0 before it.

    In proportion to the root of the documents: between an even share a look, and all at the end.
    """
    return float(np.sqrt(LOOKS[look] / LOOKS[-1])) if look >= 0 else 0.0
