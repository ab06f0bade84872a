"""The `lm-eval-partial` command: what it prints, where, and with what exit status."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lm_eval_partial import __version__
from lm_eval_partial.bench import sweep as bench_sweep
from lm_eval_partial.bench.models import SIZES, make_pair
from lm_eval_partial.cli import main
from lm_eval_partial.prefix.model import PrefixModel
from tests import pico


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def pair(pairs) -> list[str]:
    base, instruct = pairs("llama")
    return ["--base", str(base), "--instruct", str(instruct)]


def inspected(capsys, *arguments: str) -> dict:
    assert main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"lm_eval_partial {__version__}\n"


@pytest.mark.parametrize(
    "wrong", [[], ["inspekt"], ["inspect", "--base", "x"], ["inspect", "--bse", "x"]]
)
def test_usage_errors_exit_with_2(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert "usage: lm-eval-partial" in capsys.readouterr().err


def test_help_ends_in_commands(capsys):
    for command in ([], ["inspect"], ["bench"], ["sweep"], ["export"], ["recipes"]):
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--help"])
        examples = capsys.readouterr().out.split("examples:\n")[1].strip().splitlines()
        assert len(examples) >= 3
        for line in examples:  # a command, or the rest of one
            assert line.strip().startswith(("lm", "--"))


def test_a_user_error_is_one_line_on_stderr(capsys, tmp_path):
    assert main(["inspect", "--base", str(tmp_path), "--instruct", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: base=.* the folder has no config\.json\. .*\n", err)


def test_an_interrupt_exits_with_130(pair, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_eval_partial.weights.pair.Pair.of", interrupt)
    assert main(["inspect", *pair]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_tasks_prints_a_folder_of_configs(capsys):
    from pathlib import Path

    assert main(["tasks"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "README.md").is_file()


def test_inspect_for_people(pair, capsys):
    assert main(["inspect", *pair]) == 0
    out = capsys.readouterr().out
    assert "LlamaForCausalLM, 36,640 parameters" in out and "21 × F32" in out
    assert "‖ΔW‖/‖W‖" in out and "attention" in out and "model.layers.1" in out
    assert "warning: the generation configs differ" in out
    assert out.splitlines()[-5:] == [
        "Embedding rows are matched by token: all 330 have one number in both.",
        "The instruct side's generation config is used at every λ.",
        "Prefixes that requests share, such as the shots, are computed once.",
        (
            "θ(λ) takes 0.14 MiB in float32, 0.07 MiB in bfloat16; its largest tensor 0.04 MiB in"
            " float32."
        ),
        "This pair can be interpolated.",
    ]


def test_tokens_that_look_like_markup_are_printed_as_they_are(pairs, tmp_path, capsys):
    base, instruct = pairs("llama")
    odd = shutil.copytree(instruct, tmp_path / "odd[red]")
    pico.tokenizer(pad_token="[/INST]").save_pretrained(odd)
    assert main(["inspect", "--base", str(base), "--instruct", str(odd), "--headers_only"]) == 0
    out = capsys.readouterr().out
    assert "instruct '[/INST]'" in out and "odd[red]" in out


def test_inspect_for_machines(pair, pairs, capsys):
    found = inspected(capsys, *pair)
    base, instruct = (load_file(side / "model.safetensors") for side in pairs("llama"))
    change = size = 0.0
    for name, value in base.items():
        if value.dim() > 1:  # norms are no matrices
            change += (instruct[name] - value).double().square().sum().item()
            size += value.double().square().sum().item()
    assert found["update"]["overall"] == pytest.approx((change / size) ** 0.5, rel=1e-5)
    assert list(found["update"]["layers"]) == ["model.layers.0", "model.layers.1"]
    for layer in found["update"]["layers"].values():
        assert sorted(layer) == ["attention", "mlp", "norm"]
    assert list(found["update"]["groups"]) == ["embedding", "final norm", "head"]
    assert found["parameters"] == sum(map(torch.numel, base.values())) == 36640
    assert found["vocabulary"] == {
        "matched_by": "token",
        "identical": True,
        "rows": 330,
        "tokens_shared": 330,
        "tokens_moved": 0,
        "tokens_repurposed": 0,
        "tokens_only_in_instruct": 0,
        "tokens_only_in_base": 0,
        "examples": {"moved": {}, "repurposed": {}, "only_in_instruct": [], "only_in_base": []},
    }
    assert found["base"]["chat_template"] is False and found["instruct"]["chat_template"] is True


def test_inspect_says_whether_prefixes_will_be_shared(pairs, monkeypatch, capsys):
    for family in ("llama", "gemma2"):  # with and without a sliding window
        base, instruct = map(str, pairs(family))
        found = inspected(capsys, "--base", base, "--instruct", instruct, "--headers_only")
        assert found["share_prefix"] == {"on": True, "reason": None, "longest_request": None}
    # A stand-in: of the models that are made here, every one can share.
    monkeypatch.setattr(PrefixModel, "unsupported", "the model's forward takes no cache")
    assert main(["inspect", "--base", base, "--instruct", instruct, "--headers_only"]) == 0
    assert (
        "Prefixes cannot be shared: the model's forward takes no cache." in capsys.readouterr().out
    )


def test_inspect_counts_moved_and_new_tokens(tmp_path, capsys):
    words = pico.tokenizer()
    base = pico.model(pico.config("llama", len(words)), seed=1)
    instruct, others = pico.reordered(base, words, ["[INST]"], ["<tool>"])
    pico.save(base, words, tmp_path / "b")
    pico.save(instruct, others, tmp_path / "i")
    found = inspected(capsys, "--base", str(tmp_path / "b"), "--instruct", str(tmp_path / "i"))
    assert found["vocabulary"]["tokens_only_in_instruct"] == 2
    assert found["vocabulary"]["tokens_moved"] > 300
    # Rows are compared by token, so that moving them is no update.
    assert found["update"]["overall"] == 0


def test_headers_suffice_without_the_update(pair, capsys, monkeypatch):
    monkeypatch.setattr(
        "lm_eval_partial.weights.checkpoint.SafetensorsSlice.__getitem__",
        lambda *_: pytest.fail("a weight was read"),
    )
    assert inspected(capsys, *pair, "--headers_only")["update"] is None


def test_two_unrelated_models_are_suspicious(tmp_path, capsys):
    words = pico.tokenizer()
    for seed, side in enumerate(("b", "i")):
        pico.save(pico.model(pico.config("llama", len(words)), seed), words, tmp_path / side)
    found = inspected(capsys, "--base", str(tmp_path / "b"), "--instruct", str(tmp_path / "i"))
    # The norm of the difference of two independent matrices of one size.
    assert found["update"]["overall"] == pytest.approx(2**0.5, rel=0.02)
    assert "suspicious: the update is 1.4" in found["warnings"][-1]


def test_twenty_layers_are_in_order_and_each_mean_is_of_its_own(tmp_path, capsys):
    """Files are sorted by name, where layer 10 comes before layer 2."""
    base, instruct = pico.pair(tmp_path, num_hidden_layers=20)
    pair = ["--base", str(base), "--instruct", str(instruct)]
    update = inspected(capsys, *pair)["update"]
    assert list(update["layers"]) == [f"model.layers.{number}" for number in range(20)]
    assert main(["inspect", *pair]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [list(map(str.strip, line.split("│")[1:-1])) for line in lines]
    rows = [row for row in rows if row and row[0].startswith("model.layers.")]
    bands = ["0–2", "3–5", "6–8", "9–11", "12–14", "15–17", "18–19"]
    assert [row[0] for row in rows] == [f"model.layers.{band}" for band in bands]
    before, after = (load_file(side / "model.safetensors") for side in (base, instruct))
    for layers, row in zip((range(9, 12), range(18, 20)), (rows[3], rows[6]), strict=True):
        ratios = []
        for layer in layers:
            prefix = f"model.layers.{layer}.mlp."
            names = [name for name in before if name.startswith(prefix)]
            change = sum((after[name] - before[name]).square().sum() for name in names)
            size = sum(before[name].square().sum() for name in names)
            ratios.append((change / size) ** 0.5)
        assert float(row[2]) == pytest.approx(float(sum(ratios)) / len(ratios), abs=6e-5)


def test_inspect_names_tokens_and_two_chat_templates(tmp_path, capsys):
    """The base's first token was given another meaning, and one more was put in front."""
    base, instruct = pico.pair(tmp_path)
    words = pico.tokenizer()
    words.chat_template = "{{ messages[0].content }}"
    words.save_pretrained(base)
    state = json.loads((instruct / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    vocabulary["Ā"], vocabulary["ā"] = vocabulary["ā"], vocabulary["Ā"]
    vocabulary["<|im_start|>"] = vocabulary.pop("Ă")
    (instruct / "tokenizer.json").write_text(json.dumps(state))
    pair = ["--base", str(base), "--instruct", str(instruct), "--headers_only"]
    found = inspected(capsys, *pair)
    number = words.get_vocab()
    vocabulary = found["vocabulary"]
    assert vocabulary["examples"]["repurposed"] == {str(number["Ă"]): ["Ă", "<|im_start|>"]}
    first, second = number["Ā"], number["ā"]
    assert vocabulary["examples"]["moved"] == {"Ā": [first, second], "ā": [second, first]}
    assert (vocabulary["tokens_repurposed"], vocabulary["tokens_moved"]) == (1, 2)
    assert found["chat_templates_differ"] is True
    assert main(["inspect", *pair]) == 0
    out = capsys.readouterr().out
    assert f"1 re-purposed in instruct: {number['Ă']} Ă → <|" in out
    assert "Both sides have a chat template, and they differ" in out


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_every_family_has_its_layers_told_apart(family, pairs, capsys):
    base, instruct = pairs(family)
    update = inspected(capsys, "--base", str(base), "--instruct", str(instruct))["update"]
    for layer in update["layers"].values():
        assert {"attention", "mlp"} <= layer.keys() <= {"attention", "mlp", "norm"}
    assert "other" not in update["groups"]


@pytest.mark.slow
def test_bench_measures_both_and_writes_json(pair, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["bench", "load", *pair, "--rounds", "1", "--json", str(file)]) == 0
    medians = json.loads(file.read_text())["medians"]
    assert medians["stock"]["load_s"] > 0 and medians["partial"]["set_lam_s"] > 0
    assert "load at λ and answer / stock load and answer" in capsys.readouterr().out


def test_bench_of_scoring_compares_answers_and_writes_json(tmp_path, capsys):
    file = tmp_path / "bench.json"
    base, instruct = pico.pair(tmp_path, max_position_embeddings=8192)
    pair = ["--base", str(base), "--instruct", str(instruct)]
    sizes = ["--documents", "4", "--rounds", "1", "--batch_size", "2"]
    assert main(["bench", "scoring", *pair, *sizes, "--device", "cpu", "--json", str(file)]) == 0
    workloads = json.loads(file.read_text())["workloads"]
    for name, found in workloads.items():
        assert found["stock_s"] > 0 < found["ours_s"], name
        assert found.get("different", 0) == 0 and found.get("largest_difference", 0) < 1e-4, name
    assert workloads["fixed shots"]["ours_tokens"] < 0.5 * workloads["fixed shots"]["stock_tokens"]
    assert "letters, shots per document" in capsys.readouterr().out


def test_bench_of_a_sweep_scales_three_runs_to_eleven(monkeypatch, tmp_path, capsys):
    asked = []

    def seconds(arguments):
        asked.append(arguments)
        return 30.0 if "sweep" in arguments else 10.0

    monkeypatch.setattr(bench_sweep, "seconds", seconds)
    file = tmp_path / "bench.json"
    assert main(["bench", "sweep", "--limit", "5", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["11 lm_eval runs / sweep"] == 3.67
    lams = []
    for run in asked:
        flag = "--lam" if "sweep" in run else "--model_args"
        lams.append(run[run.index(flag) + 1].rsplit("lam=")[-1])
        assert run[run.index("--limit") + 1] == "5"
    # The sweep runs between the others, so that a drift of the machine's speed evens out.
    assert lams == ["0.0", "0.5", "0:1:0.1", "1.0"]
    assert "11 lm_eval runs / sweep: 3.67" in capsys.readouterr().out


def test_bench_says_what_is_wrong_before_it_starts(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wrong, message in (
        (
            ["--vllm", "/no/such"],
            "--vllm /no/such: no such command. Give the python of an environment that has vLLM.",
        ),
        (["--device", "cuda:99"], "--device cuda:99: PyTorch sees no GPU here. Give cpu."),
        (["--device", "gpu0"], "--device gpu0 is no device. Give cpu, cuda or cuda:0."),
        (["--base", "x"], "give --base and --instruct, or neither to have models made."),
        (
            ["--dtype", "float33"],
            "dtype=float33 is not a floating point dtype. Give auto, float32, bfloat16 or float16.",
        ),
        (["--rounds", "0"], "--rounds 0: give 1 to 1,000."),
        (["--documents", "2"], "--documents 2: give 4 to 100,000."),
        (
            ["--mergekit", "/no/such"],
            "--mergekit /no/such: no such command. Give the path of mergekit-yaml.",
        ),
    ):
        assert main(["bench", "load", *wrong]) == 1
        assert capsys.readouterr().err == f"error: {message}\n"


def test_bench_makes_models_of_the_size_asked_for(tmp_path):
    base, instruct = make_pair(
        tmp_path, {**SIZES["58m"], "hidden_size": 64, "num_hidden_layers": 2}, stored="bfloat16"
    )
    first = load_file(f"{base}/model.safetensors")
    second = load_file(f"{instruct}/model.safetensors")
    embedding = first["model.embed_tokens.weight"]
    assert embedding.shape == (32000, 64) and embedding.dtype == torch.bfloat16
    assert not torch.equal(first["model.norm.weight"], second["model.norm.weight"])
