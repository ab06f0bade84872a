"""23 pairs of real models' metadata: stock's answers at both ends, a merge's in between.

One set of questions: few-shot prompts, several scripts, a text from nothing, the chat template.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lm_eval_partial.cli import main
from lm_eval_partial.models.hf import PartialHFLM
from tests.answers import agree
from tests.real.small import UPDATE, make_pair, merged

PAIRS = (
    "Llama-2-7b-hf Llama-2-7b-chat-hf",
    "Meta-Llama-3-8B Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3-8B+bos Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3-8B Llama-3.1-8B-Instruct",
    "Meta-Llama-3-8B+bos Llama-3.1-8B-Instruct",
    "Meta-Llama-3-8B Hermes-2-Pro-Llama-3-8B",
    "Llama-3.1-8B Llama-3.1-8B-Instruct",
    "Llama-3.1-8B Llama-3.1-Tulu-3-8B",
    "Mistral-7B-v0.1 Mistral-7B-Instruct-v0.1",
    "Mistral-7B-v0.1 Mistral-7B-Instruct-v0.2",
    "Mistral-7B-v0.1 Mistral-7B-Instruct-v0.3",
    "Mistral-7B-v0.3 Mistral-7B-Instruct-v0.3",
    "Mistral-7B-v0.1 zephyr-7b-beta",
    "OLMo-7B-hf OLMo-7B-SFT-hf",
    "OLMo-2-1124-7B OLMo-2-1124-7B-DPO",
    "OLMo-2-1124-7B OLMo-2-1124-7B-Instruct",
    "OLMo-2-1124-7B-DPO OLMo-2-1124-7B-Instruct",
    "gemma-2-2b gemma-2-2b-it",
    "Qwen2.5-7B Qwen2.5-7B-Instruct",
    "Qwen3-8B-Base Qwen3-8B",
    "SmolLM2-135M SmolLM2-135M-Instruct",
    "TinyLlama-1.1B-intermediate-3T TinyLlama-1.1B-Chat-v1.0",
    "Mixtral-8x7B-v0.1 Mixtral-8x7B-Instruct-v0.1",
)

# A prepended vocabulary, experts, tied embeddings, and norms without weights.
FAST = (
    "Mistral-7B-v0.1 Mistral-7B-Instruct-v0.3",
    "Mixtral-8x7B-v0.1 Mixtral-8x7B-Instruct-v0.1",
    "SmolLM2-135M SmolLM2-135M-Instruct",
    "OLMo-7B-hf OLMo-7B-SFT-hf",
)

# What `inspect` says of an oddity.
SAYS = {
    "Mistral-7B-v0.1 Mistral-7B-Instruct-v0.3": (
        "the same text has other tokens (spaces, markup; first in spaces: base ['▁▁', '▁two'",
        "  31,997 re-numbered in instruct: <0x00> 3 → 771, <0x01> 4 → 772, ",
        "  768 only in instruct, whose rows they keep at every λ: [INST], [/INST], ",
    ),
    "Meta-Llama-3-8B Hermes-2-Pro-Llama-3-8B": (
        " 2: default, tool_use ",
        "  7 re-purposed in instruct: 128002 <|reserved_special_token_0|> → <tool_call>, ",
        "and 2 more",
    ),
    "Llama-3.1-8B Llama-3.1-Tulu-3-8B": (
        "  1 only in instruct, whose rows they keep at every λ: <pad>",
    ),
    "Meta-Llama-3-8B Meta-Llama-3-8B-Instruct": (
        "tokens put before a text: base [], instruct ['<|begin_of_text|>']",
        "all 128,256 have one number in both",
    ),
    "Qwen2.5-7B Qwen2.5-7B-Instruct": (
        "Both sides have a chat template, and they differ: with --apply_chat_template, instruct's",
    ),
    "gemma-2-2b gemma-2-2b-it": (" 24 × F32 ", " 24 × BF16 "),
    "Mixtral-8x7B-v0.1 Mixtral-8x7B-Instruct-v0.1": ("tensors (65 matched)",),
}

SHOTS = """Question: Who wrote "Faust"?
Answer: Goethe
Question: What is 17 + 25?
Answer: 42

