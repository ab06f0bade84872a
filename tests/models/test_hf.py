"""The model type in the harness: results, caches, arguments, and moving between λ."""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import BitsAndBytesConfig, GenerationConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.source import Source
from tests import pico
from tests.answers import agree
from tests.conftest import TASKS
from tests.tasks.rows import THINGS


@pytest.fixture
def pair(pairs) -> dict[str, str]:
    base, instruct = pairs("llama")
    return {"base": str(base), "instruct": str(instruct)}


def score(lm: PartialHFLM) -> list[tuple[float, bool]]:
    requests = [(None, [2, 3, last], [5, 6]) for last in (4, 5, 6, 7)]
    return lm._loglikelihood_tokens(requests, disable_tqdm=True)


# What a run leaves behind -------------------------------------------------------------------------


def test_result_folder_and_config_name_the_pair_and_lam(pair, lm_eval):
    result, _ = lm_eval("partial-hf", "pico_mc", **pair, lam=0.5)
    name = "__".join([*pair["base"].split("/")[-2:], *pair["instruct"].split("/")[-2:], "lam_0.50"])
    assert result["folder"] == result["model_name_sanitized"] == name
    config = result["config"]
    assert (
        config["model"] == "partial-hf"
        and config["lam"] == 0.5
        and config["model_dtype"] == "torch.float32"
    )
    for side in ("base", "instruct"):
        assert config[side] == pair[side] and config[f"{side}_sha"].startswith("local-")
        assert config[f"{side}_revision"] == "main"
    assert config["base_sha"] != config["instruct_sha"] == config["model_sha"]
    assert config["vocabulary"] == "instruct" and config["lm_eval_partial_version"]
    assert config["model_num_parameters"] == 36640


def test_result_folder_may_be_named(pair, lm_eval):
    result, _ = lm_eval("partial-hf", "pico_mc", **pair, lam=0.5, model="mine")
    assert result["folder"] == "mine"


def test_one_dictionary_for_many_lam_names_each(pair):
    args = dict(pair, lam=0.5)
    PartialHFLM.create_from_arg_obj(args)
    assert args["model"].endswith("lam_0.50")
    args["lam"] = 0.6
    PartialHFLM.create_from_arg_obj(args)
    assert args["model"].endswith("lam_0.60")
    args["model"] = "mine"
    PartialHFLM.create_from_arg_obj(args)
    assert args["model"] == "mine"


def test_folders_inside_one_checkpoint_name_the_result(pairs, lm_eval):
    base, instruct = pairs("llama")
    where = {
        "base": base.parent,
        "base_subfolder": "base",
        "instruct": base.parent,
        "instruct_subfolder": "instruct",
    }
    result, samples = lm_eval("partial-hf", "pico_mc", **where, lam=1, share_prefix=False)
    parent = base.parent.name
    assert result["folder"] == f"{parent}__base__{parent}__instruct__lam_1.00"
    _, stock = lm_eval("hf", "pico_mc", pretrained=instruct)
    assert samples == stock


def copied(pairs, base: Path, instruct: Path) -> None:
    for source, folder in zip(pairs("llama"), (base, instruct), strict=True):
        shutil.copytree(source, folder)


def test_a_pair_below_the_working_folder_has_a_name_that_is_not_hidden(
    pairs, lm_eval, tmp_path, monkeypatch
):
    copied(pairs, tmp_path / "base", tmp_path / ".cache" / "instruct")
    monkeypatch.chdir(tmp_path)
    result, _ = lm_eval("partial-hf", "pico_mc", base="./base", instruct=".cache/instruct", lam=0.5)
    assert result["folder"] == "base__cache__instruct__lam_0.50"
    lm = PartialHFLM(base=".cache/../base", instruct=".cache/instruct", lam=1)
    assert lm.name == "cache__base__cache__instruct__lam_1.00"
    monkeypatch.chdir(tmp_path / "base")
    lm = PartialHFLM(base=".", instruct="../.cache/instruct", lam=0)
    assert lm.name == "base__cache__instruct__lam_0.00"


