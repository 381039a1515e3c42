"""Settings: what each one accepts, what the environment sets; no mistake goes unnamed and no secret is shown."""

from __future__ import annotations

import json
import pickle
import re
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from novacron_cache.errors import SettingsError
from novacron_cache.settings import (
    ENVIRONMENT,
    PREFIX,
    CacheSettings,
    DiskSettings,
    MemorySettings,
    ModelOptions,
    RedisSettings,
    redact,
)

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
KEY = "k" * 16
OTHER_KEY = "o" * 16


def problem(**values: Any) -> SettingsError:
    """Return the error that constructing settings from these values raises."""
    with pytest.raises(SettingsError) as caught:
        CacheSettings(**values)
    return caught.value


def env(**variables: str) -> CacheSettings:
    """Return the settings of an environment; names without the prefix get it."""
    return CacheSettings.from_env({PREFIX + name: value for name, value in variables.items()})


def env_problem(environ: Mapping[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        CacheSettings.from_env(environ)
    return caught.value


def at(settings: object, path: str) -> Any:
    """Return what a dotted path leads to."""
    for part in path.split("."):
        settings = settings[part] if isinstance(settings, dict) else getattr(settings, part)
    return settings


class TestDefaults:
    def test_nothing_configured_means_memory_alone(self) -> None:
        settings = CacheSettings()
        assert (settings.memory_on, settings.redis_on, settings.disk_on) == (True, False, False)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("namespace", None), ("default_ttl", 900.0), ("serialization", "json"), ("compression", "none"),
            ("compression_level", 6), ("compression_min_bytes", 1024), ("max_decoded_bytes", 67_108_864),
            ("signing_keys", ()), ("enable_metrics", True), ("enable_tracing", False),
            ("trace_keys", False), ("on_outage", "load"), ("staleness_bound", 3.0),
            ("memory.enabled", True), ("memory.max_items", 10_000), ("memory.max_bytes", None), ("memory.ttl", 300.0),
            ("memory.cleanup_interval", 30.0), ("memory.policy", "s3fifo"),
            ("redis.enabled", None), ("redis.mode", "standalone"), ("redis.url", None), ("redis.addresses", ()),
            ("redis.state_directory", None),
            ("redis.replica_addresses", ()), ("redis.sentinel_master", None), ("redis.username", None),
            ("redis.password", None), ("redis.tls", None), ("redis.tls_ca_file", None), ("redis.tls_cert_file", None),
            ("redis.tls_key_file", None), ("redis.tls_verify", True), ("redis.max_connections", 100),
            ("redis.connect_timeout", 0.25), ("redis.socket_timeout", 0.25), ("redis.ttl", 900.0),
            ("disk.enabled", None), ("disk.path", None), ("disk.size_limit", 1_073_741_824), ("disk.ttl", 86_400.0),
            ("monitor.metrics_port", 9091), ("monitor.webui_port", 8082), ("monitor.log_level", "info"),
            ("monitor.health_check_interval", 30.0), ("monitor.host", "127.0.0.1"), ("monitor.token", None),
            ("monitor.allow", ()), ("monitor.hosts", ()), ("monitor.publish_interval", 1.0),
            ("monitor.directory", None), ("monitor.max_models", 200), ("monitor.webhook_url", None),
            ("monitor.webhook_secret", None), ("models", {}),
        ],
    )  # fmt: skip
    def test_default(self, path: str, value: object) -> None:
        assert at(CacheSettings(), path) == value

    def test_model_options_say_nothing_by_default(self) -> None:
        assert set(ModelOptions().model_dump().values()) == {None}

    def test_construction_ignores_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "from-the-environment")
        monkeypatch.setenv("NOVACRON_CACHE_NO_SUCH_THING", "1")
        monkeypatch.setenv("NAMESPACE", "generic")
        assert CacheSettings().namespace is None

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError):
            CacheSettings().memory.max_items = 3


