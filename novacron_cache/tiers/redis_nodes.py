"""Addresses, and what a node of a cluster says about all of them; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["SLOTS", "ClusterMap", "Member", "host_port", "joined", "located"]

SLOTS = 16384


class _Located:
    def __init__(self, options: Any, url: str) -> None:
        self._options = options
        self.url = url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._options, name)


def located(options: Any, url: str) -> Any:
    """Return settings that have another URL, and are the given ones otherwise."""
    return _Located(options, url)


def joined(host: str, port: int) -> str:
    """Return host:port, with the host in brackets where it has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_port(address: str) -> tuple[str, int]:
    """Return the parts of what `joined` made."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Member:
    """A node as another one sees it.

    Attributes:
        id: its name in the cluster.
        address: where it is.
        flags: such as `master`, `slave`, `fail`, `fail?`.
        master: the id of its master, or `-`.
        epoch: the version of its claim to its slots.
        ranges: the slots it serves, first and last.
    """

    id: str
    address: str
    flags: frozenset[str]
    master: str
    epoch: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def serves(self) -> bool:
        """Whether it is a master with slots."""
        return "master" in self.flags and bool(self.ranges)

    @property
    def matters(self) -> bool:
        """Whether something may be signalled there: by a master with slots, or one that is about to get some."""
        return self.serves or ("master" in self.flags and not self.flags & {"fail", "handshake", "noaddr"})

    @property
    def slots(self) -> str:
        """Its slots as text, such as `0-5460`."""
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges)


class ClusterMap:
    """Which node serves which slot, as one node says.

    Args:
        members: all nodes it knows.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = tuple(members)
        self.epoch = max((member.epoch for member in self.members if member.serves), default=-1)
        self.serving = frozenset(member.address for member in self.members if member.serves)
        self.masters = tuple(sorted(member.address for member in self.members if member.matters))
        self.routes = tuple(sorted((member.ranges, member.address) for member in self.members if member.serves))

    @classmethod
    def parse(cls, text: str, asked: str, *, named: bool = False) -> ClusterMap:
        """Return the map in the answer to `CLUSTER NODES`.

        Args:
            text: the answer.
            asked: the address that was asked; a node that does not know its own is there.
            named: whether nodes go by the names they announce, which the certificates of TLS are made for.
        """
        return cls(_member(line.split(), asked, named) for line in text.splitlines() if line.strip())

    def owners(self) -> list[str]:
        """Return the address for each slot; empty where nobody serves it."""
        owners = [""] * SLOTS
        for ranges, address in self.routes:
            for first, last in ranges:
                owners[first : last + 1] = [address] * (last - first + 1)
        return owners

    def successors(self, old: ClusterMap) -> list[tuple[str, str, str]]:
        """Return (slots, old address, new address) for each master that was replaced since an older map."""
        before, found = old.owners(), []
        for member in self.members:
            if member.serves:
                was = before[member.ranges[0][0]]
                if was and was != member.address and was not in self.serving and member.address not in old.serving:
                    found.append((member.slots, was, member.address))
        return found


def _member(fields: list[str], asked: str, named: bool) -> Member:
    place, _, more = fields[1].partition(",")
    hostname = more.partition(",")[0]
    host, _, port = place.partition("@")[0].rpartition(":")
    flags = frozenset(fields[2].split(","))
    if named and hostname:
        host = hostname
    elif not host and "myself" in flags:
        host = host_port(asked)[0]
    ranges = [span.partition("-") for span in fields[8:] if not span.startswith("[")]
    return Member(
        id=fields[0],
        address=joined(host.strip("[]"), int(port)),
        flags=flags,
        master=fields[3],
        epoch=int(fields[6]),
        ranges=tuple((int(first), int(last or first)) for first, _, last in ranges),
    )
