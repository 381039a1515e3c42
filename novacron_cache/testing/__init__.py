"""What tests of a cache, of a part of one, or of an application that caches can use.

The conformance suites need pytest, which is imported only when one of them is asked for, as everything here is: the
pytest plugin stands in this package too, and must cost a session nothing that does not use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chaos import ChaosTier
    from .clock import ManualClock
    from .coding import CodecSuite
    from .fleet import Fleet, PeerProcess
    from .isolating import IsolatedCache, isolated
    from .leasing import LeaseSuite
    from .linking import LinkSuite
    from .recording import Events
    from .suites import TierSuite

__all__ = [
    "ChaosTier",
    "CodecSuite",
    "Events",
    "Fleet",
    "IsolatedCache",
    "LeaseSuite",
    "LinkSuite",
    "ManualClock",
    "PeerProcess",
    "TierSuite",
    "isolated",
]

_SUITES = {"CodecSuite": "coding", "LeaseSuite": "leasing", "LinkSuite": "linking", "TierSuite": "suites"}
_HOMES = {
    **_SUITES,
    "ChaosTier": "chaos",
    "Events": "recording",
    "Fleet": "fleet",
    "IsolatedCache": "isolating",
    "ManualClock": "clock",
    "PeerProcess": "fleet",
    "isolated": "isolating",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys
    from importlib import import_module

    module = f"{__name__}.{_HOMES[name]}"
    if name in _SUITES and module not in sys.modules:
        try:
            import pytest
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{name} needs pytest; install it with: pip install 'novacron-cache[testing]'", name="pytest"
            ) from None
        # A failing assertion of a suite then explains itself like one in a test module.
        pytest.register_assert_rewrite(module)
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