def test_long_names_are_cut_by_bytes_and_results_are_written(pairs, lm_eval, tmp_path):
    """42 Chinese characters are 126 bytes, and a file system takes 255 for a name."""
    chinese = ["基" * 42, "指" * 42]
    base, instruct = (tmp_path / name for name in chinese)
    copied(pairs, base, instruct)
    result, samples = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.5)
    assert samples["pico_mc"] and result["config"]["base"] == str(base)
    sides = result["folder"].split("__")
    assert len(result["folder"].encode()) <= 200 and sides[-1] == "lam_0.50"
    assert [re.sub("^[0-9a-f]{8}-", "", side)[-20:] for side in sides[:2]] == ["基" * 20, "指" * 20]
    # Two that differ only where they are cut have two names.
    other = shutil.copytree(base, tmp_path / ("其" + "基" * 41))
    names = [PartialHFLM(str(side), str(instruct), 0.5).name for side in (base, other)]
    assert names[0] == result["folder"] != names[1]


def test_a_name_that_no_file_system_takes_is_refused(pair, monkeypatch):
    with pytest.raises(
        UserError, match=r"file systems take 255 bytes for a name; this one has 258"
    ):
        PartialHFLM(**pair, lam=0.5, model="名" * 86)
    assert PartialHFLM(**pair, lam=0.5, model="名" * 85).lam == 0.5


def test_between_the_ends_the_answers_are_their_own(pair, lm_eval):
    found = []
    for lam in (0, 0.5, 1):
        _, samples = lm_eval("partial-hf", "pico_mc", **pair, lam=lam)
        found.append([sample["resps"] for sample in samples["pico_mc"]])
    assert found[0] != found[1] != found[2] != found[0]


def test_chat_template_is_the_instruct_sides(pair, lm_eval):
    result, samples = lm_eval("partial-hf", "pico_gen", "--apply_chat_template", **pair, lam=0.5)
    assert result["chat_template"] == pico.CHAT
    assert samples["pico_gen"][0]["arguments"]["gen_args_0"]["arg_0"].endswith("<|a|>")


# --use_cache --------------------------------------------------------------------------------------


@pytest.mark.versions
def test_a_cache_serves_its_own_lam_and_no_other(pair, lm_eval, tmp_path, monkeypatch):
    cache = "--use_cache", str(tmp_path / "cache")
    _, first = lm_eval("partial-hf", "pico_mc", *cache, **pair, lam=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(
            PartialHFLM, "_model_call", lambda *_, **__: pytest.fail("not served from the cache")
        )
        _, again = lm_eval("partial-hf", "pico_mc", *cache, **pair, lam=0.5)
    assert again == first
    with pytest.raises(
        UserError,
        match=r"another model's answers \(lam 0\.5, now 0\.6\)\. Give --use_cache another path",
    ):
        lm_eval("partial-hf", "pico_mc", *cache, **pair, lam=0.6)
    with pytest.raises(
        UserError, match=r"another model's answers \(dtype 'float32', now 'bfloat16'\)"
    ):
        lm_eval("partial-hf", "pico_mc", *cache, **pair, lam=0.5, dtype="bfloat16")


def test_a_cache_of_stock_hf_is_refused(pair, lm_eval, tmp_path):
    cache = "--use_cache", str(tmp_path / "cache")
    lm_eval("hf", "pico_mc", *cache, pretrained=pair["instruct"])
    with pytest.raises(UserError, match="holds answers of an unknown model"):
        lm_eval("partial-hf", "pico_mc", *cache, **pair, lam=1)


def test_a_moved_model_lets_its_cache_go(pair, tmp_path):
    from lm_eval.api.model import CachingLM

    lm = PartialHFLM(**pair, lam=0.5)
    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    lm.set_lam(0.25)
    assert lm.cache_hook.dbdict is None
    with pytest.raises(AttributeError):  # closed: an error, not the answers of λ = 0.5
        cached.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)])
    with pytest.raises(UserError, match=r"lam 0\.5, now 0\.25"):
        CachingLM(lm, str(tmp_path / "cache.db"))
    CachingLM(lm, str(tmp_path / "other.db"))


@pytest.mark.parametrize("file", ["generation_config.json", "config.json", "tokenizer.json"])
def test_what_else_changes_answers_changes_the_fingerprint(file, pairs, tmp_path):
    base, instruct = pairs("llama")
    copy = shutil.copytree(instruct, tmp_path / "copy")
    before = PartialHFLM(base=str(base), instruct=str(copy), lam=0.5).fingerprint
    text = (copy / file).read_text()
    edits = {
        "generation_config.json": (
            '"_from_model_config"',
            '"repetition_penalty": 1.5, "_from_model_config"',
        ),
        "config.json": ('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'),
        "tokenizer.json": ('"add_prefix_space":false', '"add_prefix_space":true'),
    }
    old, new = edits[file]
    if file == "tokenizer.json":  # written with other spaces by some releases of tokenizers
        text = json.dumps(json.loads(text), separators=(",", ":"))
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    after = PartialHFLM(base=str(base), instruct=str(copy), lam=0.5).fingerprint
    assert [name for name in before if before[name] != after[name]] == [file.removesuffix(".json")]


