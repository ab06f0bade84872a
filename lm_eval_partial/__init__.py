"""Partial adaptation for lm-evaluation-harness: θ(λ) = θ_base + λ (θ_instruct − θ_base).

Source: arXiv 2504.11626. The model type is ``partial-hf``:

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks arc_challenge

Importing this package loads nothing heavy; the rooms are `pair` (two checkpoints as one), `loading`
(a transformers model at λ) and `lm` (the harness's model type).
"""

__version__ = "0.1.0.dev0"
