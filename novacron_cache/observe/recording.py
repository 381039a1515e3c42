"""What happens beyond a hit in process memory, counted as it happens.

The recorder listens to the events of a cache, and the drivers tell it how long each operation of a tier took. A hit in
process memory does neither; its counter is read when somebody looks (`taking`). Labels are bounded whatever an
application does: the first names get one of their own, all later ones share `other`, and a name keeps its label, for a
counter that moved between labels would look as if it had run backwards.

Like the counters of names, these are plain integers without a lock (see `histogram`).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final, TypeVar

from ..effects import Operation
from ..engine import Engine
from ..entry import Entry
from ..errors import TierError, TierUnavailableError
from ..events import (
    Corrupt,
    Evicted,
    FailedOver,
    GenerationChanged,
    Invalidated,
    InvalidationDelayed,
    LinkLost,
    Loaded,
    LoadFailed,
    Miss,
    NotStored,
    RuleLogFull,
    TierDown,
    TierFailed,
)
from .histogram import ExemplarSource, Histogram
from .snapshot import Labels

T = TypeVar("T")

OTHER: Final = "other"
"""The label of whatever came after the last label of its own had been given away."""

PLAIN: Final = "(plain keys)"
"""The label of keys without a model or function."""

MAX_MODELS: Final = 200
MAX_OPERATIONS: Final = 50
MAX_ERRORS: Final = 30
MAX_GHOSTS: Final = 4096
"""How many evicted keys are remembered, to tell a value that was evicted from one that never was; and how many misses,
to say why."""


class LabelSet:
    """Gives the first names a label of their own, and `other` to all later ones.

    Args:
        limit: how many get one.
    """

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the label of a name, always the same."""
        label = self._known.get(name)
        if label is None:
            if len(self._known) >= self._limit:
                return OTHER
            label = self._known.setdefault(name, name or PLAIN)
        return label


