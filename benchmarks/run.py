"""Run the benchmarks and print what they say about the promises.

`--quick` gives rougher numbers in a few seconds; `--help` has the rest. A contender that fails is reported and makes
the exit code 1; the others are measured all the same.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import l1_hit
import stampede
from measuring import OURS, Area

AREAS = {"l1_hit": l1_hit.run, "stampede": stampede.run}
PACKAGES = ("novacron-cache", "pydantic", "wrapt", "cachetools", "cachebox", "aiocache", "cashews", "async-lru")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a contender could not be measured."""
    parser = argparse.ArgumentParser(description="Measure novacron_cache beside its peers and the limit.")
    parser.add_argument("--area", action="append", choices=sorted(AREAS), help="only this area; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few seconds, rougher numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    options = parser.parse_args(arguments)
    setting = _setting()
    print(
        f"{setting['python']}, {setting['cpus']} CPUs, " + ", ".join(f"{k} {v}" for k, v in setting["packages"].items())
    )
    areas = []
    for name in options.area or AREAS:
        start = time.monotonic()
        area = AREAS[name](quick=options.quick)
        areas.append(area)
        _print_area(area, time.monotonic() - start)
    if options.json is not None:
        report = {"quick": options.quick, "setting": setting, "areas": [area.as_json() for area in areas]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    failures = [failure for area in areas for failure in area.failures]
    for failure in failures:
        print(f"not measured: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _setting() -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"python": python, "cpus": os.cpu_count(), "packages": packages}


def _print_area(area: Area, seconds: float) -> None:
    print(f"\n{area.name} ({seconds:.0f} s)")
    for case in area.cases:
        print(f"\n  {case.name:32} {'time':>10} {'/ reference':>12} {'/ ' + OURS:>18}")
        for row in case.rows:
            if row.failed:
                print(f"    {row.name:30} failed: {row.failed}")
                continue
            print(f"    {row.name:30} {_time(row.ns):>10} {_ratio(row.ratio):>12} {_ratio(row.ours):>18}  {row.note}")
    print("\n  promise")
    width = max(len(figure.what) for figure in area.figures)
    for figure in area.figures:
        sign = "<=" if figure.at_most else ">="
        verdict = {True: "reached", False: "not reached", None: "not measured"}[figure.reached]
        measured = "-" if figure.measured is None else f"{figure.measured:,.4g}{figure.unit}"
        promised = f"{sign} {figure.bound:,g}{figure.unit}"
        print(f"    {figure.what:{width}}  {figure.column:13} {promised:>15} {measured:>16}  {verdict}")


def _time(ns: float | None) -> str:
    if ns is None:
        return "-"
    return f"{ns:,.0f} ns" if ns < 1e6 else f"{ns / 1e6:,.1f} ms"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
