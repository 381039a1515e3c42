"""Says which part of the core's branches the tests have taken, by package, and fails where it is less than promised.

Coverage's own total counts lines together with branches, and of lines there are four times as many: it stands at the
promise while a tenth of the branches has never been taken.

    python tests/branches.py [DATA]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from coverage import Coverage

PROMISED = 95.0
"""Per cent of the core's branches."""

PACKAGE = "novacron_cache"


def measured(data: str | None) -> dict[str, Any]:
    """Return the report of coverage on what is in a data file; None is the one of the configuration."""
    coverage = Coverage(**({} if data is None else {"data_file": data}))
    coverage.load()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        coverage.json_report(outfile=str(report))
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def by_package(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return for each package how many branches were taken, and how many there are."""
    taken, all_ = Counter[str](), Counter[str]()
    for file, found in report["files"].items():
        inside = Path(file).parts
        inside = inside[inside.index(PACKAGE) + 1 :]
        package = inside[0] if len(inside) > 1 else "(modules)"
        taken[package] += found["summary"]["covered_branches"]
        all_[package] += found["summary"]["num_branches"]
    return {package: (taken[package], all_[package]) for package in sorted(all_)}


def main(data: str | None = None) -> int:
    """Print the table; return 1 where the promise is not kept."""
    packages = by_package(measured(data))
    packages["all"] = sum(taken for taken, _ in packages.values()), sum(all_ for _, all_ in packages.values())
    for package, (taken, all_) in packages.items():
        sys.stdout.write(f"{package:12} {taken:5} of {all_:5} branches {100 * taken / max(all_, 1):7.2f} %\n")
    taken, all_ = packages["all"]
    kept = all_ > 0 and 100 * taken >= PROMISED * all_
    if not kept:
        sys.stdout.write(f"less than the {PROMISED:g} % promised\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
