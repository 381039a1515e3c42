"""What an invalidation returns."""

from __future__ import annotations

from .engine import Engine
from .flows.invalidating import Invalidation


class Receipt:
    """Proof of an invalidation.

    This process obeys it from the moment it was asked for. `done` says whether the shared tier has taken it too; while
    it has not, it is retried in the background and this process reads around the shared tiers for what it names.

    Attributes:
        what: `key`, `tag`, `model`, `pattern`, `namespace` or `several`.
        values: what was named.
        local: how many entries of this process were removed.
    """

    __slots__ = ("_deps", "_engine", "_rules", "local", "values", "what")

    def __init__(self, engine: Engine, invalidation: Invalidation, local: int, done: bool) -> None:
        self._engine = engine
        self._deps = () if done else tuple(invalidation.deps)
        self._rules = 0 if done else len(invalidation.rules)
        self.what = invalidation.what
        self.values = invalidation.values
        self.local = local

    @property
    def done(self) -> bool:
        """Whether the shared tier has taken the invalidation; True where there is none."""
        if not self._deps and not self._rules:
            return True
        markers, rules = self._engine.pending.snapshot()
        names = {dep for dep, _ in markers}
        if names.isdisjoint(self._deps) and not (self._rules and rules):
            self._deps, self._rules = (), 0
            return True
        return False

    @property
    def pending(self) -> bool:
        """Whether the invalidation still has to reach the shared tier."""
        return not self.done

    def __repr__(self) -> str:
        state = "done" if self.done else "pending"
        return f"<Receipt {self.what} {', '.join(self.values)} {state}, {self.local} local>"
