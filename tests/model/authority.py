"""The rules that can be switched off, and the authority that they are about: markers, rule log, payload, signals.

Every rule of the protocol is an option whose default is the rule. Switching one off gives a mutant, and the table in
`test_model` says which of them the model must catch: a rule that no mutant misses is not known to be needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from model.world import HOLE, LOST, NAMES, UP, G, Held, Ids, K, L, Payload, Rule, Run, T, Unsent, World

Act: TypeAlias = Callable[[World], None]
Steps: TypeAlias = list[tuple[str, Act]]

INVALIDATES = {"key": K, "set": K, "tag": T, "late": L, "rule": G, "other rule": G}
"""Calls that invalidate, and what."""

READS = frozenset({"read", "refresh", "touch"})
"""Calls that promise something when they begin."""

WRITING = frozenset({"pending", "forget", "head", "send", "renew", "created", "signal"})
"""Steps of a call that holds no value yet, or never will."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario, and the protocol it is played under.

    Attributes:
        name: what is tried.
        expect: `"ok"`, or `"BUG"` where a rule is missing, or where the promise ends.
        clients: for each client its process and its calls: `"read"`, `"refresh"`, `"touch"`, `"set"`,
            `"key"`, `"tag"`, `"late"` or `"rule"` (invalidations after a database write), `"other rule"`.
        deps: what the value depends on.
        bound: ticks of the staleness bound.
        disk: the process that has a disk, or None.
        warm: whether everything is cached to begin with.
        linked: whether processes are told of invalidations.
        goal_is_database: whether quiescence must have what the database has, invalidated or not.
        budget: how many states the search may see.
        faults: how often each fault may happen: `evict`, `empty` (the authority restarts without data), `roll back`,
            `outage` (a command is refused; a renewal may lose its answer, or be carried out late), `slow store` (a
            payload is stored late), `cancel` (of a call that reads), `restart`, `die`, `hole`.
    """

    name: str
    expect: Literal["ok", "BUG"]
    clients: tuple[tuple[int, tuple[str, ...]], ...]
    deps: tuple[int, ...] = (K, T)
    bound: int = 1
    disk: int | None = None
    warm: bool = False
    linked: bool = False
    goal_is_database: bool = False
    budget: int = 250_000
    faults: dict[str, int] = field(default_factory=dict)
    victim: int = 0
    """The process that `restart`, `die` and `hole` happen to."""
    max_rules: int = 256

    keeps_history: bool = True
    """What was hit since its token is not admitted to process memory."""
    ids_before_load: bool = True
    missing_matches: bool = False
    reads_around_pending: bool = True
    pending_first: bool = True
    """An invalidation is pending before the process forgets."""
    judges_disk: bool = True
    unknown_head_matches: bool = False
    tests_all_links: bool = True
    """A value captured at a head is tested against every rule that was appended to it, not only the newest."""
    asks_late_pending: Literal["before the ids", "when judging", "never"] = "before the ids"
    """When a process notes that late tags are pending, which only the payload will name."""
    asks_history_before_joining: bool = True
    asks_again_after_joining: bool = True
    """Who joined a flight that is older than the bound, or was hit by a late tag, reads again when it lands."""
    retries_draw: bool = True
    """A repeated attempt to renew draws a new id."""
    set_waits: bool = True
    """`set` sends its payload only when the new key id has arrived."""
    set_renews: bool = True
    ages_from_ids: bool = True
    """The bound counts from when a value was known to be valid, not from when it came into process memory."""
    touch_keeps_age: bool = True
    renews_in_one: bool = True
    """Renewing is one step at the authority; else: replace where there is one, then create where there is none."""
    signals: Literal["with the marker", "before it", "after it", "when it changed"] = "with the marker"
    has_barrier: bool = True
    asks_history_after_barrier: bool = True
    asks_link_after_barrier: bool = True
    heartbeat_queues: bool = True
    """The link proves itself behind its signals: one that is overdue counts as lost."""
    loss_voids: bool = True
    """What was under way when the link was lost, or not yet up, is not kept under the link."""
    loss_asks_all: bool = True
    """When the link is lost, values that were not kept under it are asked about again too."""
    spares: Literal["nothing", "known", "everything"] = "known"
    """Which dependencies' signals leave a value alone that already carries the id they bring."""


