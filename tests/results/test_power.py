"""How often a λ inside is found to beat both ends, on documents as many as the suite has.

    make test ARGS="-m slow -s tests/results/test_power.py"

prints the table of docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.results import metrics, uncertainty
from lm_eval_partial.results.estimates import Total, estimate
from lm_eval_partial.results.series import Series
from tests.results.test_coverage import same_weights  # noqa: F401  (draws them once)

SIZES = (
    *(14042, 17944, 3610, 1172, 10042, 1838, 1267, 1221, 500, 872, 7600),
    *(277, 638, 6511, 1319, 3270, 10570, 9536, 970, 235, 98),
)
"""Documents of the suite's 21 tasks (task_configs/README.md)."""
LAMS = np.linspace(0, 1, 11)
TRIALS, ROUNDS = 100, 400
CURVES = {
    "all alike": 0 * LAMS,
    "rises to λ = 0.5, then level": np.minimum(LAMS, 0.5) * 10,
    "falls from λ = 0": -5 * LAMS,
    "0.5 points over both ends at λ = 0.6": np.interp(LAMS, [0, 0.6, 1], [0, 0.5, 0]),
    "1 point": np.interp(LAMS, [0, 0.6, 1], [0, 1, 0]),
    "2.5 points": np.interp(LAMS, [0, 0.6, 1], [0, 2.5, 0]),
}


def answers(random, points, documents):
    """Return 0 and 1, [documents, λ], of shares 0.6 plus so many `points`; neighbours are alike."""
    steps = random.standard_normal((documents, len(LAMS))) * np.sqrt(0.1 / len(LAMS))
    luck = np.sqrt(0.9) * random.standard_normal((documents, 1)) + steps.cumsum(1)
    spread = np.sqrt(0.9 + 0.1 * np.arange(1, len(LAMS) + 1) / len(LAMS))
    return (luck < spread * stats.norm.ppf(0.6 + points / 100)).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_the_size_and_the_power_of_the_test(name):
    random = np.random.default_rng(len(name))
    rejected = []
    for _ in range(TRIALS):
        total = Total(reference=10)
        for task, documents in enumerate(SIZES):
            values = answers(random, CURVES[name], documents)
            ids = np.arange(task * 10**6, task * 10**6 + documents)
            series = Series(values[..., None], metrics.mean, values.mean(0), documents, ids=ids)
            total.add(1 / len(SIZES), estimate(series, 10, ROUNDS))
        assert total.replicates is not None
        _, p = uncertainty.beats_both(total.score, total.replicates, (0, 10))
        rejected.append(p < 0.05)
    error = 100 * total.errors()[1, 6]
    print(f"| {name} | {error:.2f} | {np.mean(rejected):.2f} |")
    if "point" not in name:
        assert np.mean(rejected) <= 0.1  # 5 of 100 are expected, and 11 come once in 100 times
    elif "2.5" in name:
        assert np.mean(rejected) >= 0.95
