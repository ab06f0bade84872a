"""A guard on lm-eval's response cache, which would serve one λ the answers of another.

The cache (``--use_cache``) is keyed by the request alone (lm-evaluation-harness #4063).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.reading import parse_json

KEY = "lm_eval_partial:identity"  # request keys are SHA-256 digests, so this cannot be one


def claim(cache: MutableMapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Write the model's fingerprint into an empty cache, or check that the cache is this model's.

    Args:
        cache: the harness's request-to-response table.
        fingerprint: what the answers depend on, JSON values.

    Raises:
        UserError: the cache holds the answers of another model, or of an unknown one.
    """
    if KEY not in cache:
        if len(cache):
            raise UserError(
                "the file given to --use_cache holds answers of an unknown model (stock lm-eval"
                " does not say which). Give --use_cache another path."
            )
        cache[KEY] = json.dumps(fingerprint, sort_keys=True)
        return
    hint = "Give --use_cache another path."
    where = "the record of the model in the file given to --use_cache"
    recorded = parse_json(str(cache[KEY]), dict[str, Any], where, hint)
    differing = []
    for name in sorted(recorded.keys() | fingerprint.keys()):
        before, now = recorded.get(name), fingerprint.get(name)
        if before != now:
            differing.append(f"{name} {before!r}, now {now!r}")
    if differing:
        raise UserError(
            f"the file given to --use_cache holds another model's answers ({listing(differing)})."
            " Give --use_cache another path, one for each λ."
        )
