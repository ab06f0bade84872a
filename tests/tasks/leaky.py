"""A task that changes what later tasks see: it draws from every generator and edits documents."""

import random

import numpy as np
import torch

from tests.tasks.rows import generation


def rows(**_):
    return generation()


def shuffled(docs):
    """Drawn while the task is loaded."""
    return docs.select(random.sample(range(len(docs)), len(docs)))


def text(doc):
    """Drawn while prompts are built."""
    return f"{doc['question']} {np.random.randint(1000)} {torch.randint(1000, ()).item()}\nAnswer:"


def marked(doc, results):
    """Drawn while answers are marked; the document and the answers are changed."""
    doc["question"] += "!"
    results.append("more")
    return {"exact_match": float(random.random() < 0.5), "length": len(results[0])}
