"""Sums of updates, and updates put onto a newer base: by value, and refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.results.searches import sentences
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source, Term
from lm_eval_partial.weights.updates import Updated
from tests import pico

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
Weights = dict[str, torch.Tensor]


class Models(NamedTuple):
    """A base, two models trained from it, and a newer base."""

    base: Path
    first: Path
    second: Path
    newer: Path

    @property
    def weights(self) -> list[Weights]:
        return [load_file(folder / "model.safetensors") for folder in self]

    def sum(self, first: float = 1.0, second: float = 1.0) -> str:
        return f"{first}*{self.first}+{second}*{self.second}"


def make(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Models:
    base, first = pico.pair(folder, dtype=dtype, **changes)
    chat = pico.tokenizer()
    chat.chat_template = "{{ messages }}"
    parent = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    second = pico.save(pico.child(parent, seed=7), chat, folder / "second")
    newer = pico.child(parent, seed=8, scale=0.05)
    newer.config.rope_parameters = newer.config.rope_parameters | {"rope_theta": 20000.0}
    return Models(base, first, second, pico.save(newer, pico.tokenizer(), folder / "newer"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Models:
    return make(tmp_path_factory.mktemp("updates"))


@pytest.fixture
def own(made, tmp_path) -> Models:
    """Copies that a test may change."""
    shutil.copytree(made.base.parent, tmp_path / "own")
    return Models(*(tmp_path / "own" / folder.name for folder in made))


def opened(models: Models, instruct: str, **others: Any) -> Pair:
    return Pair.open(str(models.base), instruct, **others)


def refused(message: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(UserError, match=message):
        call(*args, **kwargs)


def same(pair: Pair, lam: float, expected: Weights) -> None:
    found = pair.at(lam)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(found[key][...], values), key
        whole = torch.empty_like(values)
        found[key].write_into(whole)  # the way into a loaded model
        assert torch.equal(whole, values), key


# The values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.3), (1.0, -0.5)])
def test_a_sum_is_added_from_left_to_right(weights, lam, made):
    base, first, second, _ = made.weights
    expected = {}
    for key, start in base.items():
        total = start + weights[0] * (first[key] - start)
        total = total + weights[1] * (second[key] - start)
        expected[key] = start if lam == 0 else torch.lerp(start, total, lam)
    pair = opened(made, made.sum(*weights))
    same(pair, lam, expected)
    if lam == 1:  # the order of models counts, in the last bit
        others = opened(made, f"{weights[1]}*{made.second}+{weights[0]}*{made.first}").at(1.0)
        assert any(not torch.equal(others[key][...], expected[key]) for key in expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_an_update_is_put_onto_a_newer_base(lam, made):
    base, first, _, newer = made.weights
    expected = {}
    for key, start in newer.items():
        total = start + (first[key] - base[key])
        expected[key] = start if lam == 0 else torch.lerp(start, total, lam)
    same(opened(made, str(made.first), onto=str(made.newer)), lam, expected)


def test_a_sum_is_put_onto_a_newer_base(made):
    base, first, second, newer = made.weights
    expected = {}
    for key, start in newer.items():
        total = start + 0.5 * (first[key] - base[key])
        expected[key] = total + 0.25 * (second[key] - base[key])
    same(opened(made, made.sum(0.5, 0.25), onto=str(made.newer)), 1.0, expected)


def test_half_precision_is_rounded_once(tmp_path):
    models = make(tmp_path, torch.bfloat16)
    base, first, second, _ = ({k: v.float() for k, v in each.items()} for each in models.weights)
    total = base[QUERY] + 0.5 * (first[QUERY] - base[QUERY])
    total = total + 0.3 * (second[QUERY] - base[QUERY])
    tensor = opened(models, models.sum(0.5, 0.3)).at(0.7, torch.bfloat16)[QUERY]
    out = torch.empty(tensor.shape, dtype=torch.bfloat16)
    tensor.write_into(out)
    assert torch.equal(out, torch.lerp(base[QUERY], total, 0.7).bfloat16())


def test_one_update_of_weight_1_is_the_ordinary_pair(made):
    """Through the difference, λ = 1 would be off by a rounding."""
    pair = opened(made, f"1*{made.first}")
    assert pair.instruct.alone and pair.instruct.path == str(made.first)
    assert pair.instruct.identity == opened(made, str(made.first)).instruct.identity
    same(pair, 1.0, made.weights[1])


def test_an_adapter_may_be_added(made, tmp_path):
    adapter = pico.adapter(made.base, tmp_path / "adapter", target_modules=["q_proj"])
    stored = load_file(adapter / "adapter_model.safetensors")
    part = f"base_model.model.{QUERY.removesuffix('.weight')}.lora_"
    base, first, _, _ = made.weights
    merged = LowRank(base[QUERY], stored[f"{part}A.weight"], stored[f"{part}B.weight"], 2.0)[...]
    total = base[QUERY] + (first[QUERY] - base[QUERY])
    expected = total + 0.5 * (merged - base[QUERY])
    pair = opened(made, f"1*{made.first}+0.5*{adapter}")
    assert torch.equal(pair.at(1.0)[QUERY][...], expected)
    alone = opened(made, f"0.5*{adapter}").at(1.0)
    assert [key for key, tensor in alone.items() if not tensor.constant] == [
        key for key in alone if "q_proj" in key
    ]


def test_rows_of_embeddings_are_added_by_token(made, tmp_path):
    """The first model has other ids and a token of its own, the second and the base do not."""
    moved, tokens = pico.reordered(
        AutoModelForCausalLM.from_pretrained(made.first), pico.tokenizer(), ["<|new|>"], []
    )
    first = pico.save(moved, tokens, tmp_path / "moved")
    base, plain, second, newer = made.weights
    rows, ids = pico.tokenizer().get_vocab(), tokens.get_vocab()
    for start, others in ((base, {}), (newer, {"onto": str(made.newer)})):
        pair = opened(made, f"1*{first}+0.5*{made.second}", **others)
        for name in (EMBEDDING, HEAD):
            found = pair.at(1.0)[name][...]
            expected = start[name] + (plain[name] - base[name])
            expected = expected + 0.5 * (second[name] - base[name])
            for token in ("<s>", *list(rows)[100:110]):
                assert torch.equal(found[ids[token]], expected[rows[token]]), token
            new = ids["<|new|>"]
            assert torch.equal(found[new], load_file(first / "model.safetensors")[name][new])
            assert torch.equal(pair.at(0.5)[name][new : new + 1], found[new : new + 1])


@pytest.mark.parametrize("onto", [False, True])
def test_a_row_that_the_base_lacks_has_no_update(onto, made, tmp_path):
    """Both models have the token, in other rows; without a base there is no difference to add."""
    folders = []
    for number, folder in enumerate((made.first, made.second)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        ends = (["<|new|>"], []) if number else ([], ["<|new|>"])
        moved, tokens = pico.reordered(model, pico.tokenizer(), *ends)
        folders.append(pico.save(moved, tokens, tmp_path / folder.name))
    first, second = folders
    # Onto: the base that the updates are of has the token, and the newer one lacks it.
    base, others = (second, {"onto": str(made.base)}) if onto else (made.base, {})
    pair = Pair.open(str(base), f"1*{first}+0.5*{second}", **others)
    new = AutoTokenizer.from_pretrained(first).convert_tokens_to_ids("<|new|>")
    for name in (EMBEDDING, HEAD):
        row = load_file(first / "model.safetensors")[name][new]
        for lam in (0.0, 0.5, 1.0):
            assert torch.equal(pair.at(lam)[name][...][new], row)


def test_a_token_that_only_a_later_model_has_is_named(made, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(made.second)
    moved, tokens = pico.reordered(model, pico.tokenizer(), [], ["<|late|>"])
    later = pico.save(moved, tokens, tmp_path / "later")
    notes = opened(made, f"1*{made.first}+1*{later}").notes()
    assert any(r"1 tokens of" in note and "<|late|>" in note for note in notes)


def test_the_config_of_a_newer_base_is_used_and_said(made):
    notes = opened(made, made.sum(), onto=str(made.newer)).notes()
    said = [note for note in notes if "rope_parameters.rope_theta" in note]
    assert len(said) == 2 and all(f"that of onto={made.newer} is used" in note for note in said)
    assert not any("rope" in note for note in opened(made, made.sum()).notes())


def test_a_head_of_one_model_unties_the_sum(tmp_path):
    models = make(tmp_path / "tied", tie_word_embeddings=True)
    untied = AutoModelForCausalLM.from_pretrained(models.second)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach() + 1)
    second = pico.save(untied, pico.tokenizer(), tmp_path / "untied")
    pair = opened(models, f"1*{models.first}+1*{second}")
    assert not pair.tied
    base, first, _, _ = models.weights
    total = base[EMBEDDING] + (first[EMBEDDING] - base[EMBEDDING])
    expected = total + (load_file(second / "model.safetensors")[HEAD] - base[EMBEDDING])
    assert torch.equal(pair.at(1.0)[HEAD][...], expected)


# What is read, and refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "terms"),
    [
        ("./a", [Term(1.0, "./a")]),
        ("org/a-1.5B", [Term(1.0, "org/a-1.5B")]),
        ("1*org/a@v1+0.5*org/b", [Term(1.0, "org/a", "v1"), Term(0.5, "org/b")]),
        ("0.5*./a@b+-1e-1*/c/d", [Term(0.5, "./a@b"), Term(-0.1, "/c/d")]),
        (".5*a/x+1.*b/x+2*c/x", [Term(0.5, "a/x"), Term(1.0, "b/x"), Term(2.0, "c/x")]),
    ],
)
def test_a_sum_is_spelled_with_weights(given, terms):
    assert Source("base", given).terms == terms


def test_a_folder_with_a_plus_is_one_model(tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    assert Source("base", str(folder)).terms == [Term(1.0, str(folder))]
    assert Source("base", f"2*{folder}+1*c/d").terms[0].path == str(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"instruct": "./a+./b"}, r"instruct=\./a\+\./b: it is no folder.*instruct=1\*A\+0\.6\*B"),
        ({"instruct": "a/x+0.5*b/x"}, "a/x has no weight"),
        ({"instruct": "1*a/x+0.5*"}, r"no model stands behind 0\.5\*"),
        ({"instruct": "1e99*a/x"}, "1e99 is too large"),
        ({"instruct": "1*a/x+1*b/x", "instruct_revision": "v1"}, "@REVISION"),
        ({"instruct": "1*a/x+1*b/x", "instruct_subfolder": "c"}, "instruct_subfolder="),
        ({"instruct": "a/x", "onto_revision": "v1"}, r"onto=NEWBASE"),
    ],
)
def test_a_wrong_sum_is_refused(given, message, no_reads):
    refused(message, lambda: Source("base", **given).terms)


def test_what_does_not_fit_is_named(made, tmp_path, no_reads):
    wide = pico.pair(tmp_path / "wide", intermediate_size=64)
    other = pico.pair(tmp_path / "other", family="mistral")
    refused(rf"different shapes.*{wide[1]}", opened, made, f"1*{made.first}+1*{wide[1]}")
    refused(rf"different architectures.*{other[1]}", opened, made, f"1*{made.first}+1*{other[1]}")
    refused(rf"different shapes.*onto={wide[0]}", opened, made, str(made.first), onto=str(wide[0]))
    refused("no such folder", opened, made, f"1*{made.first}+1*./nowhere")
    # Vocabularies of other tokens.
    names = json.loads((made.second / "tokenizer.json").read_text())
    strange = tmp_path / "strange"
    shutil.copytree(made.second, strange)
    vocabulary = names["model"]["vocab"]
    names["model"]["vocab"] = {f"x{token}": index for token, index in vocabulary.items()}
    names["model"]["merges"] = []
    (strange / "tokenizer.json").write_text(json.dumps(names))
    refused("tokenizers share", opened, made, f"1*{made.first}+1*{strange}")
    refused("a sum of updates", PartialHFLM, str(made.base), made.sum(), 0.5, merge=True)


def test_an_ordinary_file_that_changes_is_noticed(own):
    """Also of the model that is added last, and of the base that is taken off."""
    for changed in (own.second, own.base):
        pair = opened(own, own.sum(), onto=str(own.newer))
        file = changed / "model.safetensors"
        weights = load_file(file)
        weights[NORM] += 1
        save_file(weights, file, metadata={"format": "pt"})
        refused("model.safetensors", pair.check_unchanged)


# What knows of it ---------------------------------------------------------------------------------


def test_all_models_are_recorded(own):
    lm = PartialHFLM(str(own.base), own.sum(1, 0.5), 0.5, onto=str(own.newer), device="cpu")
    info = lm.get_model_info()
    assert info["base"] == str(own.newer) and info["instruct"] == own.sum(1, 0.5)
    parts = info["updates"]
    assert {name: part["path"] for name, part in parts.items()} == {
        "instruct": str(own.first),
        "instruct_2": str(own.second),
        "updated_from": str(own.base),
    }
    assert [parts[name].get("weight") for name in parts] == [1.0, 0.5, None]
    assert lm.name.endswith("lam_0.50") and lm.name.count("own") == 4
    expected = lm.pair.at(0.5)
    for name, parameter in lm.model.state_dict().items():
        assert torch.equal(parameter, expected[name][...]), name
    # The newer base's config, since its layers stay: the first model's says another rope_theta.
    assert lm.model.config.rope_parameters["rope_theta"] == 20000.0
    assert lm.model.generation_config.eos_token_id == [1, 5]  # the first model's
    lm.set_lam(0.0)
    for name, values in load_file(own.newer / "model.safetensors").items():
        assert torch.equal(lm.model.state_dict()[name], values), name


@pytest.mark.parametrize("which", ["first", "second", "base", "weight"])
def test_every_model_and_weight_is_in_the_fingerprint(which, own):
    def found(second: float) -> tuple[str, ...]:
        pair = opened(own, own.sum(1, second), onto=str(own.newer))
        return pair.instruct.identity, pair.instruct.sha

    before = found(0.5)
    assert found(0.5) == before
    if which != "weight":
        file = getattr(own, which) / "model.safetensors"
        weights = load_file(file)
        weights[NORM] += 1
        save_file(weights, file, metadata={"format": "pt"})
    after = found(0.6 if which == "weight" else 0.5)
    assert after[0] != before[0] and after[1] != before[1]


def test_an_export_holds_the_sum(made, tmp_path):
    pair = opened(made, made.sum(0.5, 0.3), onto=str(made.newer))
    export(pair, 0.7, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    expected = pair.at(0.7)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key][...]) for key in stored)
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [1, 5]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 20000.0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == pico.CHAT
    card = (tmp_path / "out" / "README.md").read_text()
    rows = [("base", made.newer), ("instruct × 0.5", made.first), ("instruct_2 × 0.3", made.second)]
    for name, folder in [*rows, ("updated_from", made.base)]:
        assert f"| {name} | `{folder}`" in card
    assert "θ_base + Σ wᵢ" in card


def test_the_loader_takes_a_sum(made):
    pair = opened(made, made.sum())
    model, expected = load(pair, 0.5, dtype="float32"), pair.at(0.5)
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, expected[name][...])


def test_inspect_shows_norms_and_cosines(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["inspect", "--base", str(made.base), "--instruct", made.sum(1, 0.5)]
    command += ["--onto", str(made.newer)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sum"]
    base, first, second, newer = made.weights
    matrices = [key for key, values in base.items() if values.dim() > 1]

    def flat(weights: Weights) -> torch.Tensor:
        return torch.cat([weights[key].double().flatten() for key in matrices])

    size = flat(base).norm()
    one, two = flat(first) - flat(base), flat(second) - flat(base)
    norms = [each["norm"] for each in found["models"]]
    assert norms == pytest.approx([float(one.norm() / size), float(two.norm() / size)], rel=1e-5)
    cosine = float(one @ two / one.norm() / two.norm())
    assert found["cosines"][0] == pytest.approx([1, cosine], abs=1e-5)
    assert found["cosines"][1] == pytest.approx([cosine, 1], abs=1e-5)
    moved = float((flat(newer) - flat(base)).norm() / size)
    assert found["onto"] == pytest.approx(moved, rel=1e-5)
    assert [each["weight"] for each in found["models"]] == [1.0, 0.5]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"{norms[1]:.4f}" in shown and f"{cosine:.3f}" in shown and f"{moved:.4f}" in shown


def test_an_export_into_an_added_model_is_refused(made):
    command = ["export", "--base", str(made.base), "--instruct", made.sum(), "--lam", "0.5"]
    assert main([*command, "--output", str(made.second / "out")]) == 1
    assert not (made.second / "out").exists()


def test_the_next_command_of_a_search_names_both_bases(made):
    """`export` of the newer base alone would add another update."""
    record: Any = {
        **opened(made, str(made.first), onto=str(made.newer)).named,
        "within": 1.0,
        "confidence": 0.95,
        "found": {
            **{"arm": "0.50", "bound": 0.5, "not_ruled_out": ["0.50"], "gains": []},
            **{"cost": 0.1, "sentence": ""},
        },
    }
    expected = f"--base {made.base} --instruct {made.first} --onto {made.newer} --lam 0.50"
    assert expected in sentences(record)[-1]


def test_a_whole_sum_is_written_in_blocks(made, monkeypatch):
    """At λ = 1 too, or a large embedding would be held several times over."""
    monkeypatch.setattr("lm_eval_partial.weights.interpolate.BLOCK", 64)
    tensor = opened(made, made.sum()).at(1.0)[EMBEDDING]
    sizes = []
    read = Updated.__getitem__

    def counted(self: Updated, index: Any) -> torch.Tensor:
        found = read(self, index)
        sizes.append(found.numel())
        return found

    expected = tensor[...]
    monkeypatch.setattr(Updated, "__getitem__", counted)
    whole = torch.empty_like(expected)
    tensor.write_into(whole)
    assert torch.equal(whole, expected) and max(sizes) <= 64
