"""The fault runner: `python -m faults` in `tests`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from .nursery import nursery
from .report import Outcome, as_json, as_markdown, as_text
from .scenario import BINARIES, SCENARIOS, Stage
from .scenarios import ALL


def play(names: list[str], servers: list[str], **options: Any) -> list[Outcome]:
    """Play scenarios on each server, those that need none once; the options are those of `Stage`."""
    outcomes: list[Outcome] = []
    for server in servers:
        binary = BINARIES[server]()
        if binary is None:
            raise SystemExit(f"{server} is not installed")
        for name in names:
            if any(one.name == name and one.server == "none" for one in outcomes):
                continue
            began = time.monotonic()
            print(f"{name} on {server} ...", end=" ", flush=True, file=sys.stderr)  # noqa: T201
            outcomes.append(SCENARIOS[name].play(Stage(server, binary, **options)))
            said = "reached" if outcomes[-1].reached else "NOT reached"
            print(f"{said}, {time.monotonic() - began:.1f} s", file=sys.stderr)  # noqa: T201
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description="Inject faults and print what became of the promises.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"all by default, or of: {', '.join(ALL)}")
    parser.add_argument("--server", choices=[*BINARIES, "all"], default="valkey")
    parser.add_argument("--long", action="store_true", help="the figures of the documentation; takes minutes")
    parser.add_argument("--soak", action="store_true", help="the scenario `soak` alone, for an hour")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long --soak takes")
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many different keys a soak uses")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for other programs")
    form.add_argument("--markdown", action="store_true", help="the tables of the documentation")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario is called {unknown[0]!r}; there are {', '.join(ALL)}")
    servers = list(BINARIES) if arguments.server == "all" else [arguments.server]
    names, options = arguments.scenarios or ALL, {"long": arguments.long, "soak_keys": arguments.keys}
    if arguments.soak:
        names, options = ["soak"], {"long": True, "soak_seconds": arguments.seconds, "soak_keys": arguments.keys}
    with nursery():
        outcomes = play(names, servers, **options)
    form_ = as_json if arguments.json else as_markdown if arguments.markdown else as_text
    print(form_(outcomes))  # noqa: T201
    return 0 if all(one.reached for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
