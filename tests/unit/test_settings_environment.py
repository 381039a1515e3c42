"""Settings: what the environment sets, as the table in the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cachetools
import pytest
from pydantic import BaseModel, SecretBytes, SecretStr
from unit.configured import at, env, env_problem

from novacron_cache.settings import (
    ENVIRONMENT,
    PREFIX,
    CacheSettings,
    DiskSettings,
    MemorySettings,
    ModelOptions,
    RedisSettings,
)

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


class TestEnvironment:
    def test_nothing_set_means_the_defaults(self) -> None:
        assert CacheSettings.from_env({"PATH": "/bin", "NAMESPACE": "x"}) == CacheSettings()

    def test_reads_the_process_unless_told_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "from-the-process")
        assert CacheSettings.from_env().namespace == "from-the-process"
        assert CacheSettings.from_env({}).namespace is None

    def test_empty_variables_count_as_unset(self) -> None:
        environ = {
            "NOVACRON_CACHE_REDIS__URL": "",
            "NOVACRON_CACHE_NO_SUCH": "",
            "REDIS_MASTER_ADDR": "",
            "LOG_LEVEL": "",
        }
        assert CacheSettings.from_env(environ) == CacheSettings()

    def test_a_bad_value_names_the_variable(self) -> None:
        error = env_problem({"NOVACRON_CACHE_MEMORY__MAX_ITEMS": "lots"})
        assert error.variable == "NOVACRON_CACHE_MEMORY__MAX_ITEMS"
        assert str(error).startswith("NOVACRON_CACHE_MEMORY__MAX_ITEMS='lots': ")

    @pytest.mark.parametrize(
        ("variable", "suggested"),
        [
            ("NOVACRON_CACHE_MEMORY__MAX_ITEM", "NOVACRON_CACHE_MEMORY__MAX_ITEMS"),
            ("NOVACRON_CACHE_MAX_ITEMS", "NOVACRON_CACHE_MEMORY__MAX_ITEMS"),
            ("NOVACRON_CACHE_NAMESPCE", "NOVACRON_CACHE_NAMESPACE"),
            ("NOVACRON_CACHE_NAMESPACE__EXTRA", "NOVACRON_CACHE_NAMESPACE"),
            ("NOVACRON_CACHE_REDIS_URL", "NOVACRON_CACHE_REDIS__URL"),
            ("NOVACRON_CACHE_MODELS__VMState__TLL", "NOVACRON_CACHE_MODELS__VMState__TTL"),
        ],
    )
    def test_an_unknown_variable_names_the_nearest(self, variable: str, suggested: str) -> None:
        error = env_problem({variable: "value"})
        assert error.variable == variable
        assert str(error) == f"{variable}: unknown setting; did you mean {suggested!r}?"

    def test_a_whole_section_can_be_json_and_single_settings_refine_it(self) -> None:
        settings = env(MEMORY='{"max_items": 5, "ttl": "9s"}', MEMORY__TTL="7s")
        assert (settings.memory.max_items, settings.memory.ttl) == (5, 7.0)

    def test_models_with_a_dotted_name_are_written_as_json(self) -> None:
        settings = env(MODELS='{"app.vms.get_vm": {"ttl": "5s"}}', MODELS__VMState__TTL="6s")
        assert {name: options.ttl for name, options in settings.models.items()} == {"app.vms.get_vm": 5, "VMState": 6}

    @pytest.mark.parametrize("text", ["redis://cache", "[1]", "3", '{"url": '])
    def test_a_section_that_is_no_json_object_names_the_variable(self, text: str) -> None:
        assert env_problem({"NOVACRON_CACHE_REDIS": text}).variable == "NOVACRON_CACHE_REDIS"

    def test_a_mistake_inside_json_names_the_variable_and_the_setting(self) -> None:
        error = env_problem({"NOVACRON_CACHE_MEMORY": '{"max_item": 5}'})
        assert error.variable == "NOVACRON_CACHE_MEMORY"
        assert str(error).startswith("NOVACRON_CACHE_MEMORY (max_item): ")
        assert "did you mean 'max_items'?" in str(error)

    def test_a_setting_that_is_missing_is_named_by_its_variable(self) -> None:
        assert env_problem({"NOVACRON_CACHE_REDIS__URL": "redis://a"}).variable == "NOVACRON_CACHE_NAMESPACE"

    def test_the_names_of_variables_ignore_case(self) -> None:
        assert CacheSettings.from_env({"novacron_cache_memory__max_items": "7"}).memory.max_items == 7


WHOLE = {
    "NOVACRON_CACHE_NAMESPACE": "shop",
    "REDIS_MASTER_ADDR": "redis-master:6379",
    "REDIS_SLAVE_ADDRS": "replica-1:6380,replica-2:6381",
    "SENTINEL_ADDRS": "sentinel-1:26379,sentinel-2:26379",
    "SENTINEL_MASTER_NAME": "mymaster",
    "METRICS_PORT": "9191",
    "WEBUI_PORT": "8182",
    "LOG_LEVEL": "DEBUG",
    "HEALTH_CHECK_INTERVAL": "45s",
}


class TestGenericVariables:
    def test_a_whole_deployment_with_sentinels(self) -> None:
        settings = CacheSettings.from_env(WHOLE)
        assert settings.redis == RedisSettings(
            mode="sentinel",
            addresses=["sentinel-1:26379", "sentinel-2:26379"],
            sentinel_master="mymaster",
            replica_addresses=["replica-1:6380", "replica-2:6381"],
        )
        assert settings.monitor.model_dump(exclude_unset=True) == {
            "metrics_port": 9191, "webui_port": 8182, "log_level": "debug", "health_check_interval": 45.0,
        }  # fmt: skip

    def test_without_sentinels_the_master_is_a_standalone_server(self) -> None:
        settings = CacheSettings.from_env({**WHOLE, "SENTINEL_ADDRS": ""})
        assert (settings.redis.mode, settings.redis.url) == ("standalone", "redis://redis-master:6379")
        assert settings.redis.sentinel_master is None

    @pytest.mark.parametrize(
        ("specific", "value", "generic"),
        [
            ("REDIS__REPLICA_ADDRESSES", "x:1", "REDIS_SLAVE_ADDRS"),
            ("REDIS__ADDRESSES", "x:1", "SENTINEL_ADDRS"),
            ("REDIS__SENTINEL_MASTER", "other", "SENTINEL_MASTER_NAME"),
            ("MONITOR__METRICS_PORT", "1", "METRICS_PORT"),
            ("MONITOR__WEBUI_PORT", "2", "WEBUI_PORT"),
            ("MONITOR__LOG_LEVEL", "error", "LOG_LEVEL"),
            ("MONITOR__HEALTH_CHECK_INTERVAL", "3", "HEALTH_CHECK_INTERVAL"),
        ],
    )
    def test_our_own_variables_win(self, specific: str, value: str, generic: str) -> None:
        ours = {"NOVACRON_CACHE_REDIS__MODE": "sentinel", PREFIX + specific: value}
        without = {name: text for name, text in WHOLE.items() if name != generic}
        assert CacheSettings.from_env({**WHOLE, **ours}) == CacheSettings.from_env({**without, **ours})

    def test_our_own_url_wins_over_every_generic_address(self) -> None:
        settings = CacheSettings.from_env({**WHOLE, "NOVACRON_CACHE_REDIS__URL": "redis://mine"})
        assert (settings.redis.mode, settings.redis.url, settings.redis.addresses) == ("standalone", "redis://mine", ())

    def test_our_own_mode_wins_over_the_one_that_sentinels_suggest(self) -> None:
        standalone = CacheSettings.from_env({**WHOLE, "NOVACRON_CACHE_REDIS__MODE": "standalone"})
        assert standalone.redis.url == "redis://redis-master:6379"
        embedded = CacheSettings.from_env({**WHOLE, "NOVACRON_CACHE_REDIS__MODE": "embedded"})
        assert (embedded.redis.url, embedded.redis.addresses) == (None, ())

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("REDIS_SLAVE_ADDRS", "a"), ("SENTINEL_ADDRS", "a:1,b"), ("METRICS_PORT", "99999"), ("WEBUI_PORT", "x"),
         ("LOG_LEVEL", "loud"), ("HEALTH_CHECK_INTERVAL", "often")],
    )  # fmt: skip
    def test_a_bad_value_names_the_generic_variable(self, variable: str, value: str) -> None:
        error = env_problem({**WHOLE, variable: value})
        assert error.variable == variable
        assert str(error).startswith(f"{variable}={value!r}: ")

    def test_a_bad_master_address_names_its_variable(self) -> None:
        environ = {"NOVACRON_CACHE_NAMESPACE": "shop", "REDIS_MASTER_ADDR": "master:port"}
        assert str(env_problem(environ)).startswith("REDIS_MASTER_ADDR='master:port': ")

    def test_they_are_read_by_from_env_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in WHOLE.items():
            monkeypatch.setenv(name, value)
        assert CacheSettings().monitor.metrics_port == 9091
        assert not CacheSettings().redis_on


# What each variable's example comes to, and what has to be set beside it for the example to make sense.
SHARED = {"NOVACRON_CACHE_NAMESPACE": "shop"}
SENTINEL = {**SHARED, "NOVACRON_CACHE_REDIS__MODE": "sentinel", "NOVACRON_CACHE_REDIS__ADDRESSES": "s:26379"}
EXAMPLES: dict[str, tuple[object, dict[str, str]]] = {
    "NOVACRON_CACHE_NAMESPACE": ("shop", {}),
    "NOVACRON_CACHE_DEFAULT_TTL": (300.0, {}),
    "NOVACRON_CACHE_SERIALIZATION": ("msgpack", {}),
    "NOVACRON_CACHE_COMPRESSION": ("zstd", {}),
    "NOVACRON_CACHE_COMPRESSION_LEVEL": (3, {}),
    "NOVACRON_CACHE_COMPRESSION_MIN_BYTES": (4096, {}),
    "NOVACRON_CACHE_COMPRESSION_DICTIONARIES": (True, {"NOVACRON_CACHE_COMPRESSION": "zstd"}),
    "NOVACRON_CACHE_MAX_DECODED_BYTES": (8 * 2**20, {}),
    "NOVACRON_CACHE_SIGNING_KEYS": ((SecretBytes(b"new-16-byte-key-"), SecretBytes(b"old-16-byte-key-")), {}),
    "NOVACRON_CACHE_ENABLE_METRICS": (False, {}),
    "NOVACRON_CACHE_ENABLE_TRACING": (True, {}),
    "NOVACRON_CACHE_TRACE_KEYS": (True, {}),
    "NOVACRON_CACHE_ON_OUTAGE": ("serve", {}),
    "NOVACRON_CACHE_BACKGROUND_THREADS": (4, {}),
    "NOVACRON_CACHE_SHADOW": (1.0, {}),
    "NOVACRON_CACHE_STALENESS_BOUND": (1.0, {}),
    "NOVACRON_CACHE_SWITCH_INTERVAL": (0.0005, {}),
    "NOVACRON_CACHE_MEMORY__ENABLED": (False, {}),
    "NOVACRON_CACHE_MEMORY__MAX_ITEMS": (50_000, {}),
    "NOVACRON_CACHE_MEMORY__MAX_BYTES": (256 * 2**20, {}),
    "NOVACRON_CACHE_MEMORY__TTL": (60.0, {}),
    "NOVACRON_CACHE_MEMORY__CLEANUP_INTERVAL": (10.0, {}),
    "NOVACRON_CACHE_MEMORY__POLICY": (cachetools.LFUCache, {}),
    "NOVACRON_CACHE_REDIS__ENABLED": (False, {}),
    "NOVACRON_CACHE_REDIS__MODE": ("embedded", {}),
    "NOVACRON_CACHE_REDIS__STATE_DIRECTORY": (Path("/run/shop"), {"NOVACRON_CACHE_REDIS__MODE": "embedded"}),
    "NOVACRON_CACHE_REDIS__URL": ("redis://cache:6379/0", SHARED),
    "NOVACRON_CACHE_REDIS__ADDRESSES": (
        ("node-1:7001", "node-2:7002"),
        {**SHARED, "NOVACRON_CACHE_REDIS__MODE": "cluster"},
    ),
    "NOVACRON_CACHE_REDIS__REPLICA_ADDRESSES": (("replica-1:6380",), {}),
    "NOVACRON_CACHE_REDIS__SENTINEL_MASTER": ("mymaster", SENTINEL),
    "NOVACRON_CACHE_REDIS__USERNAME": ("shop", {}),
    "NOVACRON_CACHE_REDIS__PASSWORD": (SecretStr("a-long-password"), {}),
    "NOVACRON_CACHE_REDIS__TLS": (True, {}),
    "NOVACRON_CACHE_REDIS__TLS_CA_FILE": (Path("/etc/tls/ca.pem"), {}),
    "NOVACRON_CACHE_REDIS__TLS_CERT_FILE": (Path("/etc/tls/cert.pem"), {}),
    "NOVACRON_CACHE_REDIS__TLS_KEY_FILE": (
        Path("/etc/tls/key.pem"),
        {"NOVACRON_CACHE_REDIS__TLS_CERT_FILE": "/etc/tls/cert.pem"},
    ),
    "NOVACRON_CACHE_REDIS__TLS_VERIFY": (False, {}),
    "NOVACRON_CACHE_REDIS__MAX_CONNECTIONS": (20, {}),
    "NOVACRON_CACHE_REDIS__CONNECT_TIMEOUT": (0.5, {}),
    "NOVACRON_CACHE_REDIS__SOCKET_TIMEOUT": (0.5, {}),
    "NOVACRON_CACHE_REDIS__TTL": (3600.0, {}),
    "NOVACRON_CACHE_DISK__ENABLED": (False, {}),
    "NOVACRON_CACHE_DISK__PATH": (Path("/var/cache/shop"), SHARED),
    "NOVACRON_CACHE_DISK__SIZE_LIMIT": (512 * 2**20, {}),
    "NOVACRON_CACHE_DISK__TTL": (604_800.0, {}),
    "NOVACRON_CACHE_MONITOR__METRICS_PORT": (9100, {}),
    "NOVACRON_CACHE_MONITOR__WEBUI_PORT": (8090, {}),
    "NOVACRON_CACHE_MONITOR__LOG_LEVEL": ("debug", {}),
    "NOVACRON_CACHE_MONITOR__HEALTH_CHECK_INTERVAL": (10.0, {}),
    "NOVACRON_CACHE_MONITOR__HOST": ("10.0.0.7", {}),
    "NOVACRON_CACHE_MONITOR__TOKEN": (SecretStr("a-token-of-16-or-more"), {}),
    "NOVACRON_CACHE_MONITOR__ALLOW": (("10.0.0.0/8",), {}),
    "NOVACRON_CACHE_MONITOR__HOSTS": (("cache-monitor",), {}),
    "NOVACRON_CACHE_MONITOR__PUBLISH_INTERVAL": (5.0, {}),
    "NOVACRON_CACHE_MONITOR__DIRECTORY": (Path("/run/shop/metrics"), {}),
    "NOVACRON_CACHE_MONITOR__MAX_MODELS": (50, {}),
    "NOVACRON_CACHE_MONITOR__WEBHOOK_URL": (SecretStr("https://ops.example/hooks/cache"), {}),
    "NOVACRON_CACHE_MONITOR__WEBHOOK_SECRET": (SecretStr("a-long-secret"), {}),
    "PROMETHEUS_MULTIPROC_DIR": (Path("/run/shop/metrics"), {}),
    "NOVACRON_CACHE_MODELS__<name>__TTL": (5.0, {}),
    "NOVACRON_CACHE_MODELS__<name>__TAGS": (("vm:<vm_id>",), {}),
    "NOVACRON_CACHE_MODELS__<name>__GRACE": (60.0, {}),
    "NOVACRON_CACHE_MODELS__<name>__REFRESH_AHEAD": (0.8, {}),
    "NOVACRON_CACHE_MODELS__<name>__JITTER": (0.1, {}),
    "NOVACRON_CACHE_MODELS__<name>__TIERS": (("memory", "redis"), {}),
    "NOVACRON_CACHE_MODELS__<name>__NEGATIVE_TTL": (2.0, {}),
    "NOVACRON_CACHE_MODELS__<name>__SOFT_TIMEOUT": (0.2, {}),
    "NOVACRON_CACHE_MODELS__<name>__HARD_TIMEOUT": (2.0, {}),
    "NOVACRON_CACHE_MODELS__<name>__MAX_CONCURRENT_LOADS": (8, {}),
    "NOVACRON_CACHE_MODELS__<name>__SHADOW": (0.1, {}),
    "REDIS_MASTER_ADDR": ("redis://redis-master:6379", SHARED),
    "REDIS_SLAVE_ADDRS": (("redis-replica-1:6380", "redis-replica-2:6381"), {}),
    "SENTINEL_ADDRS": (
        ("sentinel-1:26379", "sentinel-2:26379", "sentinel-3:26379"),
        {**SHARED, "SENTINEL_MASTER_NAME": "mymaster"},
    ),
    "SENTINEL_MASTER_NAME": ("mymaster", {**SHARED, "SENTINEL_ADDRS": "s:26379"}),
    "METRICS_PORT": (9100, {}),
    "WEBUI_PORT": (8090, {}),
    "LOG_LEVEL": ("debug", {}),
    "HEALTH_CHECK_INTERVAL": (10.0, {}),
}


class TestTable:
    @pytest.mark.parametrize("row", ENVIRONMENT, ids=lambda row: row.name)
    def test_each_variable_sets_what_the_table_says(self, row: Any) -> None:
        value, beside = EXAMPLES[row.name]
        path = row.sets.replace("<name>", "VMState")
        settings = CacheSettings.from_env({**beside, row.name.replace("<name>", "VMState"): row.example})
        assert at(settings, path) == value
        default = None if path.startswith("models.") else at(CacheSettings(), path)
        assert value != default, "an example shows more when it differs from the default"

    def test_every_setting_has_a_variable(self) -> None:
        assert {row.name for row in ENVIRONMENT} == set(EXAMPLES)

    def test_every_setting_says_what_it_means(self) -> None:
        sections: list[type[BaseModel]] = [CacheSettings, MemorySettings, RedisSettings, DiskSettings, ModelOptions]
        for section in sections:
            for name, field in section.model_fields.items():
                assert field.description or isinstance(field.default_factory, type), name

    def test_the_documentation_holds_the_same_table(self) -> None:
        pattern = re.compile(r"^\| `([A-Z_]+(?:<name>)?[A-Z_]*)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
        documented = pattern.findall(DOCS.read_text(encoding="utf-8"))
        assert documented == [tuple(row) for row in ENVIRONMENT]

    @pytest.mark.parametrize(
        "row", [row for row in ENVIRONMENT if row.name.startswith(PREFIX)], ids=lambda row: row.sets
    )
    def test_the_documentation_explains_the_setting(self, row: Any) -> None:
        section, _, name = row.sets.rpartition(".")
        kinds: dict[str, type[BaseModel]] = {
            name: kind
            for name, field in CacheSettings.model_fields.items()
            if isinstance(kind := field.default_factory, type) and issubclass(kind, BaseModel)
        }
        kind = kinds.get(section, ModelOptions if section else CacheSettings)
        written = re.search(rf"^\| `{name}` \| .* \| (.*) \|$", _chapter(section or "The whole cache"), re.MULTILINE)
        assert written, f"{row.sets} is not explained"
        assert written[1] == (kind.model_fields[name].description or "")


def _chapter(title: str) -> str:
    chapters = re.split(r"^### ", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return next(chapter for chapter in chapters if chapter.startswith((f"`{title.split('.')[0]}`", title)))