class Recorder:
    """Counts the events of one cache.

    Args:
        engine: whose events they are.
        counting: whether anything but the last error of each tier is kept.
        max_models: how many models and functions have a label of their own.

    Attributes:
        exemplar: names what stands behind an observation, such as the current trace: returns labels or None.
        last_errors: the text of the latest error of each tier, and the monotonic seconds at which it came.
        values: counters by family and labels.
        histograms: histograms by family and labels.
        pending_since: monotonic seconds since when something has been pending, or None.
    """

    def __init__(self, engine: Engine, *, counting: bool = True, max_models: int = MAX_MODELS) -> None:
        self.exemplar: ExemplarSource | None = None
        self.last_errors: dict[str, tuple[str, float]] = {}
        self.values: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, dict[Labels, Histogram]] = {}
        self.models = LabelSet(max_models)
        self.counting = counting
        self.pending_since: float | None = None
        self._monotonic = engine.clock.monotonic
        self._operations = LabelSet(MAX_OPERATIONS)
        self._patterns = LabelSet(MAX_OPERATIONS)
        self._errors = LabelSet(MAX_ERRORS)
        self._ghosts: OrderedDict[int, str] = OrderedDict()
        self._reasons: OrderedDict[int, str] = OrderedDict()
        self._timings: dict[tuple[str, type], Histogram] = {}
        self._responses: dict[str, Histogram] = {}
        on = engine.listeners.on
        on(TierFailed, self._tier_failed)
        on(InvalidationDelayed, self._delayed)
        if not counting:
            return
        engine.timed = self.timed
        engine.last_miss = self.last_miss
        engine.responded = self.responded
        engine.looked_up = self._histogram("response_seconds", "memory").add
        on(Loaded, self._loaded)
        on(LoadFailed, self._load_failed)
        on(Miss, self._missed)
        on(Evicted, self._evicted)
        if engine.authority is None and engine.memory is not None:
            # With shared tiers it is they who have what was invalidated, and can tell.
            engine.memory.on_kill = self._killed
        on(NotStored, lambda event: self._add("not_stored", event.reason))
        on(Invalidated, lambda event: self._add("invalidations", event.what))
        on(RuleLogFull, lambda event: self._add("rule_log_full"))
        on(GenerationChanged, lambda event: self._add("generation_changes"))
        on(FailedOver, lambda event: self._add("failovers", event.tier))
        on(TierDown, lambda event: self._add("tier_downs", event.tier))
        on(LinkLost, lambda event: self._add("link_losses"))
        on(Corrupt, self._corrupt)

    def timed(self, tier: str, operation: Operation, seconds: float) -> None:
        """Count one operation of a tier, whether it succeeded or not."""
        kind = type(operation)
        found = self._timings.get((tier, kind))
        if found is None:
            found = self._timings[tier, kind] = self._histogram("tier_seconds", tier, kind.__name__.lower())
        found.add(seconds, self.exemplar)

    def responded(self, tier: str, seconds: float, count: int) -> None:
        """Count how long callers waited for an answer from a tier; several keys that were asked for at once got it."""
        found = self._responses.get(tier)
        if found is None:
            found = self._responses[tier] = self._histogram("response_seconds", tier)
        found.add(seconds, self.exemplar, count)

    def record(self, name: str, seconds: float, success: bool, pattern: str) -> None:
        """Count an operation of the application's own."""
        if self.counting:
            operation, shown = self._operations.of(name), self._patterns.of(pattern) if pattern else ""
            self._add("operations", operation, shown, "success" if success else "failure")
            self._histogram("operation_seconds", operation, shown).add(seconds, self.exemplar)

    def _add(self, family: str, *labels: str) -> None:
        values = self.values.get(family)
        if values is None:
            values = self.values.setdefault(family, {})
        values[labels] = values.get(labels, 0.0) + 1.0

    def _histogram(self, family: str, *labels: str) -> Histogram:
        histograms = self.histograms.get(family)
        if histograms is None:
            histograms = self.histograms.setdefault(family, {})
        found = histograms.get(labels)
        return histograms.setdefault(labels, Histogram()) if found is None else found

    def _loaded(self, event: Loaded) -> None:
        self._histogram("load_seconds", self.models.of(event.name)).add(event.seconds, self.exemplar)
        self._histogram("response_seconds", "loader").add(event.seconds, self.exemplar)

    def _load_failed(self, event: LoadFailed) -> None:
        self._add("load_error_types", self._errors.of(type(event.error).__name__))

    def _evicted(self, event: Evicted) -> None:
        self._add("evictions", self.models.of(event.name))
        _remember(self._ghosts, hash((event.name, event.key)), "evicted")

    def _killed(self, entry: Entry) -> None:
        _remember(self._ghosts, hash((entry.name, entry.logical)), "invalidated")

    def _missed(self, event: Miss) -> None:
        key, reason = hash((event.name, event.key)), event.reason
        # The tiers only know that they have nothing; that they had it is remembered here.
        if reason == "cold" and (known := self._ghosts.pop(key, None)) is not None:
            self._add("misses_that_were_held", self.models.of(event.name), known)
            reason = known
        _remember(self._reasons, key, reason)

    def last_miss(self, name: str, key: str) -> str | None:
        """Return why the latest call for a logical key was a miss; None where that is not remembered."""
        return self._reasons.get(hash((name, key)))

    def _delayed(self, event: InvalidationDelayed) -> None:
        if self.pending_since is None:
            self.pending_since = self._monotonic()
        if self.counting:
            self._add("invalidations_delayed")

    def _corrupt(self, event: Corrupt) -> None:
        self._add("corrupt", event.tier, event.reason)
        if event.reason in PLANTED:
            self._add("security_events", event.reason)

    def _tier_failed(self, event: TierFailed) -> None:
        kind = error_kind(event.error)
        self.last_errors[event.tier] = (str(event.error), self._monotonic())
        if self.counting:
            self._add("tier_errors", event.tier, kind)
            if kind in REFUSED:
                self._add("security_events", kind)


def _remember(known: OrderedDict[int, T], key: int, value: T) -> None:
    known[key] = value
    if len(known) > MAX_GHOSTS:
        with suppress(KeyError):  # another thread took the last
            known.popitem(last=False)


# What the table of foreign exceptions says in these cases; nothing else tells them apart once they are one error.
_SAYS: Final = (
    ("refused the credentials", "credentials"),
    ("lacks a permission", "permission"),
    ("no answer in time", "timeout"),
    ("left alone for a while", "breaker"),
)

CONNECTION_ERRORS: Final = frozenset({"timeout", "unreachable", "credentials"})
"""The types of a tier's errors that mean that it could not be reached."""

PLANTED: Final = frozenset({"signature", "unsafe"})
"""Why a payload cannot be read, where it is somebody's doing: a security event."""

REFUSED: Final = frozenset({"credentials", "permission"})
"""The types of a tier's errors that are security events too."""


def error_kind(error: BaseException) -> str:
    """Return the type of a tier's error, for a label.

    It is `credentials`, `permission`, `timeout`, `unreachable`, `breaker` (a node of a cluster that is left alone),
    `refused`, or `other`.
    """
    text = str(error)
    for said, kind in _SAYS:
        if said in text:
            return kind
    if isinstance(error, TierUnavailableError):
        return "unreachable"
    return "refused" if isinstance(error, TierError) else OTHER
