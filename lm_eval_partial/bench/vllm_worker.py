"""Scores requests with vLLM, in an environment of its own that has nothing of this package.

VLLM_ENV/bin/python vllm_worker.py MODEL DTYPE < requests.json > answers.json
"""

import json
import sys
import time


def main(folder: str, dtype: str) -> None:
    """Read [[tokens, continuation length], ...]; write the seconds and the log-likelihoods."""
    from vllm import LLM, SamplingParams

    requests = json.load(sys.stdin)
    longest = max(len(tokens) for tokens, _ in requests)
    llm = LLM(
        model=folder,
        dtype=dtype,
        max_model_len=longest + 1,
        enforce_eager=True,
        skip_tokenizer_init=True,
        seed=0,
    )
    settings = SamplingParams(max_tokens=1, prompt_logprobs=1, temperature=0, detokenize=False)
    prompts = [{"prompt_token_ids": tokens} for tokens, _ in requests]
    llm.generate(prompts[:2], settings, use_tqdm=False)  # a warm-up
    start = time.perf_counter()
    outputs = llm.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - start
    logprobs = []
    for output, (tokens, length) in zip(outputs, requests, strict=True):
        # Each place holds the logprobs of the likeliest token and of the prompt's own.
        places = range(len(tokens) - length, len(tokens))
        logprobs.append(sum(output.prompt_logprobs[at][tokens[at]].logprob for at in places))
    print(json.dumps({"s": seconds, "logprobs": logprobs}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
