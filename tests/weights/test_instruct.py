"""Kinds of instruct side answer for themselves: no caller asks which kind it has."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import instruct
from lm_eval_partial.weights.adapter import Adapter
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair
from tests import pico

NORM = "model.norm.weight"


class Difference(Checkpoint):
    """A kind of side that the package does not have: a file of what to add to the base."""

    notes = ("a file of differences",)

    def __init__(self, base, path, revision, subfolder):
        self.base = base
        super().__init__("instruct", path, revision, subfolder)

    @classmethod
    def recognises(cls, path, revision, subfolder):
        return Path(path, "difference.safetensors").is_file()

    @classmethod
    def as_instruct(cls, base, path, revision, subfolder):
        return cls(base, path, revision, subfolder)

    def _open_config(self):
        return self.base.config

    @property
    def model_source(self):
        return self.base

    @property
    def tokenizer_source(self):
        return self.base

    @cached_property
    def files(self):
        return (str(Path(self.path, "difference.safetensors")),)

    @cached_property
    def tensors(self):
        tensors = dict(self.base.tensors)
        for name, change in self.read_tensors(self.files).items():
            tensors[name] = tensors[name][...] + change[...]
        return tensors


@pytest.fixture
def difference(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(instruct, "KINDS", [Difference, *instruct.KINDS])
    folder = tmp_path / "difference"
    folder.mkdir()
    save_file({NORM: torch.full((32,), 2.0)}, folder / "difference.safetensors")
    return folder


def test_another_kind_goes_through_every_caller_as_it_is(difference, pairs):
    base = pairs("llama")[0]
    lm = PartialHFLM(base=str(base), instruct=str(difference), lam=0.25)
    plain = load_file(base / "model.safetensors")
    found = lm.model.state_dict()
    torch.testing.assert_close(found[NORM], plain[NORM] + 0.5)
    assert all(torch.equal(found[name], plain[name]) for name in plain if name != NORM)
    assert lm.pair.notes() == ["a file of differences"]


def test_a_kind_whose_update_is_in_its_weights_has_nothing_to_merge(difference, pairs):
    base = str(pairs("llama")[0])
    with pytest.raises(UserError, match="merge=True is for adapters"):
        PartialHFLM(base=base, instruct=str(difference), lam=0.25, merge=True)


def test_both_kinds_answer_the_same_questions(pairs, tmp_path):
    base, full = pairs("llama")
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    sides = [Pair.open(str(base), str(path)).instruct for path in (full, adapter)]
    assert [type(side) for side in sides] == [Checkpoint, Adapter]
    assert [side.separable for side in sides] == [False, True]
    assert [len(side.updates) for side in sides] == [0, 2]
    assert [list(side.notes) for side in sides] == [[], []]
