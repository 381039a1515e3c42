"""The hit path in instructions, which neighbours on the machine cannot change: a guard against getting slower.

Seconds are too noisy to compare with those of last month. What the processor is told to do is the same in every run, to
a fraction of a percent, so the ratio of a hit's instructions to the limit's is kept in `instructions.json` and compared
in the tests, with a margin that only a real change exceeds.

Valgrind counts. One process imports everything and warms everything up; then it forks a child for each subject and for
each of two numbers of hits. Both children begin with the same count, so their difference is that of the hits alone.

    .venv/bin/python benchmarks/instructions.py            # counts and compares
    .venv/bin/python benchmarks/instructions.py --store    # counts and keeps the ratios
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_suffix(".json")
MARGIN = 1.15
"""By how much a ratio may exceed the stored one: other versions of pydantic or of the C library move it by less."""
KEYS = 200
FEW, MANY = 5, 55
"""How often all keys are gone through in the two children of a subject."""

LIMIT, LIMIT_ASYNC = "limit", "limit, async"
SUBJECTS = {
    "function": LIMIT,
    "method": LIMIT,
    "method, ignore self": LIMIT,
    "async function": LIMIT_ASYNC,
}
"""What is counted of novacron_cache, and what it is compared with."""


class Unavailable(RuntimeError):  # noqa: N818 - it is about this machine
    """Instructions cannot be counted here."""


def count() -> dict[str, float]:
    """Return the instructions of one hit, for each subject and each limit.

    Raises:
        Unavailable: there is no valgrind, or it does not know this processor or this interpreter.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Unavailable("valgrind is not installed")
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory(prefix="ncb-") as directory:
        words = [
            *(valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            *(f"--log-file={directory}/%p", sys.executable, __file__, "--run"),
        ]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
        if done.returncode:
            raise Unavailable(f"valgrind: {done.stderr.strip()[-500:] or done.returncode}")
        counted: dict[str, dict[int, int]] = {}
        for line in done.stdout.splitlines():
            pid, passes, name = line.split(maxsplit=2)
            said = (Path(directory) / pid).read_text()
            found = re.search(r"I\s+refs:\s+([\d,]+)", said)
            if found is None:
                raise Unavailable(f"valgrind counted nothing: {said[-500:]}")
            counted.setdefault(name, {})[int(passes)] = int(found[1].replace(",", ""))
    return {name: (one[MANY] - one[FEW]) / (KEYS * (MANY - FEW)) for name, one in counted.items()}


def ratios(counted: dict[str, float]) -> dict[str, float]:
    """Return how many instructions ours takes for each one of the limit."""
    return {name: counted[name] / counted[limit] for name, limit in SUBJECTS.items()}


def version() -> str:
    """Return what a ratio depends on: another interpreter executes other instructions."""
    return f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])} {platform.machine()}"


def stored() -> dict[str, float] | None:
    """Return the ratios that are kept for this interpreter, or None."""
    kept: dict[str, dict[str, float]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    return kept.get(version())


def slower(now: dict[str, float], before: dict[str, float]) -> list[str]:
    """Return a line for each subject that has become slower by more than the margin."""
    return [
        f"{name}: {now[name]:.3f} of the limit's instructions, {before[name]:.3f} before"
        for name in before
        if now[name] > before[name] * MARGIN
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and compare or store; return 1 when a hit has become slower."""
    parser = argparse.ArgumentParser(description="Count the instructions of a hit.")
    parser.add_argument("--store", action="store_true", help="keep the ratios")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        _run()
        return 0
    try:
        counted = count()
    except Unavailable as error:
        print(f"not counted: {error}", file=sys.stderr)
        return 1
    now, before = ratios(counted), stored()
    for name, each in counted.items():
        ratio = f"{now[name]:.3f} of the limit" if name in now else ""
        kept = f", {before[name]:.3f} stored" if before and name in before else ""
        print(f"{name:24} {each:8,.0f} instructions a hit   {ratio}{kept}")
    if options.store:
        kept_before = json.loads(STORED.read_text()) if STORED.exists() else {}
        rounded = {name: round(one, 3) for name, one in now.items()}
        STORED.write_text(json.dumps({**kept_before, version(): rounded}, indent=2, sort_keys=True) + "\n")
        return 0
    worse = slower(now, before or {})
    for line in worse:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if worse else 0


# --- under valgrind ---------------------------------------------------------------------------------------------------


def _run() -> None:
    """Fork the children, one after the other, and say which is which."""
    gc.disable()
    for name, passes in _subjects().items():
        passes(3)
        for many in (FEW, MANY):
            child = os.fork()
            if child == 0:
                passes(many)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(f"{name}: the child ended with {status}")
            print(child, many, name, flush=True)


def _ignoring_calls(owner: Any, keys: Sequence[str]) -> None:
    for key in keys:
        owner.get_ignoring(key)


def _subjects() -> dict[str, Callable[[int], None]]:
    from l1_async import _awaits, _limit_async
    from l1_hit import _calls, _method_calls
    from l1_world import TEXTS, Loads, VMState, limit_text, memory
    from measuring import own

    keys = TEXTS[:KEYS]
    loads = Loads()

    class Owner:
        @memory().cached(VMState, key="vm:<vm_id>")
        def get(self, vm_id: str) -> VMState:
            return loads.state(vm_id)

        @memory().cached(VMState, key="vm:<vm_id>", ignore=["self"])
        def get_ignoring(self, vm_id: str) -> VMState:
            return loads.state(vm_id)

    @memory().cached(VMState, key="vm:<vm_id>")
    def get(vm_id: str) -> VMState:
        return loads.state(vm_id)

    @memory().cached(VMState, key="vm:<vm_id>")
    async def aget(vm_id: str) -> VMState:
        return loads.state(vm_id)

    owner, loop = Owner(), asyncio.new_event_loop()

    def passes(turn: Callable[[Any, Sequence[str]], Any], subject: Any) -> Callable[[int], None]:
        turn = own(turn)

        def go(many: int) -> None:
            for _ in range(many):
                turn(subject, keys)

        return go

    def apasses(subject: Any) -> Callable[[int], None]:
        turn = own(_awaits)

        async def go(many: int) -> None:
            for _ in range(many):
                await turn(subject, keys)

        return lambda many: loop.run_until_complete(go(many))

    return {
        LIMIT: passes(_calls, limit_text(loads.state)),
        "function": passes(_calls, get),
        "method": passes(_method_calls, owner),
        "method, ignore self": passes(_ignoring_calls, owner),
        LIMIT_ASYNC: apasses(_limit_async(loads.state)),
        "async function": apasses(aget),
    }


if __name__ == "__main__":
    sys.exit(main())
