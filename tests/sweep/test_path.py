"""``sweep --path``: stages exactly, ordinary pairs between them, one folder, one axis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lm_eval_partial.cli import main
from lm_eval_partial.report.figures import percent_difference
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.trajectory import trajectories
from lm_eval_partial.sweep.folder import read_manifest
from lm_eval_partial.sweep.route import Piece, Route, named_pieces
from tests import pico
from tests.conftest import TASKS
from tests.sweep.forks import status
from tests.sweep.test_run import read, responses, same_trajectory

Run = Callable[..., int]


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> list[Path]:
    """A base, and two stages; the second has other ids, and so other embedding rows."""
    folder = tmp_path_factory.mktemp("stages")
    base, sft = pico.pair(folder)
    child = pico.child(AutoModelForCausalLM.from_pretrained(sft), seed=3, scale=0.2)
    moved, tokens = pico.reordered(child, pico.tokenizer(), [], ["<|dpo|>"])
    tokens.chat_template = pico.CHAT
    return [base, sft, pico.save(moved, tokens, folder / "dpo")]


@pytest.fixture
def run(tmp_path, one_task_index, monkeypatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def run(stages: list[Path], *flags: str, out: str = "out") -> int:
        command = ["sweep", "--path", ",".join(map(str, stages)), "--tasks", "pico_mc"]
        command += ["--device", "cpu", "--include_path", str(TASKS), "--limit", "8"]
        return main([*command, "--output_path", str(tmp_path / out), *flags])

    return run


def test_a_path_is_its_stages_and_pairs(run, stages, lm_eval, tmp_path, capsys):
    """Whole λ are stock's models; between them, a point is a separate run of the pair there."""
    plain = "--model_args", "share_prefix=False"  # stock's own path, bit for bit
    assert run(stages, "--lam", "0:2:0.5", "1.3", "--baselines", *plain) == 0
    out = tmp_path / "out"
    limit = "--limit", "8"
    for lam, stage in (("1.00", stages[1]), ("2.00", stages[2])):
        _, stock = lm_eval("hf", "pico_mc", *limit, pretrained=stage)
        assert responses(read(out / f"lam_{lam}")[1]) == responses(stock)
    _, stock = lm_eval("hf", "pico_mc", *limit, pretrained=stages[0])
    assert responses(read(out / "hf_base")[1]) == responses(stock)
    assert responses(read(out / "hf_instruct")[1]) == responses(read(out / "lam_2.00")[1])
    between = (("0.00", 0, 0), ("0.50", 0, 0.5), ("1.30", 1, 0.3), ("1.50", 1, 0.5))
    for lam, first, inside in between:
        sides = {"base": stages[first], "instruct": stages[first + 1]}
        separate = lm_eval("partial-hf", "pico_mc", *limit, **sides, lam=inside, share_prefix=False)
        result, samples = read(out / f"lam_{lam}")
        assert samples == separate[1]
        assert result["config"]["model_args"]["lam"] == inside
        assert result["config"]["lam"] == float(lam)
        assert result["config"]["path"]["piece"] == {
            **{side: str(folder) for side, folder in sides.items()},
            "lam": inside,
        }
    assert len({str(responses(read(out / name)[1])) for name in ("lam_0.50", "lam_1.50")}) == 2
    assert (read_manifest(out) or {})["path"] == list(map(str, stages))
    (found,) = trajectories(out, read_suite(task_configs()))
    assert found.lams == [0, 0.5, 1, 1.3, 1.5, 2]
    assert found.stages == ("base", "instruct", "dpo")
    assert found.baselines == ["base", "instruct"]
    axes = percent_difference(found).axes[0]
    ticks = dict(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True))
    assert {lam: tick.get_text() for lam, tick in ticks.items()} == {
        0: "0\nbase",
        1: "1\ninstruct",
        2: "2\ndpo",
    }
    assert main(["report", str(out), "--output_path", str(tmp_path / "report")]) == 0
    written = (tmp_path / "report" / "report.md").read_text()
    assert "base (λ = 0) → instruct (λ = 1) → dpo (λ = 2)" in written
    csv = (tmp_path / "report" / "trajectory.csv").read_text()
    assert ",stock instruct,2.0," in csv and ",stock base,0.0," in csv


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_workers_share_a_path(run, stages, fork, tmp_path):
    """With a chat template, which each stage has for itself."""
    flags = "--lam", "0.5:2:0.5", "--baselines", "instruct", "--apply_chat_template"
    assert run(stages, *flags, out="whole") == 0
    workers = [fork(run, stages, *flags, "--join") for _ in range(2)]
    assert [status(worker) for worker in workers] == [0, 0]
    same_trajectory(tmp_path / "out", tmp_path / "whole")


