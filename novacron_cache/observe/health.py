"""Health: can the cache be used, and what is wrong with it.

A cache whose server is gone still answers, from memory and from its loaders, so it is `degraded` and not `down`:
whoever takes a process out of service for that makes the outage worse. `down` is what a call would notice: the cache is
closed, or no tier can keep anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ..drivers import adrive, drive
from ..effects import DOWN, Fetch
from ..errors import TierError
from ..link.machine import LinkState
from ..markers import NAMESPACE
from .recording import Recorder
from .taking import pending_seconds

if TYPE_CHECKING:
    from ..cache import Cache

Status: TypeAlias = Literal["healthy", "degraded", "down"]

_KINDS: Final = {"k": "key", "t": "tag", "m": "model", "p": "pattern", "n": "namespace", "g": "pattern"}


@dataclass(frozen=True, slots=True)
class TierHealth:
    """How one tier is.

    Attributes:
        name: the tier's name.
        ok: whether it answered just now.
        breaker: `closed` or `open`; process memory has none and is `closed`.
        latency: seconds that it took to answer, or None where it did not.
        last_error: the text of its latest error, or None; it holds no keys, values or secrets.
        last_error_age: seconds since then, or None.
    """

    name: str
    ok: bool
    breaker: Literal["closed", "open"] = "closed"
    latency: float | None = None
    last_error: str | None = None
    last_error_age: float | None = None


@dataclass(frozen=True, slots=True)
class PendingHealth:
    """Invalidations that have not reached the shared tier; they are retried, and this process reads around them.

    Attributes:
        count: how many.
        oldest_age: for how many seconds something has been pending.
        what: how many of each kind: `key`, `tag`, `model`, `pattern`, `namespace`.
    """

    count: int = 0
    oldest_age: float = 0.0
    what: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """How a cache is.

    Attributes:
        status: `healthy`; `degraded`, when it works but something is wrong; `down`, when it cannot be used.
        problems: what is wrong, one sentence each.
        tiers: each tier, nearest first.
        link: the state of the link, or None where nothing is shared; `idle` before it was first needed.
        pending: what has not been delivered.
        topology: the servers of a sentinel or cluster deployment as they were last seen, or None.
    """

    status: Status
    problems: tuple[str, ...] = ()
    tiers: tuple[TierHealth, ...] = ()
    link: str | None = None
    pending: PendingHealth = field(default_factory=PendingHealth)
    topology: dict[str, Any] | None = None

    @property
    def usable(self) -> bool:
        """Whether calls are answered at all."""
        return self.status != "down"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for JSON; tiers by name."""
        plain = asdict(self)
        plain["problems"] = list(self.problems)
        plain["tiers"] = {tier.pop("name"): tier for tier in plain["tiers"]}
        return plain


CLOSED: Final = Health("down", ("the cache is closed",))


def check(cache: Cache, recorder: Recorder) -> Health:
    """Return the health of a cache, having asked each tier; never raises."""
    if cache.closed:
        return CLOSED
    try:
        return _judged(cache, recorder, drive(cache.engine, _ask(cache)))
    except Exception as error:
        return _broken(cache, error)


async def acheck(cache: Cache, recorder: Recorder) -> Health:
    """Do what `check` does, asynchronously."""
    if cache.closed:
        return CLOSED
    try:
        return _judged(cache, recorder, await adrive(cache.engine, _ask(cache)))
    except Exception as error:
        return _broken(cache, error)


def _broken(cache: Cache, error: Exception) -> Health:
    if cache.closed:  # meanwhile
        return CLOSED
    return Health("degraded", (f"the check itself failed: {type(error).__name__}",))


def _ask(cache: Cache) -> Generator[Any, Any, dict[str, float | None]]:
    """Have each shared tier read one marker, as every call does; return the seconds it took, None where it failed.

    It goes through the breaker: a tier that is left alone is asked when its pause is over, and that may close it.
    """
    found: dict[str, float | None] = {}
    for tier in cache.engine.shared:
        started = time.perf_counter()
        reply = yield tier, Fetch([], [NAMESPACE])
        found[tier.name] = None if reply is DOWN else time.perf_counter() - started
    return found


