"""The embedded demo pair: a small procedural language, and a base/instruct pair trained on it.

`base/` and `instruct/` are ordinary transformers checkpoints. The code beside them made them:

    lm-eval-partial demo --train --output my_pair

The rest of the package does not import it, except for the command above and `task_configs/demo`.
"""
