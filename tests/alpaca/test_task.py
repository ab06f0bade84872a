"""The task alpaca_eval: prompts, metrics without a judge, and the package on its answers."""

from __future__ import annotations

import json
import runpy
import types
from statistics import mean

import datasets
import pytest

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.alpaca.judge import judge
from lm_eval_partial.errors import UserError
from tests.alpaca.endpoint import Endpoint
from tests.alpaca.test_judge import KEY, hub_with_difficulties, quick
from tests.suite.conftest import CONFIGS

FLAGS = ("--include_path", str(CONFIGS), "--apply_chat_template", "--gen_kwargs", "max_gen_toks=12")


@pytest.fixture(scope="module")
def task() -> types.SimpleNamespace:
    # By path, as the harness loads it: it is in no package.
    return types.SimpleNamespace(**runpy.run_path(str(CONFIGS / "alpaca_eval" / "task.py")))


@pytest.fixture
def made(one_task_index, tmp_path):
    """Return the task as the harness makes it, of two instructions."""
    from lm_eval.tasks import TaskManager

    def make(
        name: str = "alpaca_eval", rows: object = ({"instruction": "One?"}, {"instruction": "Two?"})
    ):
        file = tmp_path / "rows.json"
        file.write_text(json.dumps(rows))
        manager = TaskManager(include_path=str(CONFIGS), metadata={"data_file": str(file)})
        return manager.load([name])["tasks"][name]

    return make


class Model:
    """As much of a model as the task looks at."""

    def __init__(self, **generation_config: object) -> None:
        self.tokenizer = lambda text, add_special_tokens: {"input_ids": text.split()}
        self.model = types.SimpleNamespace(
            generation_config=types.SimpleNamespace(**generation_config)
        )

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)


def build(made, model: Model):
    made.build_all_requests(apply_chat_template=True, chat_template=model.apply_chat_template)
    return [request.args for request in made.instances]


@pytest.mark.versions
def test_one_turn_through_the_chat_template_greedily_up_to_2048_tokens(made):
    greedy = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 2048}
    assert build(made(), Model()) == [("<user>One?", greedy), ("<user>Two?", greedy)]


def test_without_a_chat_template_nothing_is_asked(made):
    with pytest.raises(
        UserError, match="alpaca_eval asks through the chat template.*Add --apply_chat_template"
    ):
        made().build_all_requests()


def test_the_model_s_own_sampling_settings(made):
    model = Model(do_sample=True, temperature=0.7, top_p=0.9, top_k=None)
    (_, settings), _ = build(made("alpaca_eval_sampled"), model)
    shared = {"until": [], "max_gen_toks": 2048}
    # What the model does not set is left out.
    assert settings == {**shared, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    (_, settings), _ = build(made("alpaca_eval_sampled"), Model(do_sample=True))
    assert settings["temperature"] == 1.0
    (_, settings), _ = build(made("alpaca_eval_sampled"), Model(do_sample=False, temperature=0.7))
    assert settings == {**shared, "do_sample": False, "temperature": 0.0}
    (_, settings), _ = build(made(), model)
    assert settings["do_sample"] is False


def test_an_answer_is_measured(made):
    task = made()
    task.set_config("generation_kwargs", {"max_gen_toks": 200}, update=True)
    build(task, Model())
    found = task.process_results({}, [" a b c d a b c d e\n"])
    duplicate = found.pop("duplicate")
    repetition = pytest.approx(1 / 6)  # of the six runs of four words, one comes twice
    assert found == {"characters": 17, "empty": 0, "repetition": repetition, "tokens": 9, "cut": 0}
    assert task.process_results({}, ["a b c d a b c d e"])["duplicate"] == duplicate
    # Decoding and encoding again may give a token or two less than the limit.
    for count, cut in ((197, 0), (198, 1), (200, 1)):
        assert task.process_results({}, ["x " * count])["cut"] == cut
    empty = task.process_results({}, [" \n"])
    assert empty.pop("empty") == 1 and empty.pop("duplicate") == ""
    assert empty == {"characters": 0, "repetition": 0, "tokens": 0, "cut": 0}


def test_the_model_is_not_held(made):
    """A sweep lets a model go before it loads the next."""
    import gc
    import weakref

    task, model = made(), Model()
    build(task, model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ("", 0),
        ("a", 0),
        ("ab", 0),
        ("aab", 1 / 3),
        ("aaaa", 3 / 4),
        ("aabb", 1 / 2),
        (["", "", "a"], 0),
    ],
)
def test_share_of_duplicates(task, answers, share):
    assert task.share_of_duplicates(list(answers) or ["x"]) == pytest.approx(share)


def test_rows_of_one_s_own(task, tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "c", "output": "d"}\n')
    assert task.read_rows(str(lines)).to_list() == [
        {"instruction": "a", "output": "b"},
        {"instruction": "c", "output": "d"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "a"}]', 'every row needs an "instruction", a text; it has prompt'),
        ('[{"instruction": 1}]', 'every row needs an "instruction", a text'),
        ("no json", "is not a list of JSON objects"),
        (None, "does not exist. Give a JSON list"),
    ],
)
def test_rows_that_cannot_be_read(task, tmp_path, content, message):
    file = tmp_path / "rows.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        task.read_rows(str(file))


def test_the_hub_out_of_reach(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"alpaca_eval_gpt4_baseline.json of tatsu-lab/alpaca_eval cannot be fetched.*PATH",
    ):
        task.read_rows(None)


def test_the_hub_s_file_is_fetched_not_its_script(task, tmp_path, monkeypatch):
    """`datasets` has run no scripts since 4.0, and the data set's loader is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.json").write_text(
        '[{"instruction": "a", "output": "b", "generator": "g", "dataset": "d"}]'
    )
    asked = []

    def download(*args, **more):
        asked.append(args)
        return "f.json"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert task.read_rows(None)["instruction"][:] == ["a"]
    assert asked == [("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json")]


def test_a_real_run_is_judged_by_the_real_package_against_the_real_references(
    hub,
    lm_eval,
    pairs,
    tmp_path,
    monkeypatch,
    python,
):
    base, instruct = pairs("llama")
    for lam in (0.0, 1.0):
        result, samples = lm_eval(
            "partial-hf",
            "alpaca_eval",
            *FLAGS,
            base=base,
            instruct=instruct,
            lam=lam,
            max_length=512,
        )
        rows = samples["alpaca_eval"]
        found = result["results"]["alpaca_eval"]
        assert len(rows) == 60 and "lc_win_rate,none" not in found
        for name in ("characters", "tokens", "cut"):
            assert found[f"{name},none"] == pytest.approx(mean(row[name] for row in rows))
    real = datasets.load_dataset("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline")["eval"]
    points = outputs.read(tmp_path)
    assert [point.name for point in points] == ["lam_0.00", "lam_1.00"]
    assert points[0].instructions == real["instruction"][:]
    assert [row["output"] for row in outputs.references(points[0])] == real["output"][:]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_with_difficulties(tmp_path / "cache", 60)))
    with Endpoint() as endpoint:
        verdicts = judge(tmp_path, quick(endpoint, length_controlled=True))
    assert len(endpoint.calls) == 120
    for verdict in verdicts:
        assert verdict.scores["n_total"] == 60
        assert 0 < verdict.scores["length_controlled_winrate"] < 100
