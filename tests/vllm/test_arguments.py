"""The arguments of `partial-vllm`, and what is said of wrong ones before a weight is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lm_eval_partial.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"pretrained": "x"}, "pretrained= does not go with partial-vllm: give base"),
        ({"enable_lora": True}, "enable_lora= does not go with partial-vllm: give the adapter"),
        ({"lora_local_path": "x"}, "lora_local_path= does not go with partial-vllm"),
        ({"load_format": "auto"}, "load_format= does not go with partial-vllm: it is partial"),
        ({"parallelize": True}, "parallelize= does not go with .* tensor_parallel_size="),
        ({"enforce_eagre": True}, "unknown argument enforce_eagre=.*Did you mean 'enforce_eager'"),
        ({"num_hidden_layers": 3}, "unknown argument num_hidden_layers="),
        ({"enforce_eager": "perhaps"}, "enforce_eager=perhaps is neither true nor false"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size=0 is no whole number from 1 on"),
        ({"max_model_len": "long"}, "max_model_len=long is no whole number"),
        ({"dtype": "int8"}, "dtype=int8 is not a floating point dtype"),
        ({"hf_overrides": {"tie_word_embeddings": True}}, "hf_overrides=.*tie_word_embeddings"),
        ({"5": None}, "5 is no argument"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(given, message, wide, no_reads):
    from lm_eval_partial.models.vllm import PartialVLLM

    base, instruct = wide()
    with pytest.raises(UserError, match=message):
        PartialVLLM(base, instruct, 0.5, **given)


def test_a_tokenizer_must_have_a_name(wide):
    from lm_eval_partial.models.vllm import PartialVLLM
    from tests import pico

    base, instruct = wide()
    with pytest.raises(UserError, match="tokenizer= must be a path"):
        PartialVLLM(base, instruct, 0.5, tokenizer=pico.tokenizer())


def test_every_argument_of_the_tables_is_known():
    from lm_eval_partial.models import vllm_arguments

    text = (ROOT / "docs" / "vllm.md").read_text()
    table = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert set(vllm_arguments.OWN) - {"tokenizer", "model"} <= table | set(vllm_arguments.OWN)
    assert table <= vllm_arguments._known() | vllm_arguments.INSTEAD.keys()


def test_no_refused_argument_is_passed_on():
    from lm_eval_partial.models import vllm_arguments

    assert not vllm_arguments._known() & vllm_arguments.INSTEAD.keys()
    assert {"enforce_eager", "quantization", "pipeline_parallel_size"} <= vllm_arguments._known()
    assert {"enforce_eager", "trust_remote_code", "share_prefix", "enable_thinking"} <= (
        vllm_arguments.boolean_names()
    )