@pytest.mark.parametrize("share_prefix", [True, False])
def test_without_a_generation_config_texts_are_stocks_without_one(share_prefix, pairs, tmp_path):
    base, instruct = pairs("llama")
    copy = shutil.copytree(instruct, tmp_path / "copy")
    fields = {"eos_token_id": [1, 5], "repetition_penalty": 1.5, "min_new_tokens": 9}
    (copy / "generation_config.json").write_text(json.dumps(fields | {"max_new_tokens": 10}))
    given: dict[str, Any] = {"base": str(base), "instruct": str(copy), "lam": 1, "device": "cpu"}
    requests = []
    for index, thing in enumerate(THINGS):
        text = "The fox is slow. " * 20 + f"The {thing} is"
        asked = text, {"until": ["\n"], "max_gen_toks": 20}
        requests.append(Instance("generate_until", {}, asked, index))
    stock = HFLM(pretrained=str(copy), device="cpu")
    lm = PartialHFLM(**given, share_prefix=share_prefix)
    theirs = stock.generate_until(requests)
    assert lm.generate_until(requests) == theirs
    stock.model.generation_config = GenerationConfig(eos_token_id=[1, 5])
    none = PartialHFLM(**given, share_prefix=share_prefix, generation_config="none")
    found = none.generate_until(requests)
    assert found == stock.generate_until(requests) and found != theirs
    assert none.path_counts()["generate_until"].keys() == (
        {"shared"} if share_prefix else {"plain: share_prefix=False"}
    )
    differing = [name for name in lm.fingerprint if lm.fingerprint[name] != none.fingerprint[name]]
    assert differing == ["generation_config"]
    assert none.get_model_info()["generation_config"] == "none"
    # Loaded anew or overwritten, every λ has it.
    none.set_lam(0.5)
    assert none.model.generation_config.repetition_penalty is None


# Moving -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2"])
def test_set_lam_gives_a_fresh_models_answers_in_any_order(family, pairs):
    base, instruct = map(str, pairs(family))
    lm = PartialHFLM(base=base, instruct=instruct, lam=0.5)
    for lam in (1, 0.3, 0, 0.3):
        lm.set_lam(lam)
        assert lm.lam == lam and score(lm) == score(
            PartialHFLM(base=base, instruct=instruct, lam=lam)
        )


def test_a_found_batch_size_does_not_outlive_its_model(pair):
    lm = PartialHFLM(**pair, lam=0.5)
    lm.batch_sizes = {0: 64}
    lm.set_lam(0.25)
    assert lm.batch_sizes == {}


def test_a_move_cut_off_leaves_no_model_that_answers_to_a_lam(pair, monkeypatch):
    lm = PartialHFLM(**pair, lam=0.5)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lm_eval_partial.weights.loading.move", cut)
        lm.set_lam(0.25)
    with pytest.raises(UserError, match="cut off.*Call set_lam again"):
        lm.get_model_info()
    lm.set_lam(0.25)
    assert lm.lam == 0.25


@pytest.mark.parametrize("lam", [1.5, -0.5])
def test_extrapolation_is_said(pair, lam, caplog):
    lm = PartialHFLM(**pair, lam=lam)
    assert f"lam={lam} lies outside [0, 1]: this extrapolates" in caplog.text
    assert all(math.isfinite(value) for value, _ in score(lm))


# Arguments ----------------------------------------------------------------------------------------


def test_harness_arguments_pass_through(pair):
    lm = PartialHFLM(
        **pair,
        lam="0.5",
        dtype="bfloat16",
        max_length=64,
        batch_size=4,
        add_bos_token=False,
        attn_implementation="eager",
    )
    assert lm.max_length == 64 and lm.batch_size == 4 and lm.model.dtype == torch.bfloat16
    assert lm.model.config._attn_implementation == "eager" and lm.device.type == "cpu"


def test_batch_size_auto_gives_the_same_answers(pair, lm_eval):
    runs = []
    for size in ("1", "auto"):
        _, samples = lm_eval("partial-hf", "pico_mc", "--batch_size", size, **pair, lam=0.5)
        runs.append([sample["filtered_resps"] for sample in samples["pico_mc"]])
    assert agree(runs[0], runs[1])


