"""What can be wrong with local servers, each with the fix in its message.

They are told apart by class because the command line gives each an exit code of its own.
"""

from __future__ import annotations

from ..errors import CacheError

__all__ = [
    "AlreadyRunning", "AlreadySetUp", "Busy", "NoServerBinary", "NotRunning", "NotSetUp", "PortTaken", "StartFailed",
    "TopologyError", "WrongRequest",
]  # fmt: skip


class TopologyError(CacheError):
    """Root of what can be wrong with local servers."""


class WrongRequest(TopologyError):  # noqa: N818 - these names say what is the case
    """What was asked for does not fit: a port out of range, a failover of a single server."""


class NotSetUp(TopologyError):  # noqa: N818
    """The state directory holds no topology, or one that cannot be read."""


class AlreadySetUp(TopologyError):  # noqa: N818
    """The state directory holds a topology already."""


class AlreadyRunning(TopologyError):  # noqa: N818
    """Every server runs already."""


class NotRunning(TopologyError):  # noqa: N818
    """Servers that have to run do not."""


class PortTaken(TopologyError):  # noqa: N818
    """Another process listens on a port that a server needs."""


class NoServerBinary(TopologyError):  # noqa: N818
    """There is no Redis or Valkey server to run, or the one named does not fit."""


class StartFailed(TopologyError):  # noqa: N818
    """A server or the topology as a whole did not come up in time."""


class Busy(TopologyError):  # noqa: N818
    """Another command is changing the same topology."""
