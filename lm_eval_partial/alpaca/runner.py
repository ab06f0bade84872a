"""Judges answers with the alpaca_eval package, in that package's own environment.

`judge` starts this script, and nothing else of lm_eval_partial is installed there. It reads one job
(a line of JSON) from standard input and writes events (a line of JSON each) to standard output.
When the reader of these is gone, it stops.

Annotator, prompts, parser and metrics are the package's own. Two things differ. The package keeps
judgements 128 at a time and loses them all if one call fails; here each is on disk before it
counts. The package's annotation cache ignores model settings, and all users of an annotator share
it; here every λ has its own journal, keyed by prompt and settings.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import inspect
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

# Writes one event, given its fields.
Report = Callable[..., None]

# Stop when so many judgements were given up and none has succeeded: the other 800 would fail too.
HOPELESS = 5
# HTTP states that asking again does not change.
REFUSED = (400, 401, 403, 404, 422)


class Failure(Exception):
    """An error that the user can fix."""


class Counted(Exception):
    """Ends a dry run before the first call.

    Its arguments: the prompts to send, how many are judged already, and the model's settings.
    """


class Journal:
    """Judgements on disk, one a line, found by their key."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a+b")
        self.lock = threading.Lock()
        self.entries: dict[str, dict[str, Any]] = {}
        try:
            self._claim(path)
            self._read(path)
        except Failure:
            self.file.close()
            raise

    def _claim(self, path: Path) -> None:
        """Lock the file: two judges of one point would pay for everything twice."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failure(
                f"{path} is in use by another judge. Wait for that one, or stop it."
            ) from None

    def _read(self, path: Path) -> None:
        """Read the entries, and cut off a last line that is incomplete."""
        self.file.seek(0)
        whole = 0  # bytes
        for line in self.file:
            entry = _entry(line)
            if entry is None:
                break
            self.entries[entry["key"]] = entry
            whole += len(line)
        else:
            return
        if line.endswith(b"\n") or self.file.read(1):
            raise Failure(
                f"{path} is damaged after byte {whole}. Restore it, or move it away to judge anew."
            )
        self.file.truncate(whole)  # the line that was being written when the judge was killed

    def usable(self, key: str) -> bool:
        """Return whether there is a judgement that the annotator's parser can read."""
        return bool(self.entries.get(key, {}).get("usable"))

    def add(self, key: str, usable: bool, answer: Mapping[str, Any]) -> None:
        """Keep an answer; it is on disk when this returns."""
        # As it was received: text that is replaced cannot be had back, and was paid for.
        entry = {"key": key, "usable": usable, "answer": answer}
        line = json.dumps(entry).encode() + b"\n"
        with self.lock:
            self.file.write(line)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.entries[key] = json.loads(line)  # as a resumed run reads it

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        self.file.close()


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return what a line of a journal holds, None if it is cut off or no judgement."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(entry, dict):
        return None
    whole = isinstance(entry.get("key"), str) and isinstance(entry.get("answer"), dict)
    return entry if whole else None


