"""Run by torchrun: load θ(0.3) over all ranks, and write what each rank read and what comes out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import checkpoint


def main(base: str, instruct: str, output: str, **arguments: Any) -> None:
    read = 0
    plain = checkpoint.SafetensorsSlice.__getitem__

    def counted(self: checkpoint.SafetensorsSlice, index: object) -> torch.Tensor:
        nonlocal read
        tensor = plain(self, index)
        read += tensor.nbytes
        return tensor

    torch.set_num_threads(1)
    arguments |= {"dtype": "float64", "device": "cpu", "tp_plan": "auto"}
    lm = PartialHFLM(base, instruct, 0.9, **arguments)
    # Counted from here: what moving to another λ reads.
    checkpoint.SafetensorsSlice.__getitem__ = counted  # type: ignore[method-assign]
    lm.set_lam(0.3)
    with torch.no_grad():
        logits = lm.model(torch.arange(20)[None]).logits
    found = {"read": read, "logits": logits.flatten().tolist()}
    Path(output, f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:4], **json.loads(sys.argv[4]))
