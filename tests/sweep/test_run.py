"""The sweep has the numbers of separate runs, resumes wherever it was killed, and mixes nothing."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_partial import files
from lm_eval_partial.cli import main
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.sweep import folder as trajectory
from lm_eval_partial.sweep import point as point_of_sweep
from lm_eval_partial.sweep.engines import stock_arguments
from tests import pico
from tests.answers import agree
from tests.conftest import TASKS

# What two runs of one thing do not share: there may be a commit between them.
TIMES = ("date", "total_evaluation_time_seconds", "git_hash")


@pytest.fixture
def run(pairs, tmp_path, one_task_index, monkeypatch) -> Callable[..., int]:
    """Run the command on the llama pair; `out` is the folder inside tmp_path."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str, out: str = "out", tasks: str = "pico_mc", family: str = "llama") -> int:
        base, instruct = pairs(family)
        command = ["sweep", "--base", str(base), "--instruct", str(instruct), "--tasks", tasks]
        command += ["--device", "cpu", "--include_path", str(TASKS)]
        # Flags of the test come last: of two alike the last counts.
        return main([*command, "--output_path", str(tmp_path / out), *flags])

    return run


def read(path: Path) -> tuple[dict, dict[str, list[dict]]]:
    """Return a point's result without times, and its samples."""
    result = trajectory.read_point(path)
    samples = {}
    for file in path.glob("samples_*.jsonl"):
        task = file.name.split("_20")[0].removeprefix("samples_")  # before the date
        samples[task] = list(map(json.loads, file.read_text().splitlines()))
    return without(result, *TIMES), samples


def without(fields: dict, *names: str) -> dict:
    return {name: value for name, value in fields.items() if name not in names}


def responses(samples: dict[str, list[dict]], task: str = "pico_mc") -> list:
    return [sample["resps"] for sample in samples[task]]


def accuracy(point: Path) -> float:
    return read(point)[0]["results"]["pico_mc"]["acc,none"]


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def never(*_: object, **__: object) -> None:
    pytest.fail("a point was run again")


# The numbers --------------------------------------------------------------------------------------


def same_as_separate(point: Path, separate: tuple[dict, dict]) -> None:
    ours, samples = read(point)
    assert samples == separate[1]
    theirs = without(separate[0], *TIMES, "folder")
    for result in (ours, theirs):
        for config in result["configs"].values():
            config["metadata"].pop("config_source", None)  # a path, relative or not
    assert ours == theirs


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.versions), "mixtral"])
def test_every_point_is_a_separate_run(family, run, pairs, lm_eval, tmp_path):
    """The whole result file but for times; mixtral is loaded anew at every λ, llama overwritten."""
    tasks = "pico_mc,pico_gen"
    assert run("--lam", "0.6,0,0.25", tasks=tasks, family=family) == 0
    assert run("--lam", "0.25,0.6,0", tasks=tasks, family=family, out="otherwise") == 0
    base, instruct = pairs(family)
    for lam in ("0.00", "0.25", "0.60"):
        separate = lm_eval("partial-hf", tasks, base=base, instruct=instruct, lam=float(lam))
        for out in ("out", "otherwise"):
            same_as_separate(tmp_path / out / f"lam_{lam}", separate)
    # Three λ that answered alike would prove nothing.
    points = [tmp_path / "out" / f"lam_{lam}" for lam in ("0.00", "0.25", "0.60")]
    assert len({str(responses(read(point)[1])) for point in points}) == 3


def test_a_task_that_draws_and_writes_leaves_nothing_behind(run, pairs, lm_eval, tmp_path):
    """Sampled answers too: each point starts with the generators' states of a separate run."""
    flags = "--seed", "3"
    tasks = "pico_leaky,pico_gen"
    assert run("--lam", "1,0.3", "0", *flags, tasks=tasks) == 0
    base, instruct = pairs("llama")
    for lam in ("0.00", "0.30", "1.00"):
        separate = lm_eval(
            "partial-hf", tasks, *flags, base=base, instruct=instruct, lam=float(lam)
        )
        same_as_separate(tmp_path / "out" / f"lam_{lam}", separate)
    first = read(tmp_path / "out" / "lam_0.00")[1]
    last = read(tmp_path / "out" / "lam_1.00")[1]
    for one, other in zip(first["pico_leaky"], last["pico_leaky"], strict=True):
        assert one["doc"] == other["doc"]
    assert responses(first, "pico_leaky") != responses(last, "pico_leaky")


