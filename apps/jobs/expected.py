"""How long a restore takes here, going by the restores that were measured. Nothing measured: nothing is promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from apps.clusters.models import Cluster
from apps.core.text import format_duration, plural
from apps.jobs.models import Job
from apps.jobs.states import JobStatus, JobType
from apps.storage.models import StorageConfig

#: The newest so many are looked at: networks and disks change.
LOOKED_AT = 20
UNKNOWN = "Unknown until a first restore has been measured."


@dataclass(frozen=True)
class Expected:
    """A range of seconds, how many restores it was made of, and where those were."""

    low_seconds: float
    high_seconds: float
    measured: int
    where: str

    @property
    def words(self) -> str:
        """'about 6 min to 9 min, measured at 5 restores from vault into berlin'"""
        low, high = _rounded(self.low_seconds), _rounded(self.high_seconds)
        span = low if low == high else f"{low} to {high}"
        return f"about {span}, measured at {plural(self.measured, 'restore')} {self.where}"

    @property
    def sentence(self) -> str:
        return f"{self.words[0].upper()}{self.words[1:]}."


def expected_restore(
    *, size_bytes: int, storage: StorageConfig, cluster: Cluster | None, overwrites: bool = False
) -> Expected | None:
    """Return how long a restore of so many bytes would take; None when no restore has been measured yet.

    Restores from the same storage into the same cluster come first, then those from the storage, then any. A restore
    that overwrites is compared with others that did, where there are any: they make a safety backup first. `cluster`
    is None for "wherever it was restored to".
    """
    ways = [(Q(storage=storage), f"from {storage.name}"), (Q(), "from other storages")]
    if cluster is not None:
        ways.insert(0, (Q(storage=storage, target_cluster=cluster), f"from {storage.name} into {cluster.name}"))
    for which, where in ways:
        for alike in (Q(overwrite=overwrites), Q()):
            rows = _measured(which & alike)
            if rows:
                low, high = _range(rows, size_bytes)
                return Expected(low, high, len(rows), where)
    return None


def _measured(which: Q) -> list[tuple[float, int]]:
    """Seconds and bytes of the newest restores that needed one attempt: further ones include the waiting between."""
    rows: Any = (
        Job.objects.filter(
            which,
            type=JobType.RESTORE,
            status=JobStatus.COMPLETED,
            attempt=1,
            backup__size_bytes__gt=0,
            started_at__isnull=False,
            completed_at__isnull=False,
        )
        .order_by("-created_at", "-id")
        .values_list("started_at", "completed_at", "backup__size_bytes")[:LOOKED_AT]
    )
    return [((end - start).total_seconds(), size) for start, end, size in rows]


def _range(rows: list[tuple[float, int]], size_bytes: int) -> tuple[float, float]:
    """Scale what was measured to the size; of four or more the middle half counts, so that one odd day does not.

    Creating a collection and counting it takes its time however small it is: none is promised to be quicker than the
    quickest that was measured.
    """
    quickest = min(seconds for seconds, _ in rows)
    scaled = sorted(max(quickest, seconds * size_bytes / size) for seconds, size in rows)
    cut = len(scaled) // 4
    middle = scaled[cut : len(scaled) - cut]
    return middle[0], middle[-1]


def _rounded(seconds: float) -> str:
    """An estimate is no measurement: 5 s, 10 s, then whole minutes, then tens of minutes."""
    if seconds < 60:
        return f"{max(5, round(seconds / 5) * 5)} s"
    step = 60 if seconds < 3600 else 600
    return format_duration(round(seconds / step) * step)