class TestValues:
    @pytest.mark.parametrize("written", [90, 90.0, "90", "90s", "1m30s", timedelta(seconds=90)])
    def test_durations_are_kept_as_float_seconds(self, written: object) -> None:
        kept = CacheSettings(default_ttl=written).default_ttl
        assert kept == 90.0
        assert type(kept) is float

    @given(st.integers(min_value=1, max_value=10**6))
    def test_durations_mean_the_same_with_and_without_unit(self, amount: int) -> None:
        assert MemorySettings(ttl=f"{amount}ms").ttl == pytest.approx(MemorySettings(ttl=amount / 1000).ttl)

    @pytest.mark.parametrize("written", ["soon", "", -1, "-5s", True, float("inf"), float("nan"), 0, "0s", None])
    def test_a_duration_that_makes_no_sense_is_refused(self, written: object) -> None:
        assert problem(default_ttl=written).variable == "default_ttl"

    def test_zero_is_a_duration_where_it_means_never(self) -> None:
        assert ModelOptions(grace=0, negative_ttl="0s").grace == 0.0

    @pytest.mark.parametrize(
        ("written", "size"),
        [(1000, 1000), ("1000", 1000), ("512mb", 512 * 2**20), ("512 MiB", 512 * 2**20), ("1gb", 2**30), ("2G", 2**31),
         ("1.5kb", 1536), ("100b", 100), ("1t", 2**40)],
    )  # fmt: skip
    def test_sizes_are_bytes_or_text(self, written: object, size: int) -> None:
        assert DiskSettings(size_limit=written).size_limit == size

    @pytest.mark.parametrize("written", ["large", "10xb", "-5mb", 0, -1, ""])
    def test_a_size_that_makes_no_sense_is_refused(self, written: object) -> None:
        assert problem(disk={"size_limit": written}).variable == "disk.size_limit"

    @pytest.mark.parametrize("namespace", ["a", "shop", "Shop_2.eu-west", "x" * 64])
    def test_namespace(self, namespace: str) -> None:
        assert CacheSettings(namespace=namespace).namespace == namespace

    @pytest.mark.parametrize("namespace", ["", "x" * 65, "a:b", "a b", "{a}", "é", "a\n"])
    def test_a_namespace_of_other_characters_is_refused(self, namespace: str) -> None:
        assert problem(namespace=namespace).variable == "namespace"

    @pytest.mark.parametrize(
        ("written", "policy"),
        [("s3fifo", "s3fifo"), ("LRU", "lru"), ("LFUCache", cachetools.LFUCache), ("fifo", cachetools.FIFOCache),
         (cachetools.RRCache, cachetools.RRCache)],
    )  # fmt: skip
    def test_policy_is_a_name_or_a_class_of_cachetools(self, written: object, policy: object) -> None:
        assert MemorySettings(policy=written).policy == policy

    @pytest.mark.parametrize("written", ["LFUCahce", dict, 3, None])
    def test_an_unknown_policy_is_refused(self, written: object) -> None:
        assert problem(memory={"policy": written}).variable == "memory.policy"

    def test_an_unknown_policy_suggests_the_nearest(self) -> None:
        assert "did you mean 'LFUCache'?" in str(problem(memory={"policy": "LFUCahce"}))

    def test_lists_accept_comma_separated_text_and_json(self) -> None:
        pair = ("a:1", "b:2")
        for written in (["a:1", "b:2"], "a:1, b:2,", '["a:1", "b:2"]'):
            assert RedisSettings(replica_addresses=written).replica_addresses == pair

    def test_home_is_expanded_in_paths(self) -> None:
        assert CacheSettings(namespace="n", disk={"path": "~/cache"}).disk.path == Path.home() / "cache"

    def test_a_home_that_is_not_there_is_a_wrong_value(self) -> None:
        with pytest.raises(SettingsError, match=r"DISK__PATH='~nobody-here/cache': the home .* write the whole path"):
            CacheSettings.from_env({"NOVACRON_CACHE_NAMESPACE": "n", "NOVACRON_CACHE_DISK__PATH": "~nobody-here/cache"})

    @pytest.mark.parametrize("level", ["debug", "INFO", "warn", " Error "])
    def test_log_levels_are_written_in_any_case(self, level: str) -> None:
        assert CacheSettings(monitor={"log_level": level}).monitor.log_level in {"debug", "info", "warning", "error"}

    @pytest.mark.parametrize(("compression", "level"), [("zlib", 9), ("zstd", 22), ("lz4", 0)])
    def test_compression_level_has_the_range_of_its_compressor(self, compression: str, level: int) -> None:
        assert CacheSettings(compression=compression, compression_level=level).compression_level == level

    @pytest.mark.parametrize(("compression", "level"), [("zlib", 10), ("zstd", 23), ("lz4", 17), ("zlib", -1)])
    def test_a_compression_level_out_of_range_is_refused(self, compression: str, level: int) -> None:
        assert problem(compression=compression, compression_level=level).variable == "compression_level"