class Decoder:
    """A decoder of the package that is called for one prompt at a time, with each answer kept."""

    def __init__(
        self, annotator: Any, journal: Journal, job: Mapping[str, Any], report: Report
    ) -> None:
        self.decode, self.parse = annotator.fn_completions, annotator.fn_completion_parser
        self.answer_column, self.batch_size = annotator.completion_key, annotator.batch_size
        self.journal, self.job, self.report = journal, job, report
        self.stop = threading.Event()
        self.succeeded, self.given_up = 0, 0
        self.errors: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, prompts: Sequence[str], **settings: Any) -> dict[str, list[Any]]:
        """Return the package's columns for all `prompts`; those in the journal are not sent."""
        keys = [digest([prompt, settings]) for prompt in prompts]
        missing = {}
        for key, prompt in zip(keys, prompts, strict=True):
            if not self.journal.usable(key):
                missing[key] = prompt
        self.total = len(set(keys))
        if self.job["dry_run"]:
            raise Counted(list(missing.values()), self.total - len(missing), settings)
        self.done = self.total - len(missing)
        self.report(done=self.done, total=self.total)
        self.ask_all(missing, settings)
        columns: dict[str, list[Any]] = {}
        for key in keys:
            for column, value in self.journal.entries[key]["answer"].items():
                columns.setdefault(column, []).append(value)
        return columns

    def ask_all(self, missing: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        """Send all prompts of `missing`, several at a time.

        Raises:
            Failure: some have no answer.
        """
        pool = ThreadPoolExecutor(self.job["concurrency"])
        try:
            asked = []
            for key, prompt in missing.items():
                asked.append(pool.submit(self.ask, key, prompt, settings))
            for future in asked:
                future.result()
        except BaseException:  # an interrupt too
            self.stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # what is under way is paid for, and kept
        lost = [key for key in missing if key not in self.journal.entries]
        if lost:
            why = self.errors[-1] if self.errors else "interrupted"
            raise Failure(
                f"{len(lost)} of {self.total} judgements are missing: {why}. The other"
                f" {self.total - len(lost)} are kept: run the same command again for the rest."
            )

    def ask(self, key: str, prompt: str, settings: Mapping[str, Any]) -> None:
        """Ask until there is an answer that the parser can read, or all attempts are used up."""
        answer, error = None, ""
        for attempt in range(self.job["attempts"]):
            if attempt:
                # An event, not a sleep: stopping ends the wait.
                self.stop.wait(min(30.0, self.job["backoff"] * 2 ** (attempt - 1)))
            if self.stop.is_set():
                return
            try:
                answer = self.ask_once(prompt, settings)
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"
                if getattr(caught, "status_code", None) in REFUSED:
                    break
                continue
            if self.readable(answer):
                self.journal.add(key, True, answer)
                self.count_success()
                return
            error = "the judge's replies cannot be read by the annotator's parser"
        # An unreadable answer is kept too: the package scores it as missing.
        if answer is not None:
            self.journal.add(key, False, answer)
        self.count_failure(error)

    def count_success(self) -> None:
        """Report one more judgement."""
        with self.lock:
            self.succeeded += 1
            self.done += 1
            self.report(done=self.done, total=self.total)

    def count_failure(self, error: str) -> None:
        """Note a judgement that was given up; stop if nothing ever succeeds."""
        with self.lock:
            self.errors.append(error)
            self.given_up += 1
            if self.given_up >= HOPELESS and not self.succeeded:
                self.stop.set()

    def ask_once(self, prompt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the package's columns for one prompt."""
        more: dict[str, Any] = {}
        if "num_procs" in inspect.signature(self.decode).parameters:
            more["num_procs"] = 1  # the calls are already parallel here
        if self.decode.__name__ == "openai_completions":
            # One attempt and no sleep: its own would retry rate limits only, and not keep count.
            more |= {"n_retries": 1, "sleep_time": 0}
            more["client_kwargs"] = {
                **settings.get("client_kwargs", {}),
                "timeout": self.job["timeout"],
                "max_retries": 0,
            }
        columns = self.decode(prompts=[prompt], **{**settings, **more})
        answer = {name: values[0] for name, values in columns.items()}
        whole = answer.get("completions_all")
        # The package catches rate limits and refused prompts, and returns an empty answer.
        if isinstance(whole, dict) and whole.get("text") == "" and whole.get("total_tokens") == 0:
            raise RuntimeError("no reply: rate limit, or the prompt was refused")
        return answer

    def readable(self, answer: Mapping[str, Any]) -> bool:
        """Return whether the annotator's parser finds a judgement in an answer."""
        try:
            found = list(self.parse(answer[self.answer_column]))
        except Exception:  # parsers are the annotator's, and raise what they like
            return False
        return len(found) == self.batch_size and not any(map(_is_missing, found))


def _is_missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)


def digest(content: Any) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def secrets() -> list[str]:
    """Return the values of environment variables named as keys or tokens, the longest first."""
    values: set[str] = set()
    for name, value in os.environ.items():
        if name.endswith(("_KEY", "_KEYS", "_TOKEN", "_SECRET")):
            values |= {value, *value.split(",")}  # _KEYS holds several
    # Shorter ones, such as "none", would blank out ordinary words.
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)


def hide_secrets(text: str) -> str:
    """Return an error's text without keys, which an endpoint may repeat in its messages.

    It is for nothing that a program reads: a key may be spelled like a field's name.
    """
    for secret in secrets():
        text = text.replace(secret, "***")
    return text


def judge(job: Mapping[str, Any], report: Report) -> None:
    """Judge every point of the job, one after the other."""
    reference = read_json(job["reference"])
    if job["length_controlled"]:
        need_difficulties(len(reference))
    for point in job["points"]:
        journal = Journal(Path(point["journal"]))
        try:
            judge_point(job, point, reference, journal, partial(report, point=point["name"]))
        finally:
            journal.close()


def judge_point(
    job: Mapping[str, Any],
    point: Mapping[str, Any],
    reference: list[Any],
    journal: Journal,
    report: Report,
) -> None:
    """Report one point's metrics, or the estimate of a dry run, and write its judgements."""
    import pandas as pd

    annotator = make_annotator(job)
    (single,) = annotator.annotators.values()
    single.fn_completions = Decoder(single, journal, job, report)
    metric = Metric(job["length_controlled"])
    try:
        # Data frames: a path would be read by pandas, which turns answers like "42" into numbers.
        board, _ = package("main").evaluate(
            model_outputs=pd.DataFrame(read_json(point["outputs"])),
            reference_outputs=pd.DataFrame(reference),
            annotators_config=job["annotators_config"],
            Annotator=lambda **_: annotator,
            fn_metric=metric,
            annotation_kwargs={"chunksize": None},
            precomputed_leaderboard=None,
            output_path=None,
            sort_by="win_rate",
            is_cache_leaderboard=False,
            is_return_instead_of_print=True,
        )
    except Counted as found:
        report(**estimate(*found.args))
        return
    scores = board.loc[point["generator"]].drop("mode", errors="ignore").astype(float).to_dict()
    write_annotations(metric.frame, Path(point["annotations"]))
    report(scores=scores, unusable=len(metric.frame) - int(scores["n_total"]))


