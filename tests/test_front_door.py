"""`import lm_eval_partial` loads nothing heavy, and has the names that README gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lm_eval_partial


def test_the_package_alone_loads_nothing_heavy():
    heavy = {"torch", "lm_eval", "transformers", "numpy", "yaml"}
    # In a process of its own: this one has imported them all.
    code = f"import sys, lm_eval_partial; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", lm_eval_partial.__all__)
def test_every_name_is_what_it_says(name):
    found = getattr(lm_eval_partial, name)
    assert callable(found) and found.__module__.startswith("lm_eval_partial.")
    assert name in dir(lm_eval_partial)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Pairs'"):
        lm_eval_partial.Pairs  # noqa: B018
