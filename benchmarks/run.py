"""Run the benchmarks and print what they say about the promises.

Each area runs in a process of its own, so that threads, sockets and garbage of one are not measured by the next. A
contender that fails is reported and makes the exit code 1; the others are measured all the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import report
from measuring import Area, Effort

AREAS = (
    "l1_hit", "l1_async", "l1_threads", "l2_single", "l2_tasks", "l2_batch", "l3", "bodies", "invalidation",
    "stampede", "stampede_fleet", "item_memory", "hit_ratio", "coherence",
)  # fmt: skip
PATIENCE = {Effort.FULL: 900, Effort.QUICK: 180, Effort.SMOKE: 120}
"""Seconds that one area may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when something could not be measured."""
    options = _parser().parse_args(arguments)
    if options.traces is not None and not options.traces.is_dir():
        print(f"--traces {options.traces}: there is no such directory", file=sys.stderr)
        return 2
    result = _measure(options) if options.source is None else json.loads(options.source.read_text())
    areas = [Area.from_json(area) for area in result["areas"]]
    for line in report.verdicts(areas):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.render is not None:
        part = report.markdown(result["setting"], areas, result["load"], result["effort"])
        options.render.write_text(report.placed(options.render.read_text(), part))
    failures = [f"{area.name}: {failure}" for area in areas for failure in area.failures]
    failures += [f"{name}: {why}" for name, why in result["broken"].items()]
    for failure in failures:
        print(f"not measured: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure novacron_cache beside its peers and the limit.")
    parser.add_argument("--area", action="append", choices=AREAS, help="only this area; may be repeated")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="rougher numbers, a minute or two")
    effort.add_argument("--smoke", action="store_true", help="no numbers to rely on: shows that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--render", type=Path, metavar="PAGE", help="also put the tables between the marks of a page")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="measure nothing: read what --json wrote"
    )
    parser.add_argument("--traces", type=Path, metavar="DIRECTORY", help="recorded requests, for hit_ratio")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    effort = Effort.QUICK if options.quick else Effort.SMOKE if options.smoke else Effort.FULL
    if options.inside is not None:
        (name,) = options.area
        area = _area(name, effort, options.traces)
        options.inside.write_text(json.dumps(area.as_json()))
        # Without the interpreter's own end: what the contenders have left behind is nobody's concern any more.
        os._exit(0)
    setting, before = machine.setting(), machine.load()
    print(f"{setting['cpu']}, {setting['cpus']} CPUs, {setting['python']}, load {before}")
    print(", ".join(f"{name} {version}" for name, version in setting["packages"].items()))
    areas: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ncb-") as directory:
        for name in options.area or AREAS:
            try:
                found = _apart(name, effort, options.traces, Path(directory) / f"{name}.json")
            except RuntimeError as error:
                broken[name] = str(error)
                print(f"\n{name} was not measured: {error}")
                continue
            areas.append(found)
            for line in report.text(Area.from_json(found)):
                print(line, flush=True)
    return {
        "effort": effort.value, "setting": setting, "load": [before, machine.load()], "areas": areas, "broken": broken,
    }  # fmt: skip


def _area(name: str, effort: Effort, traces: Path | None) -> Area:
    module = importlib.import_module(name)
    start = time.monotonic()
    area: Area = module.run(effort, traces) if name == "hit_ratio" else module.run(effort)
    area.seconds = time.monotonic() - start
    return area


def _apart(name: str, effort: Effort, traces: Path | None, written: Path) -> dict[str, Any]:
    """Run one area in a process of its own and return what it wrote.

    Raises:
        RuntimeError: it failed as a whole, or took too long.
    """
    words = [sys.executable, __file__, "--area", name, "--inside", str(written)]
    words += [] if effort is Effort.FULL else [f"--{effort.value}"]
    words += [] if traces is None else ["--traces", str(traces)]
    try:
        done = subprocess.run(  # noqa: S603
            words, capture_output=True, text=True, timeout=PATIENCE[effort], check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it took more than {PATIENCE[effort]} s") from None
    if not written.exists():
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"it ended with {done.returncode}")
    found: dict[str, Any] = json.loads(written.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
