"""A task that takes its time, in which its process can be killed in the middle of a point."""

import time

SECONDS = 0.05


def answered(doc, results):
    time.sleep(SECONDS)
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc": float(likelihoods.index(max(likelihoods)) == doc["answer"])}
