"""Visits every state that a model can reach, breadth first, so that the first failure comes with a shortest trace.

A model is anything with an initial state, a successor relation and a verdict on a state. States are hashable values;
two that are equal are visited once. The search is exhaustive unless it meets its budget, and says which it was.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """What can be explored."""

    def initial(self) -> S:
        """Return the state in which everything begins."""
        ...

    def successors(self, state: S) -> Iterator[tuple[str, S]]:
        """Yield every step that is possible in a state: what happens, and the state it leads to."""
        ...

    def violation(self, state: S) -> str | None:
        """Return what is wrong with a state, or None."""
        ...


@dataclass(slots=True)
class Report(Generic[S]):
    """What a search found.

    Attributes:
        states: how many states were seen.
        seconds: how long it took.
        complete: whether every reachable state was seen; not so when the budget was met or a violation ended it.
        violation: what went wrong, or None.
        trace: the steps that lead there.
        final: the state there.
    """

    states: int
    seconds: float
    complete: bool
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    final: S | None = None

    def __str__(self) -> str:
        head = self.violation or ("nothing wrong" if self.complete else "the budget was met")
        lines = [f"{head} ({self.states} states, {self.seconds:.1f} s)"]
        lines += [f"  {number:2d}. {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join(lines)


def explore(model: Model[S], *, budget: int) -> Report[S]:
    """Search until a violation, the last state, or the budget.

    Args:
        model: what to explore.
        budget: how many states may be seen.
    """
    # States have no cycles: looking for them in millions of tuples is a quarter of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _search(model, budget)
    finally:
        if collects:
            gc.enable()


def _search(model: Model[S], budget: int) -> Report[S]:
    began = time.perf_counter()
    first = model.initial()
    seen: dict[S, tuple[S, str] | None] = {first: None}
    todo = deque([first])
    while todo:
        state = todo.popleft()
        wrong = model.violation(state)
        if wrong is not None:
            return Report(len(seen), time.perf_counter() - began, False, wrong, _trace(seen, state), state)
        for label, following in model.successors(state):
            if following not in seen:
                seen[following] = (state, label)
                todo.append(following)
        if len(seen) > budget:
            return Report(len(seen), time.perf_counter() - began, False)
    return Report(len(seen), time.perf_counter() - began, True)


def _trace(seen: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    steps = []
    while (came := seen[state]) is not None:
        state, label = came
        steps.append(label)
    return steps[::-1]
