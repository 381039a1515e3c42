"""One caller and one key on a server: how long he waits, and what his process computes meanwhile.

The wait is a matter of the network and of how fast the machine wakes up a process; the processor time, of all threads
of the process, is what a client can do well or badly. The promise is about the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter_ns, process_time_ns
from typing import Any

from l2_world import TTL, Decode, Loads, Machine, Raw, cache, command, decode, ids, machine
from measuring import LIMIT, OURS, Area, Contender, Effort, Figure, compare_each, inverse, own, same
from serving import Server, server

KEYS = ids()
Call = Callable[[str], Any]
Check = Callable[[], None]


def _calls(call: Call) -> tuple[float, float]:
    wall, cpu = perf_counter_ns(), process_time_ns()
    for key in KEYS:
        call(key)
    return (perf_counter_ns() - wall) / len(KEYS), (process_time_ns() - cpu) / len(KEYS)


def _contender(name: str, make: Callable[[], tuple[Call, Check]], note: str = "") -> Contender:
    def start() -> tuple[Callable[[], tuple[float, float]], Check]:
        call, check = make()
        calls = own(_calls)
        calls(call)
        return lambda: calls(call), check

    return Contender(name, start, note)


def _checked(call: Call) -> tuple[Call, Check]:
    return call, lambda: same([machine(key) for key in KEYS], [call(key) for key in KEYS])


class _Contenders:
    def __init__(self, running: Server, stack: ExitStack) -> None:
        self._server, self._stack = running, stack

    def _raw(self) -> Raw:
        raw = Raw(self._server)
        self._stack.callback(raw.close)
        raw.fill("raw:", KEYS)
        return raw

    def limit(self) -> tuple[Call, Check]:
        ask = self._raw().ask
        decoded: Decode = decode
        return lambda key: ask(command(b"GET", b"raw:" + key.encode())), lambda: same(
            [machine(key) for key in KEYS], [decoded(ask(command(b"GET", b"raw:" + key.encode()))) for key in KEYS]
        )

    def limit_decoded(self) -> tuple[Call, Check]:
        ask, decoded = self._raw().ask, decode
        return _checked(lambda key: decoded(ask(command(b"GET", b"raw:" + key.encode()))))

    def redis_py(self) -> tuple[Call, Check]:
        import redis

        self._raw()
        client: Any = redis.Redis.from_url(self._server.url)
        self._stack.callback(client.close)
        return _checked(lambda key: Machine.model_validate_json(client.get(f"raw:{key}")))

    def glide(self) -> tuple[Call, Check]:
        import glide_sync

        self._raw()
        address = glide_sync.NodeAddress("127.0.0.1", self._server.port)
        client = glide_sync.GlideClient.create(glide_sync.GlideClientConfiguration([address], request_timeout=5000))
        self._stack.callback(client.close)
        return _checked(lambda key: Machine.model_validate_json(client.get(f"raw:{key}") or b""))

    def dogpile(self) -> tuple[Call, Check]:
        from dogpile.cache import make_region

        region: Any = make_region().configure(
            "dogpile.cache.redis", expiration_time=TTL, arguments={"url": self._server.url}
        )
        loads = Loads()
        call = region.cache_on_arguments(to_str=str)(lambda key: loads.load(key))
        self._stack.callback(lambda: region.backend.writer_client.close())
        return call, lambda: loads.check(KEYS, [call(key) for key in KEYS])

    def ours(self) -> tuple[Call, Check]:
        made = self._stack.enter_context(cache(self._server))
        loads = Loads()

        @made.cached(Machine, key="machine:<machine_id>", tiers=["redis"], name="single")
        def get(machine_id: str) -> Machine:
            return loads.load(machine_id)

        return get, lambda: loads.check(KEYS, [get(key) for key in KEYS])

    def ours_promoted(self) -> tuple[Call, Check]:
        made = self._stack.enter_context(cache(self._server, max_items=1))
        loads = Loads()

        @made.cached(Machine, key="machine:<machine_id>", name="promoted")
        def get(machine_id: str) -> Machine:
            return loads.load(machine_id)

        return get, lambda: loads.check(KEYS, [get(key) for key in KEYS])


def run(effort: Effort) -> Area:
    """Measure hits of one caller."""
    with ExitStack() as stack:
        made = _Contenders(stack.enter_context(server()), stack)
        wall, cpu = compare_each(
            ["L2 hit, one caller, wall", "L2 hit, one caller, CPU"],
            [
                _contender(LIMIT, made.limit, "socket and hiredis, nothing decoded"),
                _contender("limit, decoded", made.limit_decoded, "and pydantic-core's validator"),
                _contender("redis-py", made.redis_py, "GET, hiredis, model_validate_json"),
                _contender(OURS, made.ours, "markers, tags, ttl checked; L1 left out"),
                _contender(f"{OURS}, promoted", made.ours_promoted, "and each value enters L1, where another leaves"),
                _contender("valkey-glide", made.glide, "sync client, model_validate_json"),
                _contender("dogpile.cache", made.dogpile, "redis backend; pickles"),
            ],
            rounds=effort.of(60, 8, 1),
            passes=1,
        )
    value = wall.row(OURS).value
    return Area(
        "l2_single",
        [wall, cpu],
        [
            Figure("L2 hit, one key: CPU / redis-py GET + validate_json", inverse(cpu.row("redis-py").ours), 1.1, 0.7),
            Figure("L2 hit", None if value is None else value / 1e6, 5.0, unit=" ms", floor=True),
        ],
    )
