"""Invalidating: by key, tag, pattern, model or all, at once or with the block around it, and never given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

from .. import flows
from ..codecs import Codec
from ..declaring import name_of
from ..deferring import current_deferral
from ..delivery import Delivery
from ..drivers import adrive, ask, drive, running_loop
from ..effects import DOWN, Purge
from ..engine import Engine
from ..flows.invalidating import Invalidation, begin, settle
from ..keeping import Keeper
from ..receipts import Receipt
from ..settings import CacheSettings
from .arguments import Durability, durable, patterned, rendered, tagged
from .requesting import Requesting


class Invalidating(Requesting):
    """The operations that invalidate."""

    def __init__(self, settings: CacheSettings, engine: Engine, codec: Codec) -> None:
        super().__init__(settings, engine, codec)
        self._delivery = Delivery(self._deliver, lambda: bool(engine.pending))
        self.keeper = Keeper()
        self._invalidations: set[asyncio.Task[Any]] = set()

    def invalidate(
        self, *keys: str, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Invalidate everything under these logical keys, whatever its model.

        Args:
            keys: logical keys; with `values`, templates that they fill.
            wait: raise when the shared tier has not taken it, instead of returning a pending receipt.
            durability: `"replicated"` has the server wait, about 0.1 s at most, until a replica has it too; the receipt
                says in `replicated` whether one has.
            values: values of the templates' placeholders.

        Raises:
            InvalidationPending: only with `wait`: it is not delivered yet, and goes on being retried.
        """
        return self.run_invalidation(Invalidation.keys(rendered(keys, values)), wait=wait, durability=durability)

    async def ainvalidate(
        self, *keys: str, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Do what `invalidate` does, asynchronously."""
        return await self.arun_invalidation(Invalidation.keys(rendered(keys, values)), wait=wait, durability=durability)

    delete = invalidate
    adelete = ainvalidate

    def invalidate_tags(
        self,
        *tags: str,
        match: str = "any",
        wait: bool = False,
        durability: Durability = "acknowledged",
        **values: Any,
    ) -> Receipt:
        """Invalidate every value with any of these tags, or with `match="all"` those that have all of them.

        The arguments and errors are those of `invalidate`.
        """
        return self.run_invalidation(tagged(tags, values, match), wait=wait, durability=durability)

    async def ainvalidate_tags(
        self,
        *tags: str,
        match: str = "any",
        wait: bool = False,
        durability: Durability = "acknowledged",
        **values: Any,
    ) -> Receipt:
        """Do what `invalidate_tags` does, asynchronously."""
        return await self.arun_invalidation(tagged(tags, values, match), wait=wait, durability=durability)

    def invalidate_pattern(
        self, pattern: str, *, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Invalidate every value whose logical key matches a glob.

        `vm:*` costs one marker, however many keys there are; any other glob goes to a bounded log. With `values` the
        pattern is a template, and wildcards in the values are literal.

        Raises:
            TemplateError: the pattern is malformed, too long, or has too many wildcards.
            InvalidationPending: only with `wait`.
        """
        return self.run_invalidation(patterned(pattern, values), wait=wait, durability=durability)

    async def ainvalidate_pattern(
        self, pattern: str, *, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Do what `invalidate_pattern` does, asynchronously."""
        return await self.arun_invalidation(patterned(pattern, values), wait=wait, durability=durability)

    def invalidate_model(self, model: Any, *, wait: bool = False, durability: Durability = "acknowledged") -> Receipt:
        """Invalidate every value of a cache model, or of a function's or model's name."""
        return self.run_invalidation(Invalidation.model(name_of(model)), wait=wait, durability=durability)

    async def ainvalidate_model(
        self, model: Any, *, wait: bool = False, durability: Durability = "acknowledged"
    ) -> Receipt:
        """Do what `invalidate_model` does, asynchronously."""
        return await self.arun_invalidation(Invalidation.model(name_of(model)), wait=wait, durability=durability)

    def clear(self, *, purge: bool = False, wait: bool = False, durability: Durability = "acknowledged") -> Receipt:
        """Invalidate the whole namespace; with `purge`, erase the stored payloads too instead of leaving them."""
        receipt = self.run_invalidation(Invalidation.everything(), wait=wait, durability=durability)
        if purge:
            self._run(_purge(self.engine))
        return receipt

    async def aclear(
        self, *, purge: bool = False, wait: bool = False, durability: Durability = "acknowledged"
    ) -> Receipt:
        """Do what `clear` does, asynchronously."""
        receipt = await self.arun_invalidation(Invalidation.everything(), wait=wait, durability=durability)
        if purge:
            await adrive(self.engine, _purge(self.engine))
        return receipt

    def run_invalidation(
        self, invalidation: Invalidation, *, wait: bool = False, durability: str = "acknowledged"
    ) -> Receipt:
        """Carry out an invalidation, or leave it to the enclosing `deferred_invalidation`."""
        self.check_open()
        invalidation = durable(invalidation, durability)
        deferral = current_deferral(self)
        if deferral is not None and (receipt := deferral.collect(invalidation)) is not None:
            return receipt
        return self.carry_out(invalidation).check(wait=wait)

    async def arun_invalidation(
        self, invalidation: Invalidation, *, wait: bool = False, durability: str = "acknowledged"
    ) -> Receipt:
        """Do what `run_invalidation` does, asynchronously; cancelling the caller does not stop it."""
        self.check_open()
        invalidation = durable(invalidation, durability)
        deferral = current_deferral(self)
        if deferral is not None and (receipt := deferral.collect(invalidation)) is not None:
            return receipt
        return (await self.acarry_out(invalidation)).check(wait=wait)

    def carry_out(self, invalidation: Invalidation, holder: bytes | None = None) -> Receipt:
        """Carry out an invalidation at once, ending the hold of a holder with it."""
        engine = self.engine
        try:
            question = begin(engine, invalidation) if holder is None and engine.traced is None else None
            if question is None:
                done = self._run(flows.invalidate(engine, invalidation, holder))
            else:
                # What the flow does, without one: it would decide nothing, and others wait for what it takes.
                reply: Any = DOWN
                try:
                    reply = ask(engine, question.tier, question.operation)
                finally:
                    done = settle(engine, invalidation, question, reply)
        except BaseException:
            self.undelivered()
            raise
        self.undelivered()
        return Receipt(engine, invalidation, done)

    async def acarry_out(
        self, invalidation: Invalidation, holder: bytes | None = None, *, after: threading.Event | None = None
    ) -> Receipt:
        """Do what `carry_out` does, asynchronously, once an event has come; cancelling the caller does not stop it."""
        task = self.begin_invalidation(invalidation, holder, after)
        try:
            done = await asyncio.shield(task)
        except BaseException:
            # The task goes on without its caller; what it cannot deliver is retried all the same.
            task.add_done_callback(lambda _: self.undelivered())
            raise
        self.undelivered()
        return Receipt(self.engine, invalidation, done)

    def begin_invalidation(
        self, invalidation: Invalidation, holder: bytes | None = None, after: threading.Event | None = None
    ) -> asyncio.Task[flows.Done]:
        """Begin what `acarry_out` does, and return the task that goes on whatever becomes of its caller."""
        task = running_loop().create_task(self._acarry_out(invalidation, holder, after))
        # Kept by itself: whatever is cancelled when the cache is closed, an invalidation that has begun is not.
        self._invalidations.add(task)
        task.add_done_callback(self._invalidations.discard)
        return task

    async def _acarry_out(
        self, invalidation: Invalidation, holder: bytes | None, after: threading.Event | None
    ) -> flows.Done:
        if after is not None and not after.is_set():
            await asyncio.get_running_loop().run_in_executor(None, after.wait)
        return await adrive(self.engine, flows.invalidate(self.engine, invalidation, holder))

    def _hurry(self) -> None:
        self.keeper.hurry()

    def undelivered(self) -> None:
        """Have what is pending retried, if anything is."""
        if self.engine.pending:
            self._delivery.ensure()

    def _deliver(self) -> bool:
        return drive(self.engine, flows.deliver(self.engine))


def _purge(engine: Engine) -> Generator[Any, Any, None]:
    for tier in engine.shared:
        yield tier, Purge()
    engine.pipeline.dictionaries.forget()