class TestModels:
    def test_options_override_by_name(self) -> None:
        settings = CacheSettings(models={"VMState": {"ttl": "5s", "tiers": ["memory"], "tags": ["vm:<vm_id>"]}})
        assert settings.models["VMState"].ttl == 5.0
        assert settings.options_for("VMState").tiers == ("memory",)
        assert settings.options_for("VMState").tags == ("vm:<vm_id>",)
        assert settings.options_for("VMState").grace is None

    def test_another_name_has_no_options(self) -> None:
        assert CacheSettings(models={"VMState": {"ttl": 5}}).options_for("VMConfig") == ModelOptions()

    def test_case_decides_only_between_names_that_differ_by_it(self) -> None:
        settings = CacheSettings(models={"VMSTATE": {"ttl": 5}, "Node": {"ttl": 1}, "node": {"ttl": 2}})
        assert settings.options_for("VMState").ttl == 5
        assert settings.options_for("node").ttl == 2

    @pytest.mark.parametrize(
        "options", [{"refresh_ahead": 1}, {"jitter": -0.1}, {"tiers": ["l1"]}, {"tiers": []}, {"ttl": 0}]
    )
    def test_options_that_make_no_sense_are_refused(self, options: dict[str, Any]) -> None:
        assert (problem(models={"VMState": options}).variable or "").startswith("models.VMState.")


