"""What the benchmarks count."""

from types import SimpleNamespace

import torch
from lm_eval.api.instance import Instance

from lm_eval_partial.bench.scoring import Workload, counting, rounding
from tests.prefix.test_loglikelihood import made


def test_flop_are_those_of_the_linear_layers_and_of_tokens_that_see_each_other():
    model, tokens = made("llama"), 7
    config = model.config
    linear = 0
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            linear += layer.weight.numel()
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    ids = torch.arange(tokens)[None]
    with torch.no_grad(), counting(model) as causal:
        model(ids)
    assert causal == {"tokens": 7.0, "flop": 2 * tokens * linear + pair * 28}
    # Each token sees itself alone: 7 pairs, not 28.
    sees = torch.eye(tokens, dtype=torch.bool)[None, None]
    with torch.no_grad(), counting(model) as alone:
        model(ids, attention_mask=sees)
    assert alone["flop"] == 2 * tokens * linear + pair * tokens


def test_stock_is_compared_with_itself_at_twice_the_batch_size():
    def answer(requests, disable_tqdm):
        sizes.append(stock.batch_size_per_gpu)
        if len(sizes) > 1:
            raise torch.OutOfMemoryError
        return [(-1.5, True), (-3.0, False)]

    sizes: list[int] = []
    stock = SimpleNamespace(batch_size_per_gpu=4, loglikelihood=answer)
    first = Instance("loglikelihood", {}, ("a", " x"), 0)
    second = Instance("loglikelihood", {}, ("a", " y"), 0)
    workload = Workload([first, second], choices=2)
    plain = [(-2.0, True), (-1.0, False)]
    assert rounding(workload, stock, plain) == {"largest_difference": 2.0, "different": 1}
    assert (
        rounding(workload, stock, plain) == {} and sizes == [8, 8] and stock.batch_size_per_gpu == 4
    )
