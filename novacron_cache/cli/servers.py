"""`setup`, `start`, `stop`, `restart`: Redis or Valkey servers on this machine.

The same topologies as those of the Compose files, from the same configuration, as plain processes. The commands say
what happens; `novacron_cache.topology` does it.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .targets import json_option

if TYPE_CHECKING:
    from ..topology.local import LocalServers
    from ..topology.state import StateDirectory

__all__ = [
    "CODES",
    "EXIT_CODES",
    "explained",
    "local_servers",
    "restart",
    "setup",
    "start",
    "state_dir",
    "stop",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

EXIT_CODES: Final = {
    "WrongRequest": 2,
    "NotSetUp": 3,
    "AlreadySetUp": 4,
    "AlreadyRunning": 4,
    "PortTaken": 5,
    "NoServerBinary": 6,
    "StartFailed": 7,
    "NotRunning": 8,
    "Busy": 9,
}
"""The exit code of each problem, by the name of its class in `novacron_cache.topology.problems`."""

CODES: Final = (
    "Exit codes: 0 done, 1 something is wrong with the servers, 2 wrong usage, 3 not set up, 4 already set up or "
    "running, 5 a port is taken, 6 no server to run, 7 a server did not come up, 8 not running, 9 another command is "
    "at work."
)
"""What they mean, for the end of a command's help."""
_PASSWORD = "NOVACRON_CACHE_REDIS__PASSWORD"  # noqa: S105 - the name of a variable


@contextmanager
def explained() -> Iterator[None]:
    """Turn a problem with servers into a message and an exit code."""
    from ..topology.problems import TopologyError
    from ..topology.wire import Refusal

    try:
        yield
    except (OSError, Refusal) as error:  # a file that is not ours, a server that went away in the middle
        click.echo(f"Error: {error}; `novacron-cache status` shows how the servers are", err=True)
        raise click.exceptions.Exit(1) from error
    except TopologyError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(EXIT_CODES.get(type(error).__name__, 1)) from error


