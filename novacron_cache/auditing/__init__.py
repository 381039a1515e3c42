"""The auditor: it reads the source again for a share of what is served, and measures how stale the cache is.

A cache that promises fresh values should be able to show it. Nothing here touches the path of a hit: what to look at is
chosen from the entries that process memory holds, by the hits they have counted anyway (`sampling`); who could have
loaded an entry is told from its stored key (`sources`); what the cache would serve is looked at without changing
anything (`looking`); a round compares the two and watches a difference until it is gone (`rounds`); `report` counts.
"""

from .audit import Audit
from .report import Ages, AuditReport, StaleExample
from .sampling import HitSampler, Sample, StoredSampler

__all__ = ["Ages", "Audit", "AuditReport", "HitSampler", "Sample", "StaleExample", "StoredSampler"]