class TestTiers:
    @pytest.mark.parametrize(
        "redis",
        [{"url": "redis://cache"}, {"url": "rediss://cache:6380/1"}, {"url": "unix:///run/redis.sock"},
         {"mode": "cluster", "addresses": "a:1"}, {"mode": "cluster", "url": "redis://a:7001"},
         {"mode": "sentinel", "addresses": "a:1", "sentinel_master": "m"}, {"mode": "embedded"}],
    )  # fmt: skip
    def test_redis_is_on_when_it_is_told_where_it_lives(self, redis: dict[str, Any]) -> None:
        assert CacheSettings(namespace="shop", redis=redis).redis_on
        assert not CacheSettings(redis={**redis, "enabled": False}).redis_on

    def test_disk_is_on_when_it_has_a_path(self) -> None:
        assert CacheSettings(namespace="shop", disk={"path": "cache"}).disk_on
        assert not CacheSettings(disk={"path": "cache", "enabled": False}).disk_on

    def test_memory_can_be_turned_off(self) -> None:
        assert not CacheSettings(memory={"enabled": False}).memory_on

    def test_enabled_redis_with_nothing_to_connect_to_is_an_error(self) -> None:
        error = problem(namespace="shop", redis={"enabled": True})
        assert error.variable == "redis.enabled"
        assert "nothing to connect to" in str(error)

    def test_enabled_disk_without_a_path_is_an_error(self) -> None:
        error = problem(namespace="shop", disk={"enabled": True})
        assert error.variable == "disk.enabled"
        assert "disk.path" in str(error)

    @pytest.mark.parametrize("shared", [{"redis": {"url": "redis://cache"}}, {"disk": {"path": "cache"}}])
    def test_a_shared_tier_without_namespace_is_an_error_that_says_how_to_set_it(self, shared: dict[str, Any]) -> None:
        error = problem(**shared)
        assert error.variable == "namespace"
        assert "namespace='my-app'" in str(error)
        assert "NOVACRON_CACHE_NAMESPACE" in str(error)

    @pytest.mark.parametrize(
        ("directory", "namespace"),
        [("shop", "shop"), ("my shop (2)", "my-shop-2"), ("été", "t"), ("日本", "app"), ("x" * 70, "x" * 64)],
    )
    def test_embedded_takes_the_project_directory_as_namespace(
        self, directory: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / directory).mkdir()
        monkeypatch.chdir(tmp_path / directory)
        assert CacheSettings(redis={"mode": "embedded"}).namespace == namespace
        assert CacheSettings(redis={"mode": "embedded"}, namespace="mine").namespace == "mine"
        assert CacheSettings().namespace is None

    @pytest.mark.parametrize(
        ("redis", "field"),
        [
            ({"mode": "sentinel", "sentinel_master": "m"}, "addresses"),
            ({"mode": "sentinel", "addresses": "a:1"}, "sentinel_master"),
            ({"mode": "sentinel", "addresses": "a:1", "sentinel_master": "m", "url": "redis://a"}, "url"),
            ({"mode": "cluster"}, "addresses"),
            ({"mode": "cluster", "url": "unix:///a"}, "url"),
            ({"mode": "embedded", "url": "redis://a"}, "mode"),
            ({"url": "redis://a", "state_directory": "/run/shop"}, "state_directory"),
            ({"addresses": "a:1"}, "addresses"),
            ({"url": "redis://a", "sentinel_master": "m"}, "sentinel_master"),
            ({"url": "redis://:pw@a", "password": "pw"}, "password"),
            ({"url": "unix:///a?password=pw", "password": "pw"}, "password"),
            ({"url": "rediss://a", "tls": False}, "tls"),
            ({"url": "rediss://a", "tls_key_file": "key.pem"}, "tls_key_file"),
        ],
    )
    def test_settings_that_contradict_each_other_are_refused(self, redis: dict[str, Any], field: str) -> None:
        assert problem(namespace="shop", redis=redis).variable == f"redis.{field}"

    @pytest.mark.parametrize(
        "url",
        ["cache:6379", "http://cache", "redis://", "redis:///0", "unix://", "redis://cache:port", "redis://cache:99999",
         "redis://cache/zero", "redis://[::1", ""],
    )  # fmt: skip
    def test_a_url_that_leads_nowhere_is_refused(self, url: str) -> None:
        assert problem(namespace="shop", redis={"url": url}).variable == "redis.url"

    @pytest.mark.parametrize(
        "address", ["a", "a:", ":1", "a:0", "a:65536", "a b:1", "user:pw@a:1", "redis://a:1", "::1:6379"]
    )
    def test_an_address_that_is_not_host_and_port_is_refused(self, address: str) -> None:
        error = problem(namespace="shop", redis={"mode": "cluster", "addresses": [address]})
        assert error.variable == "redis.addresses.0"

    def test_nodes_are_hosts_and_ports(self) -> None:
        redis = RedisSettings(mode="cluster", addresses="a.example:7001,[::1]:7002")
        assert redis.nodes == [("a.example", 7001), ("::1", 7002)]

    @pytest.mark.parametrize(
        ("redis", "on"),
        [({"url": "redis://a"}, False), ({"url": "rediss://a"}, True), ({"url": "redis://a", "tls": True}, True),
         ({"url": "redis://a", "tls_ca_file": "ca.pem"}, True), ({"url": "unix:///a"}, False)],
    )  # fmt: skip
    def test_tls_follows_the_url_and_the_files(self, redis: dict[str, Any], on: bool) -> None:
        assert RedisSettings(**redis).tls_on is on


class TestConnect:
    def test_says_where_redis_and_disk_are(self) -> None:
        settings = CacheSettings.connect("redis://cache", namespace="shop", disk="/var/cache/shop")
        assert settings.redis.url == "redis://cache"
        assert settings.disk.path == Path("/var/cache/shop")
        assert settings.namespace == "shop"

    def test_without_arguments_is_memory_alone(self) -> None:
        assert CacheSettings.connect() == CacheSettings()

    @pytest.mark.parametrize(
        "redis", [{"password": "a-password", "ttl": "1h"}, RedisSettings(password="a-password", ttl="1h")]
    )
    def test_merges_with_further_settings(self, redis: Any) -> None:
        settings = CacheSettings.connect("redis://cache", namespace="shop", redis=redis, default_ttl="1m")
        assert settings.redis.password == SecretStr("a-password")
        assert (settings.redis.url, settings.redis.ttl, settings.default_ttl) == ("redis://cache", 3600.0, 60.0)

    def test_needs_a_namespace_with_a_shared_tier(self) -> None:
        with pytest.raises(SettingsError, match="namespace"):
            CacheSettings.connect("redis://cache")


