"""What docs/compatibility.md says of releases and of names that are not public is so."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import (
    Gemma3nTextConfig,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaForCausalLM,
    MistralConfig,
    PreTrainedModel,
)

from lm_eval_partial.models.hf import PartialHFLM
from tests import versions
from tests.tasks.rows import THINGS, WORDS

HOSTS = ("accelerate", "datasets", "huggingface_hub", "lm_eval", "peft", "transformers")
DOCUMENTED = {"_replace", "_asdict"}  # of NamedTuple
DOC = versions.DOC.read_text(encoding="utf-8")


def rows() -> dict[str, dict[str, str]]:
    """Return the table of releases: environment to column to cell."""
    lines = (
        DOC.split("<!-- versions: begin -->\n")[1].split("<!-- versions: end -->")[0].splitlines()
    )
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def numbers(release: str) -> tuple[int, ...]:
    """Return 5.24.0 as (5, 24, 0), 2.6.0+cpu as (2, 6, 0)."""
    return tuple(map(int, re.findall(r"\d+", release.partition("+")[0])))


# Releases -----------------------------------------------------------------------------------------


def test_every_environment_passed_and_none_skipped():
    assert list(rows()) == list(versions.environments())
    assert all(
        int(row["passed"]) > 0 and row["failed"] == row["skipped"] == "0" for row in rows().values()
    )


@pytest.mark.parametrize("package", versions.SHOWN)
def test_the_bounds_are_what_the_table_shows(package):
    (bounds,) = (line for line in versions.requirements() if re.match(rf"{package}[>=<]", line))
    tried = sorted(numbers(row[package]) for row in rows().values())
    lower, _, upper = bounds.removeprefix(f"{package}>=").partition(",<")
    length = len(numbers(lower))
    assert numbers(lower) == tried[0][:length] and not any(tried[0][length:])
    assert upper or package in ("torch", "accelerate", "datasets")
    if upper:  # the next release after the newest that was tried
        *series, last = numbers(upper)
        assert tried[-1][: len(series) + 1] == (*series, last - 1)


def test_the_workflow_runs_every_environment():
    workflow = yaml.safe_load((versions.ROOT / ".github/workflows/versions.yml").read_text())
    assert workflow["jobs"]["versions"]["strategy"]["matrix"]["environment"] == list(
        versions.environments()
    )


# Names --------------------------------------------------------------------------------------------


def sources() -> list[ast.Module]:
    folders = (versions.ROOT / "lm_eval_partial", versions.ROOT / "task_configs")
    return [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in folders
        for path in folder.rglob("*.py")
    ]


def used(node: ast.AST) -> str | None:
    """Return the name that a node reads of an object, hands to a function, or defines."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        return node.args[1].value if isinstance(node.args[1], ast.Constant) else None
    of_kind = {ast.Attribute: "attr", ast.keyword: "arg", ast.FunctionDef: "name"}.get(type(node))
    return getattr(node, of_kind) if of_kind else None


def ours(node: ast.AST) -> str | None:
    """Return the name that a node defines: a function, a class, a variable or an attribute of self."""
    of_self = (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    )
    if of_self and isinstance(node.ctx, ast.Store):
        return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else None


def private_names() -> set[str]:
    """Return the underscored names that the package takes from others, those of HFLM that it overrides included."""
    nodes = [node for source in sources() for node in ast.walk(source)]
    found = {name for node in nodes if (name := used(node)) and re.match("_[a-z]", name)}
    of_hflm = {
        name for name in found if re.search(rf"\b(self\.|def ){name}\b", inspect.getsource(HFLM))
    }
    return (found - {ours(node) for node in nodes} - DOCUMENTED) | of_hflm


def inside_imports() -> set[str]:
    """Return the names imported from a module inside one of the packages."""
    imports = [
        node
        for source in sources()
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom)
    ]
    inside = [
        node
        for node in imports
        if "." in (node.module or "") and node.module.split(".")[0] in HOSTS
    ]
    return {alias.name for node in inside for alias in node.names}


def test_the_document_lists_every_name_that_is_not_public():
    listed = set(re.findall(r"`(\w+)`", DOC.split("## Names that are not public")[1]))
    assert (private_names() | inside_imports()) - listed == set()


def test_the_tests_that_it_names_exist():
    defined = {
        name
        for path in Path(__file__).parent.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", DOC))
    assert len(named) > 10 and named <= defined


@pytest.mark.versions
def test_what_is_read_with_a_default_is_there():
    """`getattr(config, name, None)` of a name that was dropped would mean "without a limit", and nothing would fail."""
    assert not PreTrainedModel._is_stateful and MambaForCausalLM._is_stateful
    assert MistralConfig(sliding_window=7).sliding_window == 7
    assert Llama4TextConfig(attention_chunk_size=7).attention_chunk_size == 7
    assert GPTNeoConfig(window_size=7).window_size == 7
    assert (
        "rope_type" in LlamaConfig().rope_parameters and LlamaConfig().is_encoder_decoder is False
    )
    assert Gemma3nTextConfig().num_kv_shared_layers > 0
    assert callable(PeftModel.get_base_model)


@pytest.mark.versions
def test_generation_goes_on_from_the_prefix(pairs):
    """Were `_model_generate` no longer called, the texts would be the same, and every prompt would run whole."""
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM(base=base, instruct=instruct, lam=0.5, device="cpu")
    tokens: list[int] = []
    lm.model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, output: tokens.append(inputs[0].numel())
    )
    prompts = ["The fox is slow. " * 30 + f"The {thing} is" for thing in (*THINGS, *WORDS)]
    settings = {"until": [], "max_gen_toks": 1}
    lm.generate_until(
        [
            Instance("generate_until", {}, (prompt, settings), index)
            for index, prompt in enumerate(prompts)
        ]
    )
    whole = len(lm.tok_encode(prompts[0]))
    assert lm.path_counts() == {"generate_until": {"shared": len(prompts)}}
    # The prefix, and up to four prompts that the self-check runs by themselves.
    assert whole > 150 and len(prompts) > 12 and sum(tokens) < 7 * whole