def test_a_config_field_may_be_overridden_as_in_stock(pair, lm_eval):
    _, stock = lm_eval("hf", "pico_mc", pretrained=pair["instruct"], rms_norm_eps=0.5)
    _, ours = lm_eval("partial-hf", "pico_mc", **pair, lam=1, rms_norm_eps=0.5, share_prefix=False)
    _, plain = lm_eval("partial-hf", "pico_mc", **pair, lam=1, share_prefix=False)
    assert ours == stock != plain


def test_a_tokenizer_by_its_path(pair, tmp_path):
    pico.tokenizer(pad_token="a").save_pretrained(tmp_path / "words")
    lm = PartialHFLM(**pair, lam=0.5, tokenizer=str(tmp_path / "words"))
    assert lm.tokenizer.pad_token == "a" and lm.get_model_info()["vocabulary"] == "instruct"


def test_a_tokenizer_below_the_home_folder(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pico.tokenizer(pad_token="a").save_pretrained(tmp_path / "words")
    lm = PartialHFLM(**pair, lam=0.5, tokenizer="~/words")
    assert lm.tokenizer.pad_token == "a"


def test_no_tokenizer_is_the_default(pair):
    from lm_eval_partial import Pair

    assert PartialHFLM(**pair, lam=0.5, tokenizer=None).get_model_info()["vocabulary"] == "instruct"
    assert Pair.open(**pair, tokenizer=None).reference.role == "instruct"


def test_flags_that_are_model_arguments_too(pair, lm_eval):
    result, _ = lm_eval(
        "partial-hf", "pico_mc", **pair, lam=0.5, batch_size=4, device="cpu", max_batch_size=None
    )
    assert result["config"]["lam"] == 0.5
    flags = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}  # as if none was given
    lm = PartialHFLM.create_from_arg_obj(pair | {"lam": 0.5, "batch_size": 4}, flags)
    assert lm.batch_size_per_gpu == 4
    text = f"base={pair['base']},instruct={pair['instruct']},lam=0.5,batch_size=4,device=cpu"
    lm = PartialHFLM.create_from_arg_string(text, flags)
    assert lm.batch_size_per_gpu == 4 and lm.device.type == "cpu"
    with pytest.raises(UserError, match=r"--batch_size 8 and batch_size=4 in --model_args differ"):
        PartialHFLM.create_from_arg_string(text, {"batch_size": "8"})
    assert arguments.with_flags({"device": 1}, flags)["device"] == "cuda:1"


@pytest.mark.parametrize("name", ["base", "instruct_revision", "tokenizer", "model"])
def test_a_name_that_was_read_as_a_number_is_refused(name, pair, lm_eval):
    """007 arrives as 7. Quotation marks keep it."""
    with pytest.raises(UserError, match=rf"{name}= was read as the int 7.*'{name}=\"\.\.\.\"'"):
        lm_eval("partial-hf", "pico_mc", **(pair | {"lam": 0.5, name: "007"}))


def test_a_folder_called_by_a_number(pairs, lm_eval, tmp_path, monkeypatch):
    copied(pairs, tmp_path / "007", tmp_path / "instruct")
    monkeypatch.chdir(tmp_path)
    result, _ = lm_eval("partial-hf", "pico_mc", base='"007"', instruct="instruct", lam=0.5)
    assert result["config"]["base"] == "007" and result["folder"] == "007__instruct__lam_0.50"


def test_a_tokenizer_itself(pair):
    words = pico.tokenizer(pad_token="a")
    assert PartialHFLM(**pair, lam=0.5, tokenizer=words).tokenizer is words


def test_a_side_without_the_tokenizer_asked_for(pairs, tmp_path):
    base, instruct = pairs("llama")
    bare = shutil.copytree(
        instruct, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "chat*")
    )
    with pytest.raises(UserError, match=r"instruct=.*bare has no tokenizer\. Give tokenizer=PATH"):
        PartialHFLM(base=str(base), instruct=str(bare), lam=0.5)
    assert (
        len(score(PartialHFLM(base=str(base), instruct=str(bare), lam=0.5, tokenizer="base"))) == 4
    )


