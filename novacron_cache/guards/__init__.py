"""What keeps concurrent calls honest: flights, the history of invalidations, breakers, pending invalidations, lives.

Everything here is pure bookkeeping with an injected clock. Nothing waits, except where a driver asks a flight for
the primitive of its own calling mode.
"""

from __future__ import annotations

from .breaker import Breaker
from .flights import Convoy, Flight, Flights, Leading, Outcome, leading
from .history import History, Matcher
from .lives import Lives
from .pending import NOTHING_PENDING, Pending, PendingView

__all__ = [
    "NOTHING_PENDING",
    "Breaker",
    "Convoy",
    "Flight",
    "Flights",
    "History",
    "Leading",
    "Lives",
    "Matcher",
    "Outcome",
    "Pending",
    "PendingView",
    "leading",
]
