"""The authority: markers, rule log, payload, signals, and how its answers are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from model.rules import Variant
from model.world import (
    HOLE,
    LOST,
    NAMES,
    UNREAD,
    UP,
    G,
    Held,
    Ids,
    K,
    L,
    N,
    Payload,
    Rule,
    Run,
    T,
    Unsent,
    World,
    with_id,
)

Act: TypeAlias = Callable[[World], None]
Steps: TypeAlias = list[tuple[str, Act]]

INVALIDATES = {"key": K, "set": K, "tag": T, "late": L, "rule": G, "other rule": G, "hold": T}
"""Calls that invalidate, and what."""

READS = frozenset({"read", "refresh", "touch", "strong"})
"""Calls that promise something when they begin."""

WRITING = frozenset(
    {"pending", "forget", "head", "send", "renew", "created", "signal", "hold", "write", "acknowledged"}
)
"""Steps of a call that holds no value yet, or never will."""


class Authority:
    """What the authority does when a command is carried out, and how its answers are judged."""

    def __init__(self, variant: Variant) -> None:
        self.v = variant
        self.deps = variant.deps
        self.known = tuple(dep for dep in variant.deps if dep != L)
        self.process = tuple(process for process, _ in variant.clients)
        self.calls = tuple(calls for _, calls in variant.clients)
        self.processes = range(max(self.process) + 1)
        self.shards = tuple(sorted({variant.shards[dep] for dep in variant.deps}))
        self.verifies = N in variant.deps
        unknown = {INVALIDATES[call] for calls in self.calls for call in calls if call in INVALIDATES} - set(self.deps)
        if unknown:
            raise ValueError(f"{variant.name}: the value does not depend on {[NAMES[dep] for dep in unknown]}")

    def initial_world(self) -> World:
        """Return the world in which everything begins."""
        v, n, clients = self.v, len(self.processes), len(self.v.clients)
        seeded = of_each(lambda dep: int(dep in self.deps))
        held = Held(0, seeded, 0, v.linked) if v.warm else None
        payload = Payload(0, seeded) if v.warm else None
        # Histories have even names where a master has begun anew, odd ones where a replica was promoted.
        replids = tuple(2 * shard + 2 for shard in self.shards) if self.verifies else ()
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
            marks=seeded if v.warm else with_id(None, N, seeded[N]),
            near=payload,
            far=payload if v.disk is not None else None,
            replids=replids,
            trusted=frozenset(replids),
            generation=len(replids),
            side=(0,) * n,
            link_side=(0,) * n,
            talked=tuple((0,) * len(replids) if process in v.strangers else replids for process in self.processes),
            journal=((),) * n,
            known=((seeded if v.warm and v.knows else UNREAD),) * n,
        )

    # -- commands -----------------------------------------------------------------------------------------------

    def mark(self, w: World, dep: int, new: int) -> None:
        """Give a marker an id."""
        w.put("marks", dep, new)

    def seed(self, w: World, deps: tuple[int, ...]) -> None:
        """Give missing markers an id, unless they are held."""
        for dep in deps:
            if not w.marks[dep] and not (self.v.held_has_no_id and self.held(w, dep)):
                self.mark(w, dep, 1 + w.losses + 200 * max(w.replids, default=0))

    def held(self, w: World, dep: int) -> bool:
        """Return whether anybody holds a marker."""
        return any(one == dep for one, _ in w.holds)

    def hold(self, w: World, dep: int, holder: int) -> None:
        """Take a marker's id away until the holder releases it, or the hold runs out."""
        signal = self.v.holds_signal == "always" or (self.v.holds_signal == "when an id went" and w.marks[dep])
        if not self.held(w, dep) and signal:
            self.signal(w, Unsent(dep, -1, 0, hits=False))
        if (dep, holder) not in w.holds:
            w.holds = tuple(sorted((*w.holds, (dep, holder))))
            if w.marks[dep]:
                w.losses += 1
                self.mark(w, dep, 0)

    def release(self, w: World, what: Unsent, holder: int) -> None:
        """End a hold, and renew."""
        mine = (what.dep, holder) in w.holds
        if mine or self.v.release_renews:
            w.holds = tuple(one for one in w.holds if one != (what.dep, holder) and self.v.holders_count)
            self.renew(w, what)

    def signal(self, w: World, what: Unsent) -> None:
        """Tell every process whose link is up."""
        if self.v.linked:
            for process in self.processes:
                if w.alive[process] and w.link[process][0] == UP and w.link_side[process] == w.here:
                    w.put("queue", process, (*w.queue[process], what))

    def renew(self, w: World, what: Unsent, after: int = 0) -> None:
        """Renew a marker, or append a rule."""
        if what.dep == G:
            w.log = (Rule(what.id, after, what.hits), *w.log)[: self.v.max_rules]
        if not self.v.invalidation_keeps_hold:
            w.holds = tuple(one for one in w.holds if one[0] != what.dep)
        if not (self.v.held_has_no_id and self.held(w, what.dep)):
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
            case ("hold", dep, holder):
                self.hold(w, dep, holder)
            case ("release", what, holder):
                self.release(w, what, holder)
            case ("store", payload):
                w.near = payload
            case ("renew and store", what, payload):
                self.renew(w, what)
                w.near = payload
            case _:
                raise AssertionError(command)

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
        if self.v.own_drop_known:
            self.drop_known(w, process, dep)
        self._hit(w, process, dep, None)

    def drop_known(self, w: World, process: int, dep: int | None = None) -> None:
        """Have a process remember the id of a dependency, or of any, no longer."""
        w.put("known", process, UNREAD if dep is None else with_id(w.known[process], dep, 0))

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
            if self.v.signals_drop_known and not self._own(process, what):
                self.drop_known(w, process, what.dep)
        if what.hits:
            w.put("heard", process, max(w.heard[process], what.version))
            self.tidy(w)

    def _own(self, process: int, what: Unsent) -> bool:
        """Return whether a signal tells a process nothing but what it has done itself."""
        client = (what.id % 1000 - 10) // 10
        return what.id >= 10 and client < len(self.process) and self.process[client] == process

    def distrust(self, w: World, process: int) -> None:
        """Nothing is served without asking again; what is under way is not kept under the link."""
        if self.v.loss_drops_known:
            self.drop_known(w, process)
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
        if w.acked <= w.finished[0]:
            w.acked = 0

    def unsettled(self, w: World, process: int) -> bool:
        """Return whether a process has yet to find out who is the master."""
        return self.verifies and (w.side[process] > 0 or (bool(w.journal[process]) and w.talked[process] != w.replids))

    # -- quiescence ---------------------------------------------------------------------------------------------

    def lingering(self, w: World) -> str | None:
        """Return which old value would be served, in a world where nothing is under way."""
        if any(w.pending) or any(w.queue) or w.late or w.holds or any(one is not None for one in w.sending):
            return None
        if any(self.unsettled(w, process) for process in self.processes if w.alive[process]):
            return None
        if self.verifies and not w.trusted.issuperset(w.replids) and w.replids not in w.talked:
            # Whoever comes makes everything invalid first.
            return None
        if any(state == HOLE for state, _ in w.link):
            return None
        goal = w.db if self.v.goal_is_database else max(w.finished[0], w.acked)
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
    return one(K), one(T), one(L), one(G), one(N)


def describe(what: Unsent) -> str:
    """Return an invalidation in words."""
    return f"the {NAMES[what.dep]} to {what.id}"
