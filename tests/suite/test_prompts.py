"""One few-shot prompt of every task, with its targets and stop strings: golden/TASK.txt.

The files were reviewed by reading. After a wanted change, run
``UPDATE_GOLDEN=1 python -m pytest tests/suite/test_prompts.py`` and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.suite.models import gold_option

GOLDEN = Path(__file__).parent / "golden"
TASKS = {
    "partial_mmlu": "mmlu_anatomy",
    "partial_triviaqa": "triviaqa",
    "partial_nq_open": "nq_open",
    "partial_arc_challenge": "arc_challenge",
    "partial_hellaswag": "hellaswag",
    "partial_piqa": "piqa",
    "partial_winogrande": "winogrande",
    "partial_commonsense_qa": "commonsense_qa",
    "partial_openbookqa": "openbookqa",
    "partial_sst2": "sst2",
    "partial_ag_news": "partial_ag_news_fmc",
    "partial_rte": "sglue_rte",
    "partial_wic": "wic",
    "partial_bbh": "bbh_fewshot_boolean_expressions",
    "partial_gsm8k": "gsm8k",
    "partial_boolq": "boolq",
    "partial_squad": "partial_squad_g",
    "partial_drop": "partial_drop_g",
    "partial_fpb": "partial_fpb_fmc",
    "partial_fiqa": "partial_fiqa_mc",
    "partial_fin_ner": "partial_fin_ner_g",
}
TWINS = {
    "partial_arc_challenge_fmc": "partial_arc_challenge_fmc",
    "partial_hellaswag_fmc": "partial_hellaswag_fmc",
    "partial_piqa_fmc": "partial_piqa_fmc",
    "partial_winogrande_fmc": "partial_winogrande_fmc",
    "partial_openbookqa_fmc": "partial_openbookqa_fmc",
    "partial_sst2_fmc": "partial_sst2_fmc",
    "partial_rte_fmc": "partial_rte_fmc",
    "partial_wic_fmc": "partial_wic_fmc",
    "partial_boolq_fmc": "partial_boolq_fmc",
    "partial_fiqa_fmc": "partial_fiqa_fmc",
    "partial_commonsense_qa_mc": "partial_commonsense_qa_mc",
    "partial_ag_news_mc": "partial_ag_news_mc",
    "partial_fpb_mc": "partial_fpb_mc",
    "partial_mmlu_mc": "mmlu_anatomy",
}
"""Tasks that score the same rows in the other way, FMC for MC or MC for FMC → one task each."""
SHOTS = 2


def rendered(task) -> str:
    """Return everything a reader needs to judge a prompt."""
    doc = task.eval_docs[0]
    prompt = task.fewshot_context(doc, SHOTS)
    lines = [f"{task.config.output_type}, {SHOTS} of {task.config.num_fewshot} shots"]
    if task.OUTPUT_TYPE == "multiple_choice":
        built = task.construct_requests(doc, prompt, metadata=(None, 0, 1))
        gold = gold_option(task, doc)
        if task.multiple_input:  # Winogrande: options differ in the context, not in what follows
            prompt = "\n=== or\n".join(prompt)
        for index, request in enumerate(built):
            lines.append(f"{'right' if index == gold else 'wrong'}: {request.args[1]!r}")
    else:
        until = task.config.generation_kwargs["until"]
        lines += [f"target: {task.doc_to_target(doc)!r}", f"stops: {until!r}"]
    return prompt + "⟨here⟩\n\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("group", [*TASKS, *TWINS])
def test_prompt(group, manager, made):
    leaf = {**TASKS, **TWINS}[group]
    text = rendered(manager.load([group])["tasks"][leaf])
    file = GOLDEN / f"{group}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_task():
    assert {file.stem for file in GOLDEN.iterdir()} == {*TASKS, *TWINS}


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.txt")), ids=lambda file: file.stem)
def test_what_reading_would_find(file):
    """No doubled or trailing space, one right answer, every shot answered and the question not."""
    prompt, facts = file.read_text(encoding="utf-8").split("⟨here⟩\n")
    assert "  " not in prompt and not prompt.endswith((" ", "\n")) and "\n\n\n" not in prompt
    # SST-2's sentences end in a space, and the harness puts them before a line break as they are.
    assert " \n" not in prompt or file.stem == "partial_sst2"
    assert facts.count("right: ") == (0 if "target: " in facts else 1)
    if prompt.endswith("Answer:"):
        *shots, last = re.findall(r"^Answer:(.*)$", prompt, flags=re.MULTILINE)
        assert last == ""
        for shot in shots:
            assert re.fullmatch(r" \S.*", shot)


LETTERED = [name for name in TWINS if name.endswith("_fmc")] + ["partial_ag_news", "partial_fpb"]


@pytest.mark.parametrize("group", LETTERED)
def test_the_letter_is_that_of_the_right_option(group, manager, made):
    """The option that MC calls right stands behind the letter that FMC calls right.

    In the shots and in the question.
    """
    leaf = {**TASKS, **TWINS}[group]
    fmc = manager.load([group])["tasks"][leaf]
    mc_name = f"{group}_mc" if group in TASKS else group.removesuffix("_fmc")
    (mc,) = manager.load([mc_name])["tasks"].values()
    mc_shots, fmc_shots = mc.sampler.sample(SHOTS), fmc.sampler.sample(SHOTS)
    assert mc_shots == fmc_shots
    for doc in [*fmc_shots, mc.eval_docs[0]]:
        options = dict(re.findall(r"^([A-E])\. (.*)$", fmc.doc_to_text(doc), flags=re.MULTILINE))
        letters = fmc.doc_to_choice(doc)
        assert list(options) == letters
        right = options[letters[fmc.doc_to_target(doc)]]
        if mc.multiple_input:
            assert right == doc[f"option{doc['answer']}"]
        else:
            assert right == mc.doc_to_choice(doc)[mc.doc_to_target(doc)]
