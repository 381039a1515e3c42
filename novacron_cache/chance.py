"""Chance, for what spreads attempts and draws samples, apart from the application's own.

A program that seeds `random` draws the same numbers whether it caches or not, and however its threads run. Nor do the
children of a fork draw the same ones, as they would from a generator whose state they inherited.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Final

__all__ = ["chance"]

chance: Final = SystemRandom()
