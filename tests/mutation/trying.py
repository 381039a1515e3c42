"""Trying mutants: each in a fork of a pytest session that has everything collected, on the tests that can notice it.

The session is collected once. A first fork runs every test and notes which functions it calls. For each mutant another
fork puts it in the place of the module and runs the tests that call its function, those first that killed the last
ones, then the quick ones. The first failure kills it; so does a test that takes much longer than it did. What the tests
leave undecided within the seconds that a mutant is given counts as survived.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from . import mutants
from .planting import UnfitError, plant

KILLED = "killed"
SURVIVED = "survived"
UNTESTED = "untested"
"""No test calls the function."""
UNFIT = "unfit"
"""It could not be put in the place of the module; it counts for nothing."""

PATIENCE = 10.0
"""How many times as long as it did a test may take before that counts as a failure, and seconds beside."""
MEMORY = 8 << 30
"""Bytes of address space that a mutant may take."""


@dataclass(slots=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        by: the test that killed it.
        tests: how many there are that call its function.
    """

    name: str
    line: int
    function: str
    before: str
    after: str
    fate: str
    by: str
    tests: int
    seconds: float


@dataclass(slots=True)
class Called:
    """What a test did when nothing was changed: how long it took, and the functions it called as `path:first line`."""

    seconds: float
    functions: list[str]


