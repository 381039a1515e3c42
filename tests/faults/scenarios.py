"""All scenarios, in the order in which they are played."""

from __future__ import annotations

from . import (
    scenarios_costs,
    scenarios_inside,
    scenarios_links,
    scenarios_processes,
    scenarios_servers,
    scenarios_topologies,
)
from .scenario import SCENARIOS

__all__ = [
    "ALL", "scenarios_costs", "scenarios_inside", "scenarios_links", "scenarios_processes", "scenarios_servers",
    "scenarios_topologies",
]  # fmt: skip

ALL = sorted(SCENARIOS, key=lambda name: SCENARIOS[name].number)
