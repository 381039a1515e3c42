"""`VMCacheSettings`: how long what is known of VMs is kept, and what is kept warm."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from novacron_cache import DeclarationError, SettingsError, seconds


def _seconds(value: Any, info: ValidationInfo) -> float:
    what = info.field_name or "duration"
    try:
        result = seconds(value, what=what)
    except DeclarationError as error:
        raise ValueError(str(error).removeprefix(f"{what}={value!r}: ")) from error
    if not result:
        raise ValueError("expected more than zero")
    return result


Seconds = Annotated[float, BeforeValidator(_seconds)]


class VMCacheSettings(BaseModel):
    """Settings of the VM domain. Durations take seconds, a `timedelta`, or text such as "30s" or "1h30m".

    The times to live override those that the models declare; `CacheSettings.models[name]` overrides both.

    Attributes:
        vm_state_ttl: of `VMState`.
        vm_resources_ttl: of `VMResources`.
        vm_migration_ttl: of `VMMigration`.
        vm_metrics_ttl: of `VMMetrics`.
        vm_config_ttl: of `VMConfig`.
        node_resources_ttl: of `NodeResources`.
        listing_ttl: of the list of all VMs, and of the states of the VMs of one node.
        not_found_ttl: for how long it is remembered that there is no such VM.
        enable_warmup: whether `CachedVMManager.start_warming` (and entering its context) loads VMs ahead of use.
        warmup_interval: the time from the start of one round of warming to the next.
        critical_vms: the VMs that a round begins with.
        warmup_all: whether a round goes on with all other VMs, spread over the interval.
        warmup_concurrency: how many loads a round has under way at once, at most.

    Raises:
        SettingsError: a value is wrong, or a name unknown; the message says which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm_state_ttl: Seconds = 30.0
    vm_resources_ttl: Seconds = 120.0
    vm_migration_ttl: Seconds = 60.0
    vm_metrics_ttl: Seconds = 15.0
    vm_config_ttl: Seconds = 900.0
    node_resources_ttl: Seconds = 30.0
    listing_ttl: Seconds = 30.0
    not_found_ttl: Seconds = 5.0
    enable_warmup: bool = False
    warmup_interval: Seconds = 300.0
    critical_vms: tuple[str, ...] = ()
    warmup_all: bool = False
    warmup_concurrency: int = Field(default=4, ge=1, le=256)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(found) for found in error.errors())) from error


def _problem(found: Any) -> str:
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        return f"{name}: unknown setting; there are {', '.join(VMCacheSettings.model_fields)}"
    return f"{name}={found['input']!r}: {found['msg'].removeprefix('Value error, ')}"
