"""What a run was made on: numbers without it say nothing, and ratios say less."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import serving

PACKAGES = (
    "novacron-cache", "pydantic", "redis", "hiredis", "cachetools", "diskcache", "cachebox", "theine", "async-lru",
    "aiocache", "cashews", "dogpile.cache", "valkey-glide", "valkey-glide-sync",
)  # fmt: skip


def setting() -> dict[str, Any]:
    """Return the machine, the interpreter and the versions of the contenders."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "cpu": _model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "server": serving.version(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": packages,
    }


def load() -> float:
    """Return how many processes wanted a processor in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()
