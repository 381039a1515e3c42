"""Capturing ids: what a value that is about to be loaded, or just was, will carry.

Ids read before the load are worth most: whatever is invalidated afterwards gets another one. Those of tags that only
the result names are read after it, and count where the link proves that nothing came between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from ..effects import DOWN, Barrier, Capture
from ..engine import Engine
from ..errors import CacheError
from ..markers import tag_dep
from ..requests import Request
from .reading import Found


def capture(engine: Engine, misses: Sequence[tuple[Request, Found]]) -> Generator[Any, Any, None]:
    """Complete the ids of the values about to be loaded, creating those that are missing."""
    missing = missing_ids(misses)
    if missing:
        reply = yield engine.authority, Capture(missing, engine.marker_life())
        take_in(engine, misses, missing, reply)


def missing_ids(misses: Sequence[tuple[Request, Found]]) -> list[str]:
    """Return the dependencies that still need an id, as far as they are known."""
    return list(
        dict.fromkeys(
            dep for request, one in misses if one.shared for dep in foreseen(request, one) if dep not in one.ids
        )
    )


def take_in(engine: Engine, misses: Sequence[tuple[Request, Found]], missing: Sequence[str], reply: Any) -> None:
    """Note what the authority answered to the capture of what was missing."""
    wanted = [(request, one) for request, one in misses if one.shared]
    if reply is DOWN:
        for _, one in wanted:
            one.shared = False
        return
    captured: dict[str, bytes | None] = dict(zip(missing, reply, strict=True))
    engine.lives.prolonged(dep for dep, marker_id in captured.items() if marker_id is not None)
    for request, one in wanted:
        for dep in foreseen(request, one):
            if dep not in one.ids:
                marker_id = captured[dep]
                if marker_id is None:
                    one.held, one.shared = True, False
                else:
                    one.ids[dep] = marker_id


def capture_late(engine: Engine, loaded: Sequence[tuple[Request, Found, Any]], token: int) -> Generator[Any, Any, None]:
    """Read the ids of tags that only the results name, where the link can tell that nothing invalidated them meanwhile.

    An id read after the load proves nothing by itself: the tag may have been invalidated during the load. The barrier
    sees to it that every invalidation before the reading is in the history by now.
    """
    wanted: list[tuple[Found, list[str]]] = []
    for request, one, value in loaded:
        if one.shared and request.late_tags is not None:
            with contextlib.suppress(CacheError):  # making the entry says what is wrong with the value
                wanted.append((one, [dep for dep in map(tag_dep, request.all_tags(value)) if dep not in one.ids]))
    late = list(dict.fromkeys(dep for _, deps in wanted for dep in deps))
    if not late or not engine.watches(token):
        return
    reply = yield engine.authority, Capture(late, engine.marker_life())
    if reply is DOWN or not (yield Barrier()) or not engine.watches(token):
        return
    held = {dep for dep, marker_id in zip(late, reply, strict=True) if marker_id is None}
    for one, deps in wanted:
        one.held = one.held or not held.isdisjoint(deps)
    proven = {
        dep: marker_id
        for dep, marker_id in zip(late, reply, strict=True)
        if marker_id is not None and not engine.history.hits(token, (dep,), "", ())
    }
    engine.lives.prolonged(proven)
    # Keys that were asked for together share what was read; a copy for each would be as many times as large.
    completed: dict[int, tuple[dict[str, bytes], dict[str, bytes]]] = {}
    for _, one, _ in loaded:
        known = one.ids
        one.ids = completed.setdefault(id(known), (known, known | proven))[1]


def foreseen(request: Request, one: Found) -> tuple[str, ...]:
    """Return the dependencies that the loaded value will have, as far as that is known."""
    if request.late_tags is None or one.expected == request.tags:
        return request.deps
    return (*request.deps, *map(tag_dep, one.expected))
