"""Seeded damage to the files of a tiny pair, which is then opened: it works, or is a `UserError`.

python -m tests.fuzz.fuzz_weights 0 3600        # from seed 0 on, for an hour
"""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
from transformers.utils import logging

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.inspection import inspect_pair
from lm_eval_partial.weights.model_card import model_card
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.small_files import small_files_of
from tests import pico
from tests.fuzz.mutate import damaged, damaged_bytes, damaged_json

SECONDS = 10  # that opening a pair may take
Damage = Callable[[random.Random, bytes], bytes]

CARD = "---\nlicense: llama3.1\ntags: [a, b]\nx: &x {y: 1}\nz: *x\n---\nA model.\n"


def damaged_header(rng: random.Random, content: bytes) -> bytes:
    """Return a safetensors file whose header, or another part of it, is changed."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, content[:2000]) + content[2000:]
    length = int.from_bytes(content[:8], "little")
    header = damaged_json(rng, json.loads(content[8 : 8 + length])).encode("utf-8", "replace")
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def damaged_pickle(rng: random.Random, content: bytes) -> bytes:
    """Return a ``.bin`` file whose pickle, or another part of it, is changed."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, content)
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        for name in old.namelist():
            inside = old.read(name)
            if name.endswith("data.pkl"):
                inside = damaged_bytes(rng, inside)
            new.writestr(name, inside)
    return found.getvalue()


# Which pair a file is of, and how it is damaged.
FILES: dict[str, tuple[str, Damage]] = {
    "base/config.json": ("full", damaged),
    "instruct/config.json": ("full", damaged),
    "base/generation_config.json": ("full", damaged),
    "instruct/generation_config.json": ("full", damaged),
    "instruct/tokenizer_config.json": ("full", damaged),
    "instruct/tokenizer.json": ("full", damaged),
    "instruct/chat_template.jinja": ("full", damaged_bytes),
    "instruct/README.md": ("full", damaged_bytes),
    "instruct/model.safetensors": ("full", damaged_header),
    "base/model.safetensors.index.json": ("other layouts", damaged),
    "instruct/pytorch_model.bin": ("other layouts", damaged_pickle),
    "instruct/adapter_config.json": ("adapter", damaged),
    "instruct/adapter_model.safetensors": ("adapter", damaged_header),
}


@functools.cache
def originals() -> Path:
    """Return a folder of intact pairs, made once a process."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-originals-"))
    base, instruct = pico.pair(root / "full")
    (instruct / "README.md").write_text(CARD)
    other = shutil.copytree(root / "full", root / "other layouts")
    (other / "base" / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(base).save_pretrained(other / "base", max_shard_size="40KB")
    (other / "instruct" / "model.safetensors").unlink()
    torch.save(load_file(instruct / "model.safetensors"), other / "instruct" / "pytorch_model.bin")
    (root / "adapter").mkdir()
    shutil.copytree(base, root / "adapter" / "base")
    lora: dict[str, Any] = {
        "target_modules": ["q_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {r"layers\.\d+\.self_attn.q_proj": 4},
    }
    pico.adapter(root / "adapter" / "base", root / "adapter" / "instruct", **lora)
    return root


def trial(seed: int) -> str:
    """Damage one file of a pair or two, and do with the pair all that needs no loaded model.

    Args:
        seed: says which files, and how.

    Returns:
        What became of it: ``opened`` or ``refused``.

    Raises:
        AssertionError: it took more than `SECONDS`.
        Exception: whatever is no `UserError`, which is a finding.
    """
    rng = random.Random(seed)
    name = rng.choice(list(FILES))
    kind = FILES[name][0]
    beside = [other for other, (theirs, _) in FILES.items() if theirs == kind]
    names = {name, *rng.sample(beside, rng.choice((0, 0, 1)))}
    with tempfile.TemporaryDirectory() as folder:
        pair = shutil.copytree(originals() / kind, Path(folder) / "pair")
        for each in sorted(names):
            path = pair / each
            path.write_bytes(FILES[each][1](rng, path.read_bytes()))
        began = time.process_time()
        try:
            _use(pair)
            result = "opened"
        except UserError as error:
            assert str(error).strip() and "\n" not in str(error).strip(), "more than one line"
            result = "refused"
        took = time.process_time() - began
        assert took <= SECONDS, f"{took:.1f} seconds for {names}"
    return result


def _use(folder: Path) -> None:
    pair = Pair.open(str(folder / "base"), str(folder / "instruct"))
    pair.notes()
    generation.generation_config(pair)
    model_card(pair, 0.5, torch.float32, folder / "out", None)
    small_files_of(pair, torch.float32)
    inspect_pair(pair)  # reads every weight of both sides
    for tensor in pair.at(0.5).values():
        tensor[...]


def run(first: int, seconds: float, report: Callable[[str], Any] = print) -> int:
    """Run trials from a seed on for some time; report and count the findings.

    Args:
        first: seed.
        seconds: after which no other trial begins.
        report: called with each finding, and in the end with seeds and counts.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results: Counter[str] = Counter()
    began, seed = time.monotonic(), first
    while time.monotonic() - began < seconds:
        try:
            results[trial(seed)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            results["findings"] += 1
            report(f"seed {seed}: {type(error).__name__}: {error}"[:500])
        seed += 1
    report(f"seeds {first} to {seed - 1} in {seconds:g} s: {dict(results)}")
    return results["findings"]


if __name__ == "__main__":
    findings = run(int(sys.argv[1]), float(sys.argv[2]), functools.partial(print, flush=True))
    sys.exit(1 if findings else 0)
