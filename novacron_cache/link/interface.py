"""What an engine, its drivers and its cache use of a link, whichever kind it is."""

from __future__ import annotations

from typing import Protocol

from .machine import LinkState

__all__ = ["Link"]


class Link(Protocol):
    """Tells its subscriber what other processes invalidate."""

    @property
    def state(self) -> LinkState:
        """Where the link is."""
        ...

    def ensure(self) -> None:
        """Start unless it runs; cheap enough to be called before every trip to the authority."""

    def stop(self) -> None:
        """End for good, and fail whoever waits for a barrier."""

    def drop(self, reason: str) -> None:
        """Begin anew, as if lost for this reason: what it listens to may not be what counts."""

    def barrier(self, patience: float) -> bool:
        """Wait until every signal sent before this call has been obeyed; False when the link cannot say so.

        A link that is coming up for the first time is waited for.

        Args:
            patience: seconds to wait at most.
        """
        ...

    async def abarrier(self, patience: float) -> bool:
        """Do what `barrier` does without blocking the running loop."""
        ...
