"""`novacron-cache demo`: the cache at work on this host, and a count of what went wrong.

The command sets the stage and tells the outcome: `demo_run` does the work in between, `demo_world` says what is cached.
Exit codes: 0 when no stale value was seen, 1 when one was, 2 when the demo could not start. With `--libvirt` it is
`demo_libvirt` that does the work.
"""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from .. import CacheSettings
    from .demo_run import Run

BOUND: Final = 0.5
L1_ITEMS: Final = 128
L2_SECONDS: Final = 1.5

TIERS: Final = {"memory": "L1 memory", "redis": "L2 server", "disk": "L3 disk"}
ANSWERS: Final = {**TIERS, "waited": "a load under way", "loaded": "a load of its own"}


class CannotStart(click.ClickException):
    """The demo cannot start; the message says what to do."""

    exit_code = 2


@click.command(epilog="Exit codes: 0 no stale value was seen, 1 one was, 2 the demo could not start.")
@click.option("--seconds", type=click.FloatRange(0.5, 3600), default=8.0, show_default=True, help="How long it runs.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the machines, latencies, reads and changes.")
@click.option("--redis-url", metavar="URL", help="A server to use instead of a private one; keys of the demo only.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON and nothing else.")
@click.option(
    "--libvirt", "libvirt_uri", metavar="URI", help="Show the VMs of a libvirt host, such as test:///default."
)
def demo(seconds: float, seed: int, redis_url: str | None, as_json: bool, libvirt_uri: str | None) -> None:
    """Show the cache at work on this host, with all three tiers.

    Two processes of an application, played by two caches that share a server and a directory, read this host's
    resources and processes and the states of 240 simulated virtual machines, while machines change and move and are
    invalidated by tag. Every value read is compared with what was true. Ctrl-C ends it early, with the outcome so far.

    With --libvirt it shows a hypervisor's VMs instead: what reading them costs with and without the cache, and how soon
    a change made through libvirt is seen. test:///default is a host that libvirt simulates, and the only one on which
    the demo changes anything; of any other it reads, and tells for --seconds what others change.
    """
    if libvirt_uri is not None:
        _libvirt(libvirt_uri, seconds, redis_url, as_json=as_json)
        return
    try:
        from .demo_run import Run
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"the demo reads this host with {error.name}, which is not installed: pip install 'novacron-cache[demo]'"
        ) from error
    with ExitStack() as stage, _terminable():
        settings, server = _settings(redis_url, stage)
        run = Run(settings, seed)
        if as_json:
            run.run(seconds, lambda run, elapsed: None)
        else:
            _watched(run, seconds, server)
    result = outcome(run, server)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(result, run)
    if result["stale"]:
        raise click.exceptions.Exit(1)


def _libvirt(uri: str, seconds: float, redis_url: str | None, *, as_json: bool) -> None:
    """Show the VMs of a hypervisor.

    Raises:
        CannotStart: libvirt-python is not installed, the host is not there, or there is no server.
    """
    from .. import CacheSettings, DeclarationError
    from ..vm import HypervisorUnavailableError
    from .demo_libvirt import run, told

    with ExitStack() as stage, _terminable():
        settings, server = _settings(redis_url, stage)
        # The same server and namespace; no disk, and all of a host's VMs in memory.
        settings = CacheSettings(namespace=settings.namespace, redis={"url": settings.redis.url})
        try:
            result = run(uri, settings, seconds, (lambda line: None) if as_json else click.echo)
        except (DeclarationError, HypervisorUnavailableError) as error:
            raise CannotStart(str(error)) from error
    click.echo(json.dumps({**result, "server": server}, indent=2) if as_json else f"\n{told(result, server)}")
    if result["stale"] or result["never_seen"]:
        raise click.exceptions.Exit(1)


