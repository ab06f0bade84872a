"""Training: its pieces by value, and a much smaller pair made end to end (`slow`)."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from lm_eval_partial.demo import documents as demo_documents
from lm_eval_partial.demo.documents import LESSONS, documents
from lm_eval_partial.demo.recipe import RECIPES, Stage
from lm_eval_partial.demo.tokenizer import build_tokenizer
from lm_eval_partial.demo.training import (
    IGNORED,
    chat_rows,
    learning_rate,
    new_model,
    packed_rows,
    save_checkpoint,
    train,
    train_pair,
)

MODELS = ("base", "instruct")
STAGE = Stage(steps=100, batch=4, row=64, learning_rate=1e-2, warmup=10)
TINY = replace(
    RECIPES["small"],
    base=replace(STAGE, steps=12),
    instruct=replace(STAGE, steps=4),
)


def quiet(*_):
    """Stands in for a progress bar."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the folder of a pair that was trained for a dozen steps."""
    folder = tmp_path_factory.mktemp("tiny")
    train_pair(folder, TINY, seed=3, report=quiet)
    return folder


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    assert learning_rate(0, STAGE) == pytest.approx(1e-3)
    assert learning_rate(9, STAGE) == pytest.approx(1e-2)
    assert learning_rate(55, STAGE) == pytest.approx(0.55e-2)
    assert learning_rate(100, STAGE) == pytest.approx(1e-3)


def test_packed_rows_are_full_and_end_documents():
    tokenizer = build_tokenizer(chat=False)
    inputs, labels = next(packed_rows(tokenizer, STAGE, documents(0)))
    assert inputs.shape == (4, 64) and torch.equal(inputs, labels)
    assert (inputs == tokenizer.eos_token_id).sum() >= 1
    assert tokenizer.pad_token_id not in inputs


def test_packed_rows_go_on_where_the_last_ended():
    tokenizer = build_tokenizer(chat=False)
    batches = islice(packed_rows(tokenizer, STAGE, documents(0)), 4)
    small = torch.cat([rows.flatten() for rows, _ in batches])
    large, _ = next(packed_rows(tokenizer, replace(STAGE, batch=16), documents(0)))
    assert torch.equal(small, large.flatten())


def test_only_the_reply_and_its_end_are_learnt():
    tokenizer = build_tokenizer(chat=True)
    inputs, labels = next(chat_rows(tokenizer, replace(STAGE, batch=16), 1))
    for row, wanted in zip(inputs, labels, strict=True):
        text = str(tokenizer.decode(row[wanted != IGNORED]))
        asked = str(tokenizer.decode(row[wanted == IGNORED]))
        assert text.endswith("<|end|>") and text.count("<|") == 1
        assert asked.rstrip("<|pad> ").endswith("<|assistant")
    assert (labels[inputs == tokenizer.pad_token_id] == IGNORED).all()


def test_lessons_come_first_and_end_where_they_should(monkeypatch):
    """Each kind writes its own name, ten words at a time."""

    def repeated(kind):
        return {lambda rng: " ".join([kind] * 10): 1.0}

    assert len(LESSONS) == 3
    monkeypatch.setattr(demo_documents, "LESSONS", tuple(map(repeated, "abc")))
    monkeypatch.setattr(demo_documents, "KINDS", repeated("d"))
    found = [text[0] for text in islice(documents(0, lessons=(50, 70, 100)), 20)]
    assert "".join(found) == "aaaaabbcccdddddddddd"
    assert {text[0] for text in islice(documents(0), 20)} == {"d"}


def test_the_first_lesson_repeats_words():
    for document in islice(documents(0, lessons=(2000,)), 50):
        words = document.split()
        once = words[: len(set(words))]
        assert words == once * (len(words) // len(once)) and len(words) >= 2 * len(once)


def test_a_new_model_begins_by_copying():
    """In all layers but the first, heads add what they attend to unchanged, but for a factor."""
    model = new_model(TINY, 100, 0, 1)
    attention = model.model.layers[1].self_attn
    product = attention.o_proj.weight @ attention.v_proj.weight
    assert torch.allclose(product, 0.09 * torch.eye(TINY.hidden), atol=1e-6)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_training_lowers_the_loss_and_records_it():
    tokenizer = build_tokenizer(chat=False)
    torch.manual_seed(0)
    model = new_model(TINY, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    batches = packed_rows(tokenizer, STAGE, documents(0))
    curve = train(model, batches, replace(STAGE, steps=20), TINY, quiet)
    assert [point["step"] for point in curve] == list(range(1, 21))
    assert curve[0]["loss"] > 6 > curve[-1]["loss"]


def test_a_model_is_saved_as_an_ordinary_checkpoint_in_bfloat16(tiny):
    from safetensors import safe_open

    for name in MODELS:
        for file in ("config.json", "generation_config.json", "tokenizer.json"):
            assert (tiny / name / file).is_file()
        with safe_open(tiny / name / "model.safetensors", "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                assert weights.get_tensor(key).dtype == torch.bfloat16, key


def test_every_parameter_moves_in_fine_tuning(tiny):
    from safetensors.torch import load_file

    base, instruct = (load_file(tiny / name / "model.safetensors") for name in MODELS)
    assert base.keys() == instruct.keys()
    matrices = [key for key, tensor in base.items() if tensor.ndim > 1]
    assert len(matrices) == 1 + 2 * 7  # the embeddings, and seven in each layer
    for key in matrices:
        assert not torch.equal(base[key], instruct[key]), key


def test_the_record_says_how_the_model_was_made(tiny):
    record = json.loads((tiny / "base" / "training.json").read_text())
    assert record["seed"] == 3 and record["recipe"]["base"]["steps"] == 12
    assert record["recipe"]["hidden"] == 64
    assert [point["step"] for point in record["curve"]] == list(range(1, 13))
    assert {"python", "torch", "transformers", "tokenizers"} == set(record["versions"])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny, tmp_path):
    for seed in (3, 4):
        train_pair(tmp_path / str(seed), TINY, seed=seed, report=quiet)

    def weights(folder):
        return (folder / "instruct" / "model.safetensors").read_bytes()

    assert weights(tiny) == weights(tmp_path / "3") != weights(tmp_path / "4")


def test_saving_leaves_the_model_in_float32(tmp_path):
    tokenizer = build_tokenizer(chat=True)
    model = new_model(TINY, len(tokenizer), 0, 1)
    save_checkpoint(tmp_path, model, tokenizer, {})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.eos_token_id == 0


@pytest.mark.slow
def test_a_much_smaller_pair_learns_both_stages_end_to_end(tmp_path, capfd):
    """The whole command at `--size small`, then the stock harness on both models."""
    import argparse

    from lm_eval_partial.cli.demo import add_parser, run

    from .scores import score

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    flags = ["--train", "--size", "small", "--output", str(tmp_path)]
    assert run(parser.parse_args(["demo", *flags])) == 0
    base, instruct = tmp_path / "base", tmp_path / "instruct"
    for name in MODELS:
        curve = json.loads((tmp_path / name / "training.json").read_text())["curve"]
        assert curve[-1]["loss"] < 2.0 < curve[0]["loss"]
    task = "partial_demo_chat_form"
    before = score(base, [task], chat=instruct)[task]
    assert score(instruct, [task], chat=instruct)[task] > before + 0.02
