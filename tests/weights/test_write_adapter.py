"""Updates of low rank, by value: the approximation, the argument rank=, the adapter written."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.truncation import factorise, with_rank
from lm_eval_partial.weights.write_adapter import extract, relative_error
from tests import pico
from tests.answers import agree

TOKENS = torch.arange(40).reshape(2, 20) * 7 % 330
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lm_eval_partial" / "low_rank"


@pytest.fixture
def pair(pairs) -> Pair:
    return Pair.open(*map(str, pairs("llama")))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def check_logits(ours: Any, theirs: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=atol)


def weights(pair: Pair, lam: float) -> dict[str, torch.Tensor]:
    return load(pair, lam).state_dict()


def check_weights(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 1e-5
) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=atol)


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix)
    return left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]


# The approximation --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 60), (300, 400), (400, 300)])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_factors_are_the_best_of_their_rank(shape, decay):
    """Small matrices exactly, large ones by the randomised method; against a full decomposition."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(side, min(shape)))[0] for side in shape)
    values = torch.arange(1, min(shape) + 1) ** -decay
    matrix = left * values @ right.T
    found = factorise(matrix, rank=8)
    assert found.down.shape == (8, shape[1]) and found.up.shape == (shape[0], 8)
    least = values[8:].square().sum().item()
    error = (matrix - found.up @ found.down).square().sum().item()
    assert found.error == pytest.approx(error, rel=1e-3)
    assert least * 0.999 <= found.error <= least * 1.001
    assert found.size == pytest.approx(values.square().sum().item(), rel=1e-4)


def test_factors_are_the_same_every_time():
    matrix = torch.randn(200, 300, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    first = factorise(matrix, rank=8)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again = factorise(matrix, rank=8)
    assert torch.equal(first.down, again.down) and torch.equal(first.up, again.up)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("energy, rank", [(0.5, 50), (0.505, 51), (0.9, 90), (1, 100), (0.001, 1)])
def test_the_smallest_rank_that_keeps_the_energy(energy, rank):
    """Of 100 equal singular values each keeps a hundredth."""
    torch.manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(100, 100))[0]
    found = factorise(matrix, energy=energy)
    assert len(found.down) == rank
    assert found.error / found.size == pytest.approx(1 - rank / 100, abs=1e-5)


def test_no_update_is_no_error():
    found = factorise(torch.zeros(30, 20), energy=0.9)
    assert len(found.down) == 1 and found.error == found.size == 0 and not found.up.any()


# rank= --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["dense", "base"])
def test_linear_layers_at_a_rank_and_the_rest(pair, pairs, rest):
    base, instruct = (load_file(side / "model.safetensors") for side in pairs("llama"))
    model = load(with_rank(pair, 4, rest), 0.3).state_dict()
    for name, value in model.items():
        if name in pair.architecture.linear:
            expected = base[name] + 0.3 * best(instruct[name] - base[name], 4)
        else:
            expected = torch.lerp(base[name], instruct[name], 0.3 if rest == "dense" else 0)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    assert len(pair.architecture.linear) == 14 and "lm_head.weight" not in pair.architecture.linear


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("lam", [0.3, 1])
def test_full_rank_is_dense(family, pairs, lam):
    pair = Pair.open(*map(str, pairs(family)))
    full, dense = load(with_rank(pair, 10**6), lam), load(pair, lam)
    for name, value in full.state_dict().items():
        torch.testing.assert_close(value, dense.state_dict()[name], rtol=1e-4, atol=2e-6)


def test_experts_are_linear_layers_too(pairs):
    pair = Pair.open(*map(str, pairs("mixtral")))
    found = with_rank(pair, 2)
    key = next(each.key for each in found.tensors if "experts.1.w2" in each.key)
    base, instruct = (load_file(side / "model.safetensors")[key] for side in pairs("mixtral"))
    expected = base + best(instruct - base, 2)
    torch.testing.assert_close(found.at(1)[key][...], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="which the model fuses with others. Add merge=True"):
        load(found, 0.5, merge=False)


def test_gpt2_stores_its_weights_by_input(tmp_path):
    tokenizer = pico.tokenizer()
    settings = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    base = pico.model(settings, 1)
    pico.save(base, tokenizer, tmp_path / "b")
    pico.save(pico.child(base, 2), tokenizer, tmp_path / "i")
    pair = Pair.open(str(tmp_path / "b"), str(tmp_path / "i"))
    assert len(pair.architecture.linear) == 8 and all(pair.architecture.linear.values())
    found = with_rank(pair, 4)
    name = "transformer.h.1.mlp.c_fc.weight"
    ours, theirs = weights(pair, 0)[name], weights(pair, 1)[name]
    expected = ours + 0.5 * best(theirs - ours, 4)
    torch.testing.assert_close(weights(found, 0.5)[name], expected, rtol=1e-4, atol=1e-5)
    check_logits(load(found, 0.5, merge=False), load(found, 0.5))
    extract(pair, tmp_path / "adapter", rank=4)
    adapter = Pair.open(str(tmp_path / "b"), str(tmp_path / "adapter"))
    check_logits(load(adapter, 0.5), load(found, 0.5))