@contextmanager
def _terminable() -> Iterator[None]:
    """Have a request to terminate end the run as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _settings(redis_url: str | None, stage: ExitStack) -> tuple[CacheSettings, str]:
    """Return the settings of both caches, and what the server is; what must go at the end is put on the stage.

    Raises:
        CannotStart: there is no server.
    """
    import os
    import tempfile

    from .. import Cache, CacheSettings, InvalidationPending, SettingsError, TierUnavailableError
    from ..settings import redact

    try:
        if redis_url is None:
            from ..topology.embedded import EmbeddedServer

            # What `redis.mode="embedded"` starts; here two caches have to find it.
            private = stage.enter_context(EmbeddedServer())
            url, server = private.url, f"a private {private.version}"
        else:
            url, server = redis_url, redact(redis_url)
        # Whoever runs a demo on the same server at the same time must not meet this one's machines.
        namespace = f"novacron-demo-{os.urandom(3).hex()}"
        settings = CacheSettings(
            namespace=namespace,
            staleness_bound=BOUND,
            memory={"max_items": L1_ITEMS},
            redis={"url": url, "ttl": L2_SECONDS},
            disk={"path": stage.enter_context(tempfile.TemporaryDirectory(prefix="novacron-demo-"))},
        )
        failures: list[Any] = []
        with Cache(settings) as probe:
            probe.on("tier_failed", failures.append)
            try:
                probe.clear(wait=True)
            except InvalidationPending as error:
                raise CannotStart(f"the demo needs the server {server}: {failures[0].error}") from error
        if redis_url is not None:
            stage.callback(_erase, url, namespace)
    except (SettingsError, TierUnavailableError) as error:
        raise CannotStart(str(error)) from error
    return settings, server


def _erase(url: str, namespace: str) -> None:
    """Remove every key of the demo from somebody's server: the payloads, and the markers that `clear` leaves."""
    import contextlib

    import redis

    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=1) as client:
        for key in client.scan_iter(f"nc:{namespace}:*", count=1000):
            client.unlink(key)


# --- the outcome ------------------------------------------------------------------------------------------------------