def state_dir(command: _Command) -> _Command:
    """Give a command the option that names the state directory."""
    return click.option(
        "--state-dir",
        envvar="NOVACRON_STATE_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="Where configuration, passwords and data are.  [env: NOVACRON_STATE_DIR; default: "
        "~/.local/state/novacron-cache]",
    )(command)


def _state(path: Path | None) -> StateDirectory:
    import os

    from ..topology.problems import WrongRequest
    from ..topology.state import StateDirectory

    if path is None:
        try:
            base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        except RuntimeError:  # a user whom the system does not know, as in containers
            raise WrongRequest("this user has no home directory; name a place with --state-dir") from None
        path = Path(base, "novacron-cache")
    return StateDirectory(path)


def local_servers(path: Path | None, *, quiet: bool = False) -> LocalServers:
    """Return the servers of a state directory, which tell what they do on standard error."""
    from ..topology.local import LocalServers

    report = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    return LocalServers(_state(path), report)


# --- setting up -------------------------------------------------------------------------------------------------------


@click.command(epilog=CODES)
@click.argument("kind", type=click.Choice(["standalone", "sentinel", "cluster"]))
@click.option("--port", type=int, help="The first port: 6379, or 7001 with cluster; the others follow it.")
@click.option("--sentinel-port", type=int, help="The first port of the sentinels.  [default: 26379]")
@click.option("--bus-port", type=int, help="The first port for talk between nodes.  [default: 10000 above --port]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address of this machine to listen on.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help=f"Has the password for applications in its first line; else {_PASSWORD}, else one is made.",
)
@click.option(
    "--binary",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The server to run.  [default: valkey-server, redis-server, or that of novacron-cache[embedded]]",
)
@click.option("--replace", is_flag=True, help="Remove the servers that are set up there, with their data.")
@json_option
@state_dir
def setup(
    kind: Any,
    port: int | None,
    sentinel_port: int | None,
    bus_port: int | None,
    host: str,
    password_file: Path | None,
    binary: Path | None,
    replace: bool,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Set servers up on this machine; nothing is started yet.

    \b
    standalone   one server on 6379
    sentinel     a master and two replicas on 6379-6381, three sentinels on 26379-26381
    cluster      three masters with a replica each, on 7001-7006
    """
    import os

    from ..topology.binaries import find
    from ..topology.layout import plan
    from ..topology.local import LocalServers
    from ..topology.problems import AlreadyRunning, NotSetUp

    with explained():
        topology = plan(kind, binary=find(binary), host=host, port=port, sentinel_port=sentinel_port, bus_port=bus_port)
        state = _state(state_dir)
        password = os.environ.get(_PASSWORD) or None
        if password_file is not None:
            try:
                with click.open_file(str(password_file)) as file:
                    password = file.readline().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise click.BadParameter(f"it is no text in {error.encoding}", param_hint="--password-file") from None
        state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with state.locked():
            if replace and state.exists:
                with suppress(NotSetUp):  # what cannot be read is replaced too
                    if LocalServers(state).running():
                        raise AlreadyRunning(
                            f"the servers of {state.path} are running; run `novacron-cache stop` first"
                        )
                state.remove()
            state.create(topology, password=password)
    variables = {f"NOVACRON_CACHE_REDIS__{name.upper()}": value for name, value in topology.redis_settings.items()}
    secret = f"{state.path}/passwords/application"
    if as_json:
        told = {
            "kind": kind,
            "state_dir": str(state.path),
            "binary": str(topology.binary),
            "host": topology.host,
            "servers": [{"name": one.name, "part": one.part, "port": one.port} for one in topology.servers],
            "environment": variables,
            "password_file": secret,
        }
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{kind}: {_ports(topology.servers)}, run by {topology.binary}")
    click.echo(f"state:  {state.path}  (configuration to edit: conf/)")
    click.echo("\nTo start them: novacron-cache start\n\nApplications reach them with")
    for name, value in variables.items():
        click.echo(f"  {name}={value}")
    click.echo(f'  {_PASSWORD}="$(cat {shlex.quote(secret)})"')


def _ports(servers: Any) -> str:
    parts: dict[str, list[int]] = {}
    for server in servers:
        parts.setdefault(server.part, []).append(server.port)

    def shown(part: str, ports: list[int]) -> str:
        if len(ports) == 1:
            return f"1 {part} on {ports[0]}"
        return f"{len(ports)} {part}s on {ports[0]}-{ports[-1]}"

    return ", ".join(shown(part, ports) for part, ports in parts.items())


# --- running ----------------------------------------------------------------------------------------------------------


@click.command(epilog=CODES)
@json_option
@state_dir
def start(as_json: bool, state_dir: Path | None) -> None:
    """Start the servers, and return when they are ready.

    Of servers that run in part, the others are started. When one does not come up, those that this command started are
    stopped again.
    """
    with explained():
        servers = local_servers(state_dir, quiet=as_json)
        with servers.state.locked():
            began = time.monotonic()
            servers.start()
    _say_ready(servers, "is ready", time.monotonic() - began, as_json=as_json)


def _say_ready(servers: LocalServers, what: str, seconds: float, *, as_json: bool) -> None:
    topology = servers.topology
    if as_json:
        names = [server.name for server in topology.servers]
        told = {"kind": topology.kind, "ready": True, "seconds": round(seconds, 3), "servers": names}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{topology.kind} {what} after {seconds:.1f} s")


@click.command(epilog=CODES)
@json_option
@state_dir
def stop(as_json: bool, state_dir: Path | None) -> None:
    """Stop the servers; their data stays.

    A process is only ended when it is the very one that was started here.
    """
    from ..topology.local import counted

    with explained():
        servers = local_servers(state_dir, quiet=as_json)
        with servers.state.locked():
            stopped = servers.stop()
    if as_json:
        told = {"kind": servers.topology.kind, "stopped": [server.name for server in stopped]}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{counted(len(stopped))} stopped" if stopped else "no server runs")


@click.command(epilog=CODES)
@click.option("--rolling", is_flag=True, help="One by one, while the others go on; masters hand over first.")
@json_option
@state_dir
def restart(rolling: bool, as_json: bool, state_dir: Path | None) -> None:
    """Restart the servers, all at once or one by one.

    It applies what was changed in conf/, and a new version of the server.
    """
    from ..topology.rolling import rolling_restart

    with explained():
        servers = local_servers(state_dir, quiet=as_json)
        with servers.state.locked():
            began = time.monotonic()
            if rolling:
                rolling_restart(servers)
            else:
                servers.stop()
                servers.start()
    _say_ready(servers, "is restarted", time.monotonic() - began, as_json=as_json)
