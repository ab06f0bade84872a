"""One checkpoint opened: layouts on disk and in the Hub's cache, and what can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.checkpoint import Checkpoint
from tests import pico
from tests.answers import equal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = pico.tokenizer()
    made = pico.model(pico.config("llama", len(tokenizer)), seed=1)
    return pico.save(made, tokenizer, tmp_path / "model")


def read(folder: Path, **kwargs: Any) -> dict[str, torch.Tensor]:
    tensors = Checkpoint("base", str(folder), **kwargs).tensors
    return {name: tensor[...] for name, tensor in tensors.items()}


def shard(folder: Path) -> Path:
    made = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    made.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_single_sharded_and_bin_are_the_same_tensors(folder, tmp_path):
    single = load_file(folder / "model.safetensors")
    assert equal(read(folder), single)
    pickled = shutil.copytree(folder, tmp_path / "bin")
    (pickled / "model.safetensors").unlink()
    torch.save(single, pickled / "pytorch_model.bin")
    assert equal(read(pickled), single)
    # As torch before 1.6 wrote it, which cannot be mapped.
    torch.save(single, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert equal(read(pickled), single)
    assert equal(read(shard(folder)), single)


def test_only_headers_are_read(folder, no_reads):
    tensor = Checkpoint("base", str(folder)).tensors["model.norm.weight"]
    assert tensor.shape == (32,) and tensor.dtype == torch.float32


def test_subfolder(folder):
    assert equal(read(folder.parent, subfolder="model"), read(folder))


def test_hub_id_from_the_cache_with_its_commit(folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = Checkpoint("base", "someone/model", revision="v2")
    assert found.sha == commit and len(found.tensors) == 21
    assert found.vocabulary is not None and len(found.vocabulary) == 330


def test_a_hub_identity_tells_folders_of_one_commit_apart(folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--someone--both" / "snapshots" / commit
    for side in ("a", "b"):
        shutil.copytree(folder, repo / side)
    (repo.parents[1] / "refs").mkdir()
    (repo.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    one = Checkpoint("base", "someone/both", subfolder="a")
    other = Checkpoint("base", "someone/both", subfolder="b")
    assert one.sha == other.sha == commit and one.identity != other.identity


def test_sha_of_a_folder_follows_its_weights(folder, tmp_path):
    before = Checkpoint("base", str(folder)).sha
    assert before.startswith("local-")
    assert Checkpoint("base", str(shutil.copytree(folder, tmp_path / "copy"))).sha == before
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint("base", str(folder)).sha != before


def test_sha_of_a_large_file_sees_its_smallest_tensor(tmp_path):
    """A norm in the middle, where the blocks spread over the file leave it out."""
    large = {f"w{i}": torch.zeros(1000, 1000) for i in range(5)}
    (tmp_path / "config.json").write_text(pico.config("llama", 8).to_json_string())
    found = []
    for scale in (1, 2):
        weights = large | {"w2_norm": torch.ones(8) * scale}
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        found.append(Checkpoint("base", str(tmp_path)).sha)
    assert found[0] != found[1]


def test_a_tokenizer_that_cannot_be_opened_is_not_none(folder):
    """Taken for none, embedding rows would be matched by position."""
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"base=.*: its tokenizer could not be opened \("):
        Checkpoint("base", str(folder)).tokenizer  # noqa: B018 (opening is the test)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert Checkpoint("base", str(folder)).tokenizer is None


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Checkpoint("base", "~/model").config.model_type == "llama"


def fails(folder: str | Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Checkpoint("base", str(folder)).tensors  # noqa: B018 (opening is the test)


def test_no_such_folder(tmp_path):
    fails(
        tmp_path / "nope",
        r"base=.*nope: no such folder\. Give a folder with a config\.json, or a Hub id",
    )


def test_no_such_hub_id():
    fails(
        "nobody/nothing", r"base=nobody/nothing: no model config could be read at revision 'main'\."
    )


def test_folder_above_the_checkpoint(folder):
    fails(
        folder.parent,
        r"no config\.json\. Its subfolders model hold checkpoints: add base_subfolder=model",
    )


def test_empty_folder(tmp_path):
    fails(tmp_path, r"no config\.json\. Expected a folder written by save_pretrained")


def test_broken_config(folder):
    (folder / "config.json").write_text("{")
    fails(folder, "no model config could be read")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    fails(folder, r"has no weights\. Expected one of model\.safetensors, ")


def test_missing_shard_is_named(folder):
    lost = sorted(shard(folder).glob("model-*.safetensors"))[1]
    lost.unlink()
    fails(
        folder, rf"shard {lost.name} is missing, named by model\.safetensors\.index\.json\. Fetch"
    )


def test_truncated_shard_is_named(folder):
    cut = sorted(shard(folder).glob("model-*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:-100])
    fails(folder, rf"{cut.name} is truncated or damaged .*Fetch it again")


def test_truncated_bin_is_named(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    fails(folder, r"pytorch_model\.bin is truncated or damaged")


def test_broken_index(folder):
    (shard(folder) / "model.safetensors.index.json").write_text("{}")
    fails(folder, r"model\.safetensors\.index\.json is not a weight index")


def test_quantised_by_its_config(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    fails(
        folder, r"base=.* is a pre-quantised checkpoint \(gptq\).*Give the unquantised checkpoint"
    )


def test_quantised_by_its_tensors(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fails(folder, r"pre-quantised checkpoint: model\.norm\.weight cannot be interpolated")
