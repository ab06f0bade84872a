"""The tests marked `versions`, on the lowest, locked and newest releases of the dependencies.

    make test-versions                 # all environments; the table goes to stdout
    make test-versions ARGS=newest     # one of them
    make test-versions ARGS=--write    # all, and the table goes into docs/compatibility.md

Each runs in an environment of its own, with the package installed as a user installs it. Its
``.pth`` line imports the package when Python starts, so the tests use the installed one and not the
checkout they lie in.

Standard library only, Python 3.11 or later. Exits with 1 if an environment cannot be made or a test
fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "compatibility.md"
SHOWN = ("torch", "transformers", "peft", "accelerate", "datasets", "lm-eval")
# Releases of transformers that changed something the package uses. All other packages are as new as
# they can be beside them.
HELD = ("5.16", "5.19", "5.20", "5.23", "5.24")

# Old releases warn of one another. Only warnings that the package's own calls cause are failures.
WARNINGS = "default\nerror:::lm_eval_partial"


def requirements() -> list[str]:
    """Return the dependencies that pyproject.toml names."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def environments() -> dict[str, list[str]]:
    """Return the pins of every environment by its name."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = {}
    pins["lowest"] = [re.sub(">=([^,]+).*", r"==\1", each) for each in requirements()]
    for release in HELD:
        pins[f"transformers-{release}"] = [f"transformers=={release}.*"]
    pins["locked"] = [line for line in lock if not line.startswith("#")]
    pins["newest"] = []
    return pins


def make(folder: Path, pins: list[str], torch: str) -> Path:
    """Make an environment anew and return its python.

    Args:
        folder: of the environment.
        pins: releases it must have.
        torch: release of torch, where no pin says otherwise.
    """
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = folder / "bin" / "python"
    if not any(pin.startswith("torch==") for pin in pins):
        pins = [*pins, f"torch=={torch}"]
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    install += ["--constraint", folder / "pins.txt"]
    subprocess.run([*install, "torch"], check=True)  # first and alone, as in the Makefile
    # Without our upper bounds the newest releases are the newest there are: that is what is asked.
    wanted = [requirement.partition(",")[0] for requirement in requirements()]
    subprocess.run([*install, *wanted, "pytest", "hypothesis"], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    return python


def run(python: Path) -> list[str]:
    """Run the tests; return releases, and the counts of passed, failed and skipped tests."""
    folder = python.parents[1]
    report = folder / "report.xml"
    options = ["-m", "versions", "-q", "-p", "no:cacheprovider", "-o", f"filterwarnings={WARNINGS}"]
    subprocess.run(
        [folder / "bin" / "pytest", *options, f"--junitxml={report}", ROOT / "tests"], cwd=folder
    )
    suite = next(ElementTree.parse(report).iter("testsuite"))
    skipped = int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    passed = int(suite.get("tests", 0)) - failed - skipped
    # Asked of that python: this one has other releases.
    code = (
        "import platform, sys; from importlib.metadata import version as v;"
        " print(platform.python_version(), *map(v, sys.argv[1:]))"
    )
    releases = subprocess.check_output([python, "-c", code, *SHOWN], text=True).split()
    return [*releases, str(passed), str(failed), str(skipped)]


def row(name: str, folder: Path, torch: str) -> list[str]:
    """Return a row of the table: made and run here, or why there is none."""
    try:
        return [name, *run(make(folder, environments()[name], torch))]
    except subprocess.CalledProcessError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return [name, *["?"] * (len(SHOWN) + 1), "0", "not made", "0"]


def table(rows: list[list[str]]) -> str:
    """Return the rows as a table in Markdown."""
    head = ["environment", "Python", *SHOWN, "passed", "failed", "skipped"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(text: str) -> None:
    """Put the table between its two marks in the document."""
    found = DOC.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- versions: begin -->\n).*(<!-- versions: end -->)", re.DOTALL)
    DOC.write_text(
        marked.sub(lambda match: f"{match[1]}{text}\n{match[2]}", found), encoding="utf-8"
    )


def main() -> int:
    """Run the environments asked for, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Run the tests marked versions on several releases."
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(environments())}; all by default")
    parser.add_argument(
        "--torch",
        required=True,
        help="release of torch, where an environment does not have its own",
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the environments are made"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/compatibility.md"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - environments().keys():
        parser.error(
            f"no environment {', '.join(sorted(unknown))}; there are {', '.join(environments())}"
        )
    if args.write and args.names:
        parser.error("--write puts the whole table into the document: leave the names out")
    folder, names = args.folder.resolve(), args.names or environments()
    rows = [row(name, folder / name, args.torch) for name in names]
    print(table(rows))
    if args.write:
        write(table(rows))
    return int(any(int(passed) == 0 or failed != "0" for *_, passed, failed, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
