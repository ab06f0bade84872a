"""What the benchmarks count."""

import torch

from lm_eval_partial.bench.scoring import counting
from tests.test_scoring import made


def test_flop_are_those_of_the_linear_layers_and_of_tokens_that_see_each_other():
    model, tokens = made("llama"), 7
    config = model.config
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    ids = torch.arange(tokens)[None]
    with torch.no_grad(), counting(model) as causal:
        model(ids)
    assert causal == {"tokens": 7.0, "flop": 2 * tokens * linear + pair * 28}
    sees = torch.eye(tokens, dtype=torch.bool)[None, None]
    with torch.no_grad(), counting(model) as alone:
        model(ids, attention_mask=sees)
    assert alone["flop"] == 2 * tokens * linear + pair * tokens
