"""A vLLM engine: made, filled again, asked, ended; and its failures in one line."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.models.vllm_harness import LLM, EngineDeadError, SamplingParams, TokensPrompt
from lm_eval_partial.weights.checkpoint import Checkpoint

Logprobs = list[float]

SECONDS = 0.5  # between two looks at an engine's process


def refill(llm: Any, arguments: dict[str, Any]) -> None:
    """Fill a running engine's model with the weights that `arguments` name.

    Cached keys and values are dropped: they are of other weights (vLLM #9744).
    """
    config = {"model_loader_extra_config": arguments["model_loader_extra_config"]}
    llm.collective_rpc("update_config", args=({"load_config": config},))
    llm.collective_rpc("reload_weights")
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not drop the keys and values of the weights before")


def anew(llm: Any, arguments: dict[str, Any]) -> Any:
    """End an engine, and return one made with `arguments`. Two are never held."""
    end(llm)
    del llm
    gc.collect()
    return make(arguments)


def end(llm: Any) -> None:
    """End an engine's processes."""
    llm.llm_engine.engine_core.shutdown()


def make(arguments: dict[str, Any]) -> Any:
    """Return an engine made with `arguments`."""
    return LLM(**arguments)


def engine_logprobs(llm: Any, prompts: Sequence[list[int]]) -> Logprobs:
    """Return the log-probability of each token of some prompts but the first, as an engine says."""
    settings = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        detokenize=False,
        skip_reading_prefix_cache=True,
    )
    asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    found: Logprobs = []
    for prompt, output in zip(
        prompts, llm.generate(asked, sampling_params=settings, use_tqdm=False), strict=True
    ):
        rows = output.prompt_logprobs[1:]
        found += [row[token].logprob for token, row in zip(prompt[1:], rows, strict=True)]
    return found


def place(side: Checkpoint) -> tuple[str, str | None]:
    """Return the name and revision under which vLLM finds one side's config or tokenizer."""
    if not side.subfolder:
        return side.path, None if os.path.isdir(side.path) else side.revision
    # vLLM knows no subfolders: the folder on this machine.
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if (found := side.find(name)) is not None:
            return os.path.dirname(found), None
    raise UserError(f"{side} has neither a config.json nor a tokenizer. Check its subfolder.")


@contextmanager
def alive(llm: Any) -> Iterator[None]:
    """Say in one line that an engine's process has ended. Without this, vLLM may wait for ever.

    Args:
        llm: the engine that is asked inside; None if there is none yet.
    """
    done = threading.Event()
    core = llm and llm.llm_engine.engine_core
    if hasattr(core, "resources"):  # not for an engine in this process
        threading.Thread(target=_watch, args=(core, done), daemon=True).start()
    try:
        yield
    except EngineDeadError as error:
        raise UserError(
            "vLLM's engine has ended. Its log above says why, unless its process was killed, for"
            " one because memory ran out: then give max_model_len=... or tensor_parallel_size=..."
            " A sweep that is started again keeps what is finished."
        ) from error
    finally:
        done.set()


def _watch(core: Any, done: threading.Event) -> None:
    """Wake up who waits for the answers of an engine whose process was killed.

    vLLM notes that it was, and tells only those who ask after that.
    """
    while not done.wait(SECONDS):
        if core.resources.engine_dead:
            core.outputs_queue.put(EngineDeadError())
            for future in list(core.utility_results.values()):
                if not future.done():
                    future.set_exception(EngineDeadError())
            return


@contextmanager
def explained(llm: Any = None) -> Iterator[None]:
    """Say in one line that an engine could not be made or moved.

    Args:
        llm: as in `alive`.
    """
    try:
        with alive(llm):
            yield
    except UserError:
        raise
    except Exception as error:  # vLLM raises of all kinds, most of them after its own log
        raise UserError(
            f"vLLM has no engine for θ(λ) ({first_line(error)}). Its log above says more. If memory"
            " is short: gpu_memory_utilization=..., max_model_len=... or tensor_parallel_size=..."
        ) from error
