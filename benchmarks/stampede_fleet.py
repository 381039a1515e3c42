"""A cold key that the callers of several processes want at once, with a server between them.

Each process has 64 callers; all begin at the same moment. The loader counts at the server how often it ran, and takes a
fixed time, which is the least that anybody can wait.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from l2_world import Machine, Raw, cache, command, machine
from measuring import OURS, Area, Case, Effort, Figure, Row
from serving import Server, server

CALLERS = 64
PROCESSES = (2, 4)
LOADING = 0.05
"""Seconds a load takes."""
LEAD = 0.05
"""Seconds between the word to begin and the beginning, so that every process has heard it."""


class Loader:
    """Takes its time, and notes at the server that it ran."""

    def __init__(self, running: Server) -> None:
        self._raw = Raw(running)

    def _count(self, machine_id: str) -> None:
        self._raw.ask(command(b"INCR", f"loads:{machine_id}".encode()))

    def load(self, machine_id: str) -> Machine:
        self._count(machine_id)
        time.sleep(LOADING)
        return machine(machine_id)

    async def aload(self, machine_id: str) -> Machine:
        self._count(machine_id)
        await asyncio.sleep(LOADING)
        return machine(machine_id)


# --- what one process does --------------------------------------------------------------------------------------------


def _ours(running: Server, loader: Loader, stack: ExitStack) -> Callable[[str], Any]:
    made = stack.enter_context(cache(running))

    @made.cached(Machine, key="machine:<machine_id>", name="cold")
    def get(machine_id: str) -> Machine:
        return loader.load(machine_id)

    return get


def _ours_async(running: Server, loader: Loader, stack: ExitStack) -> Callable[[str], Any]:
    made = stack.enter_context(cache(running))

    @made.cached(Machine, key="machine:<machine_id>", name="cold")
    async def get(machine_id: str) -> Machine:
        return await loader.aload(machine_id)

    return get


def _dogpile(running: Server, loader: Loader, stack: ExitStack) -> Callable[[str], Any]:
    from dogpile.cache import make_region

    # It asks ten times a second whether a lock is free unless told otherwise.
    arguments = {"url": running.url, "distributed_lock": True, "lock_sleep": 0.01, "thread_local_lock": False}
    region: Any = make_region().configure("dogpile.cache.redis", expiration_time=3600, arguments=arguments)
    return lambda machine_id: region.get_or_create(f"dogpile:{machine_id}", lambda: loader.load(machine_id))


def _cashews(running: Server, loader: Loader, stack: ExitStack) -> Callable[[str], Any]:
    import cashews

    made = cashews.Cache()
    made.setup(running.url, check_repr=False, max_connections=CALLERS)

    @made(ttl=3600, key="machine:{machine_id}", lock=True)
    async def get(machine_id: str) -> Any:
        return await loader.aload(machine_id)

    return get


def _redis_py(running: Server, loader: Loader, stack: ExitStack) -> Callable[[str], Any]:
    import redis

    client: Any = redis.Redis.from_url(running.url)
    stack.callback(client.close)

    def get(machine_id: str) -> Any:
        with client.lock(f"lock:{machine_id}", timeout=10, sleep=0.01):
            if (body := client.get(f"by-hand:{machine_id}")) is None:
                body = loader.load(machine_id).model_dump_json()
                client.set(f"by-hand:{machine_id}", body, ex=3600)
            return Machine.model_validate_json(body)

    return get


CONTENDERS: dict[str, dict[str, tuple[Callable[[Server, Loader, ExitStack], Callable[[str], Any]], str]]] = {
    "threads": {
        OURS: (_ours, "a lease at the server, and a signal when it ends"),
        "dogpile.cache": (_dogpile, "distributed_lock, lock_sleep=0.01"),
        "redis-py": (_redis_py, "its lock, sleep=0.01, by hand"),
    },
    "tasks": {
        OURS: (_ours_async, "a lease at the server, and a signal when it ends"),
        "cashews": (_cashews, "lock=True"),
    },
}


def _work(port: int, kind: str, name: str) -> None:
    """Be one process: answer each line, a key and a moment, with the moment at which the last caller had it."""
    running = Server(port, 0)
    with ExitStack() as stack:
        call = CONTENDERS[kind][name][0](running, Loader(running), stack)
        loop = stack.enter_context(asyncio.Runner())
        print("ready", flush=True)
        for line in sys.stdin:
            key, start = line.split()
            ended = loop.run(_tasks(call, key, int(start))) if kind == "tasks" else _threads(call, key, int(start))
            print(ended, flush=True)


def _threads(call: Callable[[str], Any], key: str, start: int) -> int:
    ended: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        time.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        try:
            assert call(key).machine_id == key
        except BaseException as error:
            errors.append(error)
        ended.append(time.monotonic_ns())

    crew = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if errors:
        raise errors[0]
    return max(ended)


async def _tasks(call: Callable[[str], Any], key: str, start: int) -> int:
    await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
    for value in await asyncio.gather(*(call(key) for _ in range(CALLERS))):
        assert value.machine_id == key
    return time.monotonic_ns()


# --- all of them ------------------------------------------------------------------------------------------------------


@contextmanager
def _processes(running: Server, count: int, kind: str, name: str) -> Iterator[list[Any]]:
    words = [sys.executable, __file__, str(running.port), kind, name]
    made = [
        subprocess.Popen(  # noqa: S603
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in made:
            _line(process)
        yield made
    finally:
        for process in made:
            process.communicate(timeout=10)


def _line(process: Any) -> str:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(process.stderr.read().strip().splitlines()[-1])
    return str(line)


def _measure(running: Server, count: int, kind: str, name: str, note: str, turns: int) -> tuple[Row, float | None]:
    """Return a row, whose ratio is the slowest caller's wait to the loader's time, and the loads of one key."""
    row = Row(name, note=note)
    loads: list[int] = []
    waited: list[int] = []
    raw = Raw(running)
    try:
        with _processes(running, count, kind, name) as processes:
            for turn in range(turns):
                key = f"m-{turn}"
                # The key is new to everybody, but processes have to be at rest again.
                time.sleep(LEAD)
                start = time.monotonic_ns() + int(LEAD * 1e9)
                for process in processes:
                    process.stdin.write(f"{key} {start}\n")
                    process.stdin.flush()
                waited.append(max(int(_line(process)) for process in processes) - start)
                loads.append(int(raw.ask(command(b"GET", f"loads:{key}".encode()))))
    except Exception as error:
        row.failed = f"{type(error).__name__}: {error}"
        return row, None
    finally:
        running.flush()
        raw.close()
    row.value = float(median(waited))
    row.ratio = row.value / (LOADING * 1e9)
    row.note = f"at most {max(loads)} {'load' if max(loads) == 1 else 'loads'} of one key; {note}"
    return row, max(loads)


def run(effort: Effort) -> Area:
    """Measure stampedes of several processes."""
    turns = effort.of(25, 5, 1)
    area = Area("stampede_fleet")
    with server() as running:
        for count in effort.of(PROCESSES, PROCESSES[:1], PROCESSES[:1]):
            for kind, bound in (("threads", 1.35), ("tasks", 1.2)):
                case = Case(f"{count} processes of {CALLERS} {kind}, one cold key, {LOADING * 1e3:g} ms loader")
                for name, (_, note) in CONTENDERS[kind].items():
                    row, loads = _measure(running, count, kind, name, note, turns)
                    case.rows.append(row)
                    if name == OURS:
                        where = f"{count} processes of {CALLERS} {kind}"
                        area.figures += [
                            Figure(f"loads of a cold key, {where}", loads, 1, 1, unit=""),
                            Figure(f"slowest of {where} / loader", row.ratio, bound, bound),
                        ]
                    elif row.value is not None:
                        row.ours = row.value / (case.row(OURS).value or row.value)
                area.cases.append(case)
    return area


if __name__ == "__main__":
    _work(int(sys.argv[1]), sys.argv[2], sys.argv[3])
