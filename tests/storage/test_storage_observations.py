"""Looks at storages: one that is gone is known soon, one that hangs holds nobody up, and nothing is written to any."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from apps.storage import observations
from apps.storage.models import StorageConfig
from apps.storage.observations import AGAIN, EVERY, look_at, observe_storages_due
from apps.storage.observed import StorageObservation

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def vault(db: None, folder: Path) -> StorageConfig:
    return StorageConfig.objects.create(name="vault", type="local", path=str(folder))


def test_a_storage_is_looked_at_every_ten_minutes_and_nothing_is_written(vault: StorageConfig) -> None:
    assert observe_storages_due(now=NOW) == 1
    assert observe_storages_due(now=NOW + EVERY / 2) == 0
    assert observe_storages_due(now=NOW + EVERY) == 1

    row = StorageObservation.objects.get()
    assert (row.seen_at, row.problem, row.failing_since) == (NOW + EVERY, "", None)
    assert list(Path(vault.path).iterdir()) == []


def test_one_that_is_gone_is_asked_every_minute_until_it_is_back(vault: StorageConfig) -> None:
    observe_storages_due(now=NOW)
    shutil.rmtree(vault.path)
    gone = NOW + EVERY
    for minute in range(3):
        assert observe_storages_due(now=gone + minute * AGAIN) == 1

    row = StorageObservation.objects.get()
    assert (row.seen_at, row.failing_since, row.tried_at) == (NOW, gone, gone + 2 * AGAIN)
    assert vault.path in row.problem
    Path(vault.path).mkdir()
    observe_storages_due(now=gone + 3 * AGAIN)
    row.refresh_from_db()
    assert (row.problem, row.failing_since, row.next_check_at) == ("", None, gone + 3 * AGAIN + EVERY)


def test_a_bucket_that_nobody_serves_is_a_problem_without_its_keys(db: None) -> None:
    bucket = StorageConfig(
        name="bucket", type="s3", s3_endpoint="http://127.0.0.1:9", s3_bucket="backups", s3_region="r",
        s3_access_key="canary-access", s3_secret_key="canary-secret",
    )  # fmt: skip
    bucket.save()

    said = look_at(bucket)

    assert "127.0.0.1:9" in said
    assert "canary" not in said


def test_one_that_hangs_is_left_behind_and_not_asked_again_meanwhile(
    vault: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), []

    def hang(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        answers.wait(30)
        raise OSError

    monkeypatch.setattr(observations, "open_store", hang)
    try:
        assert "did not answer within" in look_at(vault, seconds=0.05)
        assert "did not answer within" in look_at(vault, seconds=0.05)
        assert asked == [1]
    finally:
        answers.set()
        observations._hanging[vault.pk].join(10)


def test_of_two_workers_one_looks(vault: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    observe_storages_due(now=NOW)
    StorageObservation.objects.update(next_check_at=NOW)
    taken = []

    def look_while_the_other_does(storage: StorageConfig) -> str:
        taken.append(observe_storages_due(now=NOW))
        return ""

    monkeypatch.setattr(observations, "look_at", look_while_the_other_does)
    assert observe_storages_due(now=NOW) == 1
    assert taken == [0]


def test_a_clock_that_was_far_ahead_does_not_keep_a_storage_from_its_look(vault: StorageConfig, settings: Any) -> None:
    observe_storages_due(now=NOW + timedelta(days=400))
    assert observe_storages_due(now=NOW) == 1
    settings.BACKUPMGR_CHECK_SECONDS = 0
    assert observe_storages_due(now=NOW + EVERY) == 0
