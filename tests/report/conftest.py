"""Eighteen made-up pairs, read once."""

from __future__ import annotations

import pytest

from lm_eval_partial.report.pairs.families import Member, members
from lm_eval_partial.results.trajectory import read
from tests.many_pairs import many


@pytest.fixture(scope="session")
def eighteen(tmp_path_factory) -> list[Member]:
    folders = many(tmp_path_factory.mktemp("many"), documents=60)
    return members(read(folders, {}))
