"""Checks for the packages and data that IFEval needs, before the model runs.

The harness's task imports its packages when it is loaded. It reads nltk's sentence data only when
an answer is scored, which is after hours of generation.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from lm_eval_partial.errors import UserError, show_without_traceback

PACKAGES = ("langdetect", "immutabledict", "nltk")
COUNT_SENTENCES = frozenset(
    {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
)
"""The instructions whose checks cut text into sentences or words with nltk's data."""

show_without_traceback()
# On import, because the harness imports this file before its own task, which would fail with
# ModuleNotFoundError.
if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
    raise UserError(
        f"ifeval needs packages that are not installed: {', '.join(missing)}. pip install"
        ' "lm_eval_partial[ifeval]"'
    )


def need_sentence_data(docs: Any) -> Any:
    """Return the documents as they are.

    Raises:
        UserError: the checks of some need nltk's punkt_tab, which is not on this machine.
    """
    import nltk

    count = sum(not COUNT_SENTENCES.isdisjoint(kinds) for kinds in docs["instruction_id_list"])
    if not count:
        return docs
    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        raise UserError(
            f"the answers to {count} of IFEval's {len(docs)} prompts are checked with nltk's"
            " punkt_tab data, which is not on this machine and could not be downloaded. With a"
            " network: python -m nltk.downloader punkt_tab. Without: copy"
            f" nltk_data/tokenizers/punkt_tab of another machine to {nltk.data.path[0]}/tokenizers,"
            " or set NLTK_DATA to a folder nltk_data that has it."
        ) from None
    return docs
