"""One tree of settings, so that a cache can be read from code or from the environment and a mistake names itself.

Rules. Nothing surprises: constructing `CacheSettings` reads what it is given and nothing else, only `from_env` looks at
the environment. A tier is on when it is told where it lives; `enabled` overrides. Names that do not exist are errors
that suggest the nearest, in code and in the environment alike. Whatever is wrong becomes one `SettingsError` that names
the setting or the variable and never shows a secret: neither in its text nor in its cause.
"""

from .environment import PREFIX, Variable
from .tree import (
    ENVIRONMENT,
    CacheSettings,
    DiskSettings,
    MemorySettings,
    ModelOptions,
    MonitorSettings,
    RedisSettings,
)
from .values import Positive, Seconds, Size, redact

__all__ = [
    "ENVIRONMENT",
    "PREFIX",
    "CacheSettings",
    "DiskSettings",
    "MemorySettings",
    "ModelOptions",
    "MonitorSettings",
    "Positive",
    "RedisSettings",
    "Seconds",
    "Size",
    "Variable",
    "redact",
]