"""
QUESTIONS = (
    "Question: What does `x  =  [1, 2]` hold?\nAnswer:",
    "Question: Où était-ce, 東京 or Москва?\nAnswer:",
    "Question: How many of 1,234,567 are there?\nAnswer:",
)
COMMON: dict[str, Any] = {"dtype": "float32", "device": "cpu", "batch_size": 4}
CHOICES = (" Tokyo", " 42", " a list, of two", " 東京")


class Answers(NamedTuple):
    """Of a model: (log-likelihood, is greedy) a choice, and texts."""

    scores: list[tuple[float, bool]]
    texts: list[str]


def answers(lm: Any) -> Answers:
    """Return a model's answers to the questions, in its chat template too if it has one."""
    plain = [SHOTS + question for question in QUESTIONS]
    chats = []
    if lm.tokenizer.chat_template is not None:
        chats = [lm.apply_chat_template([{"role": "user", "content": QUESTIONS[0]}])]
    choices = [(context, choice) for context in plain + chats for choice in CHOICES]
    choices.append(("", "A text that nothing comes before."))
    scores = lm.loglikelihood(_instances("loglikelihood", choices), disable_tqdm=True)
    texts = []
    # Apart, as in a task: stock looks for a BOS in the first prompt of a batch, and then gives all
    # of the batch another one or none.
    for contexts in (plain, chats):
        # A base's own max_new_tokens may be 2048, whatever is asked for: one text then says enough.
        if lm.model.generation_config.max_new_tokens:
            contexts = contexts[:1]
        prompts = [(context, {"until": ["\n\n"], "max_gen_toks": 12}) for context in contexts]
        texts += lm.generate_until(_instances("generate_until", prompts), disable_tqdm=True)
    return Answers(scores, texts)


def _instances(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    made = []
    for index, given in enumerate(arguments):
        made.append(Instance(request_type=kind, doc={}, arguments=given, idx=index))
    return made


def stock(folder: Path) -> Answers:
    return answers(HFLM(pretrained=str(folder), **COMMON))


@pytest.fixture
def pair(request, metadata, tmp_path) -> tuple[Path, Path]:
    base, instruct = request.param.split()
    if base.endswith("+bos"):
        base = _with_bos(metadata, base.removesuffix("+bos"), tmp_path / "metadata")
        shutil.copytree(metadata / instruct, tmp_path / "metadata" / instruct)
        metadata = tmp_path / "metadata"
    return make_pair(metadata, base, instruct, tmp_path / "pair")


def _with_bos(metadata: Path, base: str, folder: Path) -> str:
    """Copy Llama 3's base with the later post-processor, which puts BOS before a text."""
    later = json.loads((metadata / "Meta-Llama-3-8B-Instruct" / "tokenizer.json").read_text())
    shutil.copytree(metadata / base, folder / base)
    path = folder / base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = later["post_processor"]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    return base


def _cases() -> list[Any]:
    cases = []
    for names in PAIRS:
        marks = () if names in FAST else (pytest.mark.slow,)
        cases.append(pytest.param(names, id="-".join(names.split()), marks=marks))
    return cases


@pytest.mark.parametrize("pair", _cases(), indirect=True)
def test_a_pair_of_real_metadata(pair, tmp_path, capsys, monkeypatch, request):
    base, instruct = pair
    sides: dict[str, Any] = {"base": str(base), "instruct": str(instruct)}

    at_base = answers(PartialHFLM(**sides, **COMMON, lam=0, tokenizer="base"))
    assert agree(at_base, stock(base))

    ours = PartialHFLM(**sides, **COMMON, lam=1)
    at_instruct = answers(ours)
    assert agree(at_instruct, stock(instruct))

    ours.set_lam(0.5)
    between = answers(ours)
    assert agree(between, stock(merged(base, instruct, 0.5, tmp_path / "merged")))

    # Answers that are all alike would hide much.
    assert len(set(at_instruct.texts)) > 1
    assert len({at_base.texts[0], between.texts[0], at_instruct.texts[0]}) > 1

    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    assert main(["inspect", "--base", str(base), "--instruct", str(instruct)]) == 0
    out = capsys.readouterr().out
    assert "This pair can be interpolated." in out and "suspicious" not in out
    # Rows of new tokens are no update, so that it is a little less where there are many.
    update = re.search(r"‖ΔW‖/‖W‖: ([\d.]+) over all matrices", out)
    assert update is not None and float(update[1]) == pytest.approx(UPDATE, abs=0.002)
    for words in SAYS.get(request.node.callspec.params["pair"], ()):
        assert words in out
