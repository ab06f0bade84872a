"""Exported checkpoints: stock gives what partial-hf gives, and nothing is half-written or lost."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
)

from lm_eval_partial import __version__, files
from lm_eval_partial.bench import models
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import read_lam
from lm_eval_partial.weights import export as exporting
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.interpolate import InterpolatedTensor
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.model_card import model_card
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import equal


@pytest.fixture
def pair(pairs) -> Pair:
    return Pair.open(*map(str, pairs("llama")))


@pytest.fixture
def flags(pairs) -> list[str]:
    base, instruct = pairs("llama")
    return ["export", "--base", str(base), "--instruct", str(instruct), "--lam", "0.6"]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Return the parameters that stock transformers gives to a checkpoint."""
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def check_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Check names, values and dtypes."""
    assert equal(ours, theirs)
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name


def reordered_pair(folder: Path) -> tuple[Path, Path]:
    tokenizer = pico.tokenizer()
    base = pico.model(pico.config("llama", len(tokenizer)), seed=1)
    moved, others = pico.reordered(
        pico.child(base, seed=2), tokenizer, ["[INST]"], ["<tool>"], padding=3
    )
    return pico.save(base, tokenizer, folder / "b"), pico.save(moved, others, folder / "i")


# The same model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["llama", pytest.param("mixtral", marks=pytest.mark.versions), "qwen2", "reordered"]
)
def test_stock_on_the_export_gives_partial_hfs_samples(kind, pairs, tmp_path, lm_eval):
    """Qwen2 ties its head, Mixtral's experts are fused on loading, the last vocabularies differ."""
    base, instruct = reordered_pair(tmp_path) if kind == "reordered" else pairs(kind)
    export(Pair.open(str(base), str(instruct)), 0.6, tmp_path / "out")
    _, ours = lm_eval("partial-hf", base=base, instruct=instruct, lam=0.6, share_prefix=False)
    _, stock = lm_eval("hf", pretrained=tmp_path / "out")
    assert stock == ours
    _, other = lm_eval("partial-hf", base=base, instruct=instruct, lam=0.5, share_prefix=False)
    assert other != ours


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("family", pico.FAMILIES)
def test_parameters_are_partial_hfs(family, dtype, pairs, tmp_path):
    pair = Pair.open(*map(str, pairs(family)))
    export(pair, 0.37, tmp_path / "out", dtype)
    check_equal(read(tmp_path / "out"), load(pair, 0.37, dtype).state_dict())


def test_sides_of_two_dtypes_and_an_untied_head(tmp_path):
    tokenizer = pico.tokenizer()
    tied = pico.config("llama", len(tokenizer), tie_word_embeddings=True)
    base = pico.model(tied, seed=1, dtype=torch.bfloat16)
    instruct = pico.model(pico.config("llama", len(tokenizer)), seed=2)
    sides = (
        pico.save(base, tokenizer, tmp_path / "b"),
        pico.save(instruct, tokenizer, tmp_path / "i"),
    )
    for reference in ("instruct", "base"):
        pair = Pair.open(*map(str, sides), tokenizer=reference)
        export(pair, 0.5, tmp_path / reference)
        found = read(tmp_path / reference)
        assert equal(found, load(pair, 0.5).state_dict())
        assert not torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
        assert stored(tmp_path / reference)["lm_head.weight"].dtype == load(pair, 0.5).dtype


