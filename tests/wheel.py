"""The package as a user gets it: built, checked, and run in an environment that has nothing else.

    make test-wheel
    make test-wheel PYTHON=python3.12

The wheel is built from the sdist, so that the sdist is shown to be whole. Then a new environment
gets the wheel and what it asks for, and an empty folder sees the commands of a newcomer: the pair
that `lm-eval-partial demo` names is scored at λ = 0.5, on 10 questions a task.

Standard library only. Exits with 1 where something fails.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ("hatchling", "editables", "twine")


def environment(folder: Path, *packages: str | Path) -> Path:
    """Make an environment with packages, one after the other; return its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    programs = folder / "bin"
    for package in packages:
        subprocess.run([programs / "pip", "install", "--quiet", package], check=True)
    return programs


def build(folder: Path) -> Path:
    """Return a wheel built from an sdist, both checked by twine."""
    programs, dist = environment(folder / "build", *BUILD), folder / "dist"
    hatchling: list[str | Path] = [
        programs / "python",
        "-m",
        "hatchling",
        "build",
        "-t",
        "sdist",
        "-d",
        dist,
    ]
    subprocess.run(hatchling, check=True, cwd=ROOT)
    (sdist,) = dist.glob("*.tar.gz")
    wheel: list[str | Path] = [
        programs / "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*wheel, "--wheel-dir", dist, sdist], check=True)
    (built,) = dist.glob("*.whl")
    subprocess.run([programs / "twine", "check", "--strict", sdist, built], check=True)
    return built


def score(programs: Path, folder: Path) -> dict[str, float]:
    """Return the demo pair's scores by area, from the command that the package itself prints."""
    own = programs / "lm-eval-partial"
    printed = subprocess.run([own, "demo"], check=True, cwd=folder, stdout=subprocess.PIPE)
    command = shlex.split(printed.stdout.decode().splitlines()[-1])
    command[0] = str(programs / command[0])
    limited = ["--limit", "10", "--output_path", "out"]
    subprocess.run([*command, *limited], check=True, cwd=folder)
    (result,) = folder.glob("out/*/results_*.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    counts = found["config"]["share_prefix"]
    if any(set(paths) != {"shared"} for paths in counts.values()):
        sys.exit(f"requests were computed in full: {counts}")
    for words in (["tasks"], ["recipes"], ["sweep", "--recipe", "llama-2-7b", "--dry-run"]):
        subprocess.run([own, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return {name: group["acc,none"] for name, group in found["groups"].items()}


def main() -> int:
    """Build, install and run; return the exit code."""
    parser = argparse.ArgumentParser(description="Build the wheel and run it by itself.")
    parser.add_argument("--torch", required=True, help="release of torch to install beforehand")
    parser.add_argument("--folder", type=Path, required=True, help="a new folder to work in")
    args = parser.parse_args()
    folder = args.folder.resolve()
    place = folder / "place"
    place.mkdir(parents=True)
    try:
        wheel = build(folder)
        # torch comes first and alone, as in the Makefile.
        programs = environment(folder / "user", f"torch=={args.torch}", wheel)
        scores = score(programs, place)
    except subprocess.CalledProcessError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{wheel.name} on Python {sys.version.split()[0]}:")
    for name, value in scores.items():
        print(f"  {name:32} {value:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
