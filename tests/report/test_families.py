"""Families and sizes: what names tell, in which order pairs stand, and that all look different."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lm_eval_partial.report.pairs.families import (
    by_family,
    family_and_size,
    members,
    parameters,
    shown,
)
from lm_eval_partial.report.pairs.file import Label


@pytest.mark.parametrize(
    ("name", "family", "size"),
    [
        ("meta-llama/Llama-2-7b-hf", "Llama 2", "7B"),
        ("meta-llama/Meta-Llama-3-70B", "Llama 3", "70B"),
        ("meta-llama/Llama-3.2-1B", "Llama 3.2", "1B"),
        ("mistralai/Mistral-7B-v0.1", "Mistral", "7B"),
        ("mistralai/Mixtral-8x22B-v0.1", "Mixtral", "8x22B"),
        ("google/gemma-2-27b", "gemma 2", "27B"),
        ("allenai/OLMo-7B-0724-hf", "OLMo", "7B"),
        ("allenai/OLMo-2-1124-7B", "OLMo 2", "7B"),
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5", "0.5B"),
        ("stabilityai/stablelm-2-1_6b", "stablelm 2", "1.6B"),
        ("bigscience/bloom-1b7", "bloom", "1B7"),
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2", "135M"),
        ("/cache/models--meta-llama--Llama-2-7b-hf/snapshots/1f2e", "Llama 2", "7B"),
        ("/models/Llama-2-13b/", "Llama 2", "13B"),
    ],
)
def test_what_a_name_tells(name, family, size):
    assert family_and_size([name, "instruct", "mypair"]) == (family, size)


def test_where_the_base_has_no_size_another_name_or_the_count_of_parameters_has():
    assert family_and_size(["./base", "./Llama-2-7b-chat", "x"]) == ("Llama 2", "7B")
    assert family_and_size(["./base", "./instruct", "mypair"], 1.24e9) == ("mypair", "1.2B")
    assert family_and_size(["microsoft/phi-2", "i", "x"], 2.78e9) == ("phi 2", "2.8B")
    assert family_and_size(["base", "instruct", "mypair"], 135e6) == ("mypair", "140M")
    assert family_and_size(["base", "instruct", "mypair"]) == ("mypair", "")


def test_sizes_are_numbers_of_parameters():
    sizes = ["135M", "0.5B", "1B7", "7B", "8x7B", "70B", "", "large"]
    found = [parameters(size) for size in sizes]
    assert found[:4] == [135e6, 0.5e9, 1.7e9, 7e9]
    assert found[4:] == [56e9, 70e9, float("inf"), float("inf")]


def test_pairs_stand_by_family_and_size(eighteen):
    families = by_family(eighteen)
    assert list(families) == [
        "Llama 2", "Llama 3", "Mistral", "Mixtral", "gemma 2", "OLMo", "OLMo 2", "Qwen2.5",
    ]  # fmt: skip
    assert [member.size for member in families["OLMo 2"]] == ["1B", "7B", "13B", "32B"]
    again = members([member.trajectory for member in reversed(eighteen)])
    assert [member.size for member in by_family(again)["Llama 2"]] == ["7B", "13B", "70B"]


def test_names_of_one_family_may_differ_in_case(eighteen):
    one, two = (member.trajectory for member in eighteen[:2])
    found = members([replace(one, base="x/LLAMA-2-7b"), two])
    assert [member.family for member in found] == ["LLAMA 2", "LLAMA 2"]


def test_of_24_families_no_two_look_alike(eighteen):
    """Colours come again after the seventh family, with another dash."""
    one = eighteen[0].trajectory
    many = [replace(one, name=str(number), base=f"f{number:c<40}-7b") for number in range(100, 124)]
    found = members(many)
    assert len({member.family for member in found}) == 24
    assert len({(member.colour, member.dash) for member in found}) == 24
    assert len({member.colour for member in found[:7]}) == 7


def test_within_a_family_the_marker_tells_the_size(eighteen):
    for group in by_family(eighteen).values():
        assert [member.marker for member in group] == list(range(len(group)))
        assert len({(member.colour, member.dash) for member in group}) == 1


def test_what_the_user_says_comes_first(eighteen):
    trajectories = [member.trajectory for member in eighteen[:3]]
    labels = {trajectories[0].name: Label("first", "mine", "1B")}
    found = {member.name: member for member in members(trajectories, labels)}
    assert (found["first"].family, found["first"].size) == ("mine", "1B")
    assert found[trajectories[1].name].family == "Llama 2"


def test_a_panel_names_pairs_by_size_where_sizes_differ(eighteen):
    one, two, three = by_family(eighteen)["Llama 2"]
    assert [shown(member, [one, two, three]) for member in (one, two, three)] == [
        "7B",
        "13B",
        "70B",
    ]
    twin = replace(two, size="7B")
    assert [shown(member, [one, twin]) for member in (one, twin)] == [one.name, two.name]
    assert shown(replace(one, size=""), [one]) == ""
