"""A judge on loopback that speaks OpenAI's protocol, and fails on demand.

Its preferences are a function of the prompt.
"""

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

# Takes the number of the call, from 0, and its prompt. Returns what goes wrong with it, or None.
Fault = Callable[[int, str], "str | None"]


def chance_of_m(prompt: str) -> float:
    """Return the probability that the answer called "m" is preferred.

    It grows with the exclamation marks of that answer, and varies with the prompt.
    """
    marks = {"m": 0, "M": 0}
    for name, text in re.findall(ANSWER, prompt, re.DOTALL):
        marks[name] = text.count("!")
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
        self.fault = fault
        self.calls: list[str] = []
        self.answered: Counter[str] = Counter()
        self.keys: set[str] = set()
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
            self.keys.add(str(request.headers["Authorization"]))
            self.models.add(body["model"])
        time.sleep(self.delay)
        what = self.fault(number, prompt)
        if what == "hang":
            time.sleep(3)  # longer than the timeout of the test
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
            message = f"bad key {request.headers['Authorization']}"
            status, text = 401, json.dumps({"error": {"message": message}})
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
        # The likeliest first.
        top = [
            {"token": name, "bytes": None, "logprob": math.log(chances[name])}
            for name in sorted(chances, key=lambda name: -chances[name])
        ]
        best = top[0]["token"]
        content = [{**top[0], "top_logprobs": top}]
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
