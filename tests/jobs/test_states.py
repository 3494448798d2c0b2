from __future__ import annotations

import pytest

from apps.jobs.states import ENDED, JobStatus, may_follow

ALLOWED = {
    ("pending", "running"),
    ("pending", "cancelled"),
    ("pending", "failed"),
    ("running", "pending"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("failed", "pending"),
    ("cancelled", "pending"),
}


@pytest.mark.parametrize("before", JobStatus.values)
@pytest.mark.parametrize("after", JobStatus.values)
def test_exactly_these_ways_exist(before: str, after: str) -> None:
    assert may_follow(before, after) is ((before, after) in ALLOWED)


def test_a_completed_job_stays_completed() -> None:
    assert not any(may_follow("completed", after) for after in JobStatus.values)
    assert "completed" in ENDED
