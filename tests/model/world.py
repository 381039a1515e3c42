"""The state of the modelled fleet, and the rules by which it is judged.

One cached key stands for all: whatever is modelled concerns the key's value, whose version is the number of database
writes it reflects. The value depends on its key `K`, a tag `T` known before the load, where a scenario has it a tag `L`
known only after it, on the rule log's head `G`, and where masters may be replaced on the namespace's marker `N`.

Ids are small numbers. No two steps that draw an id draw the same one: a renewal's id is made from the call (and, for a
repeated attempt, from the fault budget that the attempt before it has used up), a seed's from the number of losses so
far. So equal situations are equal states without any renaming.

History numbers are not modelled as numbers. All that a flow asks is "was there an invalidation since my token that
reaches my value?", so each call in progress carries the answer as a flag, raised by the invalidation. Time is abstract
in the same way: `bound` ticks are the staleness bound, a tick may happen whenever, and everything that ages has an age
that stops counting at the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

K, T, L, G, N = range(5)
NAMES = ("key", "tag", "late tag", "rule log", "namespace")

Ids: TypeAlias = tuple[int, int, int, int, int]
"""The id of each dependency, by its number; 0 where the marker is missing or was not read."""

UNREAD: Ids = (0, 0, 0, 0, 0)

UP, LOST, HOLE = "up", "lost", "black hole"

State: TypeAlias = tuple[Any, ...]


class Payload(NamedTuple):
    """A value as shared tiers keep it."""

    version: int
    ids: Ids


class Held(NamedTuple):
    """A value in process memory.

    Attributes:
        ids: the ids under which it is valid, or None where it lives in process memory alone.
        age: ticks since it was last known to be valid; at the bound it may not be served without asking.
        linked: whether it is served for as long as the link is up, whatever its age.
    """

    version: int
    ids: Ids | None
    age: int = 0
    linked: bool = False


class Rule(NamedTuple):
    """An element of the rule log; a rule either hits the modelled value or concerns others."""

    id: int
    after: int
    hits: bool


class Unsent(NamedTuple):
    """A pending invalidation, by which version it was made necessary."""

    dep: int
    id: int
    version: int
    hits: bool = True


class Run(NamedTuple):
    """A call in progress.

    Attributes:
        step: what it does next.
        floor: a read may not return an older version than this.
        version: what a writer wrote.
        hit: whether this process invalidated, since the call's token, something the value depends on.
        hit_known: the same, but only by dependencies that are known before the load.
        cut: whether the link was down at any time since the token.
        age: ticks since the ids were read, or the load began.
        ids: what the authority said, or None where nothing may be read from it or stored in it.
        got: the value in hand.
        log: the rule log as read.
        leader: the call whose flight this one has joined.
        suspect: whether that flight may bring home what this call must not return; for a call of its own, whether a
            dependency that only payloads name was pending when the ids were read.
        expects: whether the last known value had the late tag, so that its id is captured before the load.
        todo: the shards that are still to be asked.
        by: the history of the master that acknowledged.
        held: whether an id could not be captured because somebody held it.
        clean: whether nothing was pending when the ids were asked for.
    """

    step: str
    floor: int = 0
    version: int = 0
    hit: bool = False
    hit_known: bool = False
    cut: bool = False
    age: int = 0
    ids: Ids | None = None
    got: Payload | None = None
    log: tuple[Rule, ...] = ()
    leader: int = -1
    suspect: bool = False
    expects: bool = False
    todo: tuple[int, ...] = ()
    by: int = 0
    held: bool = False
    clean: bool = False


@dataclass(slots=True)
class World:
    """Everything there is at one moment; a tuple of its fields is a state.

    Attributes:
        db: the database's version.
        finished: the newest version whose invalidation has finished; element i counts what had i ticks ago.
        own: for each process, the newest version whose invalidation has returned there, pending or not.
        heard: for each process, the newest version that its link has told it of.
        marks: the markers; `log`, `near`, the rule log and the payload beside them.
        far: the payload on the disk of the one process that has a disk.
        memory, pending, sending, link, queue, flight: one element for each process.
        known: for each process the ids that it remembers under its link.
        runs, at: for each client its call in progress and how many it has finished.
        late: commands that were given up and may still be carried out.
        losses: how often markers were lost.
        snapshot: an old state of the authority that may come back.
        holds: which dependencies are held, and by which call.
        replids: the name of the history of each shard's master.
        trusted: the histories that the namespace knows, kept beside its marker.
        generation: how many histories there have been.
        clears: how often the namespace's marker got a new id because a history was not known.
        elsewhere: what another master has that takes itself for the master.
        here: 1 while the fields above describe that one; 0 in every state.
        side: for each process 0 while it talks to the right master, else for how many ticks it does not, plus one.
        link_side: for each process whether its link leads to the other master.
        talked: for each process the history of each shard it talked to last.
        journal: for each process what it has invalidated, and was acknowledged.
        acked: the newest version whose invalidation any master has acknowledged.
        faults: how many of each kind may still happen.
        bad: what a call has just done wrong.
    """

    db: int
    finished: tuple[int, ...]
    own: tuple[int, ...]
    heard: tuple[int, ...]
    memory: tuple[Held | None, ...]
    pending: tuple[tuple[Unsent, ...], ...]
    sending: tuple[tuple[Unsent, ...] | None, ...]
    link: tuple[tuple[str, int], ...]
    queue: tuple[tuple[Unsent, ...], ...]
    flight: tuple[int, ...]
    alive: tuple[bool, ...]
    runs: tuple[Run | None, ...]
    at: tuple[int, ...]
    faults: tuple[tuple[str, int], ...]
    marks: Ids = UNREAD
    log: tuple[Rule, ...] = ()
    near: Payload | None = None
    far: Payload | None = None
    late: tuple[tuple[Any, ...], ...] = ()
    losses: int = 0
    snapshot: tuple[Any, ...] | None = None
    holds: tuple[tuple[int, int], ...] = ()
    replids: tuple[int, ...] = ()
    trusted: frozenset[int] = frozenset()
    generation: int = 0
    clears: int = 0
    elsewhere: tuple[Any, ...] | None = None
    here: int = 0
    side: tuple[int, ...] = ()
    link_side: tuple[int, ...] = ()
    talked: tuple[tuple[int, ...], ...] = ()
    journal: tuple[tuple[Unsent, ...], ...] = ()
    acked: int = 0
    known: tuple[Ids, ...] = ()
    bad: str | None = None

    def put(self, name: str, index: int, value: Any) -> None:
        """Change one element of a field that is a tuple."""
        old = getattr(self, name)
        setattr(self, name, (*old[:index], value, *old[index + 1 :]))

    @property
    def stored(self) -> tuple[Any, ...]:
        """What a master keeps."""
        return self.marks, self.log, self.near, self.holds, self.trusted, self.replids

    @stored.setter
    def stored(self, stored: tuple[Any, ...]) -> None:
        self.marks, self.log, self.near, self.holds, self.trusted, self.replids = stored

    def left(self, fault: str) -> int:
        """Return how often a fault may still happen."""
        for name, left in self.faults:
            if name == fault:
                return left
        return 0

    def use(self, fault: str) -> None:
        """Have a fault happen."""
        self.faults = tuple((name, left - (name == fault)) for name, left in self.faults)


def with_id(ids: Ids | None, dep: int, new: int) -> Ids:
    """Return ids of which one is another."""
    found = list(ids or UNREAD)
    found[dep] = new
    return found[0], found[1], found[2], found[3], found[4]


_fields: Callable[[World], State] = attrgetter(*(one.name for one in fields(World)))


def freeze(world: World) -> State:
    """Return a world as a state."""
    return _fields(world)
