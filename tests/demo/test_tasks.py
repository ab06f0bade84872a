"""The demo tasks through the harness's own loader: what is asked, and how it is scored."""

from collections import Counter
from math import sqrt

import pytest

from lm_eval_partial.demo.layouts import own_layout, prompt
from lm_eval_partial.demo.rows import chat_dataset, skill_dataset
from lm_eval_partial.demo.skills import SKILLS, Item
from lm_eval_partial.demo.tokenizer import build_tokenizer

FEW_SHOT = [f"partial_demo_{name}" for name in SKILLS]
CHAT = ["partial_demo_chat_brief", "partial_demo_chat_form", "partial_demo_chat_list"]
AREAS = {
    "knowledge": ("country", "person"),
    "commonsense": ("tool", "size"),
    "language": ("sentiment", "opposite"),
    "symbolic": ("letters", "sum"),
    "reading": ("where", "who"),
    "finance": ("earnings", "amount"),
}


CHOSEN = [
    "Question: which one is smaller?\nOptions: donkey, fly\nAnswer: fly",
    "Question: which one is smaller?\nOptions: wolf, hen\nAnswer:",
]
GENERATED = [
    "Input: reverse s b t\nOutput: t b s",
    "Input: swap b c q h\nOutput: c b q h",
    "Input: swap s r w\nOutput:",
]


def render(task, number=0):
    """Return a test row's whole prompt, as the model gets it."""
    return task.fewshot_context(task.test_docs()[number], task.config.num_fewshot)


def scoring(task):
    """Return G (generation) or MC (the likelihood of each option), see the suite's README."""
    return "G" if task.OUTPUT_TYPE == "generate_until" else "MC"


def test_the_groups_hold_six_areas_of_two_tasks(loaded):
    groups = loaded["groups"]
    assert set(AREAS) == {name.rsplit("_", 1)[1] for name in groups["partial_demo"]._children}
    for area, names in AREAS.items():
        children = groups[f"partial_demo_{area}"]._children
        assert list(children) == [f"partial_demo_{name}" for name in names]


def test_every_group_averages_acc_with_equal_weights(loaded):
    for group in loaded["groups"].values():
        (metric,) = group.aggregate_metric_list
        assert (metric.metric, metric.weight_by_size) == ("acc", False)


def test_nine_tasks_choose_and_three_generate(tasks):
    assert Counter(scoring(tasks[name]) for name in FEW_SHOT) == {"MC": 9, "G": 3}


@pytest.mark.parametrize("name", [*FEW_SHOT, *CHAT])
def test_a_task_names_its_version_main_metric_and_chance(name, tasks):
    task = tasks[name]
    assert task.VERSION == task.config.metadata["version"] == (2.0 if name in FEW_SHOT else 1.0)
    assert task.config.metadata["main_metric"] in task.aggregation()
    assert 0 <= task.config.metadata["chance"] <= 0.5


@pytest.mark.parametrize("name", [*FEW_SHOT, *CHAT])
def test_a_task_has_at_least_200_rows(name, tasks):
    assert len(tasks[name].test_docs()) >= 200


@pytest.mark.parametrize("name", FEW_SHOT)
def test_shots_are_five_to_ten_and_fixed(name, tasks):
    task = tasks[name]
    assert 5 <= task.config.num_fewshot <= 10 <= len(task.fewshot_docs())
    *shots, asked = render(task, 0).split("\n\n")
    *same, other = render(task, 7).split("\n\n")
    assert len(shots) == task.config.num_fewshot
    assert shots == same and asked != other


@pytest.mark.parametrize("name", FEW_SHOT)
def test_the_prompt_is_the_layout_that_training_documents_use(name, tasks):
    task, skill = tasks[name], SKILLS[name.removeprefix("partial_demo_")]
    layout = own_layout(skill, "inline" if skill.name == "size" else "none")
    for row in task.test_docs():
        item = Item("", row["question"], row["answer"], (), row["passage"])
        assert task.doc_to_text(row) == prompt(item, layout, row["options"])


@pytest.mark.parametrize("name", FEW_SHOT)
def test_options_are_distinct_and_hold_the_answer_where_the_label_says(name, tasks):
    for row in tasks[name].test_docs():
        assert row["options"][row["label"]] == row["answer"]
        assert len(set(row["options"])) == len(row["options"]) >= 2


@pytest.mark.parametrize("name", FEW_SHOT)
def test_no_constant_answer_beats_the_stated_chance(name, tasks):
    """The most frequent label or answer must not exceed chance by more than its own noise."""
    task = tasks[name]
    rows, chance = task.test_docs(), task.config.metadata["chance"]
    # Labels are balanced by `_balance`; answers that are generated are not.
    field = "answer" if scoring(task) == "G" else "label"
    (_, majority), *_ = Counter(rows[field]).most_common()
    noise = 2 * sqrt(chance * (1 - chance) / len(rows))
    assert majority / len(rows) <= chance + (0.005 if field == "label" else noise)


@pytest.mark.parametrize("name", [*FEW_SHOT, *CHAT])
def test_prompts_and_answers_are_in_the_vocabulary_and_short(name, tasks):
    tokenizer, task = build_tokenizer(chat=True), tasks[name]
    for number, row in enumerate(task.test_docs()):
        target = row["options"] if name in FEW_SHOT else [row["reply"]]
        text = " ".join([render(task, number), *target])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 300


@pytest.mark.parametrize("name", FEW_SHOT)
def test_prompts_have_no_stray_spaces(name, tasks):
    text = render(tasks[name], 3)
    assert "  " not in text and text == text.strip() and "\n " not in text and " \n" not in text


@pytest.mark.parametrize(("lead", "score"), [(" ", 1.0), ("", 1.0), (" the ", 0.0)])
def test_generated_answers_are_marked_after_stripping(lead, score, tasks):
    row = {"answer": "key"}
    assert tasks["partial_demo_where"].process_results(row, [f"{lead}key"]) == {"acc": score}


def test_chat_replies_are_marked_by_what_was_asked(tasks):
    task = tasks["partial_demo_chat_form"]
    assert set(task.test_docs()["kind"]) == {"twice", "thanks", "sure"}
    for row in task.test_docs():
        assert task.process_results(row, [row["reply"]]) == {"acc": 1.0}
        # Saying the instruction back does not follow it.
        assert task.process_results(row, [row["text"]]) == {"acc": 0.0}


def test_chat_tasks_are_zero_shot(tasks):
    assert all(tasks[name].config.num_fewshot == 0 for name in CHAT)


def test_rows_are_the_same_every_time():
    first, again = skill_dataset("person", 3)["test"], skill_dataset("person", 3)["test"]
    assert first.to_list() == again.to_list()


def test_an_unknown_kind_of_instruction_is_named():
    with pytest.raises(ValueError, match="breif"):
        chat_dataset(("breif",))


def test_a_prompt_with_options_as_it_stands(tasks):
    """Read and approved by eye; a change here changes every published score."""
    assert render(tasks["partial_demo_size"]).split("\n\n")[-2:] == CHOSEN


def test_a_generation_prompt_as_it_stands(tasks):
    """Read and approved by eye; a change here changes every published score."""
    assert render(tasks["partial_demo_letters"]).split("\n\n")[-3:] == GENERATED
