"""Mutation testing: `python -m mutation` in `tests`.

It changes one thing at a time in some modules and runs the tests that call the function. What survives is a change that
no test would notice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from . import mutants
from .trying import KILLED, SURVIVED, UNFIT, UNTESTED, Trial, Verdict, run

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["novacron_cache/flows", "novacron_cache/keys", "novacron_cache/markers.py"]
TESTS = ["tests/flows", "tests/unit"]


def say(verdict: Verdict) -> None:
    path, _, number = verdict.name.partition("#")
    mark = {KILLED: ".", UNFIT: "?"}.get(verdict.fate)
    if mark is not None:
        print(mark, end="", flush=True)  # noqa: T201
        return
    print(  # noqa: T201
        f"\n{path}:{verdict.line} {verdict.function}: {verdict.fate} of {verdict.tests} tests   --only {path}#{number}"
        f"\n    - {verdict.before}\n    + {verdict.after}",
        flush=True,
    )


def summary(verdicts: list[Verdict]) -> tuple[str, float]:
    """Return a table of what became of mutants, module by module, and the percentage of all that were killed."""
    modules: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        for name in (verdict.name.partition("#")[0], "all"):
            modules.setdefault(name, Counter())[verdict.fate] += 1
    lines = []
    percent = 0.0
    for name, fates in sorted(modules.items(), key=lambda item: (item[0] == "all", item[0])):
        tried = fates[KILLED] + fates[SURVIVED] + fates[UNTESTED]
        percent = 100.0 * fates[KILLED] / tried if tried else 100.0
        lines.append(f"{name:48} {fates[KILLED]:5} of {tried:5} killed {percent:6.1f} %")
    return "\n".join(lines), percent


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="mutation", description="Change the code a little at a time, and see which changes no test notices."
    )
    parser.add_argument("modules", nargs="*", metavar="PATH", help=f"what to change; {' '.join(MODULES)} by default")
    parser.add_argument("--sample", type=int, metavar="N", help="try only so many, chosen at random")
    parser.add_argument("--seed", type=int, default=1, help="which sample; 1 by default")
    parser.add_argument("--only", action="append", metavar="PATH#N", help="try this mutant; may be repeated")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help=f"{' '.join(TESTS)} by default")
    parser.add_argument("--seconds", type=float, default=30.0, help="of tests for each mutant; 30 by default")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the verdicts, and go on from those in it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many; see --keep")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="PERCENT", help="fail when fewer are killed")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    total, wanted = mutants.sample(root, arguments.modules or MODULES, arguments.sample, arguments.seed)
    if arguments.only:
        wanted = [(path, int(number)) for path, _, number in (one.partition("#") for one in arguments.only)]
    kept = arguments.keep and arguments.keep.resolve()
    trial = Trial(root, wanted, arguments.seconds, kept, say, time.monotonic() + 60.0 * arguments.minutes)
    run(trial, root, arguments.tests)
    if trial.broken:
        print("\nthese fail with nothing changed:", *trial.broken, sep="\n    ")  # noqa: T201
        return 2
    done = [trial.verdicts[name] for path, number in wanted if (name := f"{path}#{number}") in trial.verdicts]
    text, percent = summary(done)
    which = f", sample {arguments.seed}" if arguments.sample else ""
    print(f"\n\n{len(done)} of {total} mutants{which}\n{text}")  # noqa: T201
    return 0 if percent >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
