"""What tests of a cache, of a tier or of an application that caches can use: a clock, and the conformance suites.

The suites need pytest, which is imported only when one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .clock import ManualClock

if TYPE_CHECKING:
    from .suites import TierSuite

__all__ = ["ManualClock", "TierSuite"]


def __getattr__(name: str) -> Any:
    if name != "TierSuite":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys

    import pytest

    if (module := f"{__name__}.suites") not in sys.modules:
        # A failing assertion of a suite then explains itself like one in a test module.
        pytest.register_assert_rewrite(module)
    from .suites import TierSuite

    return TierSuite
