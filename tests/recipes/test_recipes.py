"""Recipes: every file by value, and what `sweep --recipe` and `recipes` make of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.sweep import forecast, recipes
from tests.recipes.shapes import SHAPES, count

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in recipes.folder().glob("*.yaml"))


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def swept(monkeypatch, tmp_path):
    """Type a sweep in an empty folder; return the config and the λ that it would run."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def sweep(config, lams, baselines, *_):
        asked.append((config, lams, baselines))
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_eval_partial.sweep.run.sweep", sweep)

    def run(words: list[str]):
        assert main(["sweep", *words]) == 130
        return asked.pop()

    return run


def test_there_is_a_shape_for_each():
    assert sorted(SHAPES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_memory_are_those_of_the_shape(name):
    recipe = recipes.read(name)
    everything, active = count(SHAPES[name])
    assert recipe.facts["parameters"] == everything
    assert recipe.facts.get("active_parameters", everything) == active
    assert recipe.model_args["dtype"] in ("float16", "bfloat16")
    assert recipe.bytes_in(recipe.model_args["dtype"]) == 2 * everything
    # What one GPU of 80 GB cannot hold is spread.
    assert recipe.model_args.get("parallelize", False) == (2 * everything > 79 * 2**30)
    assert recipe.flags["output_path"] == f"results/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_harness_takes_the_file(name):
    recipe = recipes.read(name)
    config = EvaluatorConfig.from_config(recipe.path)
    assert config.model == "partial-hf" and config.model_args == dict(recipe.model_args)
    assert config.metadata["recipe"]["parameters"] == recipe.facts["parameters"]


def test_no_two_recipes_are_of_one_pair():
    found = recipes.everything()
    pairs = {(each.model_args["base"], each.model_args["instruct"]) for each in found}
    assert len(pairs) == len(found) == len(NAMES)


# What is changed in llama-3.1-8b.yaml, and what is said of it.
MISTAKES = [
    ("licence:", "license:", "metadata.recipe.licence: field required"),
    ("batch_size: 16", "batch_sise: 16\nbatch_size: 16", "batch_sise: extra inputs"),
    ("lam: 0.5", "lam: 0.5\n  dtipe: x", "model_args.dtipe: extra inputs"),
    ("parameters: 8030261248", "parameters: 8.0e9", "metadata.recipe.parameters: input should be"),
    ("parameters: 8030261248", "parameters: 0", "metadata.recipe.parameters: input should be"),
    ("dtype: bfloat16", "dtype: bf16", "model_args.dtype: input should be"),
    ("instruct: bfloat16}", "instruct: bf16}", "metadata.recipe.stored.instruct"),
    ("base_revision: d0", "base_revision: main", "model_args.base_revision: string should match"),
    ("gated: [base, instruct]", "gated: [bse]", "metadata.recipe.gated"),
    ("model: partial-hf", "model: hf", "model: input should be 'partial-hf'"),
    ("base: meta-llama/Llama-3.1-8B\n", "base: ./here\n", "model_args.base: string should match"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=[said for *_, said in MISTAKES])
def test_a_mistake_in_a_file_is_named(old, new, said, tmp_path):
    text = (recipes.folder() / "llama-3.1-8b.yaml").read_text()
    assert text.count(old) == 1
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=re.escape(f"{path}: {said}")):
        recipes.read_file(path)


def test_a_typo_gets_close_names(capsys):
    for words in (["recipes", "lama-3.1-8b"], ["sweep", "--recipe", "lama-3.1-8b"]):
        assert main(words) == 1
        assert capsys.readouterr().err == (
            "error: lama-3.1-8b is no recipe. Did you mean 'llama-3.1-8b' or 'llama-3-8b' or"
            " 'llama-3.1-70b'? lm-eval-partial recipes lists them all.\n"
        )


def test_the_table_has_a_row_for_each(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert sorted(rows) == NAMES
    # 2.6 billion in float32 and in bfloat16; in memory only bfloat16.
    for text in ("google/gemma-2-2b-it", "2.61B", "4.9 GiB", "15.7 GB", "base, instruct"):
        assert text in rows["gemma-2-2b"]
    assert "≥ 41.3 GB" in rows["olmo-7b"]


def test_what_is_known_of_one_pair(capsys):
    assert main(["recipes", "mixtral-8x22b"]) == 0
    out = capsys.readouterr().out
    for text in (
        "b03e260818710044a2f088d88fab12bb220884fb; files in bfloat16",
        "not pinned: no commit of it is known here; files in bfloat16",
        "140,630,071,296, of which a token meets 39,161,468,928",
        "261.9 GiB of weights in bfloat16",
        "note:          The base has 32,000 tokens",
    ):
        assert text in out
    assert main(["recipes", "mixtral-8x22b", "--path"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert yaml.safe_load(path.read_text())["model"] == "partial-hf"


def test_a_sweep_has_the_recipes_values(swept):
    config, lams, baselines = swept(["--recipe", "llama-2-70b"])
    assert lams == [each / 10 for each in range(11)] and baselines == ()
    assert config.model_args == {
        "base": "meta-llama/Llama-2-70b-hf",
        "base_revision": "3aba440b59558f995867ba6e1f58f21d0336b5bb",
        "instruct": "meta-llama/Llama-2-70b-chat-hf",
        "instruct_revision": "e9149a12809580e8602995856f8098ce973d1080",
        "dtype": "float16",
        "generation_config": "none",
        "parallelize": True,
    }
    assert (config.tasks, config.batch_size) == ("partial_icl", 16)
    assert config.output_path == "results/llama-2-70b"
    assert "recipe" not in config.metadata


def test_flags_win_over_the_recipe(swept):
    config, lams, _ = swept(
        [
            *("--recipe", "llama-2-70b", "--lam", "0,1", "--tasks", "arc_easy"),
            *("--batch_size", "4", "--output_path", "here", "--instruct", "other/one"),
            *("--model_args", "dtype=float32,tp_plan=auto", "--engine", "vllm"),
        ]
    )
    assert lams == [0, 1]
    # The commit is one of the repository that was named with it; parallelize is of hf.
    assert config.model_args == {
        "base": "meta-llama/Llama-2-70b-hf",
        "base_revision": "3aba440b59558f995867ba6e1f58f21d0336b5bb",
        "instruct": "other/one",
        "dtype": "float32",
        "generation_config": "none",
        "tp_plan": "auto",
    }
    assert (config.tasks, config.batch_size) == (["arc_easy"], "4")
    assert config.output_path == "here"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--lam", "-0.5:1.5:0.5", "--limit", "5", "--baselines", "base"],
        ["--model_args", "dtype=float32", "--tasks", "arc_easy,piqa", "--base", "other/one"],
        ["--workers", "1", "--join"],
    ],
)
@pytest.mark.parametrize("recipe", [["--recipe", "qwen2.5-7b"], ["--rec=qwen2.5-7b"]])
def test_the_command_without_the_recipe_is_the_same_sweep(words, recipe, swept, capsys):
    assert main(["sweep", *recipe, *words, "--dry-run"]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    assert "--rec" not in command and "--dry" not in command
    found, expected = swept(shlex.split(command)[2:]), swept([*recipe, *words])
    assert found[1:] == expected[1:]
    for config in (found[0], expected[0]):  # a flag's text, or the number of the file
        config.batch_size = int(config.batch_size)
        config.tasks = config.tasks if isinstance(config.tasks, str) else ",".join(config.tasks)
    assert found[0] == expected[0]


# The sweep, and lines of its dry run.
PLANS = [
    (
        ["--recipe", "llama-2-7b"],
        (
            "  base: meta-llama/Llama-2-7b-hf at 01c7f73d771dfac7d292323805ebc428287df4f9: config,"
            " generation config, tokenizer, 13.5 GB of weights (float16)",
            "Memory: 12.6 GiB of weights in float16 for one λ; two models are never held. Wants"
            " one GPU of 24 GB.",
            "  loading 13 s, moving to another λ 1 s",
            "  one λ of partial_icl: 13 min",
            "  all of it, 11 λ: 2.4 h",
            "  gated: accept the conditions at https://huggingface.co/meta-llama/Llama-2-7b-hf and"
            " https://huggingface.co/meta-llama/Llama-2-7b-chat-hf; then hf auth login",
        ),
    ),
    (
        ["--recipe", "llama-3.1-70b", "--max_documents", "500", "--baselines"],
        (
            "Memory: 131.4 GiB of weights in bfloat16 for one λ; two models are never held. Wants"
            " one GPU of 141 GB.",
            "  loading 2.4 min, moving to another λ 10 s",
            "  one λ of partial_icl: 36 min",
            "  each stock baseline: at most 7.6 h",
        ),
    ),
    (
        ["--recipe", "gemma-2-27b", "--model_args", "load_in_4bit=True", "--instruct", "."],
        (
            "  instruct: nothing, . is a folder",
            "Memory: not estimated for quantised weights, or for this dtype.",
        ),
    ),
    (
        ["--recipe", "olmo-7b", "--base", "other/one", "--tasks", "arc_easy", "--engine", "vllm"],
        (
            "  base: other/one, whose size is not known here (the recipe's is allenai/OLMo-7B-hf)",
            "  instruct: allenai/OLMo-7B-Instruct-hf at main, not pinned: config, generation"
            " config, tokenizer, at least 13.8 GB of weights (their dtype is not known here)",
            "  one λ of 1,000 documents of each kind (how many arc_easy has is not known here):"
            " 14 s",
            "  --engine vllm was not measured.",
        ),
    ),
    (
        ["--recipe", "mixtral-8x7b", "--model_args", "dtype=auto", "--limit", "0.5"],
        (
            "Memory: 87.0 GiB of weights in auto for one λ; two models are never held. Wants one"
            " GPU of 141 GB.",
            "  loading 1.6 min, moving to another λ 1.6 min",
            "  gated: unknown; if the Hub refuses, log in (hf auth login) and try again",
            "  No mixture of experts was measured: it counts by what one token meets.",
        ),
    ),
]


@pytest.mark.parametrize(("words", "lines"), PLANS, ids=[words[1] for words, _ in PLANS])
def test_a_dry_run_says_what_a_sweep_takes(words, lines, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words, "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    for line in lines:
        assert line in printed
    assert not any(tmp_path.iterdir())


def test_a_dry_run_of_a_search_says_what_the_whole_grid_takes(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = "--recipe", "llama-2-7b", "--within", "1"
    assert main(["search", *words, "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    whole = printed.index("  all of it, 11 λ: 2.4 h")
    assert printed[whole + 1].startswith("  a search runs part of that: 7 to 16 %")
    command = shlex.split(printed[-1])
    assert command[:4] == ["lm-eval-partial", "search", "--within", "1"]
    assert command[command.index("--output_path") + 1] == "results/llama-2-7b-search"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run"], "--dry-run is of a recipe"),
        (["--recipe", "qwen3-8b", "--config", "x.yaml"], "both hold flags. Give one; a recipe is"),
        (["--recipe", "qwen3-8b", "--dry-run", "--limit", "0"], "--limit 0 leaves no documents"),
        (["--recipe", "qwen3-8b", "--dry-run", "--workers", "0"], "--workers 0: give a number"),
    ],
)
def test_what_makes_no_sense_is_one_line(words, said, capsys):
    assert main(["sweep", *words]) == 1
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_the_rates_are_those_that_were_measured():
    path = ROOT / "results" / "bench" / "scoring_h200.json"
    measured = json.loads(path.read_text())
    scoring, moving, generating = (
        measured["workloads"][name]
        for name in ("fixed shots", "11 λ of it", "generate, fixed shots")
    )
    documents = measured["documents"]
    assert measured["parameters"] == forecast.PARAMETERS
    for rate, seconds in (
        (forecast.SCORING, scoring["ours_s"]),
        (forecast.TOKENIZING, scoring["ours_tokenizing_s"]),
        (forecast.STOCK_SCORING, scoring["stock_s"]),
        (forecast.GENERATING * 16, generating["ours_s"]),
        (forecast.STOCK_GENERATING * 16, generating["stock_s"]),
    ):
        assert rate * documents == pytest.approx(seconds, rel=1e-3)
    assert moving["moving_s"] == pytest.approx(11 * forecast.MOVING, rel=1e-3)
    assert scoring["ours_peak_gib"] == pytest.approx(forecast.BESIDE / 2**30, rel=0.01)


def test_the_suite_has_the_documents_that_its_readme_has():
    rows = (ROOT / "task_configs" / "README.md").read_text().splitlines()
    table = [re.split(r" *\| *", row)[1:-1] for row in rows if row.startswith("| `partial_")]
    found = {}
    for row in table:
        if len(row) == 9:
            found[row[0].strip("`")] = (int(row[3].split(", ")[1].replace(",", "")), row[7] == "G")
    suite = {name: (task.documents, task.tokens > 0) for name, task in forecast.SUITE.items()}
    assert suite == found and len(suite) == 21
    areas = [task for area in read_suite(task_configs()).values() for task in area]
    assert sorted(areas) == sorted(suite)


@pytest.mark.parametrize(
    ("tasks", "limit", "load"),
    [
        (["partial_icl"], None, (43_944, 49_588, 16 * 48_269 + 150 * 1_319)),
        (["partial_icl_symbolic", "partial_bbh"], None, (0, 7_830, 16 * 6_511 + 150 * 1_319)),
        (["partial_mmlu", "partial_gsm8k"], 10, (570, 10, 1_500)),
        (["partial_rte"], 0.1, (28, 0, 0)),
        (["partial_rte", "arc_easy"], None, None),
    ],
)
def test_what_tasks_ask_for(tasks, limit, load):
    expected = None if load is None else forecast.Load(*load)
    assert forecast.load_of(tasks, read_suite(task_configs()), limit) == expected


@pytest.mark.parametrize(
    ("gib", "gpus"),
    [
        (19.5, "one GPU of 24 GB"),
        (19.6, "one GPU of 48 GB"),
        (75, "one GPU of 80 GB"),
        (135, "one GPU of 141 GB"),
        (136, "2 GPUs of 80 GB"),
        (262, "4 GPUs of 80 GB"),
    ],
)
def test_the_gpus_that_weights_want(gib, gpus):
    assert forecast.gpus_needed(int(gib * 2**30)) == gpus
