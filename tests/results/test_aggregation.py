"""What a run consists of: the suite's areas, the harness's groups, single tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.aggregation import outline
from lm_eval_partial.results.files import find, runs
from tests.result_folders import write


def names(nodes):
    return [node.name for node in nodes]


def labels(nodes):
    return [node.label for node in nodes]


def of(tmp_path, tasks, suite=None, instruction=None, only=None, without=(), **more) -> Any:
    """Return the outline of a run with `tasks`, or of those in `only`.

    Groups in `without` have no value of their own.
    """
    path = write(tmp_path, tasks, lam=0.5, **more)
    data = json.loads(path.read_text())
    for group in without:  # the harness leaves out what it does not average
        del data["results"][group]["acc,none"]
    path.write_text(json.dumps(data))
    (run,) = runs(find(tmp_path))
    extra = (instruction,) if instruction is not None else ()
    return outline([run], only or run.tasks, suite or {}, *extra)


def weights(node):
    """Return tasks of a pool → weight."""
    return {tasks: pytest.approx(weight) for (tasks, _), weight in node.parts}


def test_single_tasks_are_averaged(tmp_path):
    found = of(tmp_path, {"one": [1, 0], "two": [1, 1]})
    assert names(found.tasks) == ["one", "two"] and found.groups == []
    assert found.icl.label == "ICL, mean of 2"
    assert weights(found.icl) == {("one",): 0.5, ("two",): 0.5}
    assert found.areas == found.tasks and found.instruction is None


def test_one_task_is_itself_the_score(tmp_path):
    found = of(tmp_path, {"one": [1, 0]})
    assert found.icl == found.tasks[0] and found.icl.name == "one"


def test_a_group_is_averaged_as_the_harness_did(tmp_path):
    groups = {"top": ["left", "three"], "left": ["one", "two"]}
    tasks = {"one": [1, 0, 0] * 4, "two": [1] * 11, "three": [1, 1, 0] * 5}
    found = of(tmp_path / "a", tasks, groups=groups)
    assert found.icl.name == "top"
    assert weights(found.icl) == {("one",): 1 / 3, ("two",): 1 / 3, ("three",): 1 / 3}
    assert names(found.areas) == ["left", "three"]
    pooled = of(tmp_path / "b", tasks, groups=groups, by_size=True)
    assert weights(pooled.icl) == {("one", "two", "three"): 1}


def test_a_group_that_is_no_mean_is_left_out_and_named(tmp_path):
    path = write(tmp_path, {"one": [1], "two": [0]}, lam=0.5, groups={"top": ["one", "two"]})
    data = json.loads(path.read_text())
    data["results"]["top"]["acc,none"] = 0.7
    path.write_text(json.dumps(data))
    found = outline(runs(find(tmp_path)), ["one", "two"], {})
    assert found.groups == []
    assert found.notes == ["top: its acc,none is no mean of its tasks' acc,none, left out"]
    assert found.icl is not None and found.icl.label == "ICL, mean of 2"


def test_a_group_without_a_score_of_its_own_is_its_members(tmp_path):
    found = of(tmp_path, {"one": [1], "two": [0]}, groups={"top": ["one", "two"]}, without=["top"])
    assert found.icl.label == "ICL, mean of 2" and names(found.areas) == [
        "one",
        "two",
    ]


def test_the_suites_areas_and_main_metrics(tmp_path):
    """A task of the suite is a group that holds a task, or a group weighted by size."""
    suite = {
        "partial_icl_a": {"partial_one": "acc,none", "partial_many": "acc,none"},
        "partial_icl_b": {"two": "acc,none"},
    }
    groups = {
        "partial_icl": ["partial_icl_a", "partial_icl_b"],
        "partial_icl_a": ["partial_one", "partial_many"],
        "partial_icl_b": ["two"],
        "partial_one": ["one"],
        "partial_many": ["many"],
        "many": ["m1", "m2"],
    }
    tasks = {"one": [1], "m1": [1, 0], "m2": [1], "two": [1]}
    # The harness averages metrics of one name only, so most of the suite's groups have no value.
    nodeless = ["partial_icl", "partial_icl_a", "partial_icl_b", "partial_one", "partial_many"]
    found = of(tmp_path, tasks, suite, groups=groups, by_size=True, without=nodeless)
    assert names(found.tasks) == ["partial_one", "partial_many", "two"]
    assert labels(found.areas) == ["a", "b"] and found.icl.label == "ICL score"
    assert weights(found.icl) == {("one",): 1 / 3, ("m1", "m2"): 1 / 3, ("two",): 1 / 3}
    assert weights(found.areas[0]) == {("one",): 0.5, ("m1", "m2"): 0.5}


def test_an_area_without_all_its_tasks_is_none(tmp_path):
    suite = {
        "partial_icl_a": {"one": "acc,none", "gone": "acc,none"},
        "partial_icl_b": {"two": "acc,none"},
    }
    found = of(tmp_path, {"one": [1], "two": [0]}, suite)
    assert labels(found.areas) == ["b"] and found.icl.label == "mean of 2 tasks"
    assert found.icl.name == "mean_of_2_tasks"


def test_a_task_of_the_suite_without_its_metric_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="one has no macro_f1,none, the main metric of one; it has acc,none"
    ):
        of(tmp_path, {"one": [1]}, {"partial_icl_a": {"one": "macro_f1,none"}})


def test_tasks_that_others_lack_are_left_out_of_their_groups(tmp_path):
    found = of(tmp_path, {"one": [1], "two": [0]}, groups={"top": ["one", "two"]}, only=["one"])
    assert names(found.nodes) == ["one"]


def test_following_instructions_is_another_axis(tmp_path):
    found = of(tmp_path, {"one": [1], "ifeval": [0]})
    assert found.icl.name == "one" and found.instruction.name == "ifeval"
    assert found.instruction_tasks == ["ifeval"]


def test_the_axis_can_be_named(tmp_path):
    found = of(
        tmp_path, {"one": [1], "ifeval": [0], "chat_a": [1], "chat_b": [0]}, instruction=["chat_*"]
    )
    assert found.instruction.label == "instruction following, mean of 2"
    assert weights(found.icl).keys() == {("one",), ("ifeval",)}
    with pytest.raises(
        UserError, match=r"--instruction ifevl: no such task or group\. Did you mean 'ifeval'\?"
    ):
        of(tmp_path, {"one": [1], "ifeval": [0]}, instruction=["ifevl"])


def test_a_group_on_that_axis_counts_once(tmp_path):
    tasks = {"one": [1], "partial_demo_chat_a": [1], "partial_demo_chat_b": [0]}
    groups = {"partial_demo_chat": ["partial_demo_chat_a", "partial_demo_chat_b"]}
    found = of(tmp_path, tasks, groups=groups)
    assert found.instruction.name == "partial_demo_chat" and found.icl.name == "one"
    assert labels(found.tasks) == ["one", "a", "b"]


def test_the_main_metric_is_the_one_a_task_names_or_the_first_of_its_list(tmp_path):
    path = write(tmp_path, {"one": [1, 0]}, lam=0.5)
    data = json.loads(path.read_text())
    data["results"]["one"]["acc_norm,strict"] = 0.75
    for config, metric in (
        ({"metric_list": [{"metric": "acc_norm"}, {"metric": "acc"}]}, "acc_norm,strict"),
        ({"metric_list": [{"metric": "acc_norm"}], "metadata": {"main_metric": "acc"}}, "acc,none"),
        ({"metadata": {"main_metric": "acc_norm,strict"}}, "acc_norm,strict"),
    ):
        data["configs"]["one"] = config
        path.write_text(json.dumps(data))
        assert outline(runs(find(tmp_path)), ["one"], {}).tasks[0].metric == metric


def test_a_task_without_a_metric_is_left_out_and_named(tmp_path):
    path = write(tmp_path, {"one": [1], "two": [1]}, lam=0.5)
    data = json.loads(path.read_text())
    data["configs"]["two"] = {}
    path.write_text(json.dumps(data))
    found = outline(runs(find(tmp_path)), ["one", "two"], {})
    assert names(found.nodes) == ["one"]
    assert found.notes == ["two has no main metric in its metric_list: left out"]


def test_a_perplexity_is_no_fraction_and_in_no_mean(tmp_path):
    write(tmp_path / "a", {"text": [20.0]}, lam=0.5, metric="word_ppl,none", higher_is_better=False)
    write(tmp_path / "b", {"one": [1], "two": [0]}, lam=0.5)
    run = runs(find(tmp_path))[0]
    found = outline([run], run.tasks, {})
    (text,) = (node for node in found.tasks if node.name == "text")
    assert not text.higher_is_better and text.scale == 1
    assert found.icl is not None and found.icl.label == "ICL, mean of 2"
    assert found.notes == ["not in the mean, being no fraction of which more is better: text"]


def test_a_group_without_a_score_stands_for_its_tasks_on_the_axis_of_following_instructions(
    tmp_path,
):
    found = of(
        tmp_path,
        {"ifeval": [1, 0], "other": [1, 1]},
        groups={"partial_if": ["ifeval"]},
        without=["partial_if"],
    )
    assert found.instruction.name == "ifeval" and found.instruction_tasks == ["ifeval"]


GROUP = {"top": ["one", "two"]}


def over_lam(tmp_path, *points, **more):
    """Return the outline of several λ, each given by the values of its tasks."""
    for number, tasks in enumerate(points):
        write(tmp_path / str(number), tasks, lam=number / 10, **more)
    found = runs(find(tmp_path))
    return outline(found, found[0].tasks, {})


def test_how_a_group_is_averaged_is_read_from_all_runs(tmp_path):
    """Where all tasks score alike, both means are the same."""
    alike = {"one": [0] * 8, "two": [0] * 2}
    differing = {"one": [0] * 8, "two": [1] * 2}
    by_size = over_lam(tmp_path / "a", alike, differing, groups=GROUP, by_size=True)
    assert weights(by_size.icl) == {("one", "two"): 1}
    plain = over_lam(tmp_path / "b", alike, differing, groups=GROUP)
    assert weights(plain.icl) == {("one",): 0.5, ("two",): 0.5}
    unknown = over_lam(tmp_path / "c", alike, alike, groups=GROUP)
    assert weights(unknown.icl) == {("one", "two"): 1}, "the harness's default"


def test_a_weighting_that_holds_at_one_lam_only_is_none(tmp_path):
    values = {"one": [0] * 8, "two": [1] * 2}
    write(tmp_path / "0", values, lam=0.0, groups=GROUP, by_size=True)
    write(tmp_path / "1", values, lam=0.1, groups=GROUP)
    found = runs(find(tmp_path))
    plan = outline(found, found[0].tasks, {})
    assert plan.groups == [] and "top: its acc,none is no mean" in plan.notes[0]


@pytest.mark.parametrize(
    ("metric", "values", "percent"),
    [
        ("acc", (0.4, 0.6), True),
        ("mcc", (-0.1, 0.6), True),
        ("bleu", (0.4, 0.6), False),
        ("rouge1_max", (0.4, 0.6), False),
        ("rouge1_acc", (0.4, 0.6), True),
        ("bleu_acc", (0.4, 0.6), True),
        ("score", (0.4, 0.6), True),
        ("score", (0.4, 30), False),
        ("score", (-0.4, 0.6), False),
        ("em", (0.4, 30), False),
    ],
)
def test_whether_a_metric_is_a_fraction_is_one_answer_for_all_lam(
    tmp_path, metric, values, percent
):
    points = [{"one": [value, value]} for value in values]
    assert over_lam(tmp_path, *points, metric=f"{metric},none").tasks[0].percent is percent
