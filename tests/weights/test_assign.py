"""λ for each parameter: what the rules mean, by value, and what is wrong with rules."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import Rule, Schedule, lam_to_json, name_lam, read_lam, scaled
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import assign as assigning
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import equal

PLACE = assigning.Place(None, 0, "other")
MLP = ("gate_proj", "up_proj", "down_proj")
RULES = "attention:0.8+layers:0.2..0.6+embeddings:0+all:0.5"


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> tuple[Path, Path]:
    return pico.pair(tmp_path_factory.mktemp("deep"), num_hidden_layers=3)


@pytest.fixture
def pair(deep) -> Pair:
    return Pair.open(*map(str, deep))


def lams(pair: Pair, given: Any) -> dict[str, float]:
    return {key: each.lam for key, each in pair.assign(given).items()}


def names(part: str, *modules: str) -> set[str]:
    """Return the weights of some modules in each of the three layers."""
    return {f"model.layers.{layer}.{part}{module}.weight" for layer in "012" for module in modules}


def schedule(text: str) -> Schedule:
    found = read_lam(text)
    assert isinstance(found, Schedule)
    return found


def partial(sides: tuple[Path, Path], **arguments: Any) -> PartialHFLM:
    return PartialHFLM(base=str(sides[0]), instruct=str(sides[1]), **arguments)


# What the rules mean ------------------------------------------------------------------------------


def test_a_schedule_is_the_interpolation_done_by_hand(pair, deep):
    """The first rule that matches counts, and a..b is linear in depth."""
    base, instruct = (load_file(side / "model.safetensors") for side in deep)
    by_hand = dict.fromkeys(base, 0.5)
    for name in base:
        for layer, lam in enumerate((0.2, 0.4, 0.6)):
            if f"layers.{layer}." in name:
                by_hand[name] = lam
        if "self_attn" in name:
            by_hand[name] = 0.8
    by_hand["model.embed_tokens.weight"] = 0.0
    assert lams(pair, RULES) == pytest.approx(by_hand)
    for name, value in load(pair, read_lam(RULES)).state_dict().items():
        expected = torch.lerp(base[name], instruct[name], by_hand[name])
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    assert set(by_hand.values()) == {0.0, 0.2, 0.4, 0.5, 0.6, 0.8}


def test_moving_to_a_schedule_and_back(pair):
    model = load(pair, 0.3)
    move(model, pair, read_lam(RULES), pytest.fail)
    assert equal(model.state_dict(), load(pair, read_lam(RULES)).state_dict())
    move(model, pair, 0.3, pytest.fail)
    assert equal(model.state_dict(), load(pair, 0.3).state_dict())


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_depth_range_ends_exactly(pair, lam):
    found = lams(pair, f"layers:{lam}..{1 - lam}+all:0.5")
    assert found["model.layers.0.mlp.up_proj.weight"] == lam
    assert found["model.layers.2.mlp.up_proj.weight"] == 1 - lam


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("norms", {"model.norm.weight", *names("", "input_layernorm", "post_attention_layernorm")}),
        ("embeddings", {"model.embed_tokens.weight"}),
        ("head", {"lm_head.weight"}),
        ("mlp", names("mlp.", *MLP)),
        ("attention", names("self_attn.", "q_proj", "k_proj", "v_proj", "o_proj")),
        ("q_proj", names("self_attn.", "q_proj")),
        ("layers.1.mlp", {f"model.layers.1.mlp.{module}.weight" for module in MLP}),
        ("layers.*.o_proj", names("self_attn.", "o_proj")),
        ("model.norm.weight", {"model.norm.weight"}),
    ],
)  # fmt: skip
def test_what_a_pattern_matches(pair, pattern, expected):
    found = lams(pair, f"{pattern}:0.25+all:0")
    assert {key for key, lam in found.items() if lam == 0.25} == expected


def test_a_part_of_a_number_is_no_layer(tmp_path):
    base, instruct = pico.pair(tmp_path, num_hidden_layers=12)
    found = lams(Pair.open(str(base), str(instruct)), "layers.1:0.25+layers:0..1.1+all:0")
    assert {key.split(".")[2] for key, lam in found.items() if lam == 0.25} == {"1"}
    assert found["model.layers.10.mlp.up_proj.weight"] == pytest.approx(1.0)


NAMES = st.text("ab.", max_size=12)


@hypothesis.given(st.text("ab.*", min_size=1, max_size=8), NAMES, NAMES)
def test_a_star_is_anything_and_the_rest_are_whole_parts(pattern, key, name):
    expression = re.compile(r"(^|\.)" + re.escape(pattern).replace(r"\*", ".*") + r"(\.|$)")
    expected = bool(expression.search(name) or expression.search(key))
    assert assigning._matcher(pattern)(PLACE, key, name) == expected
    parameters = {key: name}
    # What is looked at is never less than what matches.
    looked_at = assigning._candidates(pattern, parameters, assigning._having(parameters))
    assert not expected or key in looked_at


def test_many_stars_do_not_backtrack():
    began = time.perf_counter()
    matches = assigning._matcher("a*" * 400 + "b")
    assert not matches(PLACE, "a" * 200, "a" * 200) and matches(PLACE, "", "a" * 400 + "b")
    assert time.perf_counter() - began < 5


def test_thousands_of_rules_for_thousands_of_parameters(pair):
    """One rule for each expert: 10,000 times 20,000 names would take minutes."""
    names = [f"model.layers.{n // 256}.mlp.experts.{n % 256}.w1.weight" for n in range(20_000)]
    rules = [f"layers.{n // 256}.mlp.experts.{n % 256}.w1:0.{n % 7}" for n in range(9_999)]
    lam = read_lam("+".join([*rules, "all:1"]))
    parameters = dict(zip(names, names, strict=True))
    began = time.perf_counter()
    found = assigning.assign(lam, pair.architecture, parameters)
    assert time.perf_counter() - began < 30
    assert [found[name].lam for name in names[:3]] == [0.0, 0.1, 0.2] and found[names[-1]].lam == 1


def test_experts_are_a_group_and_single_ones_a_pattern(pairs):
    """Fused by the loader, but interpolated one by one."""
    pair = Pair.open(*map(str, pairs("mixtral")))
    found = lams(pair, "experts.2.w1:0.1+experts:0.2+mlp:0.3+all:0.4")
    # The first part that is in a key tells its rule; the router is of the MLP and no expert.
    expected = {"experts.2.w1": 0.1, "experts": 0.2, "moe": 0.3, "": 0.4}
    for key, lam in found.items():
        assert lam == next(expected[part] for part in expected if part in key), key
    assert set(found.values()) == {0.1, 0.2, 0.3, 0.4}
    model = load(pair, read_lam("experts.2.w1:0+experts:1+all:0.4"))
    fused = model.state_dict()
    name = next(name for name in fused if "gate_up_proj" in name)
    base, instruct = (
        AutoModelForCausalLM.from_pretrained(side).state_dict()[name] for side in pairs("mixtral")
    )
    # The loader puts w1 and w3 of an expert into one tensor, w1 first.
    half = base.shape[1] // 2
    assert torch.equal(fused[name][2, :half], base[2, :half])
    assert torch.equal(fused[name][2, half:], instruct[2, half:])
    assert torch.equal(fused[name][1], instruct[1])


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_groups_tell_every_family_apart(family, pairs):
    pair = Pair.open(*map(str, pairs(family)))
    head = "" if pair.config.tie_word_embeddings else "+head:0.4"
    norms = "" if family == "olmo" else "+norms:0.5"  # without weights there
    found = lams(pair, f"attention:0.1+mlp:0.2+embeddings:0.3{head}{norms}")
    assert len(found) == len(pair.tensors)


def test_an_adapter_under_a_schedule(pairs, tmp_path):
    """λ of a layer scales its low-rank update, beside the weights as in them."""
    base = pairs("llama")[0]
    adapter = pico.adapter(
        base, tmp_path / "a", target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]
    )
    pair = Pair.open(str(base), str(adapter))
    rules = read_lam("attention:0.3..0.9+mlp:1+all:0.5")
    scales = {name.split("layers.")[1]: scale for name, scale in pair.scales(rules).items()}
    # λ times α / r, which is 2.
    assert scales == pytest.approx(
        {
            "0.self_attn.q_proj.weight": 0.6,
            "1.self_attn.q_proj.weight": 1.8,
            "0.mlp.down_proj.weight": 2.0,
            "1.mlp.down_proj.weight": 2.0,
        }
    )
    tokens = torch.arange(20)[None]
    merged, beside = load(pair, rules), load(pair, 0, merge=False)
    beside = move(beside, pair, rules, pytest.fail)
    torch.testing.assert_close(merged(tokens).logits, beside(tokens).logits, rtol=1e-4, atol=3e-5)
    weights = load_file(base / "model.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    down = parts[f"base_model.model.{name}.lora_A.weight"]
    up = parts[f"base_model.model.{name}.lora_B.weight"]
    expected = weights[f"{name}.weight"] + 0.9 * 2 * up @ down
    torch.testing.assert_close(merged.state_dict()[f"{name}.weight"], expected)
    head = torch.lerp(weights["lm_head.weight"], parts["base_model.model.lm_head.weight"], 0.5)
    assert torch.equal(beside.state_dict()["lm_head.weight"], head)


# How it is written --------------------------------------------------------------------------------


def test_all_ways_of_writing_are_one_schedule(tmp_path):
    file = tmp_path / "lam.yaml"
    file.write_text("# by hand\nattention: 0.8\nlayers: 0.2..0.6\nembeddings: 0\nall: 5e-1\n")
    mapping = {"attention": 0.8, "layers": "0.2..0.6", "embeddings": 0, "all": 0.5}
    rules = [("attention", 0.8, 0.8), ("layers", 0.2, 0.6), ("embeddings", 0, 0), ("all", 0.5, 0.5)]
    expected = Schedule(tuple(Rule(*rule) for rule in rules))
    for given in (RULES, mapping, str(file), expected, str(expected), lam_to_json(expected)):
        assert read_lam(given) == expected


@pytest.mark.parametrize("given", ["0.5", 0.5, {"all": 0.5}, "all:0.5", "all:.5"])
def test_a_bare_number_is_the_rule_for_all(given, tmp_path):
    assert read_lam(given) == 0.5
    (tmp_path / "lam.yaml").write_text("0.5\n")
    assert read_lam(str(tmp_path / "lam.yaml")) == 0.5


def test_numbers_with_signs_and_exponents():
    expected = Schedule((Rule("mlp", -1, 2), Rule("all", 0.1, 0.1)))
    assert read_lam("mlp:-1e+0..+2+all:1e-1") == expected
    assert schedule("mlp:.2...6+all:1").rules[0] == Rule("mlp", 0.2, 0.6)


def test_a_schedule_scales_as_a_whole(tmp_path):
    rules = "attention:0.8+layers:0.2..0.6+all:0.5"
    expected = "attention:0.56+layers:0.14..0.42+all:0.35"
    (tmp_path / "lam.yaml").write_text("attention: 0.8\nlayers: 0.2..0.6\nall: 0.5\n")
    assert scaled(read_lam(rules), 0.7) == read_lam(f"0.7*{rules}") == read_lam(expected)
    assert read_lam(f"0.7*{tmp_path}/lam.yaml") == read_lam(expected)
    assert read_lam("0.5*0.5") == 0.25
    # A star in a pattern is no factor.
    assert schedule("layers.*.mlp:0.5+all:1").rules[0].pattern == "layers.*.mlp"


@pytest.mark.parametrize(
    "given, name",
    [
        (0.5, "0.50"),
        ("attention:0.8+layers:0.2..0.65+all:-1", "attention=0.80+layers=0.20..0.65+all=-1.00"),
        ("layers.*.mlp:0.8+all:0.5", "rules-a9d8e01a"),
    ],
)
def test_the_name_of_a_folder(given, name):
    assert name_lam(read_lam(given)) == name


def test_schedules_of_one_pattern_and_other_numbers_have_names_of_their_own():
    rules = "+".join(f"layers.{layer}:0.5" for layer in range(12))
    one, other = (name_lam(read_lam(f"{rules}+all:{lam}")) for lam in (0.1, 0.2))
    assert one != other and len(one) == len(other) < 20


# In the harness -----------------------------------------------------------------------------------


def test_the_command_takes_a_schedule(deep, lm_eval, tmp_path):
    base, instruct = deep
    (tmp_path / "lam.yaml").write_text(
        "attention: 0.8\nlayers: 0.2..0.6\nembeddings: 0\nall: 0.5\n"
    )
    inline, samples = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=RULES)
    result, same = lm_eval(
        "partial-hf", "pico_mc", base=base, instruct=instruct, lam=tmp_path / "lam.yaml"
    )
    rules = "attention:0.8+layers:0.2..0.6+embeddings:0.0+all:0.5"
    assert result["config"]["lam"] == inline["config"]["lam"] == rules
    assert result["folder"].endswith("__lam_rules-" + name_lam(read_lam(RULES))[-8:])
    assert samples == same
    _, plain = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.5)
    _, uniform = lm_eval(
        "partial-hf", "pico_mc", base=base, instruct=instruct, lam="layers:0.5+all:0.5"
    )
    assert samples != plain == uniform


def test_another_schedule_is_another_cache(deep, lm_eval, tmp_path):
    sides = dict(zip(("base", "instruct"), deep, strict=True))
    cache = "--use_cache", str(tmp_path / "cache")
    _, first = lm_eval("partial-hf", "pico_mc", *cache, **sides, lam="mlp:0.4+all:0.5")
    _, again = lm_eval("partial-hf", "pico_mc", *cache, **sides, lam="mlp:0.4+all:0.5")
    assert first == again
    with pytest.raises(UserError, match=r"\(lam 'mlp:0\.4\+all:0\.5', now 'mlp:0\.3\+all:0\.5'\)"):
        lm_eval("partial-hf", "pico_mc", *cache, **sides, lam="mlp:0.3+all:0.5")


def test_extrapolation_in_one_rule_is_said(deep, caplog):
    lm = partial(deep, lam="mlp:1.2+all:0.5")
    assert "lam=mlp:1.2+all:0.5 lies outside [0, 1]" in caplog.text
    assert lm.lam == read_lam("mlp:1.2+all:0.5")
    caplog.clear()
    lm.set_lam(read_lam({"mlp": 0.2, "all": 0.5}))
    assert "outside" not in caplog.text


def test_a_number_scales_the_schedule_of_a_model(deep):
    """λ stays a number, so that a trajectory has an axis; 1 is the schedule as it is."""
    lm = partial(deep, lam=1, schedule=RULES)
    assert lm.name.endswith(f"__schedule_{name_lam(read_lam(RULES))}__lam_1.00")
    for lam in (1, 0.5, 0):
        lm.set_lam(lam)
        assert lm.lam == lam and lm.get_model_info()["lam"] == lam
        expected = load(lm.pair, scaled(read_lam(RULES), lam))
        assert equal(lm.model.state_dict(), expected.state_dict())
    assert lm.get_model_info()["schedule"] == str(read_lam(RULES))
    with pytest.raises(UserError, match="are both rules. Give lam=1 for the schedule as it is"):
        partial(deep, lam=RULES, schedule=RULES)


def test_a_schedule_that_does_not_fit_leaves_the_model_at_its_lam(deep):
    lm = partial(deep, lam=0.5)
    with pytest.raises(UserError, match="matches no parameter"):
        lm.set_lam(read_lam("mpl:0.2+all:0.5"))
    assert lm.lam == 0.5


def test_inspect_shows_which_parameter_gets_which_lam(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    base, instruct = pico.pair(tmp_path, num_hidden_layers=11)
    command = ["inspect", "--base", str(base), "--instruct", str(instruct), "--headers_only"]
    assert main([*command, "--lam", RULES]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [list(map(str.strip, line.split("│")[1:-1])) for line in lines]
    assert ["layers", "model.layers.*.mlp.up_proj.weight", "11", "0.20 … 0.60"] in rows
    assert ["attention", "model.layers.*.self_attn.q_proj.weight", "11", "0.80"] in rows
    assert ["all", "model.norm.weight", "1", "0.50"] in rows
    assert main([*command, "--lam", RULES, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["lam"]
    assert len(found) == 102
    # Layer 5 of 0 … 10 is half way from 0.2 to 0.6.
    middle = found["model.layers.5.mlp.up_proj.weight"]
    assert middle["lam"] == pytest.approx(0.4) and middle["rule"] == "layers"


# What is wrong with rules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules, message",
    [
        (
            "atention:0.5+all:1",
            r"the rule atention:0\.5 matches no parameter\. Did you mean 'attention'\? Groups",
        ),
        ("q_prj:0.5+all:1", r"Did you mean 'q_proj'\?"),
        ("experts:0.5+all:1", r"the rule experts:0\.5 matches no parameter\."),
        ("attention:0.5", r"18 parameters match no rule: lm_head\.weight, .* Add a last rule"),
        (
            "layers:0.1+mlp:0.3+all:1",
            r"mlp:0\.3 has no effect: earlier rules match all of its 9 parameters.*Put",
        ),
        (
            "all:0..1",
            r"all:0\.0\.\.1\.0 runs from the first layer to the last,"
            r" and lm_head\.weight.* say layers",
        ),
    ],
)
def test_rules_that_do_not_fit_the_model(pair, rules, message):
    with pytest.raises(UserError, match=message):
        pair.at(read_lam(rules))


@pytest.mark.parametrize(
    "given, message",
    [
        (
            "half",
            (
                r"lam=half is not a finite number\. Give a finite number, .* rules such as .* or a"
                r" YAML file"
            ),
        ),
        (
            "mlp:half+all:1",
            r"'half' is no λ for a pattern\. Expected PATTERN: λ or PATTERN: a\.\.b",
        ),
        ("mlp:inf+all:1", r"'inf' is no λ"),
        ("mlp:0.1..x+all:1", r"'0\.1\.\.x' is no λ"),
        ("mlp:0.1+all", r"None is no λ"),
        (":0.1", r"'0\.1' is no λ for a pattern"),
        ("mlp:0.1+mlp:0.2", r"two rules for mlp\. Keep one"),
        ({}, r"lam has no rules"),
        ({"mlp": True}, r"True is no λ"),
        ("none.yaml", r"lam=none\.yaml cannot be read \(No such file or directory\)"),
    ],
)
def test_what_is_no_schedule(given, message):
    with pytest.raises(UserError, match=message):
        read_lam(given)


@pytest.mark.parametrize(
    "text, message",
    [
        ("- 0.5\n", r"lam\.yaml: no rules\. Expected PATTERN"),
        ("", r"lam\.yaml: no rules"),
        ("mlp: 0.1\nmlp: 0.2\n", r"lam\.yaml: lam: two rules for mlp"),
        ("mlp: [0.1]\n", r"lam\.yaml: lam: .* is no λ for a pattern"),
        ("mlp: {", r"lam\.yaml is not YAML"),
        ("half", r"lam\.yaml: lam=half is not a finite number"),
    ],
)
def test_a_file_that_is_no_schedule(text, message, tmp_path):
    (tmp_path / "lam.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_lam(str(tmp_path / "lam.yaml"))


def test_the_order_of_rules_counts():
    """In a JSON object it would not: one schedule could be given the other's cached answers."""
    one, other = read_lam("mlp:0.1+layers:0.2+all:0"), read_lam("layers:0.2+mlp:0.1+all:0")
    assert one != other and lam_to_json(one) != lam_to_json(other)
    assert name_lam(one) != name_lam(other)
