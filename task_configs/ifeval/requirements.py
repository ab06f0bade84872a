"""IFEval needs packages and data that come by themselves to nobody: say so before the model is run, not after.

The harness's task imports its packages when it is loaded, and nltk's sentence data when an answer
is scored.
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
if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
    # Raised on import: the harness imports this file first, and its own task, which would fail on
    # them, after it.
    raise UserError(
        f"ifeval needs packages that are not installed: {', '.join(missing)}. pip install"
        ' "lm_eval_partial[ifeval]"'
    )


def need_sentence_data(docs: Any) -> Any:
    """Return the documents as they are.

    Raises:
        UserError: the checks of some need nltk's punkt_tab, which is neither here nor could be
            downloaded.
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
