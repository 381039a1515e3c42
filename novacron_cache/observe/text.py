"""The figures as text, in Prometheus' format and in that of OpenMetrics.

The client library writes both too, from the collector in `exposition`, and takes several times as long: it sorts and
checks what is known to be in order here. A scrape runs in a process that has other things to do. The tests hold the two
against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .histogram import BOUNDS, Exemplar, Histogram
from .snapshot import FAMILIES, PREFIX, Labels, Snapshot

_BOUNDS: Final = (*(repr(bound) for bound in BOUNDS), "+Inf")


def rendered(snapshot: Snapshot, extra: Mapping[str, str], *, openmetrics: bool) -> bytes:
    """Return a snapshot as text.

    Args:
        snapshot: the figures.
        extra: labels that every sample gets besides.
        openmetrics: whether in the format of OpenMetrics, with exemplars.
    """
    lines: list[str] = []
    more = "".join(f',{name}="{_escaped(value)}"' for name, value in extra.items())
    for name, family in FAMILIES.items():
        full = PREFIX + name
        total = full + "_total" if family.kind == "counter" else full
        histograms, values = snapshot.histograms.get(name), snapshot.values.get(name)
        if not (histograms if family.kind == "histogram" else values):
            continue
        head = full if openmetrics else total
        lines += (f"# HELP {head} {family.help}", f"# TYPE {head} {family.kind}")
        if family.kind == "histogram":
            for key, histogram in (histograms or {}).items():
                _histogram(lines, full, _labels(family.labels, key, more), histogram, openmetrics=openmetrics)
        else:
            for key, value in (values or {}).items():
                lines.append(f"{total}{{{_labels(family.labels, key, more)}}} {float(value)!r}")
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode()


def _labels(names: Labels, values: Labels, more: str) -> str:
    text = "".join(f',{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + more
    return text[1:]


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value


def _histogram(lines: list[str], name: str, labels: str, histogram: Histogram, *, openmetrics: bool) -> None:
    head = f'{name}_bucket{{{labels},le="' if labels else f'{name}_bucket{{le="'
    count = 0
    for place, bound in enumerate(_BOUNDS):
        count += histogram.counts[place]
        line = f'{head}{bound}"}} {count}.0'
        exemplar = histogram.exemplars.get(place) if openmetrics else None
        lines.append(line if exemplar is None else line + _exemplar(exemplar))
    lines += (f"{name}_count{{{labels}}} {count}.0", f"{name}_sum{{{labels}}} {float(histogram.total)!r}")


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in exemplar.labels.items())
    return f" # {{{labels}}} {exemplar.seconds!r} {exemplar.at!r}"
