"""On a GPU: numbers of every λ, and moves. `make test-vllm ARGS="-m gpu"`."""

from __future__ import annotations

import pytest

from tests.vllm import asked
from tests.vllm.test_families import FAMILIES

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_partial_hfs_at_every_lam(family, on_vllm, on_hf):
    requests = asked.few_shot()
    ours, theirs = on_vllm(family, 0.37), on_hf(family, 0.37, device="cuda")
    for lam in (0.37, 1.0, 0.0):
        if lam != ours.lam:
            ours.set_lam(lam)
            theirs.set_lam(lam)
        found = ours.loglikelihood(requests, disable_tqdm=True)
        expected = theirs.loglikelihood(requests, disable_tqdm=True)
        assert asked.apart(found, expected) <= 1e-2  # products in TF32
    assert ours.path_counts()["loglikelihood"] == {"shared": len(requests)}
