"""What the frame of every page shows of the jobs: how many run, and how far they are together."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Count, Sum

from apps.jobs.models import Job
from apps.jobs.states import JobStatus


@dataclass(frozen=True)
class RunningNow:
    """Jobs that run, and the bytes they have moved of those they know they have to."""

    count: int
    bytes_done: int
    bytes_total: int

    @property
    def words(self) -> str:
        """'2 running · 61 %'; without the percentage until somebody knows how much there is."""
        if not self.bytes_total:
            return f"{self.count} running"
        return f"{self.count} running · {max(0, min(99, self.bytes_done * 100 // self.bytes_total))} %"


def running_now() -> RunningNow:
    found = Job.objects.filter(status=JobStatus.RUNNING).aggregate(
        count=Count("pk"), done=Sum("bytes_done"), total=Sum("bytes_total")
    )
    return RunningNow(found["count"], found["done"] or 0, found["total"] or 0)
