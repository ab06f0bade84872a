"""One checkpoint opened: layouts on disk and in the Hub's cache, and what can be wrong."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.architecture import model_class
from lm_eval_partial.weights.checkpoint import Checkpoint
from tests import pico
from tests.answers import equal
from tests.tasks.rows import THINGS, WORDS


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


def test_a_tokenizer_file_of_any_name_is_not_none(folder):
    """A file that transformers does not know is no reason to match rows by position."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    for name in ("spm_tokenizer.model", "merges.txt", "tekken.json", "rwkv_vocab_v20230424.txt"):
        (folder / name).write_text("{")
        with pytest.raises(UserError, match="its tokenizer could not be opened"):
            Checkpoint("base", str(folder)).tokenizer  # noqa: B018 (opening is the test)
        (folder / name).unlink()


def test_a_tokenizer_without_its_vocabulary_is_not_taken(folder):
    """Transformers makes an empty tokenizer of tokenizer_config.json alone, without a word."""
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    message = (
        r"tokenizer has 3 tokens for 330 embedding rows.* Fetch tokenizer\.json or tokenizer\."
    )
    with pytest.raises(UserError, match=message):
        Checkpoint("base", str(folder)).tokenizer  # noqa: B018 (opening is the test)


def test_a_sentencepiece_file_alone(folder, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="a dependency: pip install it")
    pytest.importorskip("google.protobuf", reason="a dependency: pip install it")
    rng = random.Random(0)
    lines = [f"The {rng.choice(THINGS)} is {rng.choice(WORDS)}." for _ in range(200)]
    options = {"vocab_size": 320, "byte_fallback": True, "model_type": "bpe"}
    (tmp_path / "text").write_text("\n".join(lines))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(folder / "tokenizer"), **options
    )
    tokenizer = Checkpoint("base", str(folder)).tokenizer
    assert tokenizer is not None and len(tokenizer) == 320
    assert str(tokenizer.decode(tokenizer.encode("The fox is red."))).strip() == "The fox is red."


def test_packages_that_a_sentencepiece_file_takes_are_named(folder, monkeypatch):
    """Transformers asks for tiktoken, which does not help."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    monkeypatch.setattr("lm_eval_partial.weights.side_tokenizer._installed", lambda package: False)
    message = r"takes sentencepiece and protobuf to read\..*: pip install sentencepiece protobuf\."
    with pytest.raises(UserError, match=message):
        Checkpoint("base", str(folder)).tokenizer  # noqa: B018 (opening is the test)


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
    message = r"base=nobody/nothing: no model config could be read at revision 'main' \(OSError: "
    fails("nobody/nothing", message)


def test_folder_above_the_checkpoint(folder):
    fails(
        folder.parent,
        r"no config\.json\. Its subfolders model hold checkpoints: add base_subfolder=model",
    )


def test_folders_of_checkpoints_are_listed_in_order(folder, tmp_path):
    for step in range(1, 13):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{step}")
    fails(tmp_path / "run", r"checkpoint-1, checkpoint-2, checkpoint-3, .* and 7 more hold")


def test_many_shards_without_leading_zeros(folder):
    """Renamed by hand: shard 10 comes after shard 9, and every tensor is found."""
    made = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {}
    for number, (name, tensor) in enumerate(made.items()):
        files[name] = f"model-{number}.safetensors"
        save_file({name: tensor}, folder / files[name], metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    opened = Checkpoint("base", str(folder))
    assert [Path(file).name for file in opened.files] == [
        f"model-{number}.safetensors" for number in range(21)
    ]
    assert equal(read(folder), made)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_git_lfs_pointer(folder, name):
    (folder / name).write_text(POINTER)
    fails(folder, rf"{name} is a Git-LFS pointer: .* Run git lfs install and git lfs pull in .*/m")


def test_a_git_lfs_pointer_for_a_tokenizer(folder):
    (folder / "tokenizer.json").write_text(POINTER)
    with pytest.raises(UserError, match=r"tokenizer\.json is a Git-LFS pointer"):
        Checkpoint("base", str(folder)).tokenizer  # noqa: B018 (opening is the test)


def test_a_git_lfs_pointer_for_a_shard(folder):
    shards = sorted(shard(folder).glob("model-*.safetensors"))
    shards[1].write_text(POINTER)
    fails(folder, rf"{shards[1].name} is a Git-LFS pointer")


@pytest.mark.parametrize("kept", [[], ["config.json"]])
@pytest.mark.parametrize("inside", ["original/consolidated.00.pth", "consolidated.safetensors"])
def test_only_the_authors_own_files(folder, tmp_path, kept, inside):
    (tmp_path / "o" / "original").mkdir(parents=True)
    (tmp_path / "o" / inside).write_bytes(b"")
    for name in kept:
        shutil.copy(folder / name, tmp_path / "o" / name)
    fails(tmp_path / "o", r"consolidated\.\* files .* transformers does not read\. Fetch the")


def test_code_of_its_own_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    fails(
        folder,
        r"transformers has no model type 'mine'; its code lies beside the weights"
        r" \(configuration_mine\.py\)\. Read it, then add trust_remote_code=True",
    )
    (folder / "configuration_mine.py").write_text("import no_such_package")
    with pytest.raises(UserError, match=r"could be read at .* no_such_package"):
        Checkpoint("base", str(folder), trust_remote_code=True)


def test_model_code_that_cannot_be_imported(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_mine.py").write_text("from transformers import NoSuchThing")
    opened = Checkpoint("base", str(folder), trust_remote_code=True)
    with pytest.raises(
        UserError, match=r"model code \(modeling_mine.* could not be imported .*NoSuch"
    ):
        model_class(opened)


def test_empty_folder(tmp_path):
    fails(tmp_path, r"no config\.json\. Expected a folder written by save_pretrained")


def test_broken_config(folder):
    (folder / "config.json").write_text("{")
    fails(folder, r"base=.*: config\.json is not JSON")


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
    fails(folder, r"model\.safetensors\.index\.json: weight_map: field required")


def test_quantised_by_its_config(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    fails(
        folder, r"base=.* is a pre-quantised checkpoint \(gptq\).*Give the unquantised checkpoint"
    )
    mirror = shutil.copytree(folder, folder.parent / "llama-bnb-4bit")
    fails(mirror, r"Give the unquantised checkpoint, perhaps base=.*/llama\.$")


def test_quantised_by_its_tensors(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fails(folder, r"pre-quantised checkpoint: model\.norm\.weight cannot be interpolated")