class Authority:
    """What the authority does when a command is carried out, and how its answers are judged."""

    def __init__(self, variant: Variant) -> None:
        self.v = variant
        self.deps = variant.deps
        self.known = tuple(dep for dep in variant.deps if dep != L)
        self.process = tuple(process for process, _ in variant.clients)
        self.calls = tuple(calls for _, calls in variant.clients)
        self.processes = range(max(self.process) + 1)
        unknown = {INVALIDATES[call] for calls in self.calls for call in calls if call in INVALIDATES} - set(self.deps)
        if unknown:
            raise ValueError(f"{variant.name}: the value does not depend on {[NAMES[dep] for dep in unknown]}")

    def initial_world(self) -> World:
        """Return the world in which everything begins."""
        v, n, clients = self.v, len(self.processes), len(self.v.clients)
        seeded = of_each(lambda dep: int(dep in self.deps))
        held = Held(0, seeded, 0, v.linked) if v.warm else None
        payload = Payload(0, seeded) if v.warm else None
        return World(
            db=0,
            finished=(0,) * (v.bound + 1),
            own=(0,) * n,
            heard=(0,) * n,
            memory=(held,) * n,
            pending=((),) * n,
            sending=(None,) * n,
            link=(((UP if v.linked else LOST), 0),) * n,
            queue=((),) * n,
            flight=(-1,) * n,
            alive=(True,) * n,
            runs=(None,) * clients,
            at=(0,) * clients,
            faults=tuple(sorted(v.faults.items())),
            marks=seeded if v.warm else (0, 0, 0, 0),
            near=payload,
            far=payload if v.disk is not None else None,
        )

    # -- commands -----------------------------------------------------------------------------------------------

    def mark(self, w: World, dep: int, new: int) -> None:
        """Give a marker an id."""
        w.put("marks", dep, new)

    def seed(self, w: World, deps: tuple[int, ...]) -> None:
        """Give missing markers an id."""
        for dep in deps:
            if not w.marks[dep]:
                self.mark(w, dep, 1 + w.losses)

    def signal(self, w: World, what: Unsent) -> None:
        """Tell every process whose link is up."""
        if self.v.linked:
            for process in self.processes:
                if w.alive[process] and w.link[process][0] == UP:
                    w.put("queue", process, (*w.queue[process], what))

    def renew(self, w: World, what: Unsent, after: int = 0) -> None:
        """Renew a marker, or append a rule."""
        if what.dep == G:
            w.log = (Rule(what.id, after, what.hits), *w.log)[: self.v.max_rules]
        self.mark(w, what.dep, what.id)
        if self.v.signals in ("with the marker", "when it changed"):
            self.signal(w, what)

    def carry_out(self, w: World, command: tuple[Any, ...]) -> None:
        """Do what a command says."""
        match command:
            case ("renew", what, after):
                self.renew(w, what, after)
            case ("renew all", items):
                for what in items:
                    self.seed(w, (G,) if what.dep == G else ())
                    self.renew(w, what, w.marks[G])
            case ("replace", what):
                if w.marks[what.dep]:
                    self.renew(w, what)
            case ("create", what):
                if not w.marks[what.dep]:
                    self.renew(w, what)
                elif self.v.signals == "with the marker":
                    self.signal(w, what)
            case ("seed", deps):
                self.seed(w, deps)
            case ("renew and seed", what, deps):
                self.renew(w, what)
                self.seed(w, deps)
            case ("store", payload):
                w.near = payload
            case ("renew and store", what, payload):
                self.renew(w, what)
                w.near = payload
            case _:
                raise AssertionError(command)

    def ask(
        self, w: World, label: str, command: tuple[Any, ...] | None, ok: Act, down: Act, *, renews: bool = False
    ) -> Steps:
        """Send a command to the authority.

        Args:
            w: the world before.
            label: what is asked, for the trace.
            command: what changes there, or None.
            ok: what its answer does.
            down: what the lack of an answer does.
            renews: whether the command replaces an id, so that it matters what became of it when there is no answer.
        """

        def answered(w: World) -> None:
            if command is not None:
                self.carry_out(w, command)
            ok(w)

        def refused(w: World) -> None:
            w.use("outage")
            down(w)

        def unanswered(w: World) -> None:
            if command is not None:
                self.carry_out(w, command)
            refused(w)

        def delayed(w: World) -> None:
            w.late = (*w.late, command or ())
            refused(w)

        def slow(w: World) -> None:
            w.late = (*w.late, command or ())
            w.use("slow store")
            down(w)

        steps: Steps = [(label, answered)]
        if w.left("outage"):
            steps.append((f"{label}: the authority does not answer", refused))
            if renews:
                steps.append((f"{label}: carried out, but the answer is lost", unanswered))
                steps.append((f"{label}: given up, and not carried out yet", delayed))
        if command is not None and command[0] == "store" and w.left("slow store"):
            steps.append((f"{label}: given up, and not carried out yet", slow))
        return steps

    # -- judging ------------------------------------------------------------------------------------------------

    def valid(self, captured: Ids | None, current: Ids, log: tuple[Rule, ...]) -> bool:
        """Return whether a value with these ids may be served under those."""
        if captured is None:
            return False
        for dep in self.deps:
            had, now = captured[dep], current[dep]
            if not now:
                if self.v.missing_matches:
                    continue
                return False
            if now != had and not (dep == G and self._spares(had, now, log)):
                return False
        return True

    def _spares(self, had: int, head: int, log: tuple[Rule, ...]) -> bool:
        written: dict[int, int] = {}
        appended: dict[int, int] = {}
        for position, rule in enumerate(log):
            written[rule.id] = position
            if self.v.tests_all_links:
                appended[rule.after] = position + 1
            else:
                appended.setdefault(rule.after, position + 1)
        known = appended | written
        if head not in known or had not in known:
            return self.v.unknown_head_matches
        return not any(rule.hits for rule in log[known[head] : known[had]])

    # -- a process ----------------------------------------------------------------------------------------------

    def fresh(self, w: World, process: int) -> Held | None:
        """Return what process memory may serve without asking."""
        held = w.memory[process]
        if held is None:
            return None
        served = w.link[process][0] in (UP, HOLE) if held.linked else held.age < self.v.bound
        return held if served else None

    def forget(self, w: World, process: int, dep: int) -> None:
        """Make a process forget the value, and its calls in progress know."""
        w.put("memory", process, None)
        self._hit(w, process, dep, None)

    def _hit(self, w: World, process: int, dep: int, spared: int | None) -> None:
        for client, run in enumerate(w.runs):
            if run is None or self.process[client] != process or run.step in WRITING or run.step in ("begin", "joined"):
                continue
            if spared is not None and self._carries(run.ids, dep, spared):
                continue
            w.put("runs", client, run._replace(hit=True, hit_known=run.hit_known or dep != L))

    def _carries(self, ids: Ids | None, dep: int, brought: int) -> bool:
        spares = self.v.spares
        if ids is None or spares == "nothing" or (dep == L and spares == "known"):
            return False
        return ids[dep] == brought

    def receive(self, w: World, process: int) -> None:
        """Have a process take the next signal from its link."""
        what, *rest = w.queue[process]
        w.put("queue", process, tuple(rest))
        if not rest:
            w.put("link", process, (UP, 0))
        if what.dep == G:
            # Which values a rule reaches is for the log to say: ask again.
            self.distrust(w, process)
        else:
            held = w.memory[process]
            if held is not None and not self._carries(held.ids, what.dep, what.id):
                w.put("memory", process, None)
            self._hit(w, process, what.dep, what.id)
        if what.hits:
            w.put("heard", process, max(w.heard[process], what.version))
            self.tidy(w)

    def distrust(self, w: World, process: int) -> None:
        """Nothing is served without asking again; what is under way is not kept under the link."""
        held = w.memory[process]
        if held is not None and (held.linked or self.v.loss_asks_all):
            w.put("memory", process, held._replace(linked=False, age=self.v.bound))
        for client, run in enumerate(w.runs):
            if run is not None and self.process[client] == process and run.step not in WRITING:
                w.put("runs", client, run._replace(cut=True, age=self.v.bound))

    def check(self, w: World, run: Run, version: int, where: str) -> None:
        """Note a broken promise."""
        if version < run.floor:
            w.bad = f"{where}: a read returned version {version}, and was promised {run.floor}"

    def arrived(self, w: World, p: int, items: tuple[Unsent, ...], *, finished: bool) -> None:
        """Nothing of this is pending any more; what has also returned to its caller has finished."""
        gone = {(one.dep, one.id % 1000) for one in items}
        w.put("pending", p, tuple(one for one in w.pending[p] if (one.dep, one.id) not in gone))
        for one in items:
            if one.hits and (finished or not self.in_progress(w, one)):
                w.finished = (max(w.finished[0], one.version), *w.finished[1:])

    def call_id(self, client: int, number: int) -> int:
        """Return the id that a call draws."""
        return 10 + 10 * client + number

    def in_progress(self, w: World, what: Unsent) -> bool:
        """Return whether the call that made an invalidation is still running."""
        client, number = divmod(what.id % 1000 - 10, 10)
        return w.at[client] == number

    def tidy(self, w: World) -> None:
        """Drop what only a read yet to begin could tell apart, where none is left: fewer states, the same verdicts."""
        begins: set[int] = set()
        reads: set[int] = set()
        for process, calls, at, run in zip(self.process, self.calls, w.at, w.runs, strict=True):
            if not READS.isdisjoint(calls[at:]):
                reads.add(process)
                if run is None or not READS.isdisjoint(calls[at + 1 :]):
                    begins.add(process)
        if not begins:
            w.finished = (w.finished[0],) * len(w.finished)
        for process in self.processes:
            if process not in begins:
                w.put("own", process, 0)
                w.put("heard", process, 0)
            held = w.memory[process]
            if process not in reads and held is not None and not held.linked:
                w.put("memory", process, held._replace(age=self.v.bound))

    # -- quiescence ---------------------------------------------------------------------------------------------

    def lingering(self, w: World) -> str | None:
        """Return which old value would be served, in a world where nothing is under way."""
        if any(w.pending) or any(w.queue) or w.late or any(one is not None for one in w.sending):
            return None
        if any(state == HOLE for state, _ in w.link):
            return None
        goal = w.db if self.v.goal_is_database else w.finished[0]
        places = [("the authority", w.near), (f"the disk of process {self.v.disk}", w.far)]
        for where, payload in places:
            if payload is not None and payload.version < goal and self.valid(payload.ids, w.marks, w.log):
                return f"at rest, {where} would serve version {payload.version} for {goal}"
        for process in self.processes:
            held = w.memory[process]
            if held is None or held.version >= goal or not w.alive[process]:
                continue
            if (held.linked and w.link[process][0] == UP) or self.valid(held.ids, w.marks, w.log):
                return f"at rest, the memory of process {process} would serve version {held.version} for {goal}"
        return None


def of_each(one: Callable[[int], int]) -> Ids:
    """Return an id for each dependency."""
    return one(K), one(T), one(L), one(G)


def describe(what: Unsent) -> str:
    """Return an invalidation in words."""
    return f"the {NAMES[what.dep]} to {what.id}"
