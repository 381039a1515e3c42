"""The link: how a process hears at once what other processes invalidate.

Theory. Whoever gives a marker a new id also writes and deletes a *signal* key that names the dependency and the new id,
in one step on the server. The link is one connection of its own that asks the server to push the names of such keys
(`CLIENT TRACKING ON BCAST`). While it is up, process memory needs no bound of its own: an entry is good until a signal
names something it depends on.

A connection that is silent proves nothing, so the link asks for `INFO replication` all the time, *on that connection*:
an answer proves that every signal sent before it has arrived, that the server is still a master, and that it is still
the same one. Each answer moves the horizon to the time of the question plus the staleness bound. A hit compares the
clock with the horizon, so even a process whose link thread was stopped cannot serve past the bound.

Where there are several masters, there is such a connection to each, in one thread. The link is up while all of them are
and vouches for what all have vouched for; and never beyond the bound after those who elect masters last confirmed that
these are the masters, for one that was replaced without knowing it answers as before.

When the link is lost, nothing is thrown away: every entry has to be revalidated by its ids once, loads under way keep
their result out of process memory, and until the link is back each entry is served for the staleness bound after it was
last found valid.

Where there is a disk and no server, the link is a thread that reads the disk's log of changes (see `shared`); all of
the above holds for it, with a poll in place of the question and its answer.

States: `connecting` (no connection), `arming` (asked to track, first answer outstanding), `up`, `lost` (waiting before
the next attempt), `stopped`.
"""

from .interface import Link
from .machine import Horizon, LinkMachine, LinkState
from .shared import DiskLink
from .tracking import TrackingLink

__all__ = ["DiskLink", "Horizon", "Link", "LinkMachine", "LinkState", "TrackingLink"]