def test_arguments_that_say_nothing_are_no_error(pair):
    nothing: dict[str, Any] = {"backend": "causal", "peft": None, "gguf_file": None}
    nothing |= {"revision": "main", "delta": None}
    lm = PartialHFLM(**pair, lam=0.5, dtype=None, low_cpu_mem_usage=True, **nothing)
    assert lm.model.dtype == torch.float32


def test_parallelize_without_a_gpu_is_one_device(pair, tmp_path, monkeypatch):
    """Stock spreads the model over ./offload there, where the next model overwrites it."""
    monkeypatch.chdir(tmp_path)
    assert score(PartialHFLM(**pair, lam=0.5, parallelize=True)) == score(
        PartialHFLM(**pair, lam=0.5)
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"base": None},
            (
                r"base= is missing\. Expected base=BASE,instruct=INSTRUCT, where BASE and INSTRUCT"
                r" are folders"
            ),
        ),
        ({"instruct": None}, r"instruct= is missing\."),
        ({"lam": None}, r"lam= is missing\."),
        ({"lam": "half"}, r"lam=half is not a finite number"),
        ({"lam": "nan"}, r"lam=nan is not a finite number"),
        (
            {"pretrained": "x"},
            r"pretrained= does not go with partial-hf: give base=\.\.\. and instruct=",
        ),
        ({"revision": "x"}, r"revision= does not .* base_revision=\.\.\. and instruct_revision="),
        ({"peft": "x"}, r"peft= does not .* give the adapter as instruct="),
        ({"delta": "x"}, r"delta= does not .* the difference is scaled by lam"),
        ({"backend": "seq2seq"}, r"backend= does not .* causal \(decoder-only\)"),
        ({"token": "x"}, r"token= does not .* HF_TOKEN"),
        ({"offload_folder": "x"}, r"offload_folder= does not .* cannot be offloaded to disk"),
        ({"lambda": 0.5}, r"unknown argument lambda=\."),
        ({"instruct_revison": "x"}, r"instruct_revison=\. Did you mean 'instruct_revision'\?"),
        (
            {"atn_implementation": "x"},
            r"atn_implementation=\. Did you mean 'attn_implementation'\?",
        ),
        ({"dtype": "float33"}, r"dtype=float33 is not a floating point dtype"),
        ({"device_map": "auto"}, r"device_map= does not .* give parallelize=True"),
    ],
)
def test_wrong_arguments_are_named_before_a_weight_file_is_opened(
    change, message, pair, monkeypatch
):
    monkeypatch.setattr(
        "lm_eval_partial.weights.checkpoint.safe_open",
        lambda *_, **__: pytest.fail("weights were opened"),
    )
    given = {**pair, "lam": 0.5} | change  # None is as good as nothing
    with pytest.raises(UserError, match=message):
        PartialHFLM(**given)


def test_a_pair_that_differs_is_warned_of(pair, caplog, tmp_path):
    odd = shutil.copytree(pair["instruct"], tmp_path / "odd")
    pico.tokenizer(pad_token="</s>").save_pretrained(odd)
    with caplog.at_level(logging.WARNING):
        PartialHFLM(base=pair["base"], instruct=str(odd), lam=0.5)
    assert "the tokenizers differ" in caplog.text
    assert "pad_token: base None, instruct '</s>'" in caplog.text
    assert "the generation configs differ; the instruct side's is used at every λ" in caplog.text
    assert "eos_token_id: base 1, instruct [1, 5]" in caplog.text
    # Its update is small.
    assert "suspicious" not in caplog.text


def test_two_unrelated_models_are_warned_of(tmp_path, caplog):
    words = pico.tokenizer()
    for seed, side in enumerate(("b", "i")):
        pico.save(pico.model(pico.config("llama", len(words)), seed), words, tmp_path / side)
    with caplog.at_level(logging.WARNING):
        PartialHFLM(base=str(tmp_path / "b"), instruct=str(tmp_path / "i"), lam=0.5, rank=2)
    assert re.search(
        r"suspicious: the update is 1\.4\d of the weights' own norm, in a", caplog.text
    )


# The other ways in --------------------------------------------------------------------------------


