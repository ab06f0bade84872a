"""What docs/compatibility.md says of releases and of names that are not public is so."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
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

HOSTS = (
    *("accelerate", "datasets", "huggingface_hub", "lm_eval", "peft", "transformers"),
    "vllm",
)
DOCUMENTED = {"_replace", "_asdict"}  # of NamedTuple
DOC = versions.DOC.read_text(encoding="utf-8")


def rows() -> dict[str, dict[str, str]]:
    """Return the table of releases: environment to column to cell."""
    text = DOC.split("<!-- versions: begin -->\n")[1].split("<!-- versions: end -->")[0]
    head, _, *body = map(cells, text.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def cells(line: str) -> list[str]:
    return list(map(str.strip, line.strip("|").split("|")))


def numbers(release: str) -> tuple[int, ...]:
    """Return 5.24.0 as (5, 24, 0), 2.6.0+cpu as (2, 6, 0)."""
    return tuple(map(int, re.findall(r"\d+", release.partition("+")[0])))


# Releases -----------------------------------------------------------------------------------------


def test_every_environment_passed_and_none_skipped():
    assert list(rows()) == list(versions.environments())
    for name, row in rows().items():
        assert int(row["passed"]) > 0 and row["failed"] == row["skipped"] == "0", name


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


def nodes() -> Iterator[ast.AST]:
    """Yield every node of the package's and the tasks' syntax trees."""
    for folder in ("lm_eval_partial", "task_configs"):
        for path in (versions.ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def used(node: ast.AST) -> str | None:
    """Return the name that a node reads of an object, hands to a function, or defines."""
    match node:
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
            return name
        case ast.Attribute(attr=name) | ast.FunctionDef(name=name):
            return name
        case ast.keyword(arg=name):
            return name
    return None


def ours(node: ast.AST) -> str | None:
    """Return the name that a node defines: of a function, class, variable or attribute of self."""
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
            return name
        case ast.Name(id=name, ctx=ast.Store()):
            return name
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
    return None


def private_names() -> set[str]:
    """Return the underscored names that the package takes from other packages."""
    source = inspect.getsource(HFLM)
    found: set[str] = set()
    defined: set[str | None] = {*DOCUMENTED}
    of_hflm: set[str] = set()
    for node in nodes():
        defined.add(ours(node))
        name = used(node)
        if name and re.match("_[a-z]", name):
            found.add(name)
            # Overridden here, and so defined here, but still HFLM's.
            if re.search(rf"\b(self\.|def ){name}\b", source):
                of_hflm.add(name)
    return (found - defined) | of_hflm


def inside_imports() -> set[str]:
    """Return the names imported from a module inside one of the packages."""
    found: set[str] = set()
    for node in nodes():
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, inside = node.module.partition(".")
            if inside and package in HOSTS:
                found.update(alias.name for alias in node.names)
    return found


def test_the_document_lists_every_name_that_is_not_public():
    listed = set(re.findall(r"`(\w+)`", DOC.split("## Names that are not public")[1]))
    assert (private_names() | inside_imports()) - listed == set()


def test_the_tests_that_it_names_exist():
    defined: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        defined.update(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", DOC))
    assert len(named) > 10 and named <= defined


@pytest.mark.versions
def test_what_is_read_with_a_default_is_there():
    """`getattr(config, name, None)` of a name that was dropped would mean "without a limit"."""
    assert not PreTrainedModel._is_stateful and MambaForCausalLM._is_stateful
    assert MistralConfig(sliding_window=7).sliding_window == 7
    chunked = Llama4TextConfig(attention_chunk_size=7)
    assert chunked.attention_chunk_size == 7 and "chunked_attention" in (chunked.layer_types or [])
    assert chunked.attn_temperature_tuning and chunked.floor_scale == 8192
    assert GPTNeoConfig(window_size=7).window_size == 7
    llama = LlamaConfig()
    assert "rope_type" in (llama.rope_parameters or {}) and llama.is_encoder_decoder is False
    assert Gemma3nTextConfig().num_kv_shared_layers > 0
    assert callable(PeftModel.get_base_model)


@pytest.mark.versions
def test_generation_goes_on_from_the_prefix(pairs):
    """Were `_model_generate` no longer called, texts would be the same but prompts run whole."""
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM(base=base, instruct=instruct, lam=0.5, device="cpu")
    tokens: list[int] = []
    lm.model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, output: tokens.append(inputs[0].numel())
    )
    prompts = ["The fox is slow. " * 30 + f"The {thing} is" for thing in (*THINGS, *WORDS)]
    settings = {"until": [], "max_gen_toks": 1}
    requests = []
    for index, prompt in enumerate(prompts):
        requests.append(Instance("generate_until", {}, (prompt, settings), index))
    lm.generate_until(requests)
    whole = len(lm.tok_encode(prompts[0]))
    assert lm.path_counts() == {"generate_until": {"shared": len(prompts)}}
    # The prefix, and up to four prompts that the self-check runs by themselves.
    assert whole > 150 and len(prompts) > 12 and sum(tokens) < 7 * whole