class Trial:
    """A pytest plugin that tries mutants instead of running tests.

    Args:
        root: what paths are relative to.
        wanted: the mutants.
        seconds: how long the tests of one may take by what they took before.
        kept: a file where verdicts are kept, so that a run that was stopped goes on; or None.
        say: told each verdict.
        until: monotonic seconds after which no other mutant is tried.
    """

    def __init__(
        self,
        root: Path,
        wanted: Sequence[tuple[str, int]],
        seconds: float,
        kept: Path | None,
        say: Callable[[Verdict], None],
        until: float = float("inf"),
    ) -> None:
        self._root = root
        self._wanted = wanted
        self._files = {path for path, _ in wanted}
        self._seconds = seconds
        self._kept = kept
        self._say = say
        self._until = until
        self._failed = ""
        self._killers: dict[str, None] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.called: dict[str, Called] = {}
        self.broken: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            self.broken = ["the collection"]
            return True
        self._plugins = session.config.pluginmanager
        self._load()
        if not self.called:
            called, self.broken = self._in_fork(lambda: self._look(session.items))
            if called == KILLED:
                self.broken = ["the tests, which end their process"]
                return True
            self.called = called
            self._keep()
        if self.broken:
            return True
        items = {item.nodeid: item for item in session.items}
        for path, number in self._wanted:
            mutant = mutants.make(self._root, path, number)
            if mutant.name not in self.verdicts:
                if time.monotonic() > self._until:
                    break
                self.verdicts[mutant.name] = self._try(mutant, items)
                self._keep()
            self._say(self.verdicts[mutant.name])
        return True

    def _load(self) -> None:
        if self._kept is not None and self._kept.exists():
            told = json.loads(self._kept.read_text())
            if self._files <= set(told["files"]):
                self._files = set(told["files"])
                self.called = {test: Called(**called) for test, called in told["called"].items()}
            self.verdicts = {verdict["name"]: Verdict(**verdict) for verdict in told["verdicts"]}

    def _keep(self) -> None:
        if self._kept is not None and not self.broken:
            called = {test: asdict(called) for test, called in self.called.items()}
            verdicts = [asdict(verdict) for verdict in self.verdicts.values()]
            self._kept.write_text(json.dumps({"files": sorted(self._files), "called": called, "verdicts": verdicts}))

    def _silence(self) -> None:
        """Have nothing of what the tests of a child say be seen."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        self._plugins.unregister(name="terminalreporter")

    def _look(self, items: list[pytest.Item]) -> tuple[dict[str, Called], list[str]]:
        """Run every test, and return what each calls of the files in question, and the tests that fail."""
        files = {str(self._root / path): path for path in self._files}
        called: dict[str, Called] = {}
        broken = []
        for item in items:
            seen: set[str] = set()

            def note(frame: FrameType, event: str, _: Any, seen: set[str] = seen) -> None:
                if event == "call" and (path := files.get(frame.f_code.co_filename)) is not None:
                    seen.add(f"{path}:{frame.f_code.co_firstlineno}")

            threading.setprofile(note)
            sys.setprofile(note)
            began = time.monotonic()
            _run(item)
            seconds = time.monotonic() - began
            sys.setprofile(None)
            threading.setprofile(None)
            called[item.nodeid] = Called(seconds, sorted(seen))
            if self._failed:
                broken.append(item.nodeid)
                self._failed = ""
        return called, broken

    def _try(self, mutant: mutants.Mutant, items: dict[str, pytest.Item]) -> Verdict:
        began = time.monotonic()
        tests = self._tests(mutant, items)
        fate, by = (UNTESTED, "") if not tests else self._in_fork(lambda: self._attack(mutant, tests, items))
        if fate == KILLED:
            self._killers.pop(by, None)
            self._killers[by] = None
        seconds = time.monotonic() - began
        return Verdict(
            mutant.name, mutant.line, mutant.function, mutant.before, mutant.after, fate, by, len(tests), seconds
        )

    def _tests(self, mutant: mutants.Mutant, items: dict[str, pytest.Item]) -> list[str]:
        """Return the tests that call the function, in the order in which they are worth trying."""
        functions = {f"{mutant.path}:{line}" for line in mutant.first_lines}
        tests = [
            test for test, called in self.called.items() if test in items and functions.intersection(called.functions)
        ]
        recent = {test: place for place, test in enumerate(reversed(self._killers))}
        return sorted(tests, key=lambda test: (recent.get(test, len(recent)) // 16, self.called[test].seconds))

    def _attack(self, mutant: mutants.Mutant, tests: list[str], items: dict[str, pytest.Item]) -> tuple[str, str]:
        name = mutant.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        try:
            plant(mutant, sys.modules[name])
        except UnfitError:
            return UNFIT, ""
        except BaseException:  # it cannot be imported, which no test can miss
            return KILLED, "importing it"
        left = self._seconds
        for test in tests:
            usual = self.called[test].seconds
            left -= usual
            if left < 0:
                break
            self._told.write(f"{test}\n")
            self._told.flush()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * (usual + 1.0))
            _run(items[test])
            if self._failed:
                return KILLED, test
        return SURVIVED, ""

    def _in_fork(self, act: Callable[[], Any]) -> Any:
        """Return what something returns that is done in a child of its own, with all it leaves behind.

        A child that dies does so of the mutant: of its time, of its memory, or of a deep recursion.
        """
        # A file and no pipe: whatever a test leaves running would hold that open.
        with tempfile.TemporaryFile("w+") as told:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads in a process that forks: there are none that matter
                pid = os.fork()
            if pid == 0:
                self._told = told
                self._die_with_the_answer_of(act)
            os.waitpid(pid, 0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its tests started and could not end any more
            told.seek(0)
            *begun, last = told.read().split("\n")
        return _decoded(last) if last else (KILLED, next((test for test in reversed(begun) if test), ""))

    def _die_with_the_answer_of(self, act: Callable[[], Any]) -> NoReturn:
        try:
            os.setpgid(0, 0)
            self._silence()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            answer = act()
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._told.write("\n" + json.dumps(answer, default=asdict))
            self._told.flush()
        finally:
            os._exit(0)


def _run(item: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def _decoded(text: str) -> Any:
    answer = json.loads(text)
    if isinstance(answer[0], dict):
        return {test: Called(**called) for test, called in answer[0].items()}, answer[1]
    return tuple(answer)


def run(trial: Trial, root: Path, tests: Sequence[str]) -> int:
    """Collect tests, and have a trial take the place of running them; return pytest's exit status."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", "timeout=0", "--no-header", "--no-summary"]
    return int(pytest.main([*options, *tests], plugins=[trial]))