def _judged(cache: Cache, recorder: Recorder, latencies: dict[str, float | None]) -> Health:
    engine = cache.engine
    problems: list[str] = []
    tiers = [TierHealth("memory", True)] if engine.memory is not None else []
    now = engine.clock.monotonic()
    for tier in engine.shared:
        latency = latencies[tier.name]
        is_open = engine.breakers[tier.name].is_open
        text, at = recorder.last_errors.get(tier.name, (None, now))
        tiers.append(
            TierHealth(
                tier.name,
                latency is not None,
                "open" if is_open else "closed",
                latency,
                text,
                None if text is None else max(0.0, now - at),
            )
        )
        if latency is None:
            problems.append(f"the {tier.name} tier does not answer" + (f": {text}" if text else ""))
    pending = _pending(cache, recorder)
    if pending.count:
        problems.append(f"{pending.count} invalidations have not reached the shared tier")
    link = _link(cache)
    if link in (LinkState.LOST.value, LinkState.STOPPED.value):
        problems.append("the link is lost: invalidations of other processes arrive within the staleness bound")
    topology = _topology(cache)
    if topology is not None and not topology.get("confirmed", True):
        problems.append("no majority has said lately which servers are the masters")
    if not any(tier.ok for tier in tiers):
        return Health("down", tuple(problems), tuple(tiers), link, pending, topology)
    return Health("degraded" if problems else "healthy", tuple(problems), tuple(tiers), link, pending, topology)


def _pending(cache: Cache, recorder: Recorder) -> PendingHealth:
    markers, rules = cache.engine.pending.snapshot()
    what = Counter(_KINDS.get(dep[:1], "other") for dep, _ in markers)
    if rules:
        what["pattern"] += len(rules)
    return PendingHealth(len(markers) + len(rules), pending_seconds(cache, recorder), dict(what))


def _link(cache: Cache) -> str | None:
    link = cache.engine.link
    if link is None:
        return None
    return "idle" if link.state is LinkState.CONNECTING else link.state.value


def _topology(cache: Cache) -> dict[str, Any] | None:
    for tier in cache.engine.shared:
        look = getattr(tier, "topology", None)
        if look is not None:
            found = look()
            if found is None:
                return None
            plain = asdict(found)
            age = plain.get("age")
            plain["age"] = None if age is None or age == float("inf") else age  # JSON has no infinity
            return plain
    return None


def read_server_memory(cache: Cache) -> dict[str, tuple[float, float | None]]:
    """Return the bytes that the server of each shared tier uses and may use; a tier that cannot tell is left out.

    Of several servers it is the fullest.
    """
    found: dict[str, tuple[float, float | None]] = {}
    for tier in cache.engine.shared:
        servers = getattr(tier, "servers", None)
        if servers is None or cache.engine.breakers[tier.name].is_open:
            continue
        try:
            told = [one for server in servers() if (one := _memory_of(tier, server)) is not None]
        except Exception:  # noqa: S112 - the figure is missing then; what is wrong shows elsewhere
            continue
        if told:
            found[tier.name] = max(told, key=lambda one: (one[0] / one[1] if one[1] else 0.0, one[0]))
    return found


def read_disk_use(cache: Cache) -> dict[str, tuple[float, float]]:
    """Return the bytes that each tier on disk takes and may take; one that cannot tell is left out."""
    found: dict[str, tuple[float, float]] = {}
    for tier in cache.engine.shared:
        volume = getattr(tier, "volume", None)
        if volume is not None and not cache.engine.breakers[tier.name].is_open:
            with suppress(TierError):
                found[tier.name] = float(volume()), float(cache.settings.disk.size_limit)
    return found


def _memory_of(tier: Any, server: str) -> tuple[float, float | None] | None:
    try:
        text = tier.ask(server, "INFO", "memory").decode("utf-8", "replace")
    except TierError:
        return None
    said = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return float(said["used_memory"]), float(said.get("maxmemory", 0)) or None
