"""A guard on lm-eval's response cache, which is keyed by the request alone (lm-evaluation-harness #4063).

Without it ``--use_cache`` would serve one λ the answers of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from lm_eval_partial.errors import UserError, listing

KEY = "lm_eval_partial:identity"  # request keys are SHA-256 digests, so this cannot be one


def claim(cache: MutableMapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write the model's identity into an empty cache, or check that the cache is this model's.

    Args:
        cache: the harness's request-to-response table.
        identity: what the answers depend on, JSON values.

    Raises:
        UserError: the cache holds the answers of another model, or of one that is not known.
    """
    if KEY not in cache:
        if len(cache):
            raise UserError(
                "the file given to --use_cache holds answers of an unknown model (stock lm-eval"
                " does not say which). Give --use_cache another path."
            )
        cache[KEY] = json.dumps(identity, sort_keys=True)
        return
    theirs = json.loads(cache[KEY])
    differing = [
        f"{name} {theirs.get(name)!r}, now {identity.get(name)!r}"
        for name in sorted(theirs.keys() | identity.keys())
        if theirs.get(name) != identity.get(name)
    ]
    if differing:
        raise UserError(
            f"the file given to --use_cache holds another model's answers ({listing(differing)})."
            " Give --use_cache another path, one for each λ."
        )
