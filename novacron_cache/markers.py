"""Dependency ids: when is a cached value still valid?

Theory. A value depends on things that can be invalidated: its logical key, its tags, its model, the first segment of
its key, the namespace, and the log of rules (globs). Each such *dependency* has a *marker* in the nearest shared
tier holding a random *id*. A stored value carries the ids of all its dependencies, read **before** its load began;
it is served only while every one of them is the current one. Invalidating is giving the marker a new id: one small
write, however many values depend on it, and a loader that started earlier stores a value that no longer matches. Ids
are never reused, and a missing marker matches nothing, so that losing a marker costs a miss and never a stale read.

A *rule* is an invalidation that no marker can name: a glob other than `<first segment>:*`, or "all of these tags".
The log keeps the newest rules under one head id. A value whose captured head is older than the current one is tested
against the rules that came after its head; when its head is no longer in the log, it is invalid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final, TypeGuard

from .errors import CacheError
from .keys import Glob, first_segment

ID_BYTES: Final = 8
"""Random bytes in an id: 2**64 values. Of a dependency that is renewed a thousand times a second while there are a
million values with earlier ids of it, one is expected to meet its id again after some six hundred years."""

MAX_NAMED: Final = 512
"""Characters of a key, tag or segment in the name of a dependency."""

NAMESPACE: Final = "n"
RULES: Final = "g"
WATCHED: Final = "o"
"""What nothing depends on: its signal asks processes to publish their figures."""

MAX_RULES: Final = 256
"""How many rules the log holds."""


def new_id() -> bytes:
    """Return an id that was never used before; from the system's generator, so that a fork cannot repeat one."""
    return os.urandom(ID_BYTES)


def is_id(found: object) -> TypeGuard[bytes]:
    """Return whether something that was read may be an id."""
    return type(found) is bytes and len(found) == ID_BYTES


def short(text: str) -> str:
    """Return a key, tag or segment as it stands in the name of a dependency, which is paid for in every request.

    A long one is cut and ends in a digest. Two texts that share a name are invalidated together, which is safe.
    """
    if len(text) <= MAX_NAMED:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    return f"{text[: MAX_NAMED - len(digest) - 2]}~h{digest}"


def key_dep(logical: str) -> str:
    """Return the dependency of a logical key."""
    return "k:" + short(logical)


def tag_dep(tag: str) -> str:
    """Return the dependency of a tag."""
    return "t:" + short(tag)


def model_dep(name: str) -> str:
    """Return the dependency of a model or function name."""
    return "m:" + name


def segment_dep(segment: str) -> str:
    """Return the dependency of all keys that begin with `<segment>:`."""
    return "p:" + short(segment)


def dependencies(logical: str, name: str, tags: Iterable[str]) -> tuple[str, ...]:
    """Return every dependency of a value, the fixed ones first, in a stable order."""
    key = "k:" + logical if len(logical) <= MAX_NAMED else key_dep(logical)  # asked of every value that is read
    return (*_common(name, first_segment(logical)), key, *map(tag_dep, tags))


@lru_cache(maxsize=1024)
def _common(name: str, segment: str) -> tuple[str, str, str, str]:
    return NAMESPACE, RULES, model_dep(name), segment_dep(segment)


@dataclass(frozen=True, slots=True)
class Rule:
    """An invalidation that no single marker names.

    Attributes:
        glob: a pattern over logical keys, or None.
        all_tags: tags that a value must all have to be hit, or empty.
        after: the head of the log when the rule was appended.
        at: epoch seconds at which that was.
    """

    glob: str | None = None
    all_tags: tuple[str, ...] = ()
    after: bytes = b""
    at: float = 0.0

    def matcher(self) -> Callable[[str, Sequence[str]], bool]:
        """Return a predicate over (logical key, tags)."""
        if self.glob is not None:
            matches = Glob(self.glob).matches
            return lambda logical, _tags: matches(logical)
        wanted = frozenset(self.all_tags)
        return lambda _logical, tags: wanted.issubset(tags)

    def following(self, head: bytes, at: float) -> Rule:
        """Return the rule as it is appended to a log with this head at this time (epoch seconds)."""
        return Rule(self.glob, self.all_tags, head, at)

    def encode(self) -> bytes:
        """Return the rule as it travels to the log."""
        what = {"g": self.glob} if self.glob is not None else {"t": list(self.all_tags)}
        return json.dumps({**what, "after": self.after.hex(), "at": round(self.at)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Rule:
        """Return the rule that `encode` wrote; raises ValueError and the like for anything else."""
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError("not a rule")
        after, at = bytes.fromhex(fields.get("after", "")), float(fields.get("at", 0))
        if isinstance(glob := fields.get("g"), str):
            return cls(glob=glob, after=after, at=at)
        if isinstance(tags := fields.get("t"), list):
            return cls(all_tags=tuple(map(str, tags)), after=after, at=at)
        raise ValueError("not a rule")


class RuleLog:
    """The parsed rule log as of one head id."""

    __slots__ = ("_matchers", "_newer", "_times", "head")

    def __init__(self, head: bytes, rules: Sequence[tuple[bytes, bytes]]) -> None:
        self.head = head
        self._matchers: list[Callable[[str, Sequence[str]], bool]] = []
        self._times: list[float] = []
        written: dict[bytes, int] = {}
        appended_to: dict[bytes, int] = {}
        for position, (rule_id, data) in enumerate(rules):
            written[rule_id] = position
            try:
                rule = Rule.decode(data)
                # Two writers may append to one head; a value captured there must be tested against both.
                appended_to[rule.after] = position + 1
                self._matchers.append(rule.matcher())
                self._times.append(rule.at)
            except (ValueError, TypeError, ArithmeticError, RecursionError, CacheError):
                # A rule that cannot be read may mean anything, so it matches everything.
                self._matchers.append(lambda _logical, _tags: True)
        self._newer = appended_to | written

    def since(self, epoch: float) -> int:
        """Return how many rules were appended after a time (epoch seconds)."""
        return sum(at > epoch for at in self._times)

    @property
    def complete(self) -> bool:
        """Whether the log reaches its own head: not so when it was lost, or was read before a writer finished."""
        return self.head in self._newer

    def spares(self, captured: bytes, logical: str, tags: Sequence[str]) -> bool:
        """Return whether no rule newer than the captured head hits this value."""
        newest, end = self._newer.get(self.head), self._newer.get(captured)
        if newest is None or end is None:
            return False
        return not any(matches(logical, tags) for matches in self._matchers[newest:end])


def valid(
    captured: Sequence[tuple[str, bytes]],
    current: Callable[[str], bytes | None],
    logical: str,
    tags: Sequence[str],
    log: RuleLog | None = None,
) -> bool:
    """Return whether a value may be served.

    Args:
        captured: (dependency, id) pairs read before the value's load.
        current: the id that a dependency has now, or None when its marker is missing.
        logical: the value's logical key, for the rules.
        tags: the value's tags, for the rules.
        log: the rule log at the current head; needed only where the head moved.
    """
    for dep, captured_id in captured:
        now = current(dep)
        if now == captured_id:
            continue
        if dep != RULES or now is None or log is None or log.head != now:
            return False
        if not log.spares(captured_id, logical, tags):
            return False
    return bool(captured)
