"""The embedded demo pair: a small procedural language, and a base/instruct pair trained on it.

`base/` and `instruct/` are ordinary transformers checkpoints. The code beside them made them:

    lm-eval-partial demo --train --output my_pair

Nothing here is imported by the rest of the package, except by the command above and by
`task_configs/demo`.
"""
