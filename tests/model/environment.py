"""What happens to the fleet without anybody asking for it: time, links, retries, and faults."""

from __future__ import annotations

from collections.abc import Callable

from model.authority import READS, WRITING, Act, Steps
from model.masters import Masters
from model.world import HOLE, LOST, UNREAD, UP, N, World


class Environment(Masters):
    """Time, links, retries, and faults."""

    def happenings(self, w: World) -> Steps:
        """Return everything that may happen now."""
        found: Steps = [("time passes", self._tick)]
        for number, command in enumerate(w.late):
            found.append((f"a late command is carried out: {command[0]}", self._late(number)))
        for process in self.processes:
            if w.alive[process]:
                found += self._process(w, process)
        for fault, act in (("empty", self._empty), ("roll back", self._roll_back)):
            if w.left(fault) and (fault != "roll back" or w.snapshot is not None):
                found.append((f"fault: {fault}", act))
        if (w.left("roll back") or w.left("promote")) and w.snapshot is None:
            found.append(("a replica stops following", self._snapshot))
        if w.left("promote") and w.snapshot is not None:
            found.append(("fault: the replica is promoted, the old master goes on", self.promote))
        if w.left("return") and w.elsewhere is not None and not any(w.side):
            found.append(("fault: the old master is made the master again", self.come_back))
        for dep, holder in w.holds:
            lives = self.holding(w, holder)
            if not lives or w.left("lapse"):
                found.append((f"the hold of {holder} runs out", self._lapse((dep, holder), "lapse" if lives else "")))
        for process in self.processes:
            if w.left("crowd") and w.memory[process] is not None:
                found.append((f"fault: process {process} has no room for the value", self._crowd(process)))
        if w.left("evict"):
            found += [(f"fault: marker {dep} is evicted", self._evict(dep)) for dep in self.deps if w.marks[dep]]
        if w.left("cancel"):
            for client, run in enumerate(w.runs):
                if run is not None and self.calls[client][w.at[client]] in READS:
                    found.append((f"fault: client {client} is cancelled", self._cancel(client)))
        return found

    def _process(self, w: World, p: int) -> Steps:
        found: Steps = []
        state, _ = w.link[p]
        if w.queue[p]:
            found.append((f"process {p} receives a signal", lambda w: self.receive(w, p)))
        if self.may_move(w, p):
            label = f"process {p} notices that its master is not the master any more"
            found.append((label, lambda w: self.move(w, p)))
            if not self.v.data_follows_link:
                found.append((f"{label}, and has no old connection", lambda w: self.move(w, p, all_of_it=True)))
        for shard in self.shards:
            if self.concerned(w, p) and not self.verified(w, p, shard):
                found.append((f"process {p} meets the master of shard {shard}", self._meeting(p, shard)))
        if w.left("overflow") and w.journal[p] and w.journal[p][0].dep != N:
            found.append((f"fault: process {p} forgets what it has invalidated", lambda w: self._overflow(w, p)))
        if self.v.linked and state == LOST:
            found.append((f"process {p} has its link up again", lambda w: self._rearm(w, p)))
        if state == HOLE:
            found.append((f"process {p} notices that its link is lost", lambda w: self._lose(w, p)))
        if w.sending[p] is not None:
            found += self._deliver(w, p)
        elif any(not self.in_progress(w, one) for one in w.pending[p]):
            found.append((f"process {p} takes up what is pending", lambda w: self._take(w, p)))
        if p == self.v.victim:
            for fault, act in (("hole", self._hole), ("restart", self._restart), ("die", self._die)):
                if w.left(fault) and (fault != "hole" or state == UP):
                    found.append((f"fault: {fault} of process {p}", self._fault(fault, act, p)))
        return found

    def _meeting(self, p: int, shard: int) -> Act:
        return lambda w: self.meet(w, p, shard)

    # -- time ---------------------------------------------------------------------------------------------------

    def _tick(self, w: World) -> None:
        bound = self.v.bound
        w.finished = (w.finished[0], *w.finished[:-1])
        for client, run in enumerate(w.runs):
            if run is not None and run.step not in WRITING and (run.ids is not None or run.got is not None):
                w.put("runs", client, run._replace(age=min(bound, run.age + 1)))
        for process in self.processes:
            held = w.memory[process]
            if held is not None and not held.linked:
                w.put("memory", process, held._replace(age=min(bound, held.age + 1)))
            state, age = w.link[process]
            if state == HOLE or (state == UP and w.queue[process] and self.v.heartbeat_queues):
                w.put("link", process, (state, age + 1))
                if age + 1 >= bound:
                    self._lose(w, process)
            self.stray(w, process)

    # -- links --------------------------------------------------------------------------------------------------

    def _hole(self, w: World, p: int) -> None:
        # It was last heard of when its queue was empty, which may be a while ago.
        w.put("link", p, (HOLE, w.link[p][1]))
        w.put("queue", p, ())

    def _lose(self, w: World, p: int) -> None:
        w.put("link", p, (LOST, 0))
        w.put("queue", p, ())
        self.distrust(w, p)
        w.put("heard", p, max(w.heard[p], w.finished[0]))

    def _rearm(self, w: World, p: int) -> None:
        w.put("link", p, (UP, 0))
        w.put("link_side", p, int(w.side[p] > 0 and self.v.data_follows_link))

    # -- retries ------------------------------------------------------------------------------------------------

    def _take(self, w: World, p: int) -> None:
        items = w.pending[p]
        if self.v.retries_draw:
            items = self.fresh_ids(w, p, items)
        w.put("sending", p, items)

    def _deliver(self, w: World, p: int) -> Steps:
        # One shard after the other.
        everything = w.sending[p]
        if not everything:
            raise AssertionError("delivers nothing")
        shard = self.v.shards[everything[0].dep]
        items = tuple(one for one in everything if self.v.shards[one.dep] == shard)
        command = ("renew all", items)

        def ok(w: World) -> None:
            w.put("sending", p, tuple(one for one in everything if one not in items) or None)
            self.arrived(w, p, items, finished=False)
            self.tidy(w)

        def down(w: World) -> None:
            w.put("sending", p, None)

        label = f"process {p} delivers what was pending"
        return self.ask(w, p, label, command, ok, down, dep=items[0].dep, renews=True)

    def _late(self, number: int) -> Act:
        def act(w: World) -> None:
            command = w.late[number]
            w.late = (*w.late[:number], *w.late[number + 1 :])
            self.carry_out(w, command)

        return act

    # -- faults -------------------------------------------------------------------------------------------------

    def _fault(self, name: str, act: Callable[[World, int], None], p: int) -> Act:
        def happen(w: World) -> None:
            w.use(name)
            act(w, p)

        return happen

    def _overflow(self, w: World, p: int) -> None:
        w.use("overflow")
        newest = max(w.journal[p], key=lambda one: one.version)
        w.put("journal", p, (newest._replace(dep=N),) if self.v.overflow_is_namespace else ())

    def _cancel(self, client: int) -> Act:
        """A call is cancelled; who has joined its flight begins again."""

        def act(w: World) -> None:
            w.use("cancel")
            self.leave_flight(w, client)
            w.put("runs", client, None)
            w.put("at", client, w.at[client] + 1)
            self.tidy(w)

        return act

    def _evict(self, dep: int) -> Act:
        def act(w: World) -> None:
            w.use("evict")
            w.losses += 1
            self.mark(w, dep, 0)

        return act

    def _crowd(self, p: int) -> Act:
        def act(w: World) -> None:
            w.use("crowd")
            w.put("memory", p, None)

        return act

    def _empty(self, w: World) -> None:
        w.use("empty")
        w.losses += 1
        w.stored = (UNREAD, (), None, (), frozenset(), tuple(self.new_replid(w) for _ in w.replids))
        self._forget_late(w)
        self._break_links(w)

    def _forget_late(self, w: World) -> None:
        if self.verifies:
            # They were on connections to the master before.
            w.late = ()

    def _snapshot(self, w: World) -> None:
        w.snapshot = w.stored

    def _roll_back(self, w: World) -> None:
        w.use("roll back")
        w.losses += 1
        self.restore(w, self.v.rolls)
        self._forget_late(w)
        self._break_links(w)

    def _lapse(self, hold: tuple[int, int], fault: str) -> Act:
        def act(w: World) -> None:
            w.use(fault)
            w.holds = tuple(one for one in w.holds if one != hold)

        return act

    def holding(self, w: World, holder: int) -> bool:
        """Return whether the call that holds is in progress."""
        client, number = divmod(holder - 10, 10)
        return w.alive[self.process[client]] and w.at[client] == number

    def _break_links(self, w: World) -> None:
        if self.v.linked:
            for process in self.processes:
                if w.link[process][0] == UP:
                    self._hole(w, process)

    def _restart(self, w: World, p: int) -> None:
        """The process ends and begins again; its disk stays."""
        for client, run in enumerate(w.runs):
            if run is not None and self.process[client] == p:
                w.put("runs", client, None)
                w.put("at", client, w.at[client] + 1)
        for name, empty in (("memory", None), ("pending", ()), ("sending", None), ("queue", ()), ("flight", -1)):
            w.put(name, p, empty)
        w.put("own", p, 0)
        w.put("heard", p, 0)
        w.put("journal", p, ())
        w.put("known", p, UNREAD)
        w.put("talked", p, (0,) * len(w.replids))
        if self.v.linked:
            w.put("link", p, (LOST, 0))

    def _die(self, w: World, p: int) -> None:
        self._restart(w, p)
        w.put("alive", p, False)
        w.put("side", p, 0)
