"""Finding: one thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from apps.alerts.models import Rule, Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `target_key` tells it from the others of its rule."""

    rule: Rule
    target_key: str
    severity: Severity
    summary: str
    cluster: str = ""
    collection: str = ""
