"""An executable model of how the tiers stay coherent, played by a few processes against everything that can go wrong.

Theory. A value carries the ids of all its dependencies, read before its load; it is served only under exactly these
ids; an invalidation replaces an id; ids are never reused and a missing one matches nothing. Process memory may answer
without asking for as long as the staleness bound, counted from when the value was last known to be valid, and the
process that invalidates never serves what it invalidated: its history of invalidations keeps old values out of its
memory, its list of pending ones keeps it from reading around an authority that has not been told yet.

With a *link*, each process is told of every renewal, in order. Then memory may answer for as long as the link is up;
a link that has silently died is noticed within the bound, and whatever was under way meanwhile is not kept under it.
A tag that only the result names is captured after the load; what happened in between is known once a round trip on the
link has come back (the *barrier*), and only then may shared tiers have the value.

Promises, checked in every reachable state:

- *own*: a read in the invalidating process that begins after `invalidate` or `set` has returned never returns an older
  value, whatever else happens, delivered or not;
- *bounded*: a read that begins when an invalidation has been finished for the bound never returns an older value;
- *told*: a read that begins after its process has received a signal, or noticed that its link is lost, never returns
  a value older than that;
- *at rest*: when nothing is under way, no tier would serve an old value, now or later: nothing is ever resurrected.

The steps are those of the flows: each step is what happens between two points at which another thread, process or
fault may come in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from model.authority import INVALIDATES, Steps, describe, of_each
from model.reading import Reading
from model.world import UNREAD, G, K, Payload, Run, State, Unsent, World, freeze


class Coherence(Reading):
    """The model of one variant."""

    def initial(self) -> State:
        """Return the state in which everything begins."""
        return freeze(self.initial_world())

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield every step of a client or of the environment."""
        world = World(*state)
        for client, process in enumerate(self.process):
            if world.alive[process] and world.at[client] < len(self.calls[client]):
                run = world.runs[client]
                for label, act in self._client(world, client, process, run):
                    after = World(*state)
                    act(after)
                    yield f"client {client} in process {process}: {label}", freeze(after)
        for label, act in self.happenings(world):
            after = World(*state)
            act(after)
            yield label, freeze(after)

    def violation(self, state: State) -> str | None:
        """Return which promise is broken."""
        world = World(*state)
        if world.bad is not None or any(world.runs):
            return world.bad
        return self.lingering(world)

    # -- calls --------------------------------------------------------------------------------------------------

    def _client(self, w: World, c: int, p: int, run: Run | None) -> Steps:
        call = self.calls[c][w.at[c]]
        if run is not None and run.step != "begin":
            if run.step == "joined":
                return []
            step: Callable[[World, int, int, Run, str], Steps] = getattr(self, "_" + run.step)
            return step(w, c, p, run, call)
        if call == "read":
            return [("reads", lambda w: self._begin_read(w, c, p))]
        if call == "refresh":
            return [("refreshes", lambda w: self._begin_refresh(w, c, p))]
        if call == "touch":
            return [("touches", lambda w: self._begin_touch(w, c, p))]

        def write(w: World) -> None:
            if call != "other rule":
                w.db += 1
            first = "pending" if self.v.pending_first else "forget"
            w.put("runs", c, Run(first, version=w.db))

        return [("writes to the database", write)]

    # -- invalidating and setting -------------------------------------------------------------------------------

    def _what(self, w: World, c: int, run: Run, call: str) -> Unsent:
        return Unsent(INVALIDATES[call], self.call_id(c, w.at[c]), run.version, call != "other rule")

    def _pending(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def act(w: World) -> None:
            kept = tuple(one for one in w.pending[p] if one.dep != what.dep or what.dep == G)
            w.put("pending", p, (*kept, what))
            self._to(w, c, step="forget" if self.v.pending_first else self._first(call))

        return [("notes it as pending", act)]

    def _first(self, call: str) -> str:
        return "others" if call == "set" else "head" if INVALIDATES[call] == G else "send"

    def _forget(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def act(w: World) -> None:
            if call != "other rule":
                self.forget(w, p, INVALIDATES[call])
            self._to(w, c, step=self._first(call) if self.v.pending_first else "pending")
            if call == "set":
                fresh = w.runs[c]
                if fresh is not None:
                    w.put("runs", c, self._token(w, p, fresh._replace(hit=False, hit_known=False)))

        return [("forgets", act)]

    def _returned(self, w: World, c: int, p: int, run: Run, call: str) -> None:
        if call != "other rule":
            w.put("own", p, max(w.own[p], run.version))
        self._finish(w, c)

    def _done(self, w: World, c: int, p: int, run: Run, call: str) -> None:
        self.arrived(w, p, (self._what(w, c, run, call),), finished=True)
        self._returned(w, c, p, run, call)

    def _head(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            self._to(w, c, ids=(0, 0, 0, w.marks[G]), step="send")

        return self.ask(w, "captures the log's head", ("seed", (G,)), ok, lambda w: self._returned(w, c, p, run, call))

    def _send(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def signal_first(w: World) -> None:
            self.signal(w, what)
            self._to(w, c, step="renew")

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        if not self.v.renews_in_one:
            command: tuple[Any, ...] = ("replace", what)
            return self.ask(w, f"replaces {describe(what)}", command, lambda w: self._to(w, c, step="created"), down)
        if self.v.signals == "after it":
            # The renewal is acknowledged only when the signal is out too.
            command = ("renew", what, (run.ids or UNREAD)[G])
            return self.ask(w, f"renews {describe(what)}", command, lambda w: self._to(w, c, step="signal"), down)
        if self.v.signals == "before it":
            return [(f"signals {describe(what)}", signal_first)]
        return self._renew(w, c, p, run, call)

    def _renew(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def ok(w: World) -> None:
            self._done(w, c, p, run, call)

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        command = ("renew", what, (run.ids or UNREAD)[G])
        return self.ask(w, f"renews {describe(what)}", command, ok, down, renews=True)

    def _signal(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def act(w: World) -> None:
            self.signal(w, what)
            self._done(w, c, p, run, call)

        return [(f"signals {describe(what)}", act)]

    def _created(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def ok(w: World) -> None:
            self._done(w, c, p, run, call)

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        return self.ask(w, f"creates {describe(what)} if it is missing", ("create", what), ok, down)

    def _others(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """The ids of a given value: those of others as they are, the key's own new."""
        what = self._what(w, c, run, call)
        others = tuple(dep for dep in self.deps if dep != K or not self.v.set_renews)
        renews = self.v.set_renews and self.v.set_waits

        def ok(w: World) -> None:
            ids = of_each(lambda dep: w.marks[dep] if dep in others else what.id if dep == K else 0)
            if renews or not self.v.set_renews:
                self.arrived(w, p, (what,), finished=True)
            self._to(w, c, ids=ids, got=Payload(run.version, ids), step="far", age=0)

        def down(w: World) -> None:
            self._to(w, c, ids=None, got=Payload(run.version, UNREAD), step="admit")

        command = ("renew and seed", what, others) if renews else ("seed", others)
        label = "renews the key and captures the other ids" if renews else "captures the other ids"
        return self.ask(w, label, command, ok, down, renews=renews)