def test_simple_evaluate(pair, lm_eval):
    import lm_eval as harness
    from lm_eval.tasks import TaskManager

    _, samples = lm_eval("partial-hf", "pico_mc", **pair, lam=0.5)
    expected = [float(sample["filtered_resps"][0][0]) for sample in samples["pico_mc"]]
    text = f"base={pair['base']},instruct={pair['instruct']},lam=0.5"
    for args in ({**pair, "lam": 0.5}, text):
        result = harness.simple_evaluate(
            model="partial-hf",
            model_args=args,
            tasks=["pico_mc"],
            task_manager=TaskManager(include_path=str(TASKS)),
        )
        assert result["config"]["lam"] == 0.5
        found = [sample["filtered_resps"][0][0] for sample in result["samples"]["pico_mc"]]
        assert found == expected


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["lm_eval", "run"], marks=pytest.mark.versions),
        pytest.param(["-m", "lm_eval"], marks=pytest.mark.slow),
        pytest.param(
            ["accelerate", "launch", "--cpu", "--num_processes", "1", "-m", "lm_eval"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=" ".join,
)
def test_commands(command, pair, tmp_path):
    scripts = os.path.dirname(sys.executable)
    start = [sys.executable] if command[0] == "-m" else [os.path.join(scripts, command.pop(0))]
    args = f"base={pair['base']},instruct={pair['instruct']},lam=0.5"
    rest = ["--model", "partial-hf", "--model_args", args, "--tasks", "pico_mc", "--limit", "2"]
    rest += ["--include_path", str(TASKS), "--output_path", str(tmp_path), "--device", "cpu"]
    done = subprocess.run([*start, *command, *rest], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pico_mc" in done.stdout and list(tmp_path.glob("*__lam_0.50/results_*.json"))


def test_a_user_error_ends_the_command_in_one_line(pair, tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "lm_eval")
    args = f"base={pair['base']},instruct={tmp_path}/nope,lam=0.5"
    command = [script, "--model", "partial-hf", "--model_args", args, "--tasks", "pico_mc"]
    command += ["--include_path", str(TASKS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.splitlines()[-1]
        == f"error: instruct={tmp_path}/nope: no such folder. Give a folder with a config.json, or"
        " a Hub id."
    )


def test_every_argument_has_one_row_in_the_docs_with_its_default_and_an_example():
    rows = rows_of_the_docs(columns=4)
    assert sorted(name for name, *_ in rows) == sorted(arguments._known())
    for name, default, meaning, example in rows:
        assert meaning and example.startswith(f"`{name}=") and example.endswith("`"), (
            f"no example of {name}"
        )
        assert re.fullmatch(rf"{re.escape(default_in_code(name))}( \(.+\))?", default), (
            f"another default of {name}"
        )


def test_every_refused_argument_has_one_row_in_the_docs():
    assert sorted(name for name, _ in rows_of_the_docs(columns=2)) == sorted(arguments.INSTEAD)


def rows_of_the_docs(columns):
    """Return the rows of docs/arguments.md with so many columns, names without backticks."""
    text = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text(encoding="utf-8")
    rows = []
    for line in text.splitlines():
        if not line.startswith("| `"):
            continue
        name, *cells = map(str.strip, line.strip("|").split("|"))
        if len(cells) == columns - 1:
            rows.append([name.strip("`"), *cells])
    return rows


def default_in_code(name):
    """Return an argument's default as the docs write it."""
    if name in ("base", "instruct", "lam"):
        return "required"
    if name in arguments.LOADER:
        return "transformers' own"
    default = None
    for function in (BitsAndBytesConfig, HFLM, Source, PartialHFLM):  # the last that has it counts
        parameters = inspect.signature(function).parameters
        if name in parameters:
            default = parameters[name].default
    return "none" if default in (None, "") else f"`{default}`"


@pytest.mark.parametrize(
    "dtype, slowdown, said", [("auto", 5.4, True), ("auto", 1.2, False), ("bfloat16", 5.4, False)]
)
def test_half_precision_that_this_cpu_is_slow_in_is_named(
    tmp_path, monkeypatch, caplog, dtype, slowdown, said
):
    base, instruct = pico.pair(tmp_path, dtype=torch.bfloat16)
    monkeypatch.setattr(loading, "cpu_slowdown", lambda _: slowdown)
    PartialHFLM(base=str(base), instruct=str(instruct), lam=0.5, dtype=dtype, device="cpu")
    line = (
        "dtype=auto gives bfloat16, in which this CPU is 5 times slower than in float32."
        " dtype=float32 is faster, if its memory is there."
    )
    assert (line in caplog.messages) is said


def test_the_slowdown_is_measured():
    assert (
        loading.cpu_slowdown(torch.float32) == pytest.approx(1, rel=0.9)
        and loading.cpu_slowdown(torch.float16) > 0
    )
