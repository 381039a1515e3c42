"""What tests of a cache, of a tier or of an application that caches can use: a clock, and the conformance suites.

The suites need pytest, which is imported only when one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .clock import ManualClock

if TYPE_CHECKING:
    from .leasing import LeaseSuite
    from .suites import TierSuite

__all__ = ["LeaseSuite", "ManualClock", "TierSuite"]

_SUITES = {"LeaseSuite": "leasing", "TierSuite": "suites"}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys
    from importlib import import_module

    import pytest

    module = f"{__name__}.{_SUITES[name]}"
    if module not in sys.modules:
        # A failing assertion of a suite then explains itself like one in a test module.
        pytest.register_assert_rewrite(module)
    return getattr(import_module(module), name)
