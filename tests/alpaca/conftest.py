"""What the tests of judging share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_partial.alpaca.environment import find_python
from lm_eval_partial.errors import UserError


@pytest.fixture(scope="session")
def python() -> Path:
    try:
        return find_python()
    except UserError as error:
        pytest.skip(str(error))
