"""How a value becomes an entry of process memory and a payload of shared tiers, and how a payload comes back.

An entry keeps a value as it is only where nobody can change it; of any other it keeps the serialised form, from which
each caller gets a value of its own. Times in a payload are epoch seconds by the authority's clock, those of an entry
are monotonic seconds of this process: every passage from one to the other is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .codecs import Header, Pipeline
from .entry import Clock, Entry, Ids, share_ids
from .errors import CachedValueError
from .requests import Plan, Request
from .tiers import Tier
from .tiers.memory import MemoryTier

Form: TypeAlias = tuple[Any, bool, bytes | None]
"""A value as it is kept, whether all callers may share it, and its serialised form where one is needed."""


class Values:
    """Makes the entries and the payloads of one cache.

    Args:
        pipeline: how payloads are sealed and opened.
        clock: the time of this process.
        wall: returns epoch seconds by the authority's clock.
        memory: process memory, or None where it is switched off.
        shared: the tiers beyond it, nearest first.
        most: seconds that an entry lives at most where there is no shared tier.
        set_deadline: sets until when process memory may serve an entry that was read or made after the third
            argument (monotonic seconds; None is now).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        clock: Clock,
        wall: Callable[[], float],
        memory: MemoryTier | None,
        shared: Sequence[Tier],
        most: float,
        set_deadline: Callable[[Entry, Plan, float | None], None],
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._wall = wall
        self._memory = memory
        self._shared = shared
        self._most = most
        self._set_deadline = set_deadline

    def make_entry(
        self,
        request: Request,
        value: Any,
        *,
        ttl: float,
        tags: tuple[str, ...],
        ids: Ids,
        shared: bool,
        asked: float | None = None,
        form: Form | None = None,
    ) -> tuple[Entry, bytes | None]:
        """Return a new entry for a loaded or given value, and its serialised form where one was needed.

        Raises:
            CachedValueError: the value is not of the declared type, or cannot be serialised; not where its `form` is
                given.
        """
        plan = request.plan
        value, live, body = form or self.form(request, value, shared=shared)
        now, wall = self._clock.monotonic(), self._wall()
        # Without a shared tier nothing outlives what process memory may keep.
        expires = now + (ttl if self._shared else min(ttl, self._most))
        entry = Entry(
            request.key,
            value if live else None,
            body=None if live else body,
            logical=request.logical,
            name=plan.name,
            tags=tags,
            ids=share_ids(ids),
            expires=expires,
            grace=plan.grace,
            created=wall,
            size=self._size(live, value, body),
        )
        self._set_deadline(entry, plan, asked)
        return entry, body

    def form(self, request: Request, value: Any, *, shared: bool) -> Form:
        """Return a value as it is kept, whether callers may share it, and its serialised form where one is needed.

        Raises:
            CachedValueError: the value is not of the declared type, or cannot be serialised.
        """
        plan, schema = request.plan, request.plan.schema
        if value is None and plan.none_allowed:
            return None, True, None
        schema.validate(value, key=request.logical, label=plan.label)
        live = schema.is_exact(value)
        body = None if live and not shared else self._encode(request, value, exact=live)
        return schema.settle(value) if live else value, live, body

    def _encode(self, request: Request, value: Any, *, exact: bool) -> bytes:
        try:
            return request.plan.schema.encode(value, exact=exact)
        except CachedValueError as error:
            raise CachedValueError(
                f"{request.plan.label} for key {request.logical!r}: {error}",
                key=request.logical,
                expected=error.expected,
            ) from error

    def _size(self, live: bool, value: Any, body: bytes | None) -> int:
        if self._memory is None or self._memory.max_bytes is None:
            return 0
        return self._memory.weigh(value) if live else len(body or b"")

    def seal(self, request: Request, entry: Entry, body: bytes | None) -> bytes:
        """Return the payload of an entry as shared tiers keep it."""
        wall, now = self._wall(), self._clock.monotonic()
        header = Header(
            fingerprint=request.plan.schema.fingerprint,
            created=entry.created,
            expires=wall + entry.expires - now,
            stale_until=wall + entry.stale_until - now,
            ids=entry.ids,
            tags=entry.tags,
            is_none=body is None,
        )
        dictionaries, plan = self._pipeline.dictionaries, request.plan
        homes = self.homes(plan) if dictionaries.writes else ()
        dictionary = dictionaries.newest((homes[0].name, plan.name)) if homes else None
        return self._pipeline.seal(request.key, header, body, dictionary)

    def homes(self, plan: Plan) -> list[Tier]:
        """Return the shared tiers that keep the values of a plan, nearest first."""
        return [tier for tier in self._shared if tier.name in plan.tiers]

    def unseal(self, request: Request, payload: bytes) -> tuple[Header, bytes]:
        """Return the header and the body of a payload.

        Raises:
            DecodeError: it is damaged, foreign, or of another schema.
        """
        return self._pipeline.open(
            request.key, payload, logical=request.logical, name=request.plan.name,
            fingerprint=request.plan.schema.fingerprint,
        )  # fmt: skip

    def revive(self, request: Request, header: Header, body: bytes, asked: float | None = None) -> Entry:
        """Return the entry of a payload that was read from a shared tier; it keeps its remaining life.

        Args:
            request: what was asked for.
            header: the payload's header.
            body: its body.
            asked: as for `set_deadline`.

        Raises:
            DecodeError: the body does not fit the schema.
        """
        plan = request.plan
        value = None if header.is_none else plan.schema.decode(body)
        times = header.created, header.expires, header.stale_until
        body_ = None if header.is_none else body
        ids = share_ids(header.ids)
        return self.revived(plan, request.key, request.logical, value, body_, times, header.tags, ids, asked)

    def revived(
        self,
        plan: Plan,
        key: str,
        logical: str,
        value: Any,
        body: bytes | None,
        times: tuple[float, float, float],
        tags: tuple[str, ...],
        ids: Ids,
        asked: float | None,
    ) -> Entry:
        """Do what `revive` does with a value that was decoded already.

        Args:
            plan: how it is kept.
            key: the stored key.
            logical: the logical key.
            value: the value.
            body: what it was decoded from; None where the value is None.
            times: epoch seconds at which it was stored, expires, and can stand in no longer.
            tags: its tags.
            ids: the (dependency, id) pairs under which it is valid.
            asked: as for `set_deadline`.
        """
        live = body is None or plan.schema.is_exact(value)
        if live and body is not None:
            value = plan.schema.settle(value)
        created, expires, stale_until = times
        now, wall = self._clock.monotonic(), self._wall()
        entry = Entry(
            key,
            value if live else None,
            body=None if live else body,
            logical=logical,
            name=plan.name,
            tags=tags,
            ids=ids,
            expires=now + (expires - wall),
            grace=round(stale_until - expires, 3),
            created=created,
            size=self._size(live, value, body),
        )
        self._set_deadline(entry, plan, asked)
        return entry
