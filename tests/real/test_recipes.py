"""Recipes against the metadata of the models they name, where that is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from lm_eval_partial.sweep import recipes
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source
from tests.real.small import make_pair
from tests.recipes.shapes import count_config

NAMES = sorted(path.stem for path in recipes.folder().glob("*.yaml"))
FAST = ("smollm2-135m", "olmo-7b-sft")  # the others make pairs of large vocabularies


def folders_of(recipe: recipes.Recipe, metadata: Path) -> dict[str, Path]:
    """Return the folders of both sides, or skip."""
    found: dict[str, Path] = {}
    for side in recipes.SIDES:
        found[side] = metadata / Path(recipe.model_args[side]).name
        if not found[side].is_dir():
            pytest.skip(f"{recipe.name}: no metadata of {found[side].name}")
    return found


def has_template(folder: Path) -> bool:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    return "chat_template" in config or (folder / "chat_template.jinja").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_the_files_say(name, metadata):
    recipe = recipes.read(name)
    folders = folders_of(recipe, metadata)
    configs = {
        side: json.loads((path / "config.json").read_text()) for side, path in folders.items()
    }
    stored = {side: config["torch_dtype"] for side, config in configs.items()}
    assert recipe.facts["stored"] == stored
    templates = [side for side, folder in folders.items() if has_template(folder)]
    assert recipe.facts["chat_templates"] == templates
    everything, active = count_config(AutoConfig.from_pretrained(folders["instruct"]))
    assert recipe.facts["parameters"] == everything
    assert recipe.facts.get("active_parameters", everything) == active


def _cases() -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else (pytest.mark.slow,)) for name in NAMES]


@pytest.mark.parametrize("name", _cases())
def test_a_recipes_pair_opens(name, metadata, tmp_path):
    recipe = recipes.read(name)
    folders = folders_of(recipe, metadata)
    names = folders["base"].name, folders["instruct"].name
    base, instruct = make_pair(metadata, *names, tmp_path / "pair")
    given: dict[str, Any] = dict(recipe.model_args)
    for side in recipes.SIDES:
        given.pop(f"{side}_revision", None)
    pair = Pair.of(Source.of(given | {"base": str(base), "instruct": str(instruct)}))
    assert pair.generation_config == "none" and len(pair.tensors) > 10
