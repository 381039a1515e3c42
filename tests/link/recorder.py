"""A subscriber that notes what a link tells it."""

from __future__ import annotations


class Recorder:
    def __init__(self) -> None:
        self.signals: list[tuple[str, bytes]] = []
        self.ups = 0
        self.lost: list[str] = []
        self.valid_until = 0.0

    def link_up(self, valid_until: float) -> None:
        self.ups += 1
        self.valid_until = valid_until

    def link_beat(self, valid_until: float) -> None:
        self.valid_until = valid_until

    def link_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def signalled(self, signals: list[tuple[str, bytes]]) -> None:
        self.signals += signals
