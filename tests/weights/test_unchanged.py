"""Weight files that are written, cut off, replaced or removed under a run stop it, by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import checkpoint
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.inspection import inspect_pair
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.truncation import with_rank
from lm_eval_partial.weights.unchanged import OpenedFile
from lm_eval_partial.weights.write_adapter import extract
from tests import pico
from tests.answers import equal


def overwrite(file: Path) -> None:
    """Write other values of the same size in place."""
    content = file.read_bytes()
    with open(file, "r+b") as handle:
        handle.seek(len(content) - 4)
        handle.write(bytes(4))
    later(file)


def cut_off(file: Path) -> None:
    os.truncate(file, 100)


def replace(file: Path) -> None:
    """Give another file of the same content and time the name."""
    status = file.stat()
    other = shutil.copy(file, file.with_suffix(".other"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    Path(other).replace(file)


def remove(file: Path) -> None:
    file.unlink()


def later(file: Path) -> None:
    """Move a file's time by a second: the clock of a file system may be as coarse."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


CHANGES: dict[Callable[[Path], None], str] = {
    overwrite: "was written to since it was opened",
    cut_off: r"had [\d,]+ bytes and has 100 since it was opened",
    replace: "was replaced by another file since it was opened",
    remove: "cannot be found any more",
}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return pico.pair(tmp_path)


def opened(sides: tuple[Path, Path]) -> Pair:
    return Pair.open(*map(str, sides))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_named(change, tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(1000))
    found = OpenedFile(str(file))
    found.check()
    change(file)
    with pytest.raises(UserError, match=rf"{file} {CHANGES[change]}"):
        found.check()


def test_a_link_is_what_it_leads_to(tmp_path):
    """In the Hub's cache a snapshot is links to blobs."""
    blob, link = tmp_path / "blob", tmp_path / "model.safetensors"
    blob.write_bytes(bytes(1000))
    link.symlink_to(blob)
    found = OpenedFile(str(link))
    found.check()
    overwrite(blob)
    with pytest.raises(UserError, match=rf"{link} was written to"):
        found.check()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("role", ["base", "instruct"])
def test_no_weight_is_read_from_a_changed_file(role, change, sides):
    pair = opened(sides)
    file = sides[role == "instruct"] / "model.safetensors"
    change(file)
    with pytest.raises(UserError, match=rf"{file} {CHANGES[change]}"):
        load(pair, 0.5)
    with pytest.raises(UserError, match=rf"{file} {CHANGES[change]}"):
        pair.at(0.5)["model.norm.weight"][...]  # the error is the test


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_stays_where_it_is(change, sides):
    lm = PartialHFLM(str(sides[0]), str(sides[1]), 0.5, device="cpu", dtype="float32")
    before = {name: each.clone() for name, each in lm.model.state_dict().items()}
    change(sides[1] / "model.safetensors")
    with pytest.raises(UserError, match=CHANGES[change]):
        lm.set_lam(0.7)
    assert lm.lam == 0.5 and equal(lm.model.state_dict(), before)


def test_pickled_weights_too(sides):
    for side in sides:
        torch.save(load_file(side / "model.safetensors"), side / "pytorch_model.bin")
        (side / "model.safetensors").unlink()
    pair = opened(sides)
    model = load(pair, 0.5)
    cut_off(sides[0] / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"base/pytorch_model\.bin had"):
        move(model, pair, 0.7, lambda: pytest.fail("loaded anew"))


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_the_files_of_an_adapter_too(name, merge, pairs, tmp_path):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    pair = opened((base, adapter))
    model = load(pair, 0.5, merge=merge)
    later(adapter / name)
    with pytest.raises(UserError, match=rf"{name} was written to"):
        move(model, pair, 0.7, lambda: pytest.fail("loaded anew"))


def test_updates_beside_the_weights_are_not_the_mapped_file(pairs, tmp_path):
    """A file that is written to while a point is evaluated does not change it."""
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    layer = load(opened((base, adapter)), 0.5, merge=False).model.layers[1].self_attn.q_proj
    before = layer.low_rank_up.clone()
    file = adapter / "adapter_model.safetensors"
    with open(file, "r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(bytes(file.stat().st_size - file.stat().st_size // 2))
    assert torch.equal(layer.low_rank_up, before)


# While weights are read ---------------------------------------------------------------------------


@pytest.fixture
def during(monkeypatch) -> Callable[[Path], None]:
    """Let a file be written to when the last of its tensors is read."""

    def arrange(file: Path) -> None:
        read = checkpoint.SafetensorsSlice.__getitem__
        seen = 0

        def counted(self, index):
            nonlocal seen
            seen += 1
            if seen == 3:
                later(file)
            return read(self, index)

        monkeypatch.setattr(checkpoint.SafetensorsSlice, "__getitem__", counted)

    return arrange


@pytest.mark.parametrize("lam", [0, 0.5])
def test_a_file_written_to_while_it_is_read(lam, sides, during):
    pair = opened(sides)
    during(sides[0] / "model.safetensors")
    with pytest.raises(UserError, match=r"base/model\.safetensors was written to"):
        load(pair, lam)


def test_a_side_that_was_read_already(sides, during):
    """At λ = 1 the base is not read, and is looked at all the same."""
    pair = opened(sides)
    during(sides[0] / "model.safetensors")
    with pytest.raises(UserError, match=r"base/model\.safetensors was written to"):
        load(pair, 1)


def test_a_move_that_was_cut_off_leaves_no_model_to_use(sides, during):
    lm = PartialHFLM(str(sides[0]), str(sides[1]), 0.5, device="cpu", dtype="float32")
    during(sides[1] / "model.safetensors")
    with pytest.raises(UserError, match="was written to"):
        lm.set_lam(0.7)
    with pytest.raises(UserError, match="the move to another λ was cut off"):
        lm.lam  # noqa: B018 (the error is the test)


def test_nothing_is_published_of_two_versions(sides, during, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = sides[1] / "model.safetensors"
    for publish in (
        lambda: export(opened(sides), 1, tmp_path / "exported"),
        lambda: extract(opened(sides), tmp_path / "adapter", rank=2),
        lambda: with_rank(opened(sides), 2),
        lambda: inspect_pair(opened(sides)),
    ):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        during(file)
        with pytest.raises(UserError, match="was written to"):
            publish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "instruct"]
