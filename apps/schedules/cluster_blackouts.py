"""Blackouts of a whole cluster: they count for every schedule on it, beside the schedule's own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from apps.audit.trail import record_action
from apps.clusters.models import Cluster
from apps.core.errors import InvalidRequest
from apps.schedules.advance import recompute_all
from apps.schedules.draft import MAX_WINDOWS
from apps.schedules.models import Blackout
from apps.schedules.services import blackout_row
from apps.schedules.timing.blackouts import Window


def cluster_windows(cluster: Cluster) -> list[Window]:
    """The blackouts of the cluster."""
    return [row.window for row in Blackout.objects.filter(cluster=cluster).order_by("id")]


def set_cluster_windows(*, cluster: Cluster, windows: Sequence[Window], now: datetime) -> None:
    """Give the cluster these blackouts and no others, and work out anew what comes next. Raises: InvalidRequest."""
    if len(windows) > MAX_WINDOWS:
        raise InvalidRequest(f"blackouts: At most {MAX_WINDOWS}.")
    for window in windows:
        if window.starts_at is not None and window.ends_at is not None and window.ends_at <= window.starts_at:
            raise InvalidRequest("blackouts: A blackout ends after it starts.")
    with transaction.atomic():
        Blackout.objects.filter(cluster=cluster).delete()
        Blackout.objects.bulk_create(blackout_row(window, cluster=cluster) for window in windows)
        words = "; ".join(window.sentence for window in windows) or "none"
        record_action("cluster.blackouts", f"Blackouts of the cluster {cluster.name}: {words}.", about=cluster)
        # What is due already, or has to be made up for, stays so.
        recompute_all(now=now, only_ahead=True)
