"""Settings: what each one accepts, and that no mistake goes unnamed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError
from unit.configured import KEY, at, problem

from novacron_cache.errors import SettingsError
from novacron_cache.settings import CacheSettings, DiskSettings, MemorySettings, ModelOptions, RedisSettings


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
            ("trace_keys", False), ("on_outage", "load"), ("staleness_bound", 3.0), ("switch_interval", None),
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

    @pytest.mark.parametrize(("written", "kept"), [("0.01ms", 1e-5), (0.0005, 0.0005), ("1s", 1.0), (None, None)])
    def test_a_switch_interval_is_a_short_duration_or_none(self, written: object, kept: float | None) -> None:
        assert CacheSettings(switch_interval=written).switch_interval == kept

    @pytest.mark.parametrize("written", [0, "0.009ms", 1.1, "1m"])
    def test_a_switch_interval_out_of_range_is_refused(self, written: object) -> None:
        error = problem(switch_interval=written)
        assert error.variable == "switch_interval"
        assert str(error) == f"switch_interval={written!r}: expected a duration between '0.01ms' and '1s'"

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


def test_a_size_that_no_machine_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="no machine has so many bytes"):
        CacheSettings(memory={"max_bytes": "9999999999999gb"})


def test_a_duration_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be finite"):
        CacheSettings(default_ttl=10**400)