class TestMistakes:
    def test_an_unknown_setting_names_the_nearest(self) -> None:
        assert str(problem(memroy={})) == "memroy: unknown setting; did you mean 'memory'?"
        assert str(problem(memory={"max_item": 3})) == "memory.max_item: unknown setting; did you mean 'max_items'?"
        assert "did you mean 'ttl'?" in str(problem(models={"VMState": {"tll": 3}}))

    @pytest.mark.parametrize("path", ["", "memory", "redis", "disk", "monitor"])
    def test_unknown_settings_are_refused_at_every_level(self, path: str) -> None:
        values = {path: {"no_such_setting": 1}} if path else {"no_such_setting": 1}
        assert problem(**values).variable == f"{path}.no_such_setting".lstrip(".")

    def test_names_with_an_underscore_are_unknown_settings_too(self) -> None:
        assert problem(_env_file=".env").variable == "_env_file"

    def test_a_wrong_value_is_quoted_with_its_setting(self) -> None:
        error = problem(memory={"max_items": -1})
        assert error.variable == "memory.max_items"
        assert str(error).startswith("memory.max_items=-1: ")

    def test_the_cause_is_kept(self) -> None:
        assert isinstance(problem(memory={"max_items": -1}).__cause__, ValidationError)

    def test_several_mistakes_are_told_at_once(self) -> None:
        error = problem(default_ttl="soon", memory={"max_items": 0})
        assert error.variable is None
        assert "default_ttl='soon'" in str(error)
        assert "memory.max_items=0" in str(error)

    def test_a_section_constructed_alone_raises_the_same_error(self) -> None:
        with pytest.raises(SettingsError, match=r"^max_items=0: "):
            MemorySettings(max_items=0)

    def test_settings_inside_another_model_raise_the_same_error(self) -> None:
        class Application(BaseModel):
            cache: CacheSettings

        assert Application(cache={"namespace": "shop"}).cache.namespace == "shop"  # type: ignore[arg-type]  # coerced
        with pytest.raises(SettingsError, match="default_ttl"):
            Application(cache={"default_ttl": "soon"})  # type: ignore[arg-type]  # wrong on purpose

    def test_pickle_needs_a_signing_key(self) -> None:
        error = problem(serialization="pickle")
        assert error.variable == "serialization"
        assert "signing_keys" in str(error)
        assert CacheSettings(serialization="pickle", signing_keys=[KEY]).serialization == "pickle"

    def test_a_short_signing_key_is_refused(self) -> None:
        assert problem(signing_keys=[KEY, "short"]).variable == "signing_keys.1"


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


SECRET = "hunter2-hunter2-hunter2"


def everything_of(error: BaseException) -> str:
    """Return all that a log, a debugger or an error report would show of an error."""
    shown = [repr(error), str(error), "".join(traceback.format_exception(error))]
    for related in (error.__cause__, error.__context__):
        if isinstance(related, ValidationError):
            shown += [str(related), related.json(), json.dumps(related.errors(), default=repr)]
        elif related is not None:
            shown.append(everything_of(related))
    return "\n".join(shown)


