"""Many workers and random kills, in the small. `scripts/faults soak` does it with 200 jobs, also on PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from faultlib.bed import Bed, Needs
from faultlib.soak import Load, soak

pytestmark = [pytest.mark.worker, pytest.mark.xdist_group("faults")]


def test_every_job_has_its_effect_once_in_fair_order_while_workers_die(tmp_path: Path) -> None:
    load = Load(jobs=16, collections=4, workers=2, kills=2, most_seconds=150)

    with ExitStack() as stack:
        outcome = soak(Bed(tmp_path / "soak", stack, Needs(s3=False)), load)

    assert outcome.problems == [], outcome.facts
    assert outcome.facts["ends"] == {"completed": load.jobs}
    assert outcome.facts["kills"] >= 1
    assert outcome.facts["most_at_once"] > 1, "nothing ran side by side: this would prove nothing"
