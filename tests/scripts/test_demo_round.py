"""A round whose restore or whose stored bytes are wrong must say so, whatever the jobs claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scripts.demolib import sample
from scripts.demolib.compare import Picture, index_points
from scripts.demolib.errors import DemoError
from scripts.demolib.rounds import Outcome, Place, play_round
from scripts.demolib.screen import Screen

SHA256 = "ab" * 32
JOB = {
    "id": "1",
    "backup_id": "2",
    "started_at": "2026-08-01T00:00:00Z",
    "completed_at": "2026-08-01T00:00:01Z",
}
BACKUP = {
    "collection_name": "films",
    "snapshot_name": "one",
    "storage_id": "3",
    "size_bytes": 10,
    "points_count": 5,
    "parts": [{"key": "films/shard-0.snapshot", "shard_id": 0, "size_bytes": 10, "sha256": SHA256}],
}


def picture(count: int) -> Picture:
    return Picture(points=index_points(sample.points(count)), config={}, payload_schema={}, aliases=())


class FakeNode:
    """A node that holds `count` points after the restore."""

    def __init__(self, count: int, stays: bool = False) -> None:
        self._count = count
        self._stays = stays

    def delete(self, name: str) -> None: ...

    def exists(self, name: str) -> bool:
        return self._stays

    def settle(self, name: str) -> None: ...

    def picture(self, name: str, moved: Callable[[int], None]) -> Picture:
        return picture(self._count)


class FakeManager:
    """An API on which every job completes."""

    def start_job(self, request: dict[str, Any]) -> dict[str, Any]:
        return JOB

    def wait(self, job_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        return JOB

    def backup(self, backup_id: str) -> dict[str, Any]:
        return BACKUP

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return [{"data": {"way": "sent to the node"}}, {"data": {}}]


def play(node: FakeNode, stored: str = SHA256) -> Outcome:
    return play_round(
        collection="films",
        place=Place("folder", "3", lambda key: stored),
        cluster="demo",
        before=picture(5),
        node=node,
        manager=FakeManager(),
        screen=Screen(),
    )


def test_a_round_in_which_all_is_equal_has_no_problem() -> None:
    assert play(FakeNode(5)) == Outcome("folder", [], {"sent to the node"})


def test_points_that_did_not_come_back_are_problems() -> None:
    assert play(FakeNode(3)).problems == ["point 3: missing", "point 4: missing"]


def test_stored_bytes_with_another_hash_are_a_problem() -> None:
    problems = play(FakeNode(5), stored="cd" * 32).problems

    assert len(problems) == 1
    assert problems[0].startswith("films/shard-0.snapshot: the stored bytes have SHA-256 cdcd")


def test_a_collection_that_was_not_deleted_proves_nothing_and_ends_the_demo() -> None:
    with pytest.raises(DemoError, match="still has 'films'"):
        play(FakeNode(5, stays=True))
