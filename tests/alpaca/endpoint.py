"""A judge on loopback that speaks OpenAI's protocol: its preferences are a function of the prompt; fails on demand."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[[int, str], "str | None"]
"""Number of the call, from 0, and its prompt → what goes wrong with it, None if nothing does."""


def chance_of_m(prompt: str) -> float:
    """Return the probability that the judge gives to the answer called "m": exclamation marks please it, and luck."""
    marks = {"m": 0, "M": 0} | {
        name: text.count("!") for name, text in re.findall(ANSWER, prompt, re.DOTALL)
    }
    luck = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF - 0.5
    return 1 / (1 + math.exp(-0.7 * (marks["m"] - marks["M"]) - luck))


ANSWER = r'"model_identifier": "(m|M)",\s+"output": """(.*?)"""'


class Endpoint:
    """Serves until it is closed.

    Attributes:
        calls: prompts of all calls, in order.
        answered: prompt → how often it was answered as it should be.
        keys: Authorization headers seen.
    """

    def __init__(self, fault: Fault = lambda call, prompt: None, delay: float = 0) -> None:
        self.fault, self.calls, self.answered, self.keys = fault, [], Counter(), set()
        self.models: set[str] = set()
        self.delay = delay
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        prompt = json.dumps(body["messages"])
        with self.lock:
            number = len(self.calls)
            self.calls.append(prompt)
            self.keys.add(request.headers["Authorization"])
            self.models.add(body["model"])
        time.sleep(self.delay)
        what = self.fault(number, prompt)
        if what == "hang":
            time.sleep(3)
            return
        if what == "drop":
            request.connection.close()
            return
        status, text = 200, json.dumps(self.reply(body, logprobs=what != "no logprobs"))
        if what == "429":
            status, text = 429, '{"error": {"message": "Rate limit reached", "type": "requests"}}'
        elif what == "500":
            status, text = 500, '{"error": {"message": "sorry"}}'
        elif what == "401":
            status, text = (
                401,
                json.dumps({"error": {"message": f"bad key {request.headers['Authorization']}"}}),
            )
        elif what == "half":
            text = text[:40]
        with self.lock:
            self.answered[prompt] += what is None
        try:
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(text.encode())))
            request.end_headers()
            request.wfile.write(text.encode())
        except OSError:  # whoever asked was killed
            pass

    def reply(self, body: dict[str, Any], logprobs: bool) -> dict[str, Any]:
        chance = chance_of_m(body["messages"][-1]["content"])
        chances = {"m": chance, "M": 1 - chance}
        best = max(chances, key=chances.get)
        top = [
            {"token": name, "bytes": None, "logprob": math.log(chance)}
            for name, chance in chances.items()
        ]
        content = [
            {"token": best, "bytes": None, "logprob": math.log(chances[best]), "top_logprobs": top}
        ]
        choice = {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": best},
            "logprobs": {"content": content} if logprobs else None,
        }
        usage = {"prompt_tokens": 99, "completion_tokens": 1, "total_tokens": 100}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }
