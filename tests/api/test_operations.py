"""wait=false: answered at once, done by a worker, and its outcome can be looked up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ
from rest_framework.test import APIClient

from apps.api import operations
from apps.api.operations import run_operation
from apps.clusters.models import Cluster
from apps.jobs.operations import KEPT, NodeOperation, OperationKind, start_operation
from apps.jobs.tick import tick
from apps.jobs.worker import Supervisor
from tests.api.conftest import NOW, V1, error_of, result_of
from tests.support import Collections, WorkerProcess, wait_until

NOBODY = "6f1c2f6e-0000-4000-8000-000000000000"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def films(collections: Collections, cluster: Cluster) -> str:
    collections.create("films", points=30)
    return f"{V1}/collections/films"


def accepted(api: APIClient, response: Any) -> dict[str, Any]:
    """The operation that a 202 names, once both ways to it are known to lead there."""
    result = result_of(response, 202)
    assert set(result) == {"operation_id"}
    assert response["Location"] == f"{V1}/operations/{result['operation_id']}"
    found: dict[str, Any] = result_of(api.get(response["Location"]))
    assert (found["id"], found["status"]) == (result["operation_id"], "pending")
    return found


def after_run(api: APIClient, asked: dict[str, Any]) -> dict[str, Any]:
    run_operation(asked["id"])
    found: dict[str, Any] = result_of(api.get(f"{V1}/operations/{asked['id']}"))
    return found


@pytest.mark.parametrize(("where", "shard"), [("", None), ("/shards/1", 1)])
def test_snapshot_is_made_and_deleted(api: APIClient, films: str, where: str, shard: int | None) -> None:
    asked = accepted(api, api.post(f"{films}{where}/snapshots?wait=false"))
    assert (asked["kind"], asked["collection_name"], asked["shard_id"]) == ("create_snapshot", "films", shard)
    assert asked["snapshot"] is None
    assert result_of(api.get(f"{films}{where}/snapshots")) == []

    made = after_run(api, asked)

    assert (made["status"], made["error"]) == ("completed", None)
    assert result_of(api.get(f"{films}{where}/snapshots")) == [made["snapshot"]]
    assert made["snapshot_name"] == made["snapshot"]["name"]
    gone = accepted(api, api.delete(f"{films}{where}/snapshots/{made['snapshot_name']}?wait=false"))
    assert after_run(api, gone)["status"] == "completed"
    assert result_of(api.get(f"{films}{where}/snapshots")) == []
    listed = result_of(api.get(f"{V1}/operations"))
    assert [each["id"] for each in listed["items"]] == [gone["id"], made["id"]]
    assert listed["total"] == 2


def test_recovery_tells_its_outcome_and_forgets_the_keys(
    api: APIClient, films: str, node: Any, collections: Collections
) -> None:
    made = result_of(api.post(f"{films}/snapshots"))
    location = f"{node.url}/collections/films/snapshots/{made['name']}?canary-query"
    body = {"location": location, "api_key": "canary-key", "checksum": made["checksum"]}
    good, bad = (
        accepted(api, api.post(f"{V1}/collections/{name}/snapshots/recover?wait=false", sent, format="json"))
        for name, sent in (("again", body), ("third", body | {"checksum": "0" * 64}))
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM jobs_nodeoperation")
        assert "canary" not in str(cursor.fetchall())

    assert after_run(api, good)["status"] == "completed"
    failed = after_run(api, bad)

    assert collections.count("again") == 30
    assert failed["status"] == "failed"
    assert "hecksum" in failed["error"]
    assert "canary" not in failed["error"]
    assert not any(row.body for row in NodeOperation.objects.all())


def test_what_does_not_exist_is_said_at_once(api: APIClient, films: str) -> None:
    recover = f"{films}/snapshots/recover?wait=false"

    for response, status in (
        (api.post(f"{V1}/collections/nope/snapshots?wait=false"), 404),
        (api.post(f"{films}/shards/7/snapshots?wait=false"), 404),
        (api.delete(f"{films}/snapshots/nope.snapshot?wait=false"), 404),
        (api.post(f"{films}/snapshots?wait=false&node=9"), 404),
        (api.post(recover, {"location": "ftp://x"}, format="json"), 422),
    ):
        assert response.status_code == status, response.content
        assert error_of(response)
    assert not NodeOperation.objects.exists()


@pytest.mark.parametrize("id", ["1", "x", NOBODY])
def test_unknown_operation_is_404(api: APIClient, id: str) -> None:  # noqa: A002
    response = api.get(f"{V1}/operations/{id}")

    assert response.status_code == 404
    assert error_of(response)


@pytest.fixture
def start(cluster: Cluster) -> Callable[..., NodeOperation]:
    def make(**changes: Any) -> NodeOperation:
        asked = NodeOperation(kind=OperationKind.CREATE, cluster=cluster, collection_name="films")
        started = start_operation(operation=asked, now=timezone.now())
        NodeOperation.objects.filter(pk=started.pk).update(**changes)
        return started

    return make


def test_it_is_done_once_however_often_it_is_delivered(
    start: Callable[..., NodeOperation], collections: Collections
) -> None:
    collections.create("films", points=1)
    asked = start()

    assert [run_operation(str(asked.pk)) for _ in range(2)] == [str(asked.pk), None]
    assert len(collections.snapshots("films")) == 1


def test_node_that_does_not_answer_and_faults_of_ours_are_outcomes(
    start: Callable[..., NodeOperation], monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster.objects.update(url="http://127.0.0.1:9")
    down, broken = start(), start()
    run_operation(str(down.pk))
    monkeypatch.setattr(operations, "choose_node", lambda *args: 1 / 0)
    run_operation(str(broken.pk))

    for row, words in ((down, "cannot be reached"), (broken, "internal error")):
        row.refresh_from_db()
        assert row.status == "failed"
        assert words in row.error
        assert row.completed_at is not None


def test_stopped_worker_says_so_and_does_not_wait_for_the_node(
    start: Callable[..., NodeOperation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_BEAT_SECONDS", 0.05)
    asked, stopping = start(), threading.Event()
    monkeypatch.setattr("apps.jobs.drain.requested", stopping.is_set)

    def make(endpoint: Any, collection: str, shard_id: Any, abort: Any) -> Any:
        stopping.set()
        abort.sleep(20)

    monkeypatch.setattr(operations, "create_snapshot", make)
    run_operation(str(asked.pk))
    asked.refresh_from_db()

    assert (asked.status, run_operation(str(start().pk))) == ("failed", None)
    assert "stopped" in asked.error


def test_tick_delivers_again_ends_the_lost_and_forgets_the_old(start: Callable[..., NodeOperation]) -> None:
    now = timezone.now()
    waiting = start(queued_at=now - timedelta(minutes=1))
    lost = start(status="running", seen_at=now - timedelta(hours=1), body="x")
    alive = start(status="running", seen_at=now)
    start(status="completed", completed_at=now - KEPT - timedelta(days=1))
    recent = start(status="completed", completed_at=now - KEPT + timedelta(days=1))

    tick(worker="w", now=timezone.now())
    assert OrmQ.objects.count() == 5  # those of the start lie untaken: no further one is made
    OrmQ.objects.all().delete()
    for _ in range(2):
        tick(worker="w", now=timezone.now())

    assert OrmQ.objects.count() == 1
    rows = {row.pk: row for row in NodeOperation.objects.all()}
    assert set(rows) == {waiting.pk, lost.pk, alive.pk, recent.pk}
    assert rows[alive.pk].status == "running"
    assert (rows[lost.pk].status, bool(rows[lost.pk].body)) == ("failed", False)
    assert "vanished" in rows[lost.pk].error


def test_queue_that_is_busy_with_operations_is_not_taken_for_stuck(
    start: Callable[..., NodeOperation], make_job: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BACKUPMGR_WORKERS = 1
    supervisor, replaced = Supervisor(), []
    monkeypatch.setattr(supervisor, "_restart_queue", replaced.append)
    make_job(queued_at=NOW, not_before=NOW)
    now = timezone.now()

    def wait_until_stuck() -> None:
        for seconds in (0, settings.BACKUPMGR_STUCK_SECONDS + 1):
            supervisor._watch_queue(now + timedelta(seconds=seconds))

    start(status="running", worker=supervisor.id)
    wait_until_stuck()
    assert replaced == []
    NodeOperation.objects.update(status="completed")
    wait_until_stuck()
    assert len(replaced) == 1


@pytest.mark.worker
@pytest.mark.xdist_group("worker")
def test_real_worker_does_it(api: APIClient, films: str, start_worker: Callable[..., WorkerProcess]) -> None:
    asked = accepted(api, api.post(f"{films}/snapshots?wait=false"))

    start_worker()

    wait_until(lambda: NodeOperation.objects.get(pk=asked["id"]).status == "completed", 30, "the operation")
    assert len(result_of(api.get(f"{films}/snapshots"))) == 1
