"""The domain of virtual machines: what is known of them, cached, and invalidated by their own lifecycle events.

It uses what `novacron_cache` exports and nothing else, so it is also the longest example of what an application can
write. `novacron_cache.vm.libvirt` speaks to real hypervisors and needs the extra `libvirt`.
"""

from __future__ import annotations

from .errors import HypervisorError, HypervisorUnavailableError, TransitionError, UnknownVMError, VMError
from .managed import VM, CachedVMManager
from .manager import VMCacheManager
from .models import (
    DiskAllocation,
    MigrationStatus,
    NodeResources,
    VMConfig,
    VMMetrics,
    VMMigration,
    VMResources,
    VMState,
    VMStatus,
)
from .naming import Affected
from .protocol import AsyncVMManager, VMEventSource, VMManager
from .settings import VMCacheSettings
from .warming import Warmer, WarmProgress

__all__ = [
    "VM",
    "Affected",
    "AsyncVMManager",
    "CachedVMManager",
    "DiskAllocation",
    "HypervisorError",
    "HypervisorUnavailableError",
    "MigrationStatus",
    "NodeResources",
    "TransitionError",
    "UnknownVMError",
    "VMCacheManager",
    "VMCacheSettings",
    "VMConfig",
    "VMError",
    "VMEventSource",
    "VMManager",
    "VMMetrics",
    "VMMigration",
    "VMResources",
    "VMState",
    "VMStatus",
    "WarmProgress",
    "Warmer",
]
