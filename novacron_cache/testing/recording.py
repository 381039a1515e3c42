"""What a test looks at afterwards: the events of a cache, in the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

from ..errors import DeclarationError, nearest
from ..events import EVENTS, Event
from .driving import eventually

__all__ = ["Events"]

E = TypeVar("E", bound=Event)


class Events(Sequence[Event]):
    """The events since the beginning of the test, or since `clear()`; hits in process memory emit none.

    Args:
        on: where they are listened for: the method `on` of a cache.
    """

    def __init__(self, on: Callable[[str, Callable[[Any], None]], Callable[[], None]]) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self.stop: Callable[[], None] = on("*", self._take)

    def _take(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    @overload
    def of(self, kind: type[E]) -> list[E]: ...
    @overload
    def of(self, kind: str) -> list[Event]: ...
    def of(self, kind: str | type[Event]) -> list[Any]:
        """Return those of one kind.

        Args:
            kind: an event class, or its name, such as `"not_stored"`.

        Raises:
            DeclarationError: there is no such kind.
        """
        if isinstance(kind, str):
            if kind not in EVENTS:
                raise DeclarationError(f"no event is called {kind!r}{nearest(kind, EVENTS)}")
            kind = EVENTS[kind]
        return [event for event in self if isinstance(event, kind)]

    def wait_for(self, kind: str | type[Event], *, within: float = 5.0) -> Event:
        """Return the first event of a kind, waiting for it where it has not come yet.

        Args:
            kind: as for `of`.
            within: seconds of real time, whatever clock the cache has.

        Raises:
            AssertionError: none came.
        """
        self.of(kind)  # a kind that is misspelt is not waited for
        if not eventually(lambda: bool(self.of(kind)), within=within):
            name = kind if isinstance(kind, str) else kind.kind
            raise AssertionError(f"no {name!r} within {within} s; there were {self.kinds() or 'no events'}")
        found: Event = self.of(kind)[0]
        return found

    def kinds(self) -> list[str]:
        """Return the names of all events in their order."""
        return [event.kind for event in self]

    def clear(self) -> None:
        """Forget what has come so far."""
        with self._lock:
            self._events.clear()

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        with self._lock:
            return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        with self._lock:
            return iter(self._events.copy())

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"<Events {self.kinds()}>"
