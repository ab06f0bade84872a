"""What is true and what is false among the arguments: any text is true to Python."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM

from lm_eval_partial import Pair
from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.source import Source, as_bool

TRUE = (True, 1, "true", "True", "TRUE", "yes", "on", "1", " Yes ")
FALSE = (False, 0, "false", "False", "no", "NO", "off", "0")
NEITHER: tuple[Any, ...] = (
    "f",
    "t",
    "n",
    "y",
    "null",
    "none",
    "",
    "'False'",
    "no!",
    "2",
    2,
    -1,
    1.0,
    0.0,
    [],
    {},
)


@pytest.mark.parametrize("value", TRUE)
def test_what_is_true(value):
    assert as_bool("merge", value) is True


@pytest.mark.parametrize("value", FALSE)
def test_what_is_false(value):
    assert as_bool("merge", value) is False


@pytest.mark.parametrize("value", [*NEITHER, None])
def test_what_is_neither(value):
    with pytest.raises(UserError, match=r"merge=.* is neither true nor false\. Give merge=True or"):
        as_bool("merge", value)


@given(st.text(max_size=8))
def test_no_other_text_is_true(text):
    try:
        found = as_bool("x", text)
    except UserError:
        return
    assert text.strip().lower() in (("true", "yes", "on", "1") if found else FALSE[2:])


@pytest.mark.parametrize("value", FALSE)
def test_no_spelling_of_false_runs_code_of_a_stranger(value):
    assert Source("b", "i", trust_remote_code=value).trust_remote_code is False
    assert Source.of({"base": "b", "instruct": "i", "trust_remote_code": value}) == Source("b", "i")


@pytest.mark.parametrize("value", NEITHER)
def test_what_is_neither_does_not_either(value, pairs):
    base, instruct = map(str, pairs("llama"))
    for opened in (
        lambda: Source(base, instruct, trust_remote_code=value),
        lambda: Pair.open(base, instruct, trust_remote_code=value),
        lambda: PartialHFLM(base=base, instruct=instruct, lam=0.5, trust_remote_code=value),
        lambda: arguments.booleans({"trust_remote_code": value}),
    ):
        with pytest.raises(UserError, match="trust_remote_code=.* is neither true nor false"):
            opened()


def test_every_argument_that_is_true_or_false_is_known():
    """Those of the harness by its annotations; a new one is then read strictly, too."""
    harness = {"truncation", "logits_cache", "trust_remote_code", "use_fast_tokenizer"}
    harness |= {"add_bos_token", "parallelize", "enable_thinking", "gptqmodel"}
    assert harness <= arguments.boolean_names()
    assert {"merge", "share_prefix", "load_in_8bit", "load_in_4bit"} <= arguments.boolean_names()
    for name in ("pretrained", "dtype", "tokenizer", "batch_size", "autogptq", "rank"):
        assert name not in arguments.boolean_names()
    ours = {each.name for each in fields(Source) if each.type == "bool"}
    assert ours == {"trust_remote_code"}


def test_no_boolean_of_the_loaders_is_left_out():
    names = arguments.boolean_names()
    for loader in (HFLM, PartialHFLM):
        for name, parameter in inspect.signature(loader.__init__).parameters.items():
            may_be_text = "str" in str(parameter.annotation)  # autogptq, which is refused anyway
            if isinstance(parameter.default, bool) and not may_be_text:
                assert name in names, name


def test_none_stands_for_an_argument_that_was_left_out():
    assert arguments.booleans({"merge": None, "base": "x"}) == {"merge": None, "base": "x"}


@pytest.mark.parametrize("name", ["merge", "share_prefix", "add_bos_token", "parallelize"])
def test_a_model_refuses_what_is_neither(name, pairs, no_reads):
    base, instruct = map(str, pairs("llama"))
    given: dict[str, Any] = {"base": base, "instruct": instruct, "lam": 0.5, name: "maybe"}
    with pytest.raises(UserError, match=f"{name}=maybe is neither true nor false"):
        PartialHFLM(**given)
    with pytest.raises(UserError, match=f"{name}=maybe is neither true nor false"):
        PartialHFLM.create_from_arg_obj(given, {})


def test_a_model_reads_every_spelling(pairs):
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM.create_from_arg_string(
        f"base={base},instruct={instruct},lam=0.5,share_prefix=no,logits_cache=off,parallelize=0,"
        "trust_remote_code=no,merge=no,load_in_8bit=off,tie_word_embeddings=off,dtype=float32"
    )
    assert lm.sharing_off == "share_prefix=False" and lm.logits_cache is False
    assert lm.model.config.tie_word_embeddings is False and lm.model.dtype == torch.float32
    assert lm.get_model_info()["merge"] is False


def test_a_config_field_that_is_true_or_false_is_read_strictly(pairs, no_reads):
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match="tie_word_embeddings=f is neither true nor false"):
        PartialHFLM(base=base, instruct=instruct, lam=0.5, tie_word_embeddings="f")


@pytest.mark.parametrize(
    "device, words",
    [
        ("cuda", "device=cuda: PyTorch sees no GPU here. Give cpu."),
        ("cuda:1", "device=cuda:1: PyTorch sees no GPU here."),
        ("gpu", "device=gpu is no device. Give cpu, cuda or cuda:0."),
        ("meta", "device=meta: PyTorch sees no meta here."),
    ],
)
def test_a_device_that_is_not_there_is_named(device, words, pairs, monkeypatch, no_reads):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base, instruct = map(str, pairs("llama"))
    given = {"base": base, "instruct": instruct, "lam": 0.5}
    with pytest.raises(UserError, match=words):
        PartialHFLM.create_from_arg_obj(given, {"device": device})


def test_the_harnesss_default_device_is_the_cpu_where_there_is_no_gpu(pairs, monkeypatch):
    """It passes cuda:0 on if no device was given."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base, instruct = map(str, pairs("llama"))
    given = {"base": base, "instruct": instruct, "lam": 0.5}
    assert PartialHFLM.create_from_arg_obj(dict(given), {"device": "cuda:0"}).device.type == "cpu"
    with pytest.raises(UserError, match="device=cuda:0: PyTorch sees no GPU here"):
        PartialHFLM.create_from_arg_obj(given | {"device": "cuda:0"}, {"device": "cuda:0"})


def test_more_gpus_than_there_are(monkeypatch):
    from lm_eval_partial.models.device import check_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("--device 1", 1)
    check_device("--device cuda", "cuda")
    with pytest.raises(UserError, match="--device cuda:2: there are 2 GPUs, numbered from 0"):
        check_device("--device cuda:2", "cuda:2")