def test_an_adapter_under_a_schedule(pairs, tmp_path):
    base = pairs("llama")[0]
    pico.adapter(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    pair = Pair.open(str(base), str(tmp_path / "a"))
    lam = read_lam("attention:0.3+all:0.8")
    export(pair, lam, tmp_path / "out")
    assert equal(read(tmp_path / "out"), load(pair, lam).state_dict())
    assert "λ = attention:0.3+all:0.8" in (tmp_path / "out" / "README.md").read_text()


def test_what_a_model_keeps_in_float32_is_stored_in_it(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["input_layernorm"])
    pair = Pair.open(*map(str, pairs("llama")))
    export(pair, 0.37, tmp_path / "out", "bfloat16")
    found = stored(tmp_path / "out")
    kept = {name for name in found if found[name].dtype == torch.float32}
    assert kept == {f"model.layers.{layer}.input_layernorm.weight" for layer in (0, 1)}
    check_equal(read(tmp_path / "out"), load(pair, 0.37, "bfloat16").state_dict())


def test_tokenizer_template_config_and_generation_config_are_the_reference_sides(pairs, tmp_path):
    sides = pairs("llama")
    for reference, template in (("instruct", pico.CHAT), ("base", None)):
        out = tmp_path / reference
        pair = Pair.open(*map(str, sides), tokenizer=reference)
        export(pair, 0.5, out)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer.get_vocab() == pair.reference.vocabulary
        assert tokenizer.chat_template == template
        original = sides[reference == "instruct"]
        for kind in (GenerationConfig, AutoConfig):
            ours = kind.from_pretrained(out).to_dict()
            theirs = kind.from_pretrained(original).to_dict()
            assert ours | {"_name_or_path": None} == theirs | {"_name_or_path": None}


def test_without_a_generation_config_it_is_made_of_the_config(pairs, tmp_path):
    base, instruct = pairs("llama")
    bare = shutil.copytree(instruct, tmp_path / "bare")
    (bare / "generation_config.json").unlink()
    export(Pair.open(str(base), str(bare)), 0.5, tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    theirs = AutoModelForCausalLM.from_pretrained(bare).generation_config
    assert ours.to_dict() == theirs.to_dict()


def test_another_tokenizer_with_the_same_ids(pairs, tmp_path):
    pico.tokenizer(pad_token="a").save_pretrained(tmp_path / "tokenizer")
    pair = Pair.open(*map(str, pairs("llama")), tokenizer=str(tmp_path / "tokenizer"))
    export(pair, 0.5, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == "a"


def test_model_code_goes_along(pairs, tmp_path):
    base, instruct = pairs("llama")
    sides = [shutil.copytree(side, tmp_path / side.name) for side in (base, instruct)]
    for side in sides:
        config = json.loads((side / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "own.Own"}
        (side / "config.json").write_text(json.dumps(config))
        (side / "own.py").write_text(
            "from transformers import LlamaForCausalLM\nclass Own(LlamaForCausalLM): pass\n"
        )
    export(Pair.open(*map(str, sides), trust_remote_code=True), 0.5, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__name__ == "Own"


# Files --------------------------------------------------------------------------------------------


def test_shards_are_as_transformers_writes_them(pair, tmp_path):
    export(pair, 0.5, tmp_path / "out", max_shard_size="50KB")
    load(pair, 0.5).save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    name = "model.safetensors.index.json"
    index = json.loads((tmp_path / "out" / name).read_text())
    theirs = json.loads((tmp_path / "theirs" / name).read_text())
    assert index["metadata"]["total_size"] == 36640 * 4
    shards = list((tmp_path / "out").glob("*.safetensors"))
    assert {shard.name for shard in shards} == set(index["weight_map"].values())
    assert len(shards) == len(set(theirs["weight_map"].values()))
    # Tensors of up to 50 KB, and a header.
    assert max(shard.stat().st_size for shard in shards) < 50_000 + 4_000
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    assert equal(stored(tmp_path / "out"), load(pair, 0.5).state_dict())


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path):
    """Three bfloat16 values before two of float32 would leave these at an odd place."""
    dtypes = {"a": torch.bfloat16, "b": torch.float32, "c": torch.uint8, "d": torch.float64}
    sides = {name: torch.arange(3).to(dtype) for name, dtype in dtypes.items()}
    tensors = []
    for name, value in sides.items():
        between = InterpolatedTensor(value, value + 2, 0.5)
        tensors.append(exporting.Stored(name, between, value.dtype))
    shards = exporting._plan(tensors, "5GB")
    exporting._write_weights(tmp_path, tensors, shards, lambda done, total: None)
    raw = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    for name, each in header.items():
        assert (8 + length + each["data_offsets"][0]) % dtypes[name].itemsize == 0
    # Integers are not interpolated: c is the instruct side's.
    expected = {name: value + (2 if name == "c" else 1) for name, value in sides.items()}
    assert equal(stored(tmp_path), expected)


def test_memory_holds_one_tensor_beyond_the_map(tmp_path):
    """142 MiB of weights, the largest tensor 31 MiB."""
    models.make_pair(tmp_path, {**models.SIZES["58m"], "hidden_size": 256, "num_hidden_layers": 16})
    script = f"""
from pathlib import Path
from lm_eval_partial.bench.models import _anonymous
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.pair import Pair
pair = Pair.open("{tmp_path}/base", "{tmp_path}/instruct")
export(pair, 0.5, Path("{tmp_path}/warm-up"), max_shard_size="10MB")
before, peak = _anonymous(), 0
def report(done, total):
    global peak
    peak = max(peak, _anonymous())
export(pair, 0.6, Path("{tmp_path}/out"), max_shard_size="10MB", report=report)
print(before, peak)
"""
    # In a process of its own, whose memory nothing else has used.
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak = map(float, done.stdout.split())
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert written > 100 * 2**20 and peak - before < 40 * 2**20


def test_the_card_says_what_it_is(pairs, tmp_path):
    sides = [shutil.copytree(side, tmp_path / side.name) for side in pairs("llama")]
    for side, name in zip(sides, ("llama3.1", "mit"), strict=True):
        (side / "README.md").write_text(f"---\nlicense: {name}\n---\nA model.\n")
    pair = Pair.open(*map(str, sides))
    command = "lm-eval-partial export --lam 0.6"
    card = model_card(pair, 0.6, torch.bfloat16, Path("out"), command, ["a note"])
    assert "license: other\n" in card and "bfloat16" in card and "arXiv 2504.11626" in card
    assert "θ(λ) = θ_base + λ (θ_instruct − θ_base)        λ = 0.60\n" in card
    assert f"| base | `{sides[0]}` | `main` | `{pair.base.sha}` | llama3.1 |" in card
    assert f"`{pair.instruct.sha}` | mit |" in card
    assert f"\n    {command}\n" in card and f"lm_eval_partial {__version__}" in card
    assert "--model hf --model_args pretrained=out" in card
    assert "tested with transformers 4.51.3 and 5." in card
    last = "This one was not loaded, and no other loader was tried.\nOf this one: a note.\n"
    assert last in card
    assert "base_model" not in card  # local paths mean nothing on the Hub
    (sides[1] / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    assert "license: llama3.1\n" in model_card(pair, 0.6, torch.bfloat16, Path("out"), None)
    (sides[1] / "README.md").write_text("---\n[\n---\n")
    assert "| not stated |" in model_card(pair, 0.6, torch.bfloat16, Path("out"), None)


def test_sources_on_the_hub_are_base_models(pair, monkeypatch):
    monkeypatch.setattr(pair.base, "path", "org/base")
    monkeypatch.setattr(pair.instruct, "path", "org/instruct")
    card = model_card(pair, 0.6, torch.bfloat16, Path("out"), None)
    assert "base_model:\n- org/base\n- org/instruct\n" in card
    assert "base_model_relation: merge\n" in card


# What goes wrong ----------------------------------------------------------------------------------


def test_nothing_is_overwritten(pair, tmp_path, flags, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert main([*flags, "--output", str(tmp_path / "out")]) == 1
    said = "is not empty, and an export overwrites nothing. Give --output a new folder."
    assert capsys.readouterr().err == f"error: {tmp_path}/out {said}\n"
    with pytest.raises(UserError, match=r"mine is a file\. Give --output a new folder"):
        export(pair, 0.5, tmp_path / "out" / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_an_empty_folder_will_do(pair, tmp_path):
    (tmp_path / "out").mkdir()
    export(pair, 0.5, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_half_export_is_no_folder(failure, pair, tmp_path, monkeypatch):
    written = []

    def write_into(*_):
        written.append(1)
        if len(written) == 3:
            raise failure

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, UserError)) as caught:
        patched.setattr(InterpolatedTensor, "write_into", write_into)
        export(pair, 0.5, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    if caught.type is UserError:
        caught.match(r"No space left on device\)\. .*Make room and start the same")
    export(pair, 0.5, tmp_path / "out")


def test_what_a_killed_export_left_is_cleared(pair, tmp_path):
    left = tmp_path / "out.incomplete"
    left.mkdir()
    (left / ".lock").touch()
    (left / "model-00007-of-00009.safetensors").touch()
    export(pair, 0.5, tmp_path / "out")
    assert not left.exists()
    assert not (tmp_path / "out" / "model-00007-of-00009.safetensors").exists()


def test_a_folder_of_someone_elses_is_not_cleared(pair, tmp_path):
    other = tmp_path / "out.incomplete"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(
        UserError, match=r"out\.incomplete is in the way and not an unfinished export\. Move it"
    ):
        export(pair, 0.5, tmp_path / "out")
    assert (other / "thesis.tex").exists()


def test_two_exports_into_one_folder(pair, tmp_path):
    with files.locked(tmp_path / "out.incomplete", "export"):
        (tmp_path / "out.incomplete" / "theirs").touch()
        with pytest.raises(
            UserError, match=r"another export is writing into .*out\.incomplete\. Wait for it"
        ):
            export(pair, 0.5, tmp_path / "out")
        assert (tmp_path / "out.incomplete" / "theirs").exists()


def test_too_small_a_disk_is_said_before_anything_is_written(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "free_bytes", lambda path: 2**20)
    with pytest.raises(
        UserError,
        match=r"θ\(λ\) takes 64\.14 MiB; the disk of .*out has 1\.00 MiB free\. Make room",
    ):
        export(pair, 0.5, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--lam", "half"], "lam=half is not a finite number"),
        (["--dtype", "float33"], "dtype=float33 is not a floating point dtype"),
        (["--max_shard_size", "big"], "--max_shard_size big is no size"),
    ],
)
def test_bad_input_is_one_line(wrong, message, flags, tmp_path, capsys):
    assert main([*flags, "--output", str(tmp_path / "out"), *wrong]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be(pair, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError,
        match=r"file/out\.incomplete could not be written \(Not a directory\)\. Check the path",
    ):
        export(pair, 0.5, tmp_path / "file" / "out")


def test_a_side_without_a_tokenizer(pairs, tmp_path):
    base, instruct = pairs("llama")
    without = shutil.ignore_patterns("tokenizer*", "chat*")
    bare = shutil.copytree(instruct, tmp_path / "bare", ignore=without)
    with pytest.raises(UserError, match=r"bare has no tokenizer\. Give --tokenizer PATH"):
        export(Pair.open(str(base), str(bare)), 0.5, tmp_path / "out")


# The command and the Hub --------------------------------------------------------------------------


def test_the_command_prints_the_folder_and_stands_in_the_card(flags, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([*flags, "--output", out, "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    command = f"    lm-eval-partial {' '.join(flags)} --output {out} --dtype float16\n"
    assert command in Path(out, "README.md").read_text()


class Refused(HfHubHTTPError):
    def __init__(self, message):
        OSError.__init__(self, message)


class Hub:
    """In place of `HfApi`: repositories are lists of files."""

    repositories: dict[str, list[str]]

    def create_repo(self, name, private, exist_ok):
        if name == "theirs/out":
            raise Refused("403 Forbidden\nmore")
        self.repositories.setdefault(name, [".gitattributes"])
        self.private = private

    def list_repo_files(self, name):
        return self.repositories[name]

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.repositories[repo_id] += sorted(path.name for path in Path(folder_path).iterdir())
        return f"https://huggingface.co/{repo_id}"


@pytest.fixture
def hub(monkeypatch) -> Hub:
    hub = Hub()
    hub.repositories = {"me/full": [".gitattributes", "model.safetensors"]}
    monkeypatch.setattr(exporting, "HfApi", lambda: hub)
    return hub


def test_push(hub, flags, tmp_path, capsys):
    push = ["--push_to_hub", "me/out", "--private"]
    assert main([*flags, "--output", str(tmp_path / "out"), *push]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/out\n"
    assert hub.private and "model.safetensors" in hub.repositories["me/out"]


@pytest.mark.parametrize(
    "repository, message",
    [
        (
            "me/full",
            (
                "--push_to_hub me/full holds 1 files already, and an export overwrites nothing."
                " Give the name"
            ),
        ),
        (
            "theirs/out",
            "--push_to_hub theirs/out: the Hub refuses (403 Forbidden). Log in with hf auth login",
        ),
    ],
)
def test_a_repository_is_claimed_before_weights_are_written(
    repository, message, hub, flags, tmp_path, capsys
):
    assert main([*flags, "--output", str(tmp_path / "out"), "--push_to_hub", repository]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []
    assert hub.repositories["me/full"] == [".gitattributes", "model.safetensors"]


def test_a_failed_upload_keeps_the_folder(hub, flags, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError("connection lost")

    monkeypatch.setattr(Hub, "upload_folder", refuse)
    out = tmp_path / "out"
    assert main([*flags, "--output", str(out), "--push_to_hub", "me/out"]) == 1
    said = f"(connection lost). {out} is complete; upload it with: hf upload me/out {out}"
    assert said in capsys.readouterr().err
    assert AutoModelForCausalLM.from_pretrained(out)
