"""Values of the harness's model arguments are checked before any file of a checkpoint is opened."""

from __future__ import annotations

import pytest
import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.models.hf import PartialHFLM

WRONG = [
    ({"dtype": "float8_e4m3fn"}, "dtype=float8_e4m3fn is not a dtype that models compute in. Give"),
    ({"dtype": "x"}, "dtype=x is not a floating point dtype. Give auto"),
    ({"dtype": "int8"}, "dtype=int8 is not a floating point dtype"),
    ({"dtype": 16}, "dtype=16 is not a floating point dtype"),
    ({"softmax_dtype": "x"}, "softmax_dtype=x is no dtype. Give float32"),
    ({"softmax_dtype": "auto"}, "softmax_dtype=auto is no dtype"),
    ({"softmax_dtype": "int64"}, "softmax_dtype=int64 is no dtype"),
    ({"mixed_precision_dtype": "float8_e5m2"}, "mixed_precision_dtype=float8_e5m2 is no dtype"),
    ({"max_length": "x"}, "max_length=x is no whole number from 1 on"),
    ({"max_length": 0}, "max_length=0 is no whole number from 1 on"),
    ({"max_length": -5}, "max_length=-5 is no whole number from 1 on"),
    ({"max_length": 512.5}, "max_length=512.5 is no whole number"),
    ({"max_length": True}, "max_length=True is no whole number"),
    ({"max_batch_size": "x"}, "max_batch_size=x is no whole number from 1 on"),
    ({"prefix_token_id": -1}, "prefix_token_id=-1 is no whole number from 0 on"),
    ({"batch_size": "x"}, "batch_size=x is neither a number from 1 on nor auto. Give batch_size=8"),
    ({"batch_size": 0}, "batch_size=0 is neither"),
    ({"batch_size": -3}, "batch_size=-3 is neither"),
    ({"batch_size": 1.5}, "batch_size=1.5 is neither"),
    ({"batch_size": "auto:x"}, "batch_size=auto:x is neither"),
    (
        {"max_cpu_memory": "lots"},
        "max_cpu_memory=lots is no amount of memory",
    ),
    ({"max_memory_per_gpu": -1}, "max_memory_per_gpu=-1 is no amount of memory"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_a_wrong_value_is_named_before_a_file_is_opened(given, words):
    with pytest.raises(UserError) as caught:
        PartialHFLM(base="/nowhere", instruct="/nowhere", lam=0.5, **given)
    assert words in str(caught.value)
    with pytest.raises(UserError) as caught:  # as a sweep asks
        arguments.check(given)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": "auto", "softmax_dtype": "float32", "max_length": 512, "batch_size": "auto:4"},
        {"dtype": torch.float16, "softmax_dtype": torch.float32, "batch_size": "8"},
        {"dtype": None, "max_length": None, "batch_size": None, "max_cpu_memory": None},
        {"batch_size": 8, "prefix_token_id": 0, "max_memory_per_gpu": "1.5GiB"},
        {"batch_size": "auto", "max_memory_per_gpu": 10**9, "max_cpu_memory": "20GB"},
    ],
)
def test_right_values_pass(given):
    assert arguments.check(given) == given