def test_factors_are_kept_by_pair_and_rank(pair, pairs, cache, tmp_path, monkeypatch):
    first = weights(with_rank(pair, 4), 0.5)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(
            "lm_eval_partial.weights.truncation.factorise",
            lambda *_: pytest.fail("not taken from the cache"),
        )
        # The pair opened anew, and what the other tensors become is not in the cache.
        reopened = Pair.open(*map(str, pairs("llama")))
        again = weights(with_rank(reopened, 4, "base"), 0.5)
    assert torch.equal(first[Q], again[Q])
    with_rank(pair, 5)
    assert len(list(cache.iterdir())) == 2
    other = pico.save(pico.child(load(pair, 0), seed=9), pico.tokenizer(), tmp_path / "other")
    found = weights(with_rank(Pair.open(pair.base.path, str(other)), 4), 0.5)
    assert len(list(cache.iterdir())) == 3 and not torch.allclose(found[Q], first[Q])


def test_the_command_takes_a_rank(pairs, lm_eval):
    base, instruct = pairs("llama")
    arguments = {"base": base, "instruct": instruct, "lam": 0.5, "rank": 4, "rest": "base"}
    result, samples = lm_eval("partial-hf", "pico_mc", **arguments)
    assert result["config"]["rank"] == 4 and result["config"]["rest"] == "base"
    assert result["folder"].endswith("__rank_4__rest_base__lam_0.50")
    _, merged = lm_eval("partial-hf", "pico_mc", **arguments, merge=True)
    for a, b in zip(samples["pico_mc"], merged["pico_mc"], strict=True):
        for x, y in zip(a["filtered_resps"], b["filtered_resps"], strict=True):
            assert float(x[0]) == pytest.approx(float(y[0]), abs=1e-4)
    result, plain = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.5)
    assert "rank" not in result["config"] and plain != samples


def test_set_lam_at_a_rank_is_a_fresh_model(pairs):
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM(base, instruct, 0, rank=4)
    lm.set_lam(0.6)
    assert torch.equal(logits(lm.model), logits(PartialHFLM(base, instruct, 0.6, rank=4).model))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"rank": 0}, r"rank=0 is not a whole number from 1 up\. Give one, such as rank=16"),
        ({"rank": 1.5}, r"rank=1\.5 is not a whole number"),
        ({"rank": "many"}, r"rank=many is not a whole number"),
        ({"rank": 4, "rest": "drop"}, r"rest=drop is neither dense nor base"),
        ({"rest": "base"}, r"rest=base goes with rank=\.\.\. only"),
    ],
)
def test_wrong_arguments(pairs, given, message, no_reads):
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match=message):
        PartialHFLM(base, instruct, 0.5, **given)


# The adapter that is written ----------------------------------------------------------------------


def stock(base: Path, adapter: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base)
    return PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gemma2", "olmo2"])
@pytest.mark.parametrize("rest", ["dense", "base"])
def test_as_instruct_it_is_the_rank_it_was_made_with(family, rest, pairs, tmp_path):
    """And peft loads it: at λ = 1 it is the same model."""
    base, instruct = pairs(family)
    pair = Pair.open(str(base), str(instruct))
    extract(pair, tmp_path / "adapter", rank=4, rest=rest)
    adapter = Pair.open(str(base), str(tmp_path / "adapter"))
    expected = with_rank(pair, 4, rest)
    for lam in (0.3, 1):
        check_weights(weights(adapter, lam), weights(expected, lam))
    check_logits(load(adapter, 1, merge=False), stock(base, tmp_path / "adapter"), atol=3e-5)


def test_full_rank_is_the_instruct_model_in_stock_too(pairs, tmp_path):
    base, instruct = pairs("gpt_neox")
    extract(Pair.open(str(base), str(instruct)), tmp_path / "adapter", rank=10**6)
    found = logits(stock(base, tmp_path / "adapter"))
    expected = logits(AutoModelForCausalLM.from_pretrained(instruct))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_command_gives_stocks_samples_with_the_adapter(pairs, tmp_path, lm_eval):
    base, instruct = pairs("llama")
    adapter = tmp_path / "adapter"
    # By energy, so that layers differ in rank.
    extract(Pair.open(str(base), str(instruct)), adapter, energy=0.5)
    _, theirs = lm_eval("hf", pretrained=base, peft=adapter)
    _, ours = lm_eval("partial-hf", base=base, instruct=adapter, lam=1)
    assert agree(ours, theirs)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["rank_pattern"] and config["alpha_pattern"] == config["rank_pattern"]