def test_a_path_goes_on_and_knows_its_stages(run, stages, tmp_path, capsys):
    """The points that are there stay; a stage in the middle that changes is named."""
    own = [
        pico.save(AutoModelForCausalLM.from_pretrained(each), None, tmp_path / each.name)
        for each in stages[:1]
    ]
    own += [tmp_path / "sft", stages[2]]
    pico.save(AutoModelForCausalLM.from_pretrained(stages[1]), pico.tokenizer(), own[1])
    pico.tokenizer().save_pretrained(own[0])
    assert run(own, "--lam", "1.5") == 0
    before = (tmp_path / "out" / "lam_1.50").stat().st_mtime_ns
    assert run(own, "--lam", "1.5", "2") == 0
    assert (tmp_path / "out" / "lam_1.50").stat().st_mtime_ns == before
    weights = load_file(own[1] / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, own[1] / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    assert run(own, "--lam", "0.5") == 1
    assert "path.1 is recorded as" in capsys.readouterr().err
    # Nor does an ordinary sweep of the first pair go into the folder of a path.
    command = ["sweep", "--base", str(own[0]), "--instruct", str(own[1]), "--tasks", "pico_mc"]
    command += ["--device", "cpu", "--include_path", str(TASKS), "--limit", "8", "--lam", "0.5"]
    assert main([*command, "--output_path", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lam", "2.5"], "--lam 2.5 lies beyond the path, whose 3 stages are λ = 0 to 2."),
        (["--lam", "-0.5"], "--lam -0.5 lies beyond the path"),
        (["--lam", "1", "--base", "b"], "--path takes the place of --base and --instruct"),
        (["--lam", "1", "--path", "./a"], "--path ./a is no path"),
        (["--lam", "1", "--path", "./a,,./b"], "is no path"),
        (["--lam", "1", "--model_args", "tokenizer=base"], "tokenizer=base does not go with"),
        (["--lam", "1", "--model_args", "onto=./n"], "onto= does not go with --path"),
        (["--lam", "1", "--model_args", "base_revision=v1"], "base_revision= does not go with"),
    ],
)
def test_a_wrong_path_is_refused(flags, message, run, stages, capsys, no_reads):
    assert run(stages, *flags) == 1
    assert message in capsys.readouterr().err


def test_a_hub_id_may_have_a_revision():
    assert named_pieces(["./a", "org/b@v1", "org/c"]) == [
        {"base": "./a", "instruct": "org/b", "instruct_revision": "v1"},
        {"base": "org/b", "base_revision": "v1", "instruct": "org/c"},
    ]


@pytest.mark.parametrize(
    ("lam", "index", "inside"),
    [(0, 0, 0), (0.4, 0, 0.4), (1, 0, 1), (1.3, 1, 0.3), (2, 1, 1), (2.7, 2, 0.7), (3, 2, 1)],
)
def test_where_a_lam_lies(lam, index, inside):
    """1.3 − 1 is 0.3, not 0.30000000000000004; a stage is the end of the piece before it."""
    pair: Any = SimpleNamespace(base=None, instruct=None)
    route = Route([Piece(pair, {"base": str(number)}) for number in range(3)])
    assert route.at(lam) == (route.pieces[index], inside)
