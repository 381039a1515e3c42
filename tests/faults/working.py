"""The two kinds of workers: threads that block, and tasks of an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from novacron_cache import PatternLogFull, cached

from .worker import Late, Options, Pace, Row, Worker, group_of

BURST = 10
IDLE = 0.005


class ThreadWorker(Worker):
    """Reads and writes in threads."""

    def start(self) -> None:
        for _ in range(self.options.readers):
            threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def _read(self) -> None:
        if not self.options.rate:
            return
        pace = Pace(self.options.rate / self.options.readers, BURST)
        while not self.stopping.is_set():
            if self.database.reading:
                for _ in range(pace.burst):
                    self._read_one(self.random.randrange(self.options.keys))
            time.sleep(pace.wait() or 0.0001)

    def _read_one(self, n: int) -> None:
        chosen = self.random.random()
        strong = chosen < self.options.strong
        before, began = self.mine[n], time.monotonic_ns()
        try:
            if strong:
                key, loader, model = self.strong_read(n)
                value = self.cache.get_or_load(key, loader, model=model, consistency="strong")
            elif chosen > 0.98:
                key, _, model = self.strong_read(n)
                value = self.cache.get(key, model=model)
            else:
                value = self.functions[n % 2](n)
        except Exception as error:
            self.recording.failed(self.database.phase, error)
            return
        self.judge(n, value, began, before, strong=strong)

    def _write(self) -> None:
        if not self.options.writes or not len(self.own_keys):
            return
        pace = Pace(self.options.writes)
        while not self.stopping.is_set():
            if self.database.writing:
                self._write_one(self.random.choice(self.own_keys))
            self.look_for_deliveries()
            time.sleep(pace.wait() or 0.0001)

    def _write_one(self, n: int) -> None:
        kind, names = self.way(n)
        began, version = time.monotonic_ns(), 0
        try:
            if kind == "hold":
                with self.cache.invalidating(**names) as block:
                    version = self.database.commit(n)
                receipt: Any = block.receipt
            else:
                version = self.database.commit(n)
                if kind == "pattern":
                    receipt = self.cache.invalidate_pattern(names["pattern"])
                elif kind == "tags":
                    receipt = self.cache.invalidate_tags(*names["tags"])
                else:
                    receipt = self.cache.invalidate(*names["keys"])
        except PatternLogFull:
            receipt = self.cache.invalidate(f"{'late' if n % 2 else 'row'}:{n}")
        except Exception as error:
            self.recording.failed(self.database.phase, error)
            return
        self.written(n, version, began, receipt)


class LoopWorker(Worker):
    """Reads and writes in the tasks of one event loop, which runs in a thread of its own."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)

        @cached(Row, cache=self.cache)
        async def row(n: int) -> Row:
            return Row(n=n, version=await self.aload(n))

        @cached(Late, cache=self.cache)
        async def late(n: int) -> Late:
            return Late(n=n, version=await self.aload(n), group=group_of(n))

        self.afunctions = (row, late)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.stopping.set()
        self._thread.join(10)
        super().close()

    async def aload(self, n: int) -> int:
        self.recording.loaded(self.database.phase)
        version = self.database.version(n)
        if self.is_slow():
            await asyncio.sleep(0.25)
        return version

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.options.readers if self.options.rate else 0):
                tasks.create_task(self._read())
            tasks.create_task(self._write())

    async def _read(self) -> None:
        pace = Pace(self.options.rate / self.options.readers, BURST)
        while not self.stopping.is_set():
            if self.database.reading:
                for _ in range(pace.burst):
                    await self._read_one(self.random.randrange(self.options.keys))
            await asyncio.sleep(pace.wait())

    async def _read_one(self, n: int) -> None:
        chosen = self.random.random()
        strong = chosen < self.options.strong
        before, began = self.mine[n], time.monotonic_ns()
        try:
            if strong:
                value = await self._strong(n)
            elif chosen > 0.98:
                key, _, model = self.strong_read(n)
                value = await self.cache.aget(key, model=model)
            else:
                value = await self.afunctions[n % 2](n)
        except Exception as error:
            self.recording.failed(self.database.phase, error)
            return
        self.judge(n, value, began, before, strong=strong)

    async def _strong(self, n: int) -> Any:
        key, _, model = self.strong_read(n)

        async def load() -> Any:
            version = await self.aload(n)
            return Late(n=n, version=version, group=group_of(n)) if n % 2 else Row(n=n, version=version)

        return await self.cache.aget_or_load(key, load, model=model, consistency="strong")

    async def _write(self) -> None:
        pace = Pace(self.options.writes or 1.0)
        while not self.stopping.is_set():
            if self.database.writing and self.options.writes and len(self.own_keys):
                await self._write_one(self.random.choice(self.own_keys))
            self.look_for_deliveries()
            await asyncio.sleep(pace.wait() or IDLE)

    async def _write_one(self, n: int) -> None:
        kind, names = self.way(n)
        began, version = time.monotonic_ns(), 0
        try:
            if kind == "hold":
                async with self.cache.invalidating(**names) as block:
                    version = self.database.commit(n)
                receipt: Any = block.receipt
            else:
                version = self.database.commit(n)
                if kind == "pattern":
                    receipt = await self.cache.ainvalidate_pattern(names["pattern"])
                elif kind == "tags":
                    receipt = await self.cache.ainvalidate_tags(*names["tags"])
                else:
                    receipt = await self.cache.ainvalidate(*names["keys"])
        except PatternLogFull:
            receipt = await self.cache.ainvalidate(f"{'late' if n % 2 else 'row'}:{n}")
        except Exception as error:
            self.recording.failed(self.database.phase, error)
            return
        self.written(n, version, began, receipt)