def test_a_vocabulary_of_its_own_comes_along(pairs, tmp_path):
    base = pairs("llama")[0]
    tokenizer = pico.tokenizer()
    model, others = pico.reordered(
        AutoModelForCausalLM.from_pretrained(base), tokenizer, ["[INST]"], ["<tool>"]
    )
    pico.save(pico.child(model, 4), others, tmp_path / "i")
    pair = Pair.open(str(base), str(tmp_path / "i"))
    with pytest.raises(
        UserError,
        match=r"has tokens of its own, and rest=base leaves .* Give --rest dense, or --token",
    ):
        extract(pair, tmp_path / "adapter", rank=4, rest="base")
    extract(pair, tmp_path / "adapter", rank=4)
    adapter = Pair.open(str(base), str(tmp_path / "adapter"))
    assert adapter.instruct.vocabulary == others.get_vocab() and adapter.config.vocab_size == 332
    check_weights(weights(adapter, 0.4), weights(with_rank(pair, 4), 0.4))


def test_new_tokens_come_along_though_the_old_rows_stood_still(pairs, tmp_path):
    base = pairs("llama")[0]
    tokenizer = pico.tokenizer()
    tokenizer.add_tokens(["<tool>"])
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_parameter(Q).data.add_(torch.randn(32, 32) * 0.1)
    pico.save(model, tokenizer, tmp_path / "i")
    extract(Pair.open(str(base), str(tmp_path / "i")), tmp_path / "adapter", rank=32)
    found = weights(Pair.open(str(base), str(tmp_path / "adapter")), 1)
    check_weights(found, model.state_dict())


def test_it_knows_its_base_by_its_weights(pair, pairs, tmp_path):
    extract(pair, tmp_path / "adapter", rank=2)
    copy = shutil.copytree(pairs("llama")[0], tmp_path / "copy")
    notes = Pair.open(str(copy), str(tmp_path / "adapter")).notes()
    assert "could not be checked" not in " ".join(notes)
    with pytest.raises(UserError, match="whose weights are not those of base="):
        Pair.open(str(pairs("llama")[1]), str(tmp_path / "adapter"))


def test_nothing_is_overwritten(pair, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match=r"mine is not an empty folder, and nothing is overwritten"):
        extract(pair, tmp_path / "mine", rank=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_fused_experts_have_no_place_in_an_adapter(pairs, tmp_path):
    with pytest.raises(
        UserError,
        match=r"an adapter cannot hold the update of .*experts.*Give rank=\.\.\. and merge=True",
    ):
        extract(Pair.open(*map(str, pairs("mixtral"))), tmp_path / "adapter", rank=2)
    assert not (tmp_path / "adapter").exists()


def test_extract_prints_what_is_lost(pair, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    base, instruct = map(str, pairs("llama"))
    command = ["extract", "--base", base, "--instruct", instruct]
    assert main([*command, "--rank", "4", "--output", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    rows = {}
    for line in out.splitlines():
        cells = list(map(str.strip, line.split("│")[1:-1]))
        rows[cells[0] if cells else ""] = cells
    ours, theirs = weights(pair, 0), weights(pair, 1)
    lost = size = 0.0
    for name in ours:
        if "q_proj" in name:
            change = theirs[name] - ours[name]
            lost += (change - best(change, 4)).square().sum().item()
            size += change.square().sum().item()
    expected = f"{math.sqrt(lost / size):.4f}"
    assert rows["model.layers.*.self_attn.q_proj.weight"][1:] == ["2", "4", expected]
    assert rows["all linear layers"][1:3] == ["14", "4"]
    assert f"Use it as instruct={tmp_path / 'a'}." in out
    assert main([*command, "--energy", "0.9", "--output", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 14
    assert max(each["relative_error"] for each in found) <= 0.1**0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rank", "x"], "rank=x is not a whole number from 1 up. Give one, such as rank=16."),
        (
            ["--energy", "1.5"],
            "--energy 1.5 is not a share. Give more than 0 and at most 1, such as 0.9.",
        ),
    ],
)
def test_extract_says_what_is_wrong(arguments, message, tmp_path, capsys):
    command = ["extract", "--base", "b", "--instruct", "i", "--output", str(tmp_path / "a")]
    assert main([*command, *arguments]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_errors_add_up_as_squares():
    from lm_eval_partial.weights.write_adapter import Kept

    assert relative_error([Kept("a", 1, 9, 1), Kept("b", 1, 16, 0)]) == pytest.approx(0.2)
    assert relative_error([Kept("a", 1, 0, 0)]) == 0
