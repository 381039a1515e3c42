"""The link's states and what leads from one to the next; no I/O, and the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..chance import chance

FOREVER: Final = float("inf")


class LinkState(Enum):
    """Where a link is (see the package's theory)."""

    CONNECTING = "connecting"
    ARMING = "arming"
    UP = "up"
    LOST = "lost"
    STOPPED = "stopped"


class Horizon:
    """Until when hits may be served without a thought for the link; read by every hit, so it is one plain attribute.

    Attributes:
        valid_until: monotonic seconds; infinite while no link vouches for entries, which are then bounded one by one.
    """

    __slots__ = ("valid_until",)

    def __init__(self) -> None:
        self.valid_until = FOREVER


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to a heartbeat.

    Attributes:
        role: `master` or another role.
        replid: the id of its replication history.
    """

    role: str
    replid: str

    @classmethod
    def parse(cls, text: str) -> Answer:
        """Return the answer in the text of `INFO replication`; unknown fields are empty."""
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return cls(fields.get("role", ""), fields.get("master_replid", ""))


class LinkMachine:
    """Decides, from what happened and when, which state the link is in.

    Args:
        bound: the staleness bound, seconds.
        beat: seconds between heartbeats; None takes a sixth of the bound, at most half a second.
    """

    SHORTEST: Final = 0.05
    LONGEST: Final = 1.0
    QUICK: Final = 30
    """How many attempts follow each other quickly, so that the end of a short interruption is noticed at once.

    One that gets no answer takes a quarter of a second, so these cover several seconds of silence; then pauses grow.
    """

    def __init__(self, bound: float, beat: float | None = None) -> None:
        self.bound = bound
        self.beat = min(0.5, bound / 6) if beat is None else beat
        self.state = LinkState.CONNECTING
        self.valid_until = 0.0
        self.replid = ""
        self.reason = ""
        self._asked_at: float | None = None
        self._next_beat = 0.0
        self._failures = 0

    def connected(self, now: float) -> None:
        """The connection is open and tracking was asked for; the first heartbeat is due at once."""
        self.state = LinkState.ARMING
        self._asked_at = None
        self._next_beat = now

    def beat_due(self, now: float) -> bool:
        """Return whether a heartbeat should be sent; one is outstanding at most."""
        return self.state in (LinkState.ARMING, LinkState.UP) and self._asked_at is None and now >= self._next_beat

    def asked(self, now: float) -> None:
        """A heartbeat was sent."""
        self._asked_at = now
        self._next_beat = now + self.beat

    def answered(self, answer: Answer, now: float) -> str | None:
        """A heartbeat was answered; return why the link is lost, or None when it is up."""
        asked, self._asked_at = self._asked_at, None
        if asked is None:
            return "an answer that nothing asked for"
        if answer.role != "master":
            return f"the server is a {answer.role or 'server of unknown role'}, not a master"
        if self.state is LinkState.UP and answer.replid != self.replid:
            return "the server began another history"
        self.replid = answer.replid
        self.state = LinkState.UP
        self.valid_until = max(asked + self.bound, 0.0)
        self._failures = 0
        return "the answer came too late" if now >= self.valid_until else None

    @property
    def outstanding(self) -> bool:
        """Whether a heartbeat has not been answered yet."""
        return self._asked_at is not None

    def overdue(self, now: float) -> bool:
        """Return whether an answer has been outstanding for so long that the connection counts as dead."""
        return self._asked_at is not None and now - self._asked_at > self.bound / 2

    def wait(self, now: float) -> float:
        """Return the seconds until something is due."""
        if self._asked_at is not None:
            return max(0.0, self._asked_at + self.bound / 2 - now)
        return max(0.0, self._next_beat - now)

    def lost(self, reason: str) -> float:
        """The link is lost; return the seconds to wait before the next attempt."""
        self.state = LinkState.LOST
        self.reason = reason
        self.valid_until = 0.0
        self._asked_at = None
        pause: float = min(self.LONGEST, self.SHORTEST * 2.0 ** max(0, self._failures - self.QUICK))
        self._failures = min(self._failures + 1, self.QUICK + 10)
        return pause * chance.uniform(0.5, 1.0)
