"""What an invalidation returns."""

from __future__ import annotations

from .engine import Engine
from .errors import InvalidationPending
from .flows.invalidating import Done, Invalidation
from .markers import NAMESPACE


class Receipt:
    """Proof of an invalidation.

    This process obeys it from the moment it was asked for. `done` says whether the shared tier has taken it too; while
    it has not, it is retried in the background and this process reads around the shared tiers for what it names.

    Attributes:
        what: `key`, `tag`, `model`, `pattern`, `namespace` or `several`.
        values: what was named.
        local: how many entries of this process were removed.
        replicated: with `durability="replicated"`, whether a replica had it when the call returned; else None.
    """

    __slots__ = ("_deps", "_engine", "_rules", "local", "replicated", "values", "what")

    def __init__(self, engine: Engine, invalidation: Invalidation, done: Done) -> None:
        self._engine = engine
        self._deps = () if done.delivered else tuple(invalidation.deps)
        self._rules = 0 if done.delivered else len(invalidation.rules)
        self.what = invalidation.what
        self.values = invalidation.values
        self.local = done.local
        self.replicated = done.replicated

    @property
    def done(self) -> bool:
        """Whether the shared tier has taken the invalidation; True where there is none."""
        if not self._deps and not self._rules:
            return True
        markers, rules = self._engine.pending.snapshot()
        names = {dep for dep, _ in markers}
        # Where too much was pending, the namespace is pending in its place.
        if NAMESPACE not in names and names.isdisjoint(self._deps) and not (self._rules and rules):
            self._deps, self._rules = (), 0
            return True
        return False

    @property
    def pending(self) -> bool:
        """Whether the invalidation still has to reach the shared tier."""
        return not self.done

    def check(self, *, wait: bool) -> Receipt:
        """Return the receipt; raise where the caller wanted to wait for what has not come about.

        Raises:
            InvalidationPending: with `wait`: the shared tier, or the replica that was asked for, does not have it yet.
        """
        if wait and not self.done:
            raise InvalidationPending(
                "the shared tier has not taken the invalidation yet; this process obeys it and goes on retrying",
                receipt=self,
            )
        if wait and self.replicated is False:
            raise InvalidationPending(
                "the shared tier has taken the invalidation, but no replica has said so in time", receipt=self
            )
        return self

    def __repr__(self) -> str:
        state = "done" if self.done else "pending"
        return f"<Receipt {self.what} {', '.join(self.values)} {state}, {self.local} local>"
