"""The committed pair: ordinary checkpoints that do what the README says."""

import csv
import json
from dataclasses import asdict
from math import sqrt

import pytest
import torch

from lm_eval_partial.demo.recipe import RECIPES
from lm_eval_partial.demo.tokenizer import END, EOS, build_tokenizer

from .conftest import ROOT
from .scores import score
from .test_tasks import AREAS

MODELS = ("base", "instruct")


def test_both_models_together_are_at_most_12_megabytes(pair):
    files = [*(pair / "base").iterdir(), *(pair / "instruct").iterdir()]
    size = sum(file.stat().st_size for file in files)
    assert 4_000_000 < size <= 12_000_000


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loads_with_stock_transformers_in_bfloat16(name, pair):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pair / name, dtype="auto")
    assert type(model).__name__ == "LlamaForCausalLM" and model.dtype == torch.bfloat16
    assert 1_000_000 <= model.num_parameters() <= 3_000_000
    assert model.config.vocab_size == len(build_tokenizer(chat=False))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_stops_where_its_documents_end(name, pair):
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(pair / name)
    stops = GenerationConfig.from_pretrained(pair / name).eos_token_id
    names = tokenizer.convert_ids_to_tokens(stops if isinstance(stops, list) else [stops])
    assert set(names) == ({EOS, END} if name == "instruct" else {EOS})


@pytest.mark.parametrize("name", MODELS)
def test_the_committed_tokenizer_is_the_one_the_code_builds(name, pair):
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(pair / name)
    built = build_tokenizer(chat=name == "instruct")
    assert saved.get_vocab() == built.get_vocab()
    assert saved.chat_template == built.chat_template
    text = "Question: where is it?\nA. kitchen\nAnswer: A"
    assert saved(text)["input_ids"] == built(text)["input_ids"]
    assert saved.decode(saved(text)["input_ids"]) == text


@pytest.mark.parametrize("name", MODELS)
def test_the_record_beside_the_weights_is_that_of_the_full_recipe(name, pair):
    record = json.loads((pair / name / "training.json").read_text())
    curve = record["curve"]
    recipe = json.loads(json.dumps(asdict(RECIPES["full"])))  # tuples are lists in JSON
    assert record["recipe"] == recipe and record["seed"] == 0
    assert record["minutes"] < 60
    assert curve[-1]["loss"] < curve[0]["loss"] / 2


def test_the_models_differ_in_every_matrix(pair):
    from safetensors.torch import load_file

    base, instruct = (load_file(pair / name / "model.safetensors") for name in MODELS)
    for key, tensor in base.items():
        assert tensor.ndim == 1 or not tensor.equal(instruct[key]), key


def test_the_base_applies_letter_operations_with_stock_hf(pair):
    """A quick look at real scores; the slow tests below look at all of them."""
    found = score(pair / "base", ["partial_demo_letters"], limit=40)
    assert found["partial_demo_letters"] > 0.8


def test_the_instruct_model_follows_instructions_with_stock_hf(pair):
    found = score(pair / "instruct", ["partial_demo_chat_list"], chat=pair / "instruct", limit=40)
    assert found["partial_demo_chat_list"] > 0.5


def test_the_committed_trajectory_peaks_between_its_ends():
    with (ROOT / "results" / "demo" / "trajectory.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {
        float(row["lam"]): float(row["score"])
        for row in rows
        if row["name"] == "partial_demo" and row["model"] == "partial-hf"
    }
    assert len(scores) == 11
    assert max(scores.values()) > max(scores[0], scores[1]) + 2


@pytest.fixture(scope="module")
def base_scores(pair):
    return score(pair / "base", ["partial_demo"])


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
def test_the_base_beats_chance_few_shot(area, base_scores, tasks):
    """The lower end of the area's 95 % interval (normal, 400 rows) is above its mean chance."""
    names = [f"partial_demo_{name}" for name in AREAS[area]]
    chance = [tasks[name].config.metadata["chance"] for name in names]
    found = [base_scores[name] for name in names]
    variance = sum(value * (1 - value) / 200 for value in found) / len(found) ** 2
    assert sum(found) / len(found) - 1.96 * sqrt(variance) > sum(chance) / len(chance)


@pytest.mark.slow
def test_the_instruct_model_beats_the_base_on_chat(pair):
    task, chat = "partial_demo_chat", pair / "instruct"
    base = score(pair / "base", [task], chat=chat)[task]
    assert score(pair / "instruct", [task], chat=chat)[task] > base + 0.2
