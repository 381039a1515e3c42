"""Spans for what a call does beyond process memory: the call, each operation of a tier, each load, each wait for one.

A flow yields everything it wants done, so one generator around it sees all of that. The drivers put it there when an
engine has one; neither they nor the tiers know more. A flow that yields nothing was a hit in process memory: no span is
begun for it. Since a generator runs in the context of whoever drives it, the span of an operation is the current one
while its tier works, or its loader runs, in threads and in tasks alike.

The events that a flow emits say what its effects do not: the model, the key, why it was a miss. Keys hold what users
are called, so they are marks unless they are asked for (see `logs`).

This module needs OpenTelemetry's API; `tracing` imports it when it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from ..effects import DOWN, AwaitLease, Fetched, Join, Load, LoadEach
from ..events import Event, Hit, Invalidated, Loaded, LoadFailed, Miss, Stored, TierFailed
from .conventions import Attributes, Place, name_and_attributes, name_of, type_of
from .logs import Redactor
from .recording import error_kind

T = TypeVar("T")
Flow: TypeAlias = Generator[Any, Any, T]


class Tracing:
    """Puts spans around flows.

    Args:
        tracer: who makes them.
        places: where each tier is, by its name.
        namespace: the cache's.
        redactor: shows keys.
        texts: whether errors of loaders are recorded with their text.
    """

    def __init__(
        self, tracer: Tracer, places: Mapping[str, Place], *, namespace: str, redactor: Redactor, texts: bool
    ) -> None:
        self._tracer = tracer
        self._places = places
        self._common: Attributes = {"cache.namespace": namespace} if namespace else {}
        self.redactor = redactor
        self.texts = texts

    def __call__(self, flow: Flow[T]) -> Flow[T]:
        """Return a flow that does the same within spans."""
        call = _Call(self, getattr(flow, "__name__", "flow").strip("_"))
        before = _current.set(call)
        answer: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    effect = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                scope = call.begin(effect)
                answer, error = None, None
                try:
                    answer = yield effect
                except BaseException as raised:
                    error = raised
                if scope is not None:
                    call.conclude(scope, answer, error)
        except BaseException as raised:
            call.raised = raised
            raise
        finally:
            flow.close()
            call.end()
            with suppress(ValueError):  # a coroutine that was thrown away is closed in another context
                _current.reset(before)

    def span(self, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> Scope:
        """Begin a span and make it the current one."""
        return Scope(self._tracer.start_span(name, kind=kind, attributes={**self._common, **attributes}))

    def operation(self, pair: Any) -> Scope:
        """Begin the span of one operation of a tier."""
        tier, operation = pair
        name, attributes = name_and_attributes(tier, operation, self._places.get(tier.name, dict)())
        return self.span(name, attributes, SpanKind.CLIENT)


class Scope:
    """A span that is the current one from the beginning to its end."""

    __slots__ = ("_context", "_token", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self._context: Context = set_span_in_context(span)
        self._token = attach(self._context)

    def failed(self, kind: str, text: str = "") -> None:
        """Mark the span as failed, with the type of the error."""
        self.span.set_attribute("error.type", kind)
        self.span.set_status(Status(StatusCode.ERROR, text or kind))

    def end(self) -> None:
        """End the span; what was current before is so again."""
        # A coroutine that was thrown away is closed in another context, where there is nothing to put back.
        if get_current() is self._context:
            detach(self._token)
        self.span.end()


class _Call:
    """One call: its span, begun with the first thing that its flow asks for, and what its events said.

    Attributes:
        raised: what it ended with, if not with a result.
    """

    __slots__ = (
        "_counts",
        "_failure",
        "_flow",
        "_invalidated",
        "_key",
        "_miss",
        "_model",
        "_scope",
        "_tracing",
        "raised",
    )

    def __init__(self, tracing: Tracing, flow: str) -> None:
        self._tracing = tracing
        self._flow = flow
        self._scope: Scope | None = None
        self._counts: dict[str, int] = {}
        self._model = ""
        self._key: str | None = None
        self._miss: str | None = None
        self._invalidated: Attributes = {}
        self._failure: str | None = None
        self.raised: BaseException | None = None

    # -- steps --------------------------------------------------------------------------------------------------------

    def begin(self, effect: Any) -> Scope | None:
        """Begin the span of what the flow asks for; None where it has none."""
        tracing = self._tracing
        if self._scope is None:
            self._scope = tracing.span(f"cache {self._flow}", {})
        if type(effect) is tuple:
            self._failure = None
            return tracing.operation(effect)
        if isinstance(effect, Load):
            return self._load(effect, 1)
        if isinstance(effect, LoadEach) and effect.loads:
            return self._load(effect.loads[0], len(effect.loads))
        if isinstance(effect, Join | AwaitLease):
            loading = "process" if isinstance(effect, Join) else "fleet"
            return tracing.span("wait for a load", {"cache.wait": loading})
        return None

    def _load(self, load: Load, count: int) -> Scope:
        name, full = name_of(load.call)
        attributes: Attributes = {**self._about(), "code.function.name": full}
        if count > 1:
            attributes["cache.loads"] = count
        return self._tracing.span(f"load {name}", attributes)

    def conclude(self, scope: Scope, answer: Any, error: BaseException | None) -> None:
        """End the span of what the flow asked for."""
        if error is not None:
            if self._tracing.texts:
                scope.span.record_exception(error)
            scope.failed(type_of(error), str(error) if self._tracing.texts else "")
        elif answer is DOWN:
            # A tier that its breaker leaves alone has not been asked, so nobody said why.
            scope.failed(self._failure or "breaker_open")
        else:
            reply = answer[0] if type(answer) is tuple and answer else answer
            if isinstance(reply, Fetched) and reply.payloads:
                found = sum(payload is not None for payload in reply.payloads)
                scope.span.set_attribute("cache.found", found)
        scope.end()

    def end(self) -> None:
        """End the span of the call, if it has one."""
        scope = self._scope
        if scope is None:
            return
        counts, span = self._counts, scope.span
        span.set_attributes(
            {**self._about(), **self._invalidated, **{f"cache.{what}": count for what, count in counts.items()}}
        )
        if self.raised is not None:
            scope.failed(type_of(self.raised), str(self.raised) if self._tracing.texts else "")
        scope.end()

    # -- what events say ----------------------------------------------------------------------------------------------

    def tell(self, what: str, model: str, key: str, reason: str | None = None) -> None:
        """Note what an event says of one key."""
        if not self._counts:
            self._model, self._key = model, key
        elif key != self._key:
            self._key = None  # it is about several
        self._counts[what] = self._counts.get(what, 0) + 1
        if self._miss is None:
            self._miss = reason

    def invalidated(self, what: str, values: tuple[str, ...]) -> None:
        """Note what was invalidated."""
        shown = self._tracing.redactor.shown
        self._invalidated["cache.invalidated"] = what
        if len(values) == 1:
            self._invalidated[f"cache.{what}"] = values[0] if what in ("model", "namespace") else shown(values[0])

    def tier_failed(self, error: BaseException) -> None:
        """Note why the operation under way failed."""
        self._failure = error_kind(error)

    def load_failed(self, served_stale: bool) -> None:
        """Note that a value in its grace period hid a loader's error, which the span of the load has."""
        if served_stale and self._scope is not None:
            self._scope.span.set_attribute("cache.stale", True)

    def _about(self) -> Attributes:
        found: Attributes = {}
        if self._model:
            found["cache.model"] = self._model
        if self._key is not None:
            found["cache.key"] = self._tracing.redactor.shown(self._key)
        if self._miss is not None:
            found["cache.miss.reason"] = self._miss
        return found


_current: ContextVar[_Call | None] = ContextVar("novacron_cache call", default=None)
"""The call whose flow is being driven here, for the events that it emits."""


def _heard(note: Callable[[_Call, Any], None]) -> Callable[[Any], None]:
    def listen(event: Any) -> None:
        call = _current.get()
        if call is not None:
            note(call, event)

    return listen


LISTENERS: Final[dict[type[Event], Callable[[Any], None]]] = {
    Hit: _heard(lambda call, event: call.tell("hits", event.name, event.key)),
    Miss: _heard(lambda call, event: call.tell("misses", event.name, event.key, event.reason)),
    Loaded: _heard(lambda call, event: call.tell("loaded", event.name, event.key)),
    Stored: _heard(lambda call, event: call.tell("stored", event.name, event.key)),
    LoadFailed: _heard(lambda call, event: call.load_failed(event.served_stale)),
    Invalidated: _heard(lambda call, event: call.invalidated(event.what, event.values)),
    TierFailed: _heard(lambda call, event: call.tier_failed(event.error)),
}
"""What tells the call under way of the events that its flow emits."""