def test_lm_evals_flags_pass_through(run, pairs, lm_eval, tmp_path):
    flags = ["--limit", "5", "--num_fewshot", "1", "--batch_size", "2"]
    flags += ["--gen_kwargs", "max_gen_toks=3"]
    flags += ["--apply_chat_template", "--system_instruction", "Be brief.", "--metadata", "note=x"]
    tasks = "pico_mc,pico_gen"
    model_args = {"dtype": "bfloat16", "max_length": 256}
    given = ["--model_args", "dtype=bfloat16,max_length=256"]
    assert run("--lam", "0.5", "0.25", *flags, *given, tasks=tasks) == 0
    base, instruct = pairs("llama")
    separate = lm_eval(
        "partial-hf", tasks, *flags, base=base, instruct=instruct, lam=0.25, **model_args
    )
    ours = read(tmp_path / "out" / "lam_0.25")
    assert ours[1] == separate[1] and ours[0]["configs"]["pico_mc"]["metadata"]["note"] == "x"
    assert ours[0]["config"] | {"model_args": None} == separate[0]["config"] | {"model_args": None}
    assert len(ours[1]["pico_gen"]) == 5 and ours[0]["n-shot"] == {"pico_gen": 1, "pico_mc": 1}


def test_baselines_are_stock_runs(run, pairs, lm_eval, tmp_path):
    base, instruct = pairs("llama")
    tasks = "pico_mc,pico_leaky"
    assert run("--lam", "0.5", "--baselines", tasks=tasks) == 0
    chat = ["--baselines", "instruct", "--apply_chat_template"]
    assert run("--lam", "0.5", *chat, out="chat", tasks=tasks) == 0
    same_as_separate(tmp_path / "out" / "hf_base", lm_eval("hf", tasks, pretrained=base))
    same_as_separate(tmp_path / "out" / "hf_instruct", lm_eval("hf", tasks, pretrained=instruct))
    stock = lm_eval("hf", tasks, "--apply_chat_template", pretrained=instruct)
    same_as_separate(tmp_path / "chat" / "hf_instruct", stock)
    assert not (tmp_path / "chat" / "hf_base").exists()


def test_the_template_of_a_baseline_is_its_own(run, pairs, tmp_path):
    base, _ = pairs("llama")
    other = pico.tokenizer()
    other.chat_template = pico.CHAT.replace("<|", "<~")
    chat = shutil.copytree(base, tmp_path / "chat")
    other.save_pretrained(chat)
    assert run("--base", str(chat), "--lam", "0.5", "--baselines", "--apply_chat_template") == 0
    prompts = {}
    for point in ("lam_0.50", "hf_base", "hf_instruct"):
        sample = read(tmp_path / "out" / point)[1]["pico_mc"][0]
        prompts[point] = sample["arguments"]["gen_args_0"]["arg_0"]
    assert "<~user|>" in prompts["hf_base"] and "<~" not in prompts["hf_instruct"]
    assert prompts["lam_0.50"] == prompts["hf_instruct"]


def test_flags_among_the_model_arguments_hold_for_every_point(run, tmp_path, capsys):
    """The harness passes its flags on too, and a model cannot take one twice."""
    both = "--model_args", "batch_size=4,device=cpu"
    assert run("--lam", "0.5", "--baselines", "base", *both) == 0
    for point in ("lam_0.50", "hf_base"):
        config = read(tmp_path / "out" / point)[0]["config"]
        assert config["batch_size"] == 4 and config["device"] == "cpu"
    assert run("--lam", "1", "--model_args", "batch_size=4", "--batch_size", "8") == 1
    assert (
        "error: --batch_size 8 and batch_size=4 in --model_args differ" in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "lam_1.00").exists()


def test_what_is_false_is_false_for_stock_too(run, tmp_path):
    """Stock takes any text for true: trust_remote_code=no would run a stranger's code."""
    given = "trust_remote_code=no,add_bos_token=off,tie_word_embeddings=no"
    assert run("--lam", "0.5", "--baselines", "base", "--model_args", given) == 0
    for point in ("lam_0.50", "hf_base"):
        result = read(tmp_path / "out" / point)[0]
        for found in (result["config"]["model_args"], result["configs"]["pico_mc"]["metadata"]):
            for name in ("trust_remote_code", "add_bos_token", "tie_word_embeddings"):
                assert found[name] is False


def test_a_baseline_whose_path_is_longer_than_a_name(pairs, run, tmp_path):
    """The harness would make one folder name of the whole path."""
    base = tmp_path / ("基" * 42) / ("基" * 42) / "base"
    shutil.copytree(pairs("llama")[0], base)
    assert run("--base", str(base), "--lam", "0.5", "--baselines", "base") == 0
    assert read(tmp_path / "out" / "hf_base")[0]["config"]["model_args"]["pretrained"] == str(base)


def test_stock_arguments(pairs):
    from lm_eval_partial.weights.checkpoint import Checkpoint

    base, _ = pairs("llama")
    side = Checkpoint("base", str(base.parent), subfolder="base")
    given = {"base": "x", "instruct": "y", "base_subfolder": "base"}
    given |= {"dtype": "float16", "tokenizer": "base"}
    assert stock_arguments(given, side) == {
        "pretrained": str(base.parent),
        "subfolder": "base",
        "dtype": "float16",
    }
    assert stock_arguments({"tokenizer": "mine"}, side)["tokenizer"] == "mine"
    assert stock_arguments({"tokenizer": "~/x"}, side)["tokenizer"] == os.path.expanduser("~/x")
    assert "tokenizer" not in stock_arguments({"tokenizer": None}, side)


