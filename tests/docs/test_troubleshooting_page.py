"""The page of symptoms shows what the commands really say: each symptom is brought about, and its commands are run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cli.operated import imported_from
from docs.test_cli_page import masked, said_by
from integration.test_acl import PASSWORD, rule
from servers import ServerProcess, free_port, redis_binary, required, running, valkey_binary

from novacron_cache import configure

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "troubleshooting.md"

pytestmark = pytest.mark.servers


def sections() -> dict[str, str]:
    """Return the text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def shown(text: str) -> list[tuple[str, str]]:
    """Return each command of a section with what it is said to print."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [part.partition("\n") for block in blocks for part in block.split("$ ")[1:]]
    return [(command, output) for command, _, output in found]


def application() -> str:
    (text,) = re.findall(r"^```python title=\"shop.py\"\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


class Stage:
    """A machine on which something is wrong: the application, its environment, its server and its disk."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.directory = directory
        self.disk = directory / "disk"
        self._monkeypatch = monkeypatch
        self._stack = stack
        (directory / "shop.py").write_text(application())
        stack.enter_context(imported_from(directory, monkeypatch))
        monkeypatch.chdir(directory)
        self.set(NAMESPACE="shop", SIGNING_KEYS="the-key-of-this-year")

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"NOVACRON_CACHE_{name}", value)

    def server(self, *args: str, redis: bool = False) -> ServerProcess:
        """Start a server as it should be, with a user for the application, and have the environment name both."""
        binary = required(redis_binary() if redis else valkey_binary(), "a server")
        usual = ("--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru", "--appendonly", "yes")
        server = self._stack.enter_context(running(binary, args=(*usual, *args)))
        server.command("ACL", "SETUSER", "shop", *rule())
        self.set(REDIS__URL=server.url, REDIS__USERNAME="shop", REDIS__PASSWORD=PASSWORD)
        # As patient as the bound allows, on a machine that has much else to do.
        self.set(REDIS__SOCKET_TIMEOUT="1s", REDIS__CONNECT_TIMEOUT="1s")
        return server

    def with_disk(self) -> None:
        self.set(DISK__PATH=str(self.disk))

    def run(self, *commands: str) -> None:
        for command in commands:
            said_by(f"novacron-cache {command}")


def everything_misses(stage: Stage) -> None:
    stage.server()
    stage.run("warm shop:get_vm --arg vm-1", "invalidate --all --yes")


def hit_rate_fell(stage: Stage) -> None:
    stage.server()
    stage.run("warm shop:get_vm --arg vm-1 --arg vm-2 --arg vm-3")


def stale_suspected(stage: Stage) -> None:
    stage.server()
    stage.run("warm shop:get_vm --arg vm-1 --arg vm-2 --arg vm-3")


def link_lost(stage: Stage) -> None:
    server = stage.server()
    server.command("ACL", "SETUSER", "shop", "-client|tracking")


def pending(stage: Stage) -> None:
    stage.set(REDIS__URL=f"redis://127.0.0.1:{free_port()}")


def server_full(stage: Stage) -> None:
    server = stage.server("--maxmemory-policy", "noeviction")
    server.command("SET", "another-applications", "x" * 2_000_000)
    server.command("CONFIG", "SET", "maxmemory", "1mb")


def disk_skipped(stage: Stage) -> None:
    stage.with_disk()
    stage.disk.mkdir()
    stage.disk.chmod(0o777)


def slow_first_call(stage: Stage) -> None:
    stage.server()


def wrong_mode(stage: Stage) -> None:
    stage.server("--cluster-enabled", "yes", "--cluster-port", str(free_port()), redis=True)


def wrong_password(stage: Stage) -> None:
    stage.server()
    stage.set(REDIS__PASSWORD="the-password-of-last-year")


def signatures(stage: Stage) -> None:
    stage.server()
    stage.set(SIGNING_KEYS="the-key-of-last-year")
    stage.run("warm shop:get_vm --arg vm-1")
    stage.set(SIGNING_KEYS="the-key-of-this-year")


def not_served_after_restore(stage: Stage) -> None:
    stage.with_disk()
    stage.run("warm shop:get_vm --arg vm-1", "backup shop.backup")
    for file in stage.disk.rglob("*"):
        if file.is_file():
            file.unlink()


STAGES: dict[str, Callable[[Stage], None]] = {
    "Everything misses": everything_misses,
    "The hit rate fell": hit_rate_fell,
    "A value looks stale": stale_suspected,
    "The link is lost": link_lost,
    "Invalidations are pending": pending,
    "The server is full": server_full,
    "The disk is skipped": disk_skipped,
    "The first call is slow": slow_first_call,
    "A value cannot be cached": slow_first_call,
    "The server is of another mode": wrong_mode,
    "The server refuses the login": wrong_password,
    "Signatures are wrong": signatures,
    "A restored backup is not served": not_served_after_restore,
}


@contextmanager
def staged(symptom: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ExitStack() as stack:
        STAGES[symptom](Stage(directory, monkeypatch, stack))
        yield
    configure()


def told(text: str) -> str:
    """Return what is the same each time; that a machine is busy, or a lease just over, is no part of a symptom."""
    return re.sub(r"^0 problems.*$|0 leases, ", "", masked(text), flags=re.MULTILINE)


@pytest.mark.parametrize("symptom", sections())
def test_the_commands_of_a_symptom_say_what_the_page_shows(
    symptom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with staged(symptom, tmp_path, monkeypatch):
        commands = shown(sections()[symptom])
        assert commands, "a symptom has a command that tells it from others"
        for command, expected in commands:
            said = said_by(command).replace(str(tmp_path / "disk"), "/var/cache/shop")
            assert told(said) == told(expected), command


def test_every_symptom_is_brought_about() -> None:
    assert list(STAGES) == list(sections())


def test_every_symptom_is_in_the_list_at_the_top() -> None:
    top = PAGE.read_text().partition("\n## ")[0]
    listed = re.findall(r"\]\(#([a-z-]+)\)", top)
    assert listed == [re.sub(r"[^a-z]+", "-", name.lower()).strip("-") for name in sections()]
