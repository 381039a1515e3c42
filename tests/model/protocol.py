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

A master's *history* has a name. A master that begins anew, perhaps with older data, has another one, and so has a
replica that takes its place. Who meets a name that is not kept beside the namespace's marker makes that marker new; who
meets another name than before says again what it had invalidated (its *journal*). A *hold* takes the id away before a
write, and a new one comes after it, so that nothing is served that a dead writer has made old. A *strong* read asks.

Promises, checked in every reachable state:

- *own*: a read in the invalidating process that begins after `invalidate` or `set` has returned never returns an older
  value, whatever else happens, delivered or not;
- *bounded*: a read that begins when an invalidation has been finished for the bound never returns an older value;
- *told*: a read that begins after its process has received a signal, or noticed that its link is lost, never returns
  a value older than that;
- *strong*: a strong read never returns a value older than what was finished anywhere when it began;
- *at rest*: when nothing is under way, no tier would serve an old value, now or later: nothing is ever resurrected.

What these mean while masters are replaced:

- an invalidation that only a master has which is none any more has finished when it has arrived at the one that stays.
  It does while its process lives, which finds the new master within the bound, called or not (an assumption about
  links and clients: something has to ask who the master is). What was acknowledged before a replica was promoted
  counts, whether the replica had it or not;
- *told* begins anew with each master: what only the one told that is gone, the other does not know yet;
- when everybody has left a master, and it is made the master again without having known, *bounded* and *told* begin
  anew: what had finished is promised again when the bound has passed, since somebody has to come from the other one;
- a strong read asks the master that its process knows, and promises nothing while that is the wrong one.

Left out: several links for several shards (one link stands for all, and is lost with each), and late tags and the rule
log on several shards.

The steps are those of the flows: each step is what happens between two points at which another thread, process or
fault may come in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from model.authority import Steps
from model.world import Run, State, World, freeze
from model.writing import Writing


class Coherence(Writing):
    """The model of one variant."""

    def initial(self) -> State:
        """Return the state in which everything begins."""
        world = self.initial_world()
        if self.v.astray:
            world.snapshot = world.stored
            self.promote(world)
            world.side = world.link_side = tuple(int(process in self.v.astray) for process in self.processes)
        return freeze(world)

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
        if call == "strong":
            return [("reads strongly", lambda w: self._begin_strong(w, c, p))]
        if call == "touch":
            return [("touches", lambda w: self._begin_touch(w, c, p))]
        if call == "hold":
            return [("is about to write", lambda w: w.put("runs", c, Run("hold")))]

        def write(w: World) -> None:
            if call != "other rule":
                w.db += 1
            first = "pending" if self.v.pending_first else "forget"
            w.put("runs", c, Run(first, version=w.db))

        return [("writes to the database", write)]
