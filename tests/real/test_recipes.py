"""Recipes against the metadata of the models they name, where that is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from lm_eval_partial.sweep import recipes
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source
from tests.real.small import make_pair
from tests.recipes.shapes import count_config

NAMES = sorted(path.stem for path in recipes.folder().glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_true_of_the_models_files_and_opens(name, metadata, tmp_path):
    recipe = recipes.read(name)
    folders = {side: Path(recipe.model_args[side]).name for side in recipes.SIDES}
    for folder in folders.values():
        if not (metadata / folder).is_dir():
            pytest.skip(f"{name}: no metadata of {folder}")
    stored: dict[str, str] = dict(recipe.facts["stored"])
    with_template = []
    for side, folder in folders.items():
        config = AutoConfig.from_pretrained(metadata / folder)
        assert str(config.dtype) in (f"torch.{stored[side]}", stored[side])
        if AutoTokenizer.from_pretrained(metadata / folder).chat_template is not None:
            with_template.append(side)
    assert recipe.facts["chat_templates"] == with_template
    parameters = recipe.facts["parameters"]
    assert count_config(config)[0] == parameters  # of the instruct side, which came last

    base, instruct = make_pair(metadata, *folders.values(), tmp_path / "pair")
    given: dict[str, Any] = dict(recipe.model_args)
    for side in recipes.SIDES:
        given.pop(f"{side}_revision", None)
    pair = Pair.of(Source.of(given | {"base": str(base), "instruct": str(instruct)}))
    assert pair.generation_config == "none" and len(pair.tensors) > 10
