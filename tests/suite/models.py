"""Two models without weights: one knows every answer, one guesses."""

from __future__ import annotations

import random
from collections.abc import Mapping

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask


def gold_option(task: ConfigurableTask, doc: dict) -> int:
    """Return the index of the right option, wherever the task keeps it."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return task.doc_to_choice(doc).index(gold) if isinstance(gold, str) else gold


class Knowing(LM):
    """Answers from the tasks themselves, with the leading space that most tokenizers make.

    Attributes:
        lead_in: What it says before the answer.
        cut: The task and targets of documents whose every accepted answer holds a stop string. A
            model type would hand over the part before it; here the answer is left whole, and the
            test looks at this list.
    """

    def __init__(self, tasks: Mapping[str, ConfigurableTask], lead_in: str = "") -> None:
        super().__init__()
        self.tasks, self.lead_in = tasks, lead_in
        self.cut: list[tuple[str, list[str]]] = []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return list(map(self.logprob, requests))

    def logprob(self, request: Instance) -> tuple[float, bool]:
        """Return certainty for the right option; -100 a character, so that acc_norm agrees."""
        if gold_option(self.tasks[request.task_name], request.doc) == request.idx:
            return 0.0, True
        return -100.0 * len(request.args[1]), False

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return list(map(self.answer, requests))

    def answer(self, request: Instance) -> str:
        """Return the first accepted answer without a stop string in it."""
        task, until = request.task_name, request.args[1]["until"]
        targets = self.tasks[task].doc_to_target(request.doc)
        targets = targets if isinstance(targets, list) else [targets]
        for target in targets:
            if not any(stop in target for stop in until):
                return f"{self.lead_in} {target}"
        self.cut.append((task, targets))
        return f"{self.lead_in} {targets[0]}"


class Guessing(LM):
    """Gives every option a random log-likelihood, and generates random letters.

    Log-likelihoods are uniform per option, or per character.
    """

    def __init__(self, tasks: Mapping[str, ConfigurableTask], per_character: bool) -> None:
        super().__init__()
        self.tasks, self.per_character, self.rng = tasks, per_character, random.Random(0)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(-self.rng.random() * self.length(request), False) for request in requests]

    def length(self, request: Instance) -> int:
        """Return the number of characters that acc_norm divides by."""
        choices = self.tasks[request.task_name].doc_to_choice(request.doc)
        return len(choices[request.idx]) if self.per_character else 1

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["".join(self.rng.choices("bcdfgh", k=9)) for _ in requests]
