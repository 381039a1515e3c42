"""What the server has to do in a simulated fleet: its own figures, and what one more link hears of it."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

import hiredis
import redis

READS = {"mget", "get", "exists", "pttl", "ttl"}
"""Commands by which entries are looked for; `info` is the links' heartbeat, all others belong to stores and changes."""


class Figures(Counter[str]):
    """Counters whose difference between two moments is of interest."""

    def __sub__(self, other: Counter[str]) -> Figures:
        return Figures({name: self[name] - other[name] for name in self})


class Server:
    """A client that asks for figures.

    Args:
        url: of the server.
        namespace: of the cache.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._prefix = f"nc:{namespace}:"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def figures(self) -> Figures:
        """Return the counters: calls by command, bytes each way, and microseconds of processor time."""
        info: dict[str, Any] = self._client.info("everything")
        found = Figures(
            {name.removeprefix("cmdstat_"): one["calls"] for name, one in info.items() if name.startswith("cmdstat_")}
        )
        found["bytes in"], found["bytes out"] = info["total_net_input_bytes"], info["total_net_output_bytes"]
        found["cpu us"] = round(1e6 * (info["used_cpu_user"] + info["used_cpu_sys"]))
        found["evicted"] = info["evicted_keys"]
        return found

    def contents(self) -> dict[str, Any]:
        """Return how many values and markers there are, and how many bytes one of each takes on average."""
        names: dict[str, list[str]] = {"values": [], "markers": []}
        for name in self._client.scan_iter(f"{self._prefix}*", count=2_000):
            what = {"v": "values", "m": "markers"}.get(name[len(self._prefix) :].partition(":")[0])
            if what is not None:
                names[what].append(name)
        memory: dict[str, Any] = self._client.info("memory")
        return {
            "used_bytes": memory["used_memory"],
            "before_bytes": memory["used_memory_startup"],
            **{what: len(found) for what, found in names.items()},
            **{f"bytes_of_{what}": self._sampled(found) for what, found in names.items()},
        }

    def _sampled(self, names: list[str]) -> int:
        step = max(1, len(names) // 500)
        with self._client.pipeline(transaction=False) as pipe:
            for name in names[::step]:
                pipe.memory_usage(name)
            sizes = [size for size in pipe.execute() if size]
        return round(sum(sizes) / len(sizes)) if sizes else 0


class LinkListener:
    """One more link, that counts what it hears; every link of the fleet hears the same.

    Args:
        path: the server's socket.
        prefix: of the signals.
    """

    def __init__(self, path: str, prefix: str) -> None:
        self._heard = Figures({"messages": 0, "names": 0, "bytes": 0})
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(f"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX {prefix}\r\n".encode())
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> LinkListener:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def figures(self) -> Figures:
        """Return the messages, the names in them, and their bytes, so far."""
        return Figures(self._heard)

    def _listen(self) -> None:
        reader = hiredis.Reader()
        while data := self._socket.recv(1 << 16):
            reader.feed(data)
            self._heard["bytes"] += len(data)
            while (message := reader.gets()) is not False:
                if isinstance(message, list) and message[0] == b"invalidate":
                    self._heard["messages"] += 1
                    self._heard["names"] += len(message[1] or ())
