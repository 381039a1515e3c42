"""The processes of a scenario, and what its controller does with them: start, watch, settle, compare, end."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .database import Database
from .nursery import Nursery, nursery
from .recording import LATE, Totals
from .report import Outcome
from .worker import Options, Worker

PATIENCE = 30.0


class WorkerProcess:
    """One worker, as its controller sees it."""

    def __init__(self, place: Nursery, options: Options, log: Path) -> None:
        self.options = options
        self._child = place.start("faults.process", [options.as_json()], log)
        self.stop, self.go_on, self.close = self._child.stop, self._child.go_on, self._child.close

    def ask(self, words: str, *, patience: float = PATIENCE) -> Any:
        """Have a command carried out and return its answer."""
        self._child.say(words)
        return self.answer(words, patience)

    def answer(self, words: str, patience: float = PATIENCE) -> Any:
        return json.loads(self._child.line(words, patience))


@dataclass
class Fleet:
    """The workers of a scenario and their database."""

    place: Nursery
    directory: Path
    database: Database
    workers: list[WorkerProcess]
    bound: float
    reports: list[dict[str, Any]]
    lost: int = 0

    def warm_up(self) -> None:
        """Have every worker's link up and every key in its memory."""
        for worker in self.workers:
            self.wait_for(worker, "up", True)
            worker.ask("sweep")

    def wait_for(self, worker: WorkerProcess, words: str, answer: Any, *, patience: float = PATIENCE) -> bool:
        """Ask again and again until the answer is as wanted; return whether it came to be."""
        end = time.monotonic() + patience
        while worker.ask(words) != answer:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def traffic(self, seconds: float, phase: int = 1, *, writing: bool = True) -> int:
        """Let the workers read and write, or only read, for a time; return when that began."""
        began = time.monotonic_ns()
        self.database.phase = phase
        self.database.reading, self.database.writing = True, writing
        time.sleep(seconds)
        return began

    def leave(self, number: int) -> Options:
        """End a worker as its owner would; what it recorded is kept. Returns how to start it again."""
        worker = self.workers.pop(number)
        self.reports.append(worker.ask("report"))
        worker.close()
        return worker.options

    def join(self, options: Options) -> WorkerProcess:
        """Start a worker among the others."""
        worker = WorkerProcess(self.place, options, self.directory / f"worker-{options.number}.log")
        self.workers.append(worker)
        worker.answer("start")
        return worker

    def rest(self, *, patience: float = PATIENCE) -> None:
        """End the writing, and wait until everything was delivered."""
        self.database.writing = False
        # What is being written at this moment, or sleeps in a loader, ends first.
        time.sleep(0.3)
        for worker in self.workers:
            if not self.wait_for(worker, "settled", True, patience=patience):
                raise RuntimeError(f"pending for ever in worker {worker.options.number}: {worker.ask('pending')}")

    def settle(self, *, patience: float = PATIENCE) -> None:
        """End the writing, wait for what is pending, and count the keys that nobody gets a new value of.

        Readers that are still within the bound are given its length; after that, whoever has an older value than the
        database has lost an invalidation. A new cache is asked as well.
        """
        self.rest(patience=patience)
        self.database.reading = False
        end = time.monotonic() + self.bound + 0.5
        sweeps: list[list[Any]] = [self._sweep(worker, end) for worker in self.workers]
        newcomer = Worker(replace(self.workers[0].options, rate=0.0, writes=0.0, slow=0.0))
        try:
            sweeps.append(newcomer.do_sweep())
        finally:
            newcomer.close()
        self.lost = sum(len(sweep) for sweep in sweeps)
        self.reports += [worker.ask("report") for worker in self.workers]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def _sweep(self, worker: WorkerProcess, end: float) -> list[Any]:
        found: list[Any] = worker.ask("sweep")
        while found and time.monotonic() < end:
            time.sleep(0.05)
            found = worker.ask("sweep")
        return found

    def outcome(self, outcome: Outcome, phases: set[int] | None = None) -> Totals:
        """Fill in what every scenario reports; return the totals for what is special to one."""
        totals = Totals(self.reports, phases)
        late = [age for _, age in totals.stale() if age > LATE]
        outcome.figures.update(
            reads=totals.sum("reads"),
            writes=totals.sum("writes"),
            loads=totals.sum("loads"),
            stale=len(late),
            oldest_ms=max((age for _, age in totals.stale()), default=0) / 1e6,
            stale_strong=len(totals.stale(strong=True)),
            stale_own=sum(report["own"] for report in self.reports),
            wrong=sum(report["wrong"] for report in self.reports),
            call_ms=totals.most("longest") / 1e6,
            pending=totals.sum("pending"),
            errors=totals.errors.total(),
            lost=self.lost,
        )
        if totals.errors:
            outcome.notes.append("; ".join(f"{count}x {text}" for text, count in totals.errors.most_common(3)))
        outcome.expect("reads that were served at all", totals.sum("reads"), at_least=1, common=True)
        outcome.expect("errors out of cached calls", totals.errors.total(), at_most=0, common=True)
        outcome.expect("lost invalidations", self.lost, at_most=0, common=True)
        outcome.expect("values of another key", outcome.figures["wrong"], at_most=0, common=True)
        outcome.expect("own invalidations not obeyed", outcome.figures["stale_own"], at_most=0, common=True)
        return totals


@contextlib.contextmanager
def fleet(settings: list[dict[str, Any]], *, keys: int = 60, bound: float = 3.0, **options: Any) -> Iterator[Fleet]:
    """Run a worker for each of the settings for the length of a block; the second of three uses an event loop.

    Args:
        settings: those of each worker's cache; `namespace` and `staleness_bound` are added.
        keys: how many keys the database has.
        bound: the staleness bound, seconds.
        options: as for `Options`; a list gives each worker its own.
    """
    with tempfile.TemporaryDirectory(prefix="ncf-") as name, contextlib.ExitStack() as stack:
        place, directory = stack.enter_context(nursery()), Path(name)
        database = Database(directory / "database", keys, create=True)
        stack.callback(database.close)
        made = Fleet(place, directory, database, [], bound, [])
        stack.callback(made.close)
        for number, own in enumerate(settings):
            chosen = {what: value[number] if isinstance(value, list) else value for what, value in options.items()}
            complete: dict[str, Any] = {
                "database": str(database.path), "keys": keys, "number": number, "count": len(settings),
                "settings": {"namespace": "faults", "staleness_bound": bound, **own}, "loop": number % 3 == 1, **chosen,
            }  # fmt: skip
            made.workers.append(WorkerProcess(place, Options(**complete), directory / f"worker-{number}.log"))
        for worker in made.workers:
            worker.answer("start")
        made.warm_up()
        yield made
