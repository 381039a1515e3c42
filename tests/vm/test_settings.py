"""The settings of the VM domain override what the models say, and name what is wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest
from vm import fleet

from novacron_cache import Cache, CacheSettings, SettingsError
from novacron_cache.vm import VMCacheManager, VMCacheSettings, VMState


def test_the_defaults_are_those_of_the_models() -> None:
    settings = VMCacheSettings()
    assert (settings.vm_state_ttl, settings.vm_resources_ttl, settings.vm_migration_ttl) == (30, 120, 60)
    assert (settings.vm_metrics_ttl, settings.vm_config_ttl, settings.node_resources_ttl) == (15, 900, 30)
    assert (settings.enable_warmup, settings.warmup_interval, settings.critical_vms) == (False, 300, ())


def test_durations_are_what_people_write() -> None:
    settings = VMCacheSettings(vm_state_ttl="1m30s", vm_config_ttl=timedelta(hours=1), warmup_interval=2.5)
    assert (settings.vm_state_ttl, settings.vm_config_ttl, settings.warmup_interval) == (90, 3600, 2.5)


def test_a_ttl_overrides_the_model_s_and_the_cache_s_settings_override_both() -> None:
    with Cache() as cache:
        vms = VMCacheManager(cache, VMCacheSettings(vm_state_ttl="5s"))
        vms.set_vm_state(fleet.state())
        left = cache.ttl("vm:vm-1", model=VMState)
        assert left is not None
        assert left <= 5
    with Cache(CacheSettings.model_validate({"models": {"VMState": {"ttl": "3s"}}})) as cache:
        vms = VMCacheManager(cache, VMCacheSettings(vm_state_ttl="5s"))
        vms.set_vm_state(fleet.state())
        left = cache.ttl("vm:vm-1", model=VMState)
        assert left is not None
        assert left <= 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vm_state_ttl": "30 parsecs"}, "vm_state_ttl='30 parsecs': "),
        ({"vm_state_ttl": 0}, "vm_state_ttl=0: expected more than zero"),
        ({"vm_state_ttl": -1}, "vm_state_ttl=-1: "),
        ({"warmup_concurrency": 0}, "warmup_concurrency=0: "),
        ({"critical": ["vm-1"]}, "critical: unknown setting; there are vm_state_ttl, .*critical_vms"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        VMCacheSettings(**values)