def test_stock_arguments_of_an_adapter(pairs, tmp_path):
    from lm_eval_partial.weights.pair import Pair

    base = pairs("llama")[0]
    pico.adapter(base, tmp_path / "a", target_modules=["q_proj"])
    adapter = Pair.open(str(base), str(tmp_path / "a")).instruct
    expected = {
        "pretrained": str(base),
        "peft": str(tmp_path / "a"),
        "tokenizer": str(base),
        "dtype": "float16",
    }
    assert stock_arguments({"dtype": "float16"}, adapter) == expected


def test_a_sweep_over_an_adapter(pairs, tmp_path, run):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "a", target_modules=["q_proj"])
    assert run("--instruct", str(adapter), "--lam", "0.5,1", "--baselines") == 0
    one = read(tmp_path / "out" / "lam_1.00")[1]
    stock = read(tmp_path / "out" / "hf_instruct")[1]
    assert agree(responses(one), responses(stock))


def test_a_sweep_scales_a_schedule(pairs, tmp_path, run, lm_eval):
    assert run("--lam", "0.5,1", "--model_args", "schedule=attention:0.8+all:0.4") == 0
    result, samples = read(tmp_path / "out" / "lam_0.50")
    assert (
        result["config"]["lam"] == 0.5 and result["config"]["schedule"] == "attention:0.8+all:0.4"
    )
    base, instruct = pairs("llama")
    _, separate = lm_eval(
        "partial-hf", "pico_mc", base=base, instruct=instruct, lam="attention:0.4+all:0.2"
    )
    assert agree(responses(samples), responses(separate))
    # Another schedule is another run.
    assert run("--lam", "0.25", "--model_args", "schedule=attention:0.8+all:0.5") == 1