def outcome(run: Run, server: str) -> dict[str, Any]:
    """Return what a run has shown, as plain data; times are in milliseconds unless their name says otherwise."""
    hits: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    loads = joined = calls = 0
    saved = 0.0
    for by_name in run.stats:
        for stats in by_name.values():
            hits.update(stats.hits)
            misses.update(stats.misses)
            loads, joined, calls = loads + stats.loads, joined + stats.joined, calls + stats.calls
            # Whoever waited for another's load waited all the same.
            saved += sum(stats.hits.values()) * stats.load_seconds / stats.loads if stats.loads else 0.0
    answered = sum(hits.values())
    return {
        "seconds": round(run.seconds, 3),
        "seed": run.seed,
        "server": server,
        "reads": calls,
        "hit_rate": _share(answered, calls),
        "hits": {tier: {"count": hits[tier], "share": _share(hits[tier], calls)} for tier in TIERS},
        "misses": dict(misses),
        "waited_for_another_load": joined,
        "loads": loads,
        "loads_avoided": calls - loads,
        "waiting_avoided_seconds": round(saved, 3),
        "latency": _latencies(run),
        "invalidations": {"count": sum(run.invalidations.values()), "of": dict(run.invalidations)},
        "scheduler_starts": run.starts,
        "comparisons": run.read,
        "stale": run.stale,
        "staleness_bound_seconds": run.settings.staleness_bound,
        "behind_within_bound": {"count": run.behind, "oldest_seconds": round(run.oldest, 3)},
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _latencies(run: Run) -> dict[str, Any]:
    from .demo_world import HostProcesses, HostResources, NodeVMs, VMState

    def percentiles(seconds: list[float]) -> dict[str, float]:
        last = len(seconds) - 1
        at = {f"p{q}": round(1000 * seconds[min(last, len(seconds) * q // 100)], 4) for q in (50, 95, 99)}
        return {"count": len(seconds), **at}

    whats = {"vm_state": VMState, "vms_of_node": NodeVMs, "host_resources": HostResources,
             "host_processes": HostProcesses, "batch_of_vm_states": "batch"}  # fmt: skip
    found: dict[str, Any] = {}
    for name, what in whats.items():
        groups = {who: run.cached.sorted((what, who)) for who in (*ANSWERS, "any")}
        everything = sorted(second for group in groups.values() for second in group)
        groups = {**groups, "any": everything, "uncached": run.uncached.sorted(what)}
        found[name] = {who: percentiles(seconds) for who, seconds in groups.items() if seconds}
    return found


# --- for people -------------------------------------------------------------------------------------------------------


def _watched(run: Run, seconds: float, server: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console()
    console.print(
        "[bold]novacron_cache[/bold] with three tiers: two processes, each with an L1 of "
        f"{L1_ITEMS} entries,\nshare {server} as L2 and a directory as L3. They read while\n"
        "240 virtual machines and this host change.",
        highlight=False,
        soft_wrap=True,
    )
    columns = (BarColumn(24), TextColumn("{task.fields[seen]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds, seen="")

        def watch(run: Run, elapsed: float) -> None:
            seen = f"{run.read:,} reads, {sum(run.invalidations.values()):,} invalidations, {run.stale} stale values"
            progress.update(task, completed=elapsed, seen=seen)

        run.run(seconds, watch)


def _print(result: dict[str, Any], run: Run) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if run.resources is not None and run.processes is not None:
        host, processes = run.resources, run.processes.processes
        largest = f", the largest {processes[0].name} ({_bytes(processes[0].memory)})" if processes else ""
        console.print(
            f"\nThis host as the cache has it: {host.cores} cores with a load of {host.load:.1f}, "
            f"disk {host.disk_percent:.0f} % full,\n"
            f"memory {_bytes(host.memory_used)} of {_bytes(host.memory_total)}, "
            f"{len(processes)} processes{largest}\n",
            soft_wrap=True,
        )
    console.print(_tiers_table(result))
    console.print(_calls_table(result))
    _print_findings(console, result)


def _tiers_table(result: dict[str, Any]) -> Any:
    table = _table(
        f"Who answered {result['reads']:,} reads, and how fast for one machine's state",
        ("answered by", "reads", "share", "p50", "p95", "p99", "speed-up"),
    )
    counts = {tier: hit["count"] for tier, hit in result["hits"].items()}
    counts |= {"waited": result["waited_for_another_load"], "loaded": sum(result["misses"].values())}
    latency = result["latency"]["vm_state"]
    source = latency.get("uncached")
    for who, label in ANSWERS.items():
        if counts[who]:
            share = f"{100 * counts[who] / result['reads']:.1f} %"
            times = latency.get(who)
            table.add_row(label, f"{counts[who]:,}", share, *_times(times), _speed_up(times, source))
    table.add_section()
    table.add_row("the uncached call", "", "", *_times(source), "")
    table.caption = "L1's slowest hits ask L2 whether an entry still holds.\n"
    return table


def _calls_table(result: dict[str, Any]) -> Any:
    table = _table(
        "The same by function, whoever answered",
        ("function", "calls", "p50", "p95", "uncached p50", "speed-up"),
    )
    labels = {"vm_state": "state of one machine", "batch_of_vm_states": "states of up to 20",
              "vms_of_node": "machines of a node", "host_resources": "this host, resources",
              "host_processes": "this host, processes"}  # fmt: skip
    for what, label in labels.items():
        latency = result["latency"][what]
        if called := latency.get("any"):
            source = latency.get("uncached")
            times = (*_times(called)[:2], _times(source)[0])
            table.add_row(label, f"{called['count']:,}", *times, _speed_up(called, source))
    return table


def _table(title: str, columns: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _print_findings(console: Any, result: dict[str, Any]) -> None:
    def percent(share: float) -> str:
        return f"{100 * share:.1f} %"

    reads, behind, invalidated = result["reads"], result["behind_within_bound"], result["invalidations"]
    kinds = ", ".join(f"{count} {what}" for what, count in invalidated["of"].items())
    colour = "red" if result["stale"] else "green"
    latest = f", the latest by {behind['oldest_seconds']:.2f} s" if behind["count"] else ""
    rows = {
        "hit rate": f"[bold]{percent(result['hit_rate'])}[/bold]; "
        f"{percent(_share(result['loads_avoided'], reads))} with those that shared a load",
        "loads": f"{result['loads']:,}, and [bold]{result['loads_avoided']:,} avoided[/bold] in "
        f"{result['seconds']:.1f} s; they would have taken {result['waiting_avoided_seconds']:,.0f} s",
        "invalidations": f"{invalidated['count']:,} by tag: {kinds}",
        "restarts": f"one of the processes began with an empty L1 {result['scheduler_starts']} times",
        "stale values": f"[bold {colour}]{result['stale']:,}[/] in {result['comparisons']:,} values compared with "
        "the truth",
        "seen late": f"{behind['count']:,} reads after the other process's change{latest}; "
        f"{result['staleness_bound_seconds']:g} s is allowed",
    }
    for name, text in rows.items():
        console.print(f"{name:<14} {text}", soft_wrap=True)


def _times(latency: dict[str, float] | None) -> list[str]:
    return [_time(latency[name]) for name in ("p50", "p95", "p99")] if latency else ["", "", ""]


def _time(milliseconds: float) -> str:
    if milliseconds < 0.1:
        return f"{1000 * milliseconds:.1f} µs"
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _speed_up(latency: dict[str, float] | None, source: dict[str, float] | None) -> str:
    if not latency or not source or not latency["p50"]:
        return ""
    ratio = source["p50"] / latency["p50"]
    return f"{ratio:,.0f}x" if ratio >= 9.5 else f"{ratio:.1f}x"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
