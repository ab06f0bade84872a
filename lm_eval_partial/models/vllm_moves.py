"""A running vLLM engine moved to another λ, in the way that is known to work for its model.

vLLM can fill a running engine's model again. Some kernels keep a packed copy of a weight, and that
copy keeps the old values without an error (vLLM #48312): on a CPU, that of a tied output head and
of fused experts. So the first move of an engine is a test. It goes to the end of the pair that is
farther away, and a few answers are compared there with those of transformers, on the same weights.

- They agree: the engine is moved in place from then on.
- They do not, and the model is tied: the engine is made anew with a head of its own, and tested
  again at the next move.
- They do not, or cannot be compared: the engine is made anew at each λ.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.lam import Lam, lam_to_json
from lm_eval_partial.models.vllm_engine import Logprobs, anew, engine_logprobs, refill
from lm_eval_partial.weights import loading, memory
from lm_eval_partial.weights.pair import Pair

logger = escape.logger(__name__)

PLACE = "in place"
ANEW = "a new engine"
# Prompts of the test, and tokens of each.
PROMPTS, TOKENS = 4, 16
# The mean difference of a token's log-probability that is rounding, whatever the model.
FLOOR = {torch.float32: 1e-4}
HALF = 5e-3


class Moves:
    """How the engine of one model is moved.

    Attributes:
        way: `PLACE`, `ANEW`, or None as long as that is not known.
        why: what the test found, for the log and the results.
        engines: how many were made.
    """

    def __init__(self, pair: Pair, dtype: torch.dtype, arguments: dict[str, Any]) -> None:
        """Move the engine that was made with `arguments`, which are changed with it.

        Args:
            pair: the two checkpoints.
            dtype: of the engine's weights.
            arguments: of vLLM's `LLM`, with ``model_loader_extra_config`` at some λ.
        """
        self._pair, self._dtype, self._arguments = pair, dtype, arguments
        self.way: str | None = None
        self.why = ""
        self.engines = 1

    def describe(self) -> dict[str, Any]:
        """Return what ``results["config"]`` records."""
        return {
            "way": self.way,
            "why": self.why,
            "untied": self._pair.tied and not self._tied,
            "engines": self.engines,
        }

    def move(self, llm: Any, before: Lam | None, lam: Lam) -> Any:
        """Return an engine at `lam`: `llm` itself, or one made anew after it was ended.

        Args:
            llm: the engine.
            before: λ of its weights; None if that is not known.
            lam: as the loader takes it.

        Raises:
            UserError: no engine could be made.
        """
        if self.way is None and before is not None:
            self._test(llm, before)
        self._point_at(lam)
        if self.way == PLACE:
            refill(llm, self._arguments)
            return llm
        self.engines += 1
        return anew(llm, self._arguments)

    def _test(self, llm: Any, before: Lam) -> None:
        """Move to one end, and find out whether the engine's answers are those of its weights."""
        far = 0.0 if not isinstance(before, float | int) or before > 0.5 else 1.0
        try:
            memory.check_fits(self._pair, self._dtype, True, {"": "cpu"})
        except UserError:
            self._settle(ANEW, "the weights do not fit into the CPU's memory a second time")
            return
        prompts = _prompts(self._pair.architecture.rows)
        try:
            ours_before = engine_logprobs(llm, prompts)
            model = self._load(before)
            plain_before = plain_logprobs(model, prompts)
            model = loading.move(model, self._pair, far, lambda: self._load(far))
            plain_far = plain_logprobs(model, prompts)
            del model
            self._point_at(far)
            refill(llm, self._arguments)
            ours_far = engine_logprobs(llm, prompts)
        except Exception as error:  # such as fused experts with packed copies of another shape
            self._settle(ANEW, f"it cannot be filled again, or compared ({first_line(error)})")
            return
        self._judge(
            rounding=apart(ours_before, plain_before),
            found=apart(ours_far, plain_far),
            if_stale=apart(ours_before, plain_far),
        )

    def _load(self, lam: Lam) -> Any:
        # Of the forms of attention, the one that leaves nothing of a config out.
        return loading.load(self._pair, lam, self._dtype, attn_implementation="eager")

    def _judge(self, rounding: float, found: float, if_stale: float) -> None:
        """Settle the way by mean differences between the engine and transformers.

        Args:
            rounding: before the move.
            found: after it.
            if_stale: what it would be if no weight had changed.
        """
        allowed = max(2 * rounding, FLOOR.get(self._dtype, HALF))
        figures = f"{found:.1g} from transformers' answers, {rounding:.1g} before the move"
        if if_stale <= 4 * allowed:
            # Nothing is shown. The next move may be from another λ.
            self.why = (
                f"the two λ are only {if_stale:.1g} apart, and the engine was {rounding:.1g} from"
                " transformers' answers before the move"
            )
            logger.warning(f"moving the engine could not be tested: {self.why}. It is made anew")
        elif found <= allowed:
            self._settle(PLACE, figures)
        elif self._pair.tied and self._tied:
            self._arguments["hf_overrides"] = {
                **(self._arguments.get("hf_overrides") or {}),
                "tie_word_embeddings": False,
            }
            self.why = f"tied, an engine keeps old weights: {figures}"
            logger.warning(f"moving the engine: {self.why}. It is made anew, untied")
        else:
            self._settle(ANEW, f"an engine keeps old weights: {figures}")

    def _settle(self, way: str, why: str) -> None:
        self.way, self.why = way, why
        logger.info(f"each λ is reached {'by ' if way == ANEW else ''}{way}: {why}")

    @property
    def _tied(self) -> bool:
        """Whether the engine's output head is its embedding."""
        overrides = self._arguments.get("hf_overrides") or {}
        return bool(overrides.get("tie_word_embeddings", True))

    def _point_at(self, lam: Lam) -> None:
        given = dict(self._arguments["model_loader_extra_config"])
        self._arguments["model_loader_extra_config"] = given | {"lam": lam_to_json(lam)}


def plain_logprobs(model: Any, prompts: Sequence[list[int]]) -> Logprobs:
    """Return the same of a transformers model, in a plain forward pass."""
    found: Logprobs = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            logprobs = torch.log_softmax(logits, -1)
            found += logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    return found


def apart(one: Logprobs, other: Logprobs) -> float:
    """Return the mean difference of two lists of log-probabilities."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def _prompts(rows: int) -> list[list[int]]:
    """Return prompts of random tokens, the same in each run."""
    chosen = random.Random(0)
    return [[chosen.randrange(rows) for _ in range(TOKENS)] for _ in range(PROMPTS)]