def test_another_rank_is_another_run(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("--lam", "0.5", "--model_args", "rank=4") == 0
    capsys.readouterr()
    assert run("--lam", "1", "--model_args", "rank=5") == 1
    assert "rank" in capsys.readouterr().err


def test_the_model_is_loaded_once_and_prompts_are_built_once(run, monkeypatch, tmp_path):
    from lm_eval.api.task import ConfigurableTask

    counts = {"loads": 0, "prompts": 0}

    def counted(name, function):
        def wrapper(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(PartialHFLM, "__init__", counted("loads", PartialHFLM.__init__))
    monkeypatch.setattr(
        ConfigurableTask, "fewshot_context", counted("prompts", ConfigurableTask.fewshot_context)
    )
    assert run("--lam", "0:1:0.25") == 0
    assert counts == {"loads": 1, "prompts": 16}
    assert len(read(tmp_path / "out" / "lam_1.00")[1]["pico_mc"]) == 16


# Generation configs -------------------------------------------------------------------------------


@pytest.fixture
def endless(pairs, tmp_path) -> Callable[..., tuple[Path, Path]]:
    """Return a pair whose texts never end by themselves, with fields in generation configs."""

    def make(base: dict[str, Any], instruct: dict[str, Any]) -> tuple[Path, Path]:
        folders = []
        for side, fields in zip(pairs("llama"), (base, instruct), strict=True):
            folders.append(shutil.copytree(side, tmp_path / f"endless_{side.name}"))
            file = folders[-1] / "generation_config.json"
            file.write_text(json.dumps({"eos_token_id": 329} | fields))
        return folders[0], folders[1]

    return make


def note_lengths(lm: Any, lengths: list[int]) -> None:
    """Note the lengths of what a model generates, in tokens."""
    generate = lm.model.generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        made = generate(*args, **kwargs)
        if isinstance(made, torch.Tensor):  # not the self-check's
            lengths.append(made.shape[1] - kwargs["input_ids"].shape[1])
        return made

    lm.model.generate = counted


@pytest.mark.parametrize("given", ["tokenizer=base", "generation_config=none,tokenizer=base"])
def test_the_tasks_limit_wins_at_every_point(given, run, endless, tmp_path, monkeypatch, caplog):
    """Qwen's bases have max_new_tokens=2048, which wins over max_gen_toks in stock hf."""
    base, instruct = endless({"max_new_tokens": 40, "repetition_penalty": 1.3}, {})
    lengths: dict[str, list[int]] = {}
    point = point_of_sweep.Runner.point

    def counting(self: Any, name: str, lm: Any, *args: Any, **kwargs: Any) -> None:
        if name not in lengths:
            note_lengths(lm, lengths.setdefault(name, []))
        point(self, name, lm, *args, **kwargs)

    monkeypatch.setattr(point_of_sweep.Runner, "point", counting)
    flags = ["--base", str(base), "--instruct", str(instruct), "--model_args", given]
    assert run("--lam", "0,1", "--baselines", *flags, tasks="pico_gen") == 0
    assert lengths.keys() == {"lam_0.00", "lam_1.00", "hf_base", "hf_instruct"}
    for made in lengths.values():
        assert max(made) == 12  # max_gen_toks of pico_gen
    dropped = {}
    for name in lengths:
        config = read(tmp_path / "out" / name)[0]["config"]
        dropped[name] = config.get("generation_config_dropped")
    if "none" in given:
        both = {"max_new_tokens": 40, "repetition_penalty": 1.3}
        assert dropped == dict.fromkeys(lengths) | {"hf_base": both}
    else:
        limit = {"max_new_tokens": 40}
        assert dropped == dict.fromkeys(lengths, limit) | {"hf_instruct": None}
    assert "hf_base: dropped from its generation config: max_new_tokens=40" in caplog.text
    zero, stock = (read(tmp_path / "out" / name)[1] for name in ("lam_0.00", "hf_base"))
    assert responses(zero, "pico_gen") == responses(stock, "pico_gen")


def test_stock_hf_and_partial_hf_alone_keep_the_models_limit(endless, lm_eval, caplog):
    """Whatever the task says; a warning names both numbers."""
    base, instruct = endless({"max_new_tokens": 20}, {})
    pair = {"base": base, "instruct": instruct, "lam": 0, "tokenizer": "base"}
    _, stock = lm_eval("hf", "pico_gen", pretrained=base)
    _, ours = lm_eval("partial-hf", "pico_gen", **pair)
    assert responses(ours, "pico_gen") == responses(stock, "pico_gen")
    assert "max_new_tokens=20 in the generation config beats the task's max_gen_toks=12" in (
        caplog.text
    )
    result, short = lm_eval("partial-hf", "pico_gen", **pair, generation_config="none")
    assert result["config"]["generation_config"] == "none"
    for long, cut in zip(responses(stock, "pico_gen"), responses(short, "pico_gen"), strict=True):
        assert long[0][0].startswith(cut[0][0]) and len(cut[0][0]) < len(long[0][0])


def test_the_manifest_tells_what_generation_configs_say(run, endless, tmp_path, capsys):
    base, instruct = endless({"max_new_tokens": 40}, {"repetition_penalty": 1.3, "top_p": 0.8})
    flags = ["--base", str(base), "--instruct", str(instruct), "--lam", "0.5"]
    assert run(*flags) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["generation_config"] == {
        "used": "instruct",
        "base": {"eos_token_id": 329, "max_new_tokens": 40},
        "instruct": {"eos_token_id": 329, "repetition_penalty": 1.3, "top_p": 0.8},
    }
    assert any("repetition_penalty: base None, instruct 1.3" in note for note in manifest["notes"])
    assert read(tmp_path / "out" / "lam_0.50")[0]["config"]["generation_config"] == "instruct"
    assert run(*flags, "--model_args", "generation_config=none") == 1
    assert 'generation_config is recorded as absent, now "none"' in capsys.readouterr().err


# Again --------------------------------------------------------------------------------------------


def test_finished_points_are_kept_and_new_ones_added(run, tmp_path, monkeypatch, capsys):
    assert run("--lam", "0,0.5") == 0
    before = content(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr("lm_eval.simple_evaluate", never)
        patched.setattr(PartialHFLM, "__init__", never)
        assert run("--lam", "0.5", "0") == 0
    assert content(tmp_path / "out") == before
    assert run("--lam", "0:1:0.5", "--baselines", "base") == 0
    after = content(tmp_path / "out")
    assert before.items() <= after.items()
    assert trajectory.points(tmp_path / "out") == ["lam_0.00", "lam_0.50", "lam_1.00", "hf_base"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--limit", "4"], "limit is recorded as null, now 4.0"),
        (
            ["--num_fewshot", "1"],
            (
                "num_fewshot is recorded as null, now 1; tasks.pico_mc.num_fewshot is recorded as"
                " 3, now 1"
            ),
        ),
        (["--seed", "7"], "seed is recorded as [0, 1234, 1234, 1234], now [7, 7, 7, 7]"),
        (["--model_args", "dtype=bfloat16"], 'dtype is recorded as "float32", now "bfloat16"'),
        (
            ["--model_args", "max_length=99"],
            'model_args.max_length is recorded as absent, now "99"',
        ),
        (["--model_args", "tokenizer=base"], 'tokenizer is recorded as "instruct", now "base"'),
        (["--apply_chat_template"], "apply_chat_template is recorded as false, now true"),
        (["--gen_kwargs", "temperature=1"], "gen_kwargs.temperature is recorded as absent, now 1"),
        (["--no_log_samples"], "log_samples is recorded as true, now false"),
        (["--tasks", "pico_gen"], "tasks.pico_gen.version is recorded as absent, now 1.0"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(
    flags, message, run, tmp_path, capsys, monkeypatch
):
    assert run("--lam", "0.5") == 0
    before = content(tmp_path / "out")
    monkeypatch.setattr("lm_eval.simple_evaluate", never)
    assert run("--lam", "0.5", "1", *flags) == 1
    assert content(tmp_path / "out") == before
    assert (
        f"error: {tmp_path}/out holds points of another run: {message}" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ("weights", "instruct_sha is recorded as"),
        ("generation_config.json", "files.instruct/generation_config.json is"),
    ],
)
def test_another_model_is_another_run(change, message, run, pairs, tmp_path, capsys):
    base, instruct = pairs("llama")
    copy = shutil.copytree(instruct, tmp_path / "copy")
    assert run("--instruct", str(copy), "--lam", "0.5") == 0
    assert run("--lam", "0.5") == 0  # the same model at another path
    if change == "weights":
        pico.child(pico.model(pico.config("llama", 330), seed=1), seed=5).save_pretrained(copy)
    else:
        (copy / change).write_text('{"repetition_penalty": 1.5}')
    assert run("--instruct", str(copy), "--lam", "0.5") == 1
    assert f"holds points of another run: {message}" in capsys.readouterr().err


def test_another_batch_size_is_the_same_run(run):
    assert run("--lam", "0.5") == 0
    assert run("--lam", "0.5", "1", "--batch_size", "4") == 0


def test_damage_is_said_and_nothing_is_touched(run, tmp_path, capsys):
    assert run("--lam", "0,0.5") == 0
    (samples,) = (tmp_path / "out" / "lam_0.00").glob("samples_*")
    samples.write_bytes(samples.read_bytes()[:-20])
    before = content(tmp_path / "out")
    assert run("--lam", "0,0.5,1") == 1
    assert (
        f"error: {samples} is cut off. Move {tmp_path}/out/lam_0.00 away and start"
        in capsys.readouterr().err
    )
    assert content(tmp_path / "out") == before
    shutil.move(tmp_path / "out" / "lam_0.00", tmp_path / "away")
    assert run("--lam", "0,0.5,1") == 0
    assert trajectory.points(tmp_path / "out") == ["lam_0.00", "lam_0.50", "lam_1.00"]


def test_two_sweeps_into_one_folder(run, tmp_path, capsys):
    with files.locked(tmp_path / "out", "sweep"):
        assert run("--lam", "0.5") == 1
    assert (
        f"error: another sweep is writing into {tmp_path}/out. Wait for it"
        in capsys.readouterr().err
    )


def same_trajectory(folder: Path, expected: Path) -> None:
    """The same points with the same numbers, and no other file."""
    assert trajectory.points(folder) == trajectory.points(expected)
    names: dict[Path, set[str]] = {folder: set(), expected: set()}
    for side in names:
        for name in content(side):
            date = name.split("_20")[-1] if "_20" in name else ""
            names[side].add(name.removesuffix(date))
    assert names[folder] == names[expected]
    for point in trajectory.points(expected):
        ours, theirs = read(folder / point), read(expected / point)
        assert ours[1] == theirs[1] and ours[0] == theirs[0]


@pytest.mark.parametrize("moment", ["written", "published"])
def test_an_interrupt_leaves_a_folder_that_goes_on(moment, run, tmp_path, monkeypatch, capsys):
    """When the second point's files are written, or while they are given their name."""
    assert run("--lam", "0:1:0.5", out="whole") == 0
    save, sync = point_of_sweep._save, files.sync

    def interrupted_save(*args):
        save(*args)
        if trajectory.points(tmp_path / "out"):
            raise KeyboardInterrupt

    def interrupted_sync(path):
        if trajectory.points(tmp_path / "out") and ".incomplete" in str(path):
            raise KeyboardInterrupt
        sync(path)

    with monkeypatch.context() as patched:
        if moment == "written":
            patched.setattr(point_of_sweep, "_save", interrupted_save)
        else:
            patched.setattr(files, "sync", interrupted_sync)
        assert run("--lam", "0:1:0.5") == 130
    assert capsys.readouterr().err.endswith(
        f"interrupted; 1 finished points are in {tmp_path}/out.\nThe same command goes on from"
        " there.\n"
    )
    assert (
        trajectory.points(tmp_path / "out") == ["lam_0.00"]
        and list((tmp_path / "out").glob(".incomplete*")) == []
    )
    assert run("--lam", "0:1:0.5") == 0
    same_trajectory(tmp_path / "out", tmp_path / "whole")


def killed(run: Callable[..., int], seconds: float, *flags: str) -> bool:
    """Run the command in its own process, and SIGKILL that after `seconds`.

    Returns:
        Whether it was still running.
    """
    child = os.fork()
    if child == 0:
        os._exit(run(*flags))
    time.sleep(seconds)
    finished, _ = os.waitpid(child, os.WNOHANG)
    if not finished:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not finished


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_killed_at_random_moments_it_ends_as_if_uninterrupted(run, tmp_path):
    """Three times in a row; `test_crash` does so forty times, each from the beginning."""
    kills = 3
    flags = "--lam", "0:1:0.25", "--baselines"
    assert run("--lam", "0", out="warm-up") == 0
    start = time.monotonic()
    assert run(*flags, out="whole") == 0
    duration = time.monotonic() - start
    rng, deaths = random.Random(kills), 0
    while deaths < kills:
        if not killed(run, rng.uniform(0, duration), *flags):
            same_trajectory(tmp_path / "out", tmp_path / "whole")
            shutil.rmtree(tmp_path / "out")  # it had finished: begin again until all kills are done
            continue
        deaths += 1
        if (tmp_path / "out").is_dir():
            for point in trajectory.points(tmp_path / "out"):  # what is there is whole
                trajectory.read_point(tmp_path / "out" / point)
    assert run(*flags) == 0
    same_trajectory(tmp_path / "out", tmp_path / "whole")


def test_a_disk_that_fails_loses_nothing(run, tmp_path, capsys):
    """The harness only logs a failed write; a file size limit makes its writes really fail."""
    assert run("--lam", "0") == 0
    before = content(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # the result fits, the samples do not
    try:
        assert run("--lam", "0,0.5") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: a point could not be written into {tmp_path}/out (")
    assert os.strerror(errno.EFBIG) in error and error.endswith("and start the same command again.")
    assert content(tmp_path / "out") == before
    assert run("--lam", "0,0.5") == 0
    assert trajectory.points(tmp_path / "out") == ["lam_0.00", "lam_0.50"]


# Files and words ----------------------------------------------------------------------------------


def test_the_manifest_says_what_all_points_share(run, pairs, tmp_path):
    assert run("--lam", "0.5", "--limit", "4") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    base, instruct = map(str, pairs("llama"))
    assert manifest["base"] == base and manifest["instruct"] == instruct
    assert manifest["command"].startswith(f"lm-eval-partial sweep --base {base} ")
    fingerprint = manifest["identity"]
    result, _ = read(tmp_path / "out" / "lam_0.50")
    for name in ("base_sha", "instruct_sha", "limit"):
        assert fingerprint[name] == result["config"][name]
    assert fingerprint["dtype"] == "float32" and fingerprint["seed"] == [0, 1234, 1234, 1234]
    task = fingerprint["tasks"]["pico_mc"]
    assert task["version"] == result["versions"]["pico_mc"]
    assert task["num_fewshot"] == result["n-shot"]["pico_mc"] == 3
    assert fingerprint["versions"]["torch"] == torch.__version__
    assert fingerprint["versions"]["lm_eval"] == result["lm_eval_version"]


def test_the_digest_of_a_task_follows_its_file(run, tmp_path, capsys):
    folder = tmp_path / "tasks"
    shutil.copytree(TASKS, folder)
    include = "--include_path", str(folder)
    # A name of its own: the harness's index of files is kept for the whole session.
    text = (folder / "pico_mc.yaml").read_text().replace("task: pico_mc", "task: pico_own")
    (folder / "own.yaml").write_text(text)
    assert run("--lam", "0.5", *include, tasks="pico_own") == 0
    (folder / "own.yaml").write_text(text.replace("{{question}}", "Q: {{question}}"))
    assert run("--lam", "0.5", *include, tasks="pico_own") == 1
    assert "another run: tasks.pico_own.config is recorded as" in capsys.readouterr().err


def test_without_samples(run, tmp_path):
    assert run("--lam", "0,1", "--no_log_samples") == 0
    assert [path.name[:8] for path in (tmp_path / "out" / "lam_1.00").iterdir()] == ["results_"]
    assert run("--lam", "0,1", "--no_log_samples") == 0


def test_the_table_is_all_there_is_on_stdout(run, tmp_path, capsys):
    assert run("--lam", "0:1:0.5", "--baselines", "instruct") == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if re.search(r"\w", line)]  # and no rules
    for lam in ("0.00", "0.50", "1.00"):
        score = accuracy(tmp_path / "out" / f"lam_{lam}")
        assert re.search(rf"{lam}.*{score:.4f}", out)
    assert len(lines) == 2 + 4 + 1 and "hf instruct" in lines[5]
    assert "hf_instruct: 100%" in err and "Running loglikelihood requests: 100%" in err


def test_a_config_file(run, pairs, tmp_path):
    base, instruct = pairs("llama")
    settings = {
        "tasks": ["pico_mc"],
        "limit": 4,
        "include_path": str(TASKS),
        "output_path": str(tmp_path / "there"),
    }
    settings["model_args"] = {"base": str(base), "instruct": str(instruct)}
    (tmp_path / "config.yaml").write_text(json.dumps(settings | {"device": "cpu"}))
    assert main(["sweep", "--config", str(tmp_path / "config.yaml"), "--lam", "0.5"]) == 0
    assert read(tmp_path / "there" / "lam_0.50")[0]["config"]["limit"] == 4


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--lam", "0:1"], "--lam 0:1 is not a range."),
        (["--lam", "0.5", "0.5"], "--lam gives 0.50 twice"),
        (["--lam", "-0.5:0.5:0.3"], "--lam -0.5:0.5:0.3 passes over its end: 0.4, 0.7."),
        (["--model", "hf"], "--model hf: this sweep is of partial-hf. Leave --model out"),
        (["--model_args", "lam=0.5"], "lam= in --model_args does not go with sweep: give --lam."),
        (
            ["--model_args", "model=mine"],
            "model= in --model_args does not go with sweep: points are named by their λ.",
        ),
        (["--model_args", "base=other"], "and base=other in --model_args differ. Give one."),
        (["--model_args", "pretrained=x"], "pretrained= does not go with partial-hf"),
        (["--model_args", "dtyp=x"], "unknown argument dtyp=. Did you mean 'dtype'?"),
        (
            ["--use_cache", "x"],
            "--use_cache does not go with sweep: a sweep started again skips the points it has.",
        ),
        (["--show_config"], "--show_config does not go with sweep"),
        (["--check_integrity"], "--check_integrity does not go with sweep"),
        (["--hf_hub_log_args", "a=b"], "--hf_hub_log_args does not go with sweep"),
        (
            ["--tasks", "pico_nope"],
            "Tasks not found: pico_nope. lm_eval ls tasks lists what there is",
        ),
        (
            ["--limit", "2", "--samples", '{"pico_mc": [1]}'],
            "If --samples is not None, then --limit must be None.",
        ),
        (
            ["--apply_chat_template", "--baselines"],
            "has no chat template, so stock hf cannot run it with",
        ),
        (["--num_fewshot", "1000"], "--num_fewshot 1000: pico_mc has 8 documents to take shots f"),
        (
            ["--samples", '{"pico_m": [0]}'],
            "--samples: pico_m is not among the tasks that are",
        ),
        (
            ["--samples", '{"pico_mc": [16]}'],
            "--samples: pico_mc has 16 documents, numbered fr",
        ),
        (
            ["--gen_kwargs", "temprature=1"],
            "temprature= is no setting of a generation. Did you mean 'temperature'?",
        ),
        (["--model_args", "trust_remote_code=f"], "trust_remote_code=f is neither true nor false."),
        (["--model_args", "add_bos_token=maybe"], "add_bos_token=maybe is neither true nor false."),
        (["--model_args", "tie_word_embeddings=t"], "tie_word_embeddings=t is neither true nor"),
        (
            ["--wandb_args", "project=x"],
            "--wandb_args needs wandb, which is not installed. Install it with: pip install",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(
    flags, message, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("lm_eval_partial.sweep.tracking.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(PartialHFLM, "__init__", never)
    given = flags if "--lam" in flags else ["--lam", "0.5", *flags]
    assert run(*given) == 1
    out, err = capsys.readouterr()
    assert (
        out == "" and err.splitlines()[-1].startswith("error: ") and message in err.splitlines()[-1]
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "files, tasks, message",
    [
        ({"x.yaml": "group: g\ntask: [h]\n", "y.yaml": "group: h\ntask: [g]\n"}, "g", "g → h → g."),
        ({"x.yaml": "task: x\ndoc_to_text: &a [*a]\n"}, "pico_mc", "x.yaml stands for inf values"),
        ({"x.yaml": "task: ["}, "{}/tasks/x.yaml", "while parsing a flow node"),
        ({"x.yaml": "task: x\ndataset_path: json\nmetric_list: 5\n"}, "x", "could not be loaded ("),
    ],
)
def test_task_files_that_are_wrong(files, tasks, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PartialHFLM, "__init__", never)
    (tmp_path / "tasks").mkdir()
    tasks = tasks.format(tmp_path)
    for name, text in files.items():
        (tmp_path / "tasks" / name).write_text(text)
    assert run("--lam", "0.5", "--include_path", str(tmp_path / "tasks"), tasks=tasks) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--base", "--output_path", "--tasks"])
def test_what_is_missing_is_named(missing, pairs, capsys, tmp_path):
    base, instruct = map(str, pairs("llama"))
    given = {
        "--base": base,
        "--instruct": instruct,
        "--tasks": "pico_mc",
        "--output_path": str(tmp_path / "out"),
    }
    del given[missing]
    flags = itertools.chain(*given.items())
    assert main(["sweep", *flags, "--lam", "0.5"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {missing} is missing. Give")


def test_one_of_several_processes_is_refused(run, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--lam", "0.5") == 1
    error = capsys.readouterr().err
    assert "error: a sweep does not run under accelerate or torchrun" in error
    assert "--workers 8 runs one process on each of 8 GPUs" in error


def test_a_foreign_folder_is_not_written_into(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert run("--lam", "0.5") == 1
    assert "is not a sweep's: it has thesis.tex and no manifest.json." in capsys.readouterr().err
    assert list(content(tmp_path / "out")) == ["thesis.tex"]


# Trackers -----------------------------------------------------------------------------------------


class WandbRun:
    """Rows by step, as W&B keeps them: what is logged at one step is one row."""

    def __init__(self) -> None:
        self.rows: dict[int, dict] = {}
        self.summary: dict[str, float] = {}
        self.axes: dict[str, str | None] = {}
        self.step, self.config, self.ended = 0, Config(), 0

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, row, step=None, commit=None):
        assert step is None or step >= self.step, "W&B drops rows of a step that is past"
        self.rows.setdefault(self.step, {}).update(row)
        self.step += commit or step is None

    def log_artifact(self, artifact):
        pass

    def finish(self):
        self.ended += 1


class Config(dict[str, Any]):
    def update(self, values: Any = (), /, allow_val_change: Any = False, **more: Any) -> None:
        assert allow_val_change or not self.keys() & dict(values), "W&B refuses to change a config"
        super().update(values, **more)


@pytest.fixture
def wandb(monkeypatch):
    """A W&B that keeps what is logged."""
    module: Any = types.ModuleType("wandb")
    module.__version__, module.run, module.runs = "0.31.0", None, []
    module.__spec__ = types.SimpleNamespace(name="wandb")

    class Artifact:
        def __init__(self, name, type):
            pass

        def new_file(self, name, mode, encoding):
            return open(os.devnull, "w")

    def init(**arguments):
        module.runs.append((arguments, WandbRun()))
        return module.runs[-1][1]

    module.init, module.Artifact = init, Artifact
    module.Table = lambda columns: types.SimpleNamespace(add_data=lambda *row: None)
    printer: Any = types.ModuleType("wandb.sdk.lib.printer")
    printer.new_printer = lambda: None
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.printer", printer)
    # The packages around it, or the import of the innermost would look for W&B on disk.
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return module


def test_wandb_has_one_run_with_lam_as_its_axis(run, wandb, tmp_path):
    flags = "--wandb_args", "project=p", "--wandb_config_args", "note=x"
    assert run("--lam", "0:1:0.5", "--baselines", "instruct", *flags) == 0
    ((arguments, logged),) = wandb.runs
    assert arguments["project"] == "p" and arguments["resume"] == "allow" and logged.ended == 1
    assert logged.axes == {"lam": None, "*": "lam"} and logged.config["note"] == "x"
    rows = list(logged.rows.values())
    assert [row["lam"] for row in rows] == [0, 0.5, 1]
    for row in rows:
        assert row["pico_mc/acc"] == accuracy(tmp_path / "out" / f"lam_{row['lam']:.2f}")
        assert "pico_mc_eval_results" in row  # the samples
    assert logged.summary["hf_instruct/pico_mc/acc"] == rows[2]["pico_mc/acc"]
    assert logged.config["cli_configs"]["lam"] == 1
    # A resumed sweep resumes the run, too.
    assert run("--lam", "0:1:0.25", *flags) == 0
    assert wandb.runs[1][0]["id"] == arguments["id"]
    assert [row["lam"] for row in wandb.runs[1][1].rows.values()] == [0.25, 0.75]


def test_a_tracker_that_fails_costs_no_point(run, wandb, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no connection")

    monkeypatch.setattr(WandbRun, "log", fail)
    assert run("--lam", "0,1", "--wandb_args", "project=p") == 0
    assert trajectory.points(tmp_path / "out") == ["lam_0.00", "lam_1.00"]
    assert "lam_0.00 was not logged to W&B: no connection" in caplog.text


def test_nothing_to_do_starts_no_run(run, wandb):
    assert run("--lam", "0") == 0
    assert run("--lam", "0", "--wandb_args", "project=p") == 0
    assert wandb.runs == []


def test_trackio_has_one_run_with_lam_in_it(run, tmp_path, monkeypatch):
    logged: list[dict[str, Any]] = []
    inits: list[dict[str, Any]] = []
    ended: list[int] = []
    module: Any = types.ModuleType("trackio")
    module.__spec__ = types.SimpleNamespace(name="trackio")
    module.init = lambda **arguments: inits.append(arguments)
    module.log = lambda row, step=None: logged.append(row)
    module.finish = lambda: ended.append(1)
    module.Trace = lambda messages, metadata: metadata
    module.config = {}
    monkeypatch.setitem(sys.modules, "trackio", module)
    assert run("--lam", "0,1", "--baselines", "base", "--trackio_args", "project=p") == 0
    assert len(inits) == 1 and inits[0]["project"] == "p" and ended == [1]
    order = [row.get("lam", "scores") for row in logged if "lam" in row or "pico_mc/acc" in row]
    assert order == [0, "scores", 1, "scores"]
    assert logged[-1]["hf_base/pico_mc/acc"] == accuracy(tmp_path / "out" / "hf_base")
    assert sum("pico_mc/sample" in row for row in logged) == 2 * 16