class Metric:
    """The package's metric, which keeps the data frame it was computed from."""

    def __init__(self, length_controlled: bool) -> None:
        self.length_controlled = length_controlled

    def __call__(self, annotations: Any) -> Any:
        """Return the package's scores of `annotations`."""
        import pandas as pd

        self.frame = pd.DataFrame(annotations)
        if not self.frame["preference"].notna().any():
            raise Failure(
                "no win rate: not one reply of the judge could be read by the annotator's parser."
            )
        metrics = package("metrics")
        if self.length_controlled:  # adds the column glm_preference to the frame
            return metrics.get_length_controlled_winrate(self.frame, save_weights_dir=None)
        return metrics.get_winrate(self.frame)


def write_annotations(frame: Any, path: Path) -> None:
    """Write each instruction's win rates as JSON."""
    # A preference is 1 for the reference, 2 for the model; what the length-controlled model
    # predicts, 0 and 1.
    frame["win_rate"], frame["lc_win_rate"] = frame["preference"] - 1, frame.get("glm_preference")
    columns = frame[["instruction", "win_rate", "lc_win_rate"]]
    # By pandas, which writes NaN as null; its default of 10 digits would round.
    rows = json.loads(columns.to_json(orient="records", double_precision=15))
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def package(module: str) -> Any:
    """Return a module of the alpaca_eval package."""
    return importlib.import_module(f"alpaca_eval.{module}")


def read_json(path: str) -> Any:
    """Return the content of a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def make_annotator(job: Mapping[str, Any]) -> Any:
    """Return the package's annotator, its own cache off."""
    kind = package("annotators").PairwiseAnnotator
    try:
        annotator = kind(annotators_config=job["annotators_config"], caching_path=None)
    except FileNotFoundError:
        known = sorted(path.parent.name for path in kind.DEFAULT_BASE_DIR.glob("*/configs.yaml"))
        raise Failure(
            f"--annotators_config {job['annotators_config']} is neither a file nor one of"
            f" alpaca_eval's: {', '.join(known)}."
        ) from None
    if len(annotator.annotators) != 1:
        raise Failure(
            f"--annotators_config {job['annotators_config']} mixes {len(annotator.annotators)}"
            " judges. Give an annotator with one judge."
        )
    (single,) = annotator.annotators.values()
    if job["judge_model"]:
        single.completions_kwargs = {**single.completions_kwargs, "model_name": job["judge_model"]}
        if "<|im_start|>" in single.prompt_template:
            # The package treats a model with "instruct" in its name as one of 2023's, without chat.
            single.completions_kwargs["requires_chatml"] = True
    return annotator


def need_difficulties(instructions: int) -> None:
    """Refuse to start if the length-controlled win rate could not be computed in the end."""
    import pandas as pd
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download("tatsu-lab/alpaca_eval", "df_gamed.csv", repo_type="dataset")
    except Exception as error:
        raise Failure(
            "the length-controlled win rate needs df_gamed.csv of tatsu-lab/alpaca_eval, which"
            f" cannot be fetched: {''.join(str(error).splitlines()[:1])} Connect to the Hub once,"
            " or give --win_rate_only."
        ) from None
    known = pd.read_csv(path)["index"].nunique()
    if known != instructions:
        raise Failure(
            f"the length-controlled win rate uses the difficulty of {known} instructions, in their"
            f" order, and there are {instructions} reference outputs. Give --reference_outputs with"
            " all of them, or --win_rate_only."
        )


def estimate(prompts: Sequence[str], judged: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what judging `prompts` takes: calls, tokens, and dollars if a price is known."""
    model = str(settings.get("model_name", ""))
    try:
        import tiktoken

        encoding = tiktoken.encoding_for_model(model)
        tokens = sum(len(encoding.encode(text, disallowed_special=())) for text in prompts)
        counted = True
    except Exception:  # not a model of OpenAI's, or its vocabulary cannot be fetched
        tokens = sum(map(len, prompts)) // 4
        counted = False
    price = package("decoders.openai")._get_price_per_token(model) * tokens if counted else math.nan
    answer = settings.get("max_tokens")
    return {
        "calls": len(prompts),
        "judged": judged,
        "model": model,
        "tokens": tokens,
        "counted": counted,
        "reply_tokens": answer * len(prompts) if isinstance(answer, int) else None,
        "dollars": None if math.isnan(price) else price,
    }


def main() -> int:
    """Run the job on standard input; return 0, or 1 after an event that says what failed."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # The package prints too; on standard output that would break the events.
    os.dup2(2, 1)

    def report(**event: Any) -> None:
        if "error" in event:
            event["error"] = hide_secrets(event["error"])
        events.write(json.dumps(event) + "\n")
        events.flush()

    logging.disable(logging.CRITICAL)  # it logs whole prompts and tracebacks of every failed call
    try:
        judge(json.loads(sys.stdin.readline()), report)
    except Failure as error:
        report(error=str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
