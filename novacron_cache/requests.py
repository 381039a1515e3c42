"""What one call wants: the plan of its model or function, and the request made from its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from .chance import chance
from .codecs import IDS_BEFORE
from .effects import Load
from .entry import Entry
from .limits import Limits, Slots
from .markers import dependencies
from .schema import Schema

ALL_TIERS = frozenset({"memory", "redis", "disk"})


class Plan:
    """How entries of one name are kept, with every override applied.

    Attributes:
        name: the name of the model or function; part of the stored key, and a dependency.
        schema: how values are checked, written and read.
        ttl: seconds.
        negative_ttl: seconds for which a None result is kept; None keeps it as long as any value.
        grace: seconds past `ttl` for which a value may stand in for a failing loader.
        refresh_ahead: share of `ttl` after which a hit starts one refresh in the background; None never does.
        jitter: share of `ttl` by which it is shortened at random, so that entries made together do not end together.
        tiers: the names of the tiers that may hold the value.
        none_allowed: whether a loader may return None for "not found".
        label: the function or model as error messages call it.
        space: what stands for the name in stored keys: the name itself, unless one process has two types of that name.
        strong: whether every read asks the authority.
        soft_timeout: seconds after which a value in its grace answers for a load that goes on; None waits for it.
        hard_timeout: seconds that a load may take; None sets no bound.
        slots: bounds how many loads run at once; None where nothing does.
        skip_if: given a loaded value, returns whether it is not to be stored.
        shadow: share of the calls in which the cache is tried and compared with the loader; then it never answers. None
            where it does.
    """

    __slots__ = (
        "grace", "hard_timeout", "jitter", "label", "name", "negative_ttl", "none_allowed", "refresh_ahead", "schema",
        "shadow", "skip_if", "slots", "soft_timeout", "space", "strong", "tiers", "ttl",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        schema: Schema[Any],
        *,
        ttl: float,
        negative_ttl: float | None = None,
        grace: float = 0.0,
        refresh_ahead: float | None = None,
        jitter: float = 0.0,
        tiers: frozenset[str] = ALL_TIERS,
        none_allowed: bool = True,
        label: str = "",
        space: str | None = None,
        strong: bool = False,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        max_concurrent_loads: int | None = None,
        skip_if: Callable[[Any], bool] | None = None,
        shadow: float | None = None,
    ) -> None:
        self.name = name
        self.schema = schema
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.grace = grace
        self.refresh_ahead = refresh_ahead
        self.jitter = jitter
        self.tiers = tiers
        self.none_allowed = none_allowed
        self.label = label or name or "the cache"
        self.space = name if space is None else space
        self.strong = strong
        self.soft_timeout = soft_timeout
        self.hard_timeout = hard_timeout
        self.slots = None if max_concurrent_loads is None else Slots(max_concurrent_loads)
        self.skip_if = skip_if
        self.shadow = shadow

    def limits(self, key: str, seconds: float | None) -> Limits | None:
        """Return what bounds one load of a key, which may take so many seconds; None where nothing does."""
        if self.slots is None and seconds is None:
            return None
        return Limits(self.name, key, self.label, self.slots, seconds, self.hard_timeout)

    def suits(self, entry: Entry) -> bool:
        """Return whether an entry may answer here: another function of the same name may have kept a None."""
        return self.none_allowed or entry.value is not None or entry.body is not None

    def life(self, value: Any, asked: float | None = None) -> float:
        """Return the seconds for which a value is kept, `asked` having the first word."""
        ttl = asked
        if ttl is None:
            ttl = self.negative_ttl if value is None and self.negative_ttl is not None else self.ttl
        if self.jitter:
            ttl *= 1.0 - self.jitter * chance.random()
        return ttl


class Request:
    """One key wanted by one call.

    Attributes:
        key: the stored key.
        logical: the logical key.
        tags: the tags known from the arguments.
        late_tags: renders the tags that need the result; None where there are none.
        load: how to obtain the value, or None where the call must not load.
        deps: the dependencies known before the load.
        ttl: seconds asked for by this call, before every option.
        subject: what a batch loader is given for this key.
        strong: whether the authority must be asked, whatever process memory has.
        excluded: whether the function's `condition` keeps this call from the cache.
    """

    __slots__ = (
        "_deps", "excluded", "key", "late_tags", "load", "logical", "plan", "strong", "subject", "tags", "ttl",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        key: str,
        logical: str,
        tags: tuple[str, ...] = (),
        *,
        late_tags: Callable[[Any], tuple[str, ...]] | None = None,
        load: Load | None = None,
        ttl: float | None = None,
        subject: Any = None,
        strong: bool = False,
    ) -> None:
        self.plan = plan
        self.key = key
        self.logical = logical
        self.tags = tags
        self.late_tags = late_tags
        self.load = load
        self.ttl = ttl
        self.subject = subject
        self.strong = strong or plan.strong
        self.excluded = False
        self._deps: tuple[str, ...] | None = None

    @property
    def deps(self) -> tuple[str, ...]:
        """Return the dependencies known before the load, computed when first needed."""
        if self._deps is None:
            self._deps = dependencies(self.logical, self.plan.name, self.tags)
        return self._deps

    def all_tags(self, value: Any) -> tuple[str, ...]:
        """Return every tag of a value, each once.

        Raises:
            CachedValueError: the value is not of the declared type, which comes before what its fields may lack.
        """
        if self.late_tags is None or value is None:
            return self.tags
        self.plan.schema.validate(value, key=self.logical, label=self.plan.label)
        return tuple(dict.fromkeys((*self.tags, *self.late_tags(value))))


class Several(Sequence[Request]):
    """The requests of one batch, in columns; each becomes a `Request` when somebody needs it as one.

    All are of one plan, and their logical keys begin with the same segment. Who finds every value where it was last
    time needs no more than this.

    Attributes:
        plan: how entries are kept.
        keys: the stored keys, all different.
        key_deps: the dependency that each logical key is, in full.
        subjects: what a batch loader is given for each key.
        tags: the tags known from the arguments, of each key.
        common: the dependencies that all have, in the order of `dependencies`: those before the key's own.
        make: makes the request of one subject.
    """

    __slots__ = ("_made", "common", "key_deps", "keys", "make", "plan", "subjects", "tags")

    def __init__(
        self,
        plan: Plan,
        keys: list[str],
        key_deps: list[str],
        subjects: list[Any],
        tags: Sequence[tuple[str, ...]],
        common: tuple[str, ...],
        make: Callable[[Any], Request],
    ) -> None:
        self.plan = plan
        self.keys = keys
        self.key_deps = key_deps
        self.subjects = subjects
        self.tags = tags
        self.common = common
        self.make = make
        self._made: dict[int, Request] = {}

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Several:
        """Return requests that were made already, at least one, as a batch."""
        first = requests[0]
        return cls(
            first.plan,
            [request.key for request in requests],
            [request.deps[IDS_BEFORE] for request in requests],
            list(requests),
            [request.tags for request in requests],
            first.deps[:IDS_BEFORE],
            lambda request: request,
        )

    def some(self, places: Sequence[int]) -> Several:
        """Return those at some places, of which there is at least one."""
        keys, key_deps, subjects = self.keys, self.key_deps, self.subjects
        return Several(
            self.plan,
            [keys[place] for place in places],
            [key_deps[place] for place in places],
            [subjects[place] for place in places],
            [self.tags[place] for place in places],
            self.common,
            self.make,
        )

    def logical(self, place: int) -> str:
        """Return the logical key at a place."""
        return self.key_deps[place].partition(":")[2]

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> Request: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Request]: ...
    def __getitem__(self, place: int | slice) -> Request | Sequence[Request]:
        """Return a request, the same one each time."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        if (made := self._made.get(place)) is None:
            made = self._made[place] = self.make(self.subjects[place])
        return made