class TestSecrets:
    def test_no_secret_is_shown_by_settings(self) -> None:
        settings = CacheSettings(
            namespace="shop", signing_keys=[SECRET], redis={"url": f"redis://user:{SECRET}@cache:6379/0"}
        )
        other = CacheSettings(namespace="shop", redis={"url": "redis://cache", "password": SECRET})
        for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.redis}", str([settings])):
            assert SECRET not in shown
            assert "redis://***@cache:6379/0" in shown
        for shown in (repr(other), str(other), other.model_dump_json(), repr(other.model_dump())):
            assert SECRET not in shown

    def test_secrets_can_be_read_by_those_who_ask(self) -> None:
        redis = RedisSettings(url="redis://cache", password=SECRET)
        assert redis.password is not None
        assert redis.password.get_secret_value() == SECRET
        assert CacheSettings(signing_keys=SECRET).signing_keys[0].get_secret_value() == SECRET.encode()

    def test_secrets_survive_pickling_to_a_child_process(self) -> None:
        settings = CacheSettings(signing_keys=[SECRET], redis={"password": SECRET})
        assert pickle.loads(pickle.dumps(settings)) == settings

    @pytest.mark.parametrize(
        "values",
        [
            {"redis": {"url": f"redis://user:{SECRET}@cache:port"}, "namespace": "shop"},
            {"redis": {"url": f"redis://:{SECRET}"}, "namespace": "shop"},
            {"redis": {"url": f"http://user:{SECRET}@cache"}, "namespace": "shop"},
            {"redis": {"url": f"redis://user:{SECRET}@[cache"}, "namespace": "shop"},
            {"redis": {"url": f"redis://user:{SECRET}@cache"}},
            {"redis": {"url": f"unix:///a?password={SECRET}", "mode": "cluster"}, "namespace": "shop"},
            {"redis": {"url": f"redis://:{SECRET}@cache", "password": SECRET}, "namespace": "shop"},
            {"redis": f"redis://user:{SECRET}@cache"},
            {"redis": {"password": [SECRET]}},
            {"redis": {"password": {"value": SECRET}}},
            {"redis": {"passwrod": SECRET}},
            {"redis": {"password": SECRET, "ttl": "soon"}},
            {"redis": {"mode": "cluster", "addresses": [f"user:{SECRET}@a:1"]}, "namespace": "shop"},
            {"redis": {"replica_addresses": f"user:{SECRET}@a:1"}},
            {"signing_keys": [SECRET, "short-" + SECRET[:9]]},
            {"signing_keys": [{"key": SECRET}]},
            {"signing_keys": f'["{SECRET}"'},
            {"signing_key": SECRET},
            {"_signing_keys": [SECRET]},
        ],
    )
    def test_no_secret_is_shown_by_an_error(self, values: dict[str, Any]) -> None:
        shown = everything_of(problem(**values))
        assert SECRET not in shown
        assert SECRET[:9] not in shown

    @pytest.mark.parametrize(
        "environ",
        [
            {"NOVACRON_CACHE_REDIS__URL": f"redis://user:{SECRET}@cache:port"},
            {"NOVACRON_CACHE_REDIS__URL": f"redis://user:{SECRET}@cache"},
            {"NOVACRON_CACHE_REDIS": f'{{"password": "{SECRET}", "ttl": "soon"}}'},
            {"NOVACRON_CACHE_REDIS": f'{{"password": "{SECRET}"'},
            {"NOVACRON_CACHE_REDIS__PASSWROD": SECRET},
            {"NOVACRON_CACHE_SIGNING_KEYS": SECRET[:9]},
            {"NOVACRON_CACHE_SIGNING_KEY": SECRET},
            {"REDIS_MASTER_ADDR": f"user:{SECRET}@cache:port", "NOVACRON_CACHE_NAMESPACE": "shop"},
            {"REDIS_SLAVE_ADDRS": f"a:1,user:{SECRET}@b:2"},
        ],
    )
    def test_no_secret_is_shown_by_an_error_about_the_environment(self, environ: dict[str, str]) -> None:
        shown = everything_of(env_problem(environ))
        assert SECRET[:9] not in shown

    @given(st.text(st.characters(codec="utf-8", exclude_characters="@/?#[]\\"), min_size=8))
    def test_any_password_is_taken_out_of_a_url(self, password: str) -> None:
        assert password not in redact(f"redis://user:{password}@cache:6379/0")

    def test_an_address_without_credentials_is_left_as_it_is(self) -> None:
        for text in ("redis://cache:6379/0", "unix:///run/redis.sock?db=1", "cache:6379", "a:1,b:2"):
            assert redact(text) == text


def test_a_size_that_no_machine_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="no machine has so many bytes"):
        CacheSettings(memory={"max_bytes": "9999999999999gb"})


def test_a_duration_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be finite"):
        CacheSettings(default_ttl=10**400)
