"""Every operation of the generated schema, with data made from it: no fault of ours, and every answer as described."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.utils import timezone
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from apps.backups.leftovers import leave_behind
from apps.backups.models import DeletedBackup, KeptCollection, Leftover, Orphan, OrphanKind
from apps.backups.policies import RetentionPolicy
from apps.backups.reconcile.findings import Finding
from apps.backups.reconcile.recording import record_finding
from apps.backups.traces import FolderTrace, Traces, UploadTrace
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.operations import NodeOperation, OperationKind, start_operation
from apps.jobs.reconciling import ask_for_run
from apps.schedules.draft import ScheduleData
from apps.schedules.retention.apply import confirm_plan
from apps.schedules.retention.plan import plan_policy
from apps.schedules.retention.policies import place_hold
from apps.schedules.services import create_schedule, run_now
from apps.storage.models import StorageConfig
from backupmgr.wsgi import application
from tests.api.conftest import NOW, V1, generated_schema, make_user
from tests.schedules.conftest import make_backup as make_old_backup
from tests.support import Collections

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Cases for each operation, half of them valid by the schema and half of them not.
EXAMPLES = 20
#: So often other cases are tried when none of them could be done.
MORE_ROUNDS = 10
#: What a request is better without when it is to succeed.
UNKNOWABLE = ("node", "checksum", "api_key", "created_after", "created_before")

OPERATIONS = sorted(
    operation["operationId"] for item in generated_schema()["paths"].values() for operation in item.values()
)


@cache
def described() -> dict[str, Any]:
    """operationId → the operation, as schemathesis reads it from the running app."""
    schema = schemathesis.openapi.from_wsgi(f"{V1}/schema", application)
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.definition.raw["operationId"]: operation for operation in found}


@pytest.fixture
def one_connection(db: None) -> Iterator[None]:
    """Requests to the bare WSGI application share the test's transaction, which they would close at their end."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def world(
    one_connection: None,
    settings: Any,
    collections: Collections,
    cluster: Cluster,
    storage: StorageConfig,
    make_job: Callable[..., Any],
    make_backup: Callable[..., Any],
    unknown_backup: Orphan,
) -> World:
    """A node with a collection and snapshots, and rows of every kind."""
    from apps.api.services import create_token

    settings.BACKUPMGR_OUTBOUND_ALLOW = ["127.0.0.1"]  # nothing leaves this host
    settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS = 5
    collections.create("films", points=10)
    # What stands in the place of the kept collection (keep_something).
    collections.create("films-2", points=1)
    lead = {"create_alias": {"collection_name": "films-2", "alias_name": "live"}}
    collections.call("POST", "/collections/aliases", {"actions": [lead]})
    made = [
        collections.call("POST", f"/collections/films{where}/snapshots")["result"]["name"]
        for where in ("", "/shards/0")
    ]
    jobs = [make_job(status=status) for status in ("pending", "failed", "completed")]
    token, _ = create_token(user=make_user(), name="other", scope=Scope.READ, now=NOW)
    asked = NodeOperation(kind=OperationKind.CREATE, cluster=cluster, collection_name="films")
    other = StorageConfig.objects.create(name="other", type="local", path=f"{storage.path}/other")
    rows = {
        "jobs": jobs,
        "backups": [make_backup(), make_backup(shard_id=0)],
        "tokens": [token],
        "clusters": [cluster, Cluster.objects.create(name="spare", url=cluster.url)],
        "storage": [storage, other],
        "operations": [start_operation(operation=asked, now=NOW)],
        "leftovers": [leave_something(storage)],
        "deleted-backups": [record_of_deletion(storage)],
        "kept-collections": [keep_something(cluster, name) for name in ("films", "gone")],
        **plan_something(cluster, storage),
        "orphans": [make_orphan(storage, name) for name in ("main/films/x", "main/films/y")] + [unknown_backup],
        "reconciliations": [ask_for_run(now=NOW)],
        **tell_something(cluster),
    }
    ids = {room: [str(row.pk) for row in some] for room, some in rows.items()}
    return World(
        paths={"name": ["films"], "shardId": [0]},
        snapshots={False: made[:1], True: made[1:]},
        ids=ids,
        values={
            "cluster": "main",
            "target_cluster": "main",
            "storage": "folder",
            "storage_id": ids["storage"][0],
            "backup_id": ids["backups"][0],
            "storages": ["folder"],
            "digest": plan_policy(RetentionPolicy.objects.get(name="spare"), now=NOW).digest,
            "kind": "cron",
            "cron": "H 2 * * *",
            "tz": "Europe/Berlin",
            "policy": "spare",
            "schedule": ids["schedules"][0],
            "interval_seconds": None,
            "jitter_seconds": 0,
            "until": None,
            "blackouts": [],
            "reason": "a reason",
            "keep_last": 3,
            "keep_within": "14d",
            "max_age": "",
            "tags": [],
            "collection": "films",
            "collection_name": "films",
            "path": f"{storage.path}/new",
            "url": cluster.url,
            "urls": [cluster.url],
            "nodes": {"1": cluster.url},
            "s3_endpoint": "http://127.0.0.1:9",
            "ca": "",
        },
    )


def tell_something(cluster: Cluster) -> dict[str, list[Any]]:
    from apps.alerts.models import Incident
    from apps.alerts.services import save_channel

    channel = save_channel(channel=None, data={"name": "ops", "kind": "webhook", "address": f"{cluster.url}/"})
    incident = Incident.objects.create(
        rule="failing", target_key="a/b", severity="critical", summary="b fails.", opened_at=NOW, last_seen_at=NOW
    )
    return {"channels": [channel], "incidents": [incident]}


def leave_something(storage: StorageConfig) -> Leftover:
    trace = FolderTrace(storage_id=str(storage.pk), path="main/films/x")
    leave_behind(Traces([trace]), job_id=uuid.uuid4(), reason="The disk was away.")
    return Leftover.objects.get()


def record_of_deletion(storage: StorageConfig) -> DeletedBackup:
    return DeletedBackup.objects.create(
        backup_id=uuid.uuid4(), snapshot_name="x", collection_name="films", cluster_name="main", storage_id=storage.pk,
        storage_name=storage.name, path="main/films/x", taken_at=NOW, size_bytes=1, points_count=1, parts_count=1,
        policy_name="spare", policy_version=1, policy_rules={"keep_last": 1}, erased_at=NOW, created_at=NOW,
    )  # fmt: skip


def keep_something(cluster: Cluster, name: str) -> KeptCollection:
    return KeptCollection.objects.create(
        cluster=cluster, collection_name=name, replaced_by="films-2", aliases=["live"], points_count=10, created_at=NOW
    )


def plan_something(cluster: Cluster, storage: StorageConfig) -> dict[str, list[Any]]:
    """Schedules in every state, a run, policies, an evaluation that can be undone, and a hold."""
    now = timezone.now()
    policy, spare = (RetentionPolicy.objects.create(name=name, keep_last=1) for name in ("policy", "spare"))
    data = ScheduleData(name="nightly", cluster=cluster, storages=[storage], kind="cron", cron="30 2 * * *")
    schedule = create_schedule(data=data, now=now)
    run = run_now(schedule=create_schedule(data=replace(data, name="busy"), now=now), now=now)
    backups = [make_old_backup(cluster, storage, now - timedelta(days=days), policy=policy) for days in range(1, 5)]
    runs = confirm_plan(policy=policy, digest=plan_policy(policy, now=now).digest, now=now)
    hold = place_hold(backup=backups[0], reason="audit", now=now)
    return {
        "schedules": [schedule],
        "runs": [run],
        "policies": [spare, policy],
        "retention": runs,
        "holds": [hold],
    }


def make_orphan(storage: StorageConfig, name: str) -> Orphan:
    finding = Finding(
        kind=OrphanKind.UPLOAD,
        name=name,
        reason="Nobody here knows the job.",
        storage_id=storage.pk,
        trace=UploadTrace(storage_id=str(storage.pk), key=name),
    )
    return record_finding(finding, now=NOW)


@dataclass(frozen=True)
class World:
    """What is there to be named by requests."""

    #: Path parameter → values of it.
    paths: dict[str, list[Any]]
    #: Whether of a shard → names of snapshots.
    snapshots: dict[bool, list[str]]
    #: First word of a path → the `id`s below it.
    ids: dict[str, list[str]]
    #: Name of a query parameter or of a body's field → a value that makes sense.
    values: dict[str, Any]

    def names(self, path: str) -> st.SearchStrategy[dict[str, Any]]:
        """Path parameters of an operation that name what is there."""
        about_shards = "{shardId}" in path
        known = {
            **self.paths,
            "snapshotName": self.snapshots[about_shards],
            "id": self.ids.get(path.strip("/").partition("/")[0], []),
        }
        return st.fixed_dictionaries({n: st.sampled_from(v) for n, v in known.items() if f"{{{n}}}" in path})

    def sensible(self, given: Any) -> Any:
        """The same parameters or body, with values that make sense for the names that are in it."""
        if not isinstance(given, dict):
            return given
        changed = {name: self.values.get(name, value) for name, value in given.items() if name not in UNKNOWABLE}
        if "address" in given or "time_zone" in given:  # a channel
            changed |= {"kind": "webhook", "address": self.values["url"], "time_zone": "UTC"}
            changed |= {"rules": [], "clusters": [], "schedules": []}
        if "url" in given and {"nodes", "ca", "restore_api_key", "max_jobs_per_node"} & set(given):  # a cluster
            return {name: value for name, value in changed.items() if name in ("name", "url", "max_jobs")}
        if "storages" in given and isinstance(given.get("name"), str):
            # Of a schedule's fields many belong to one kind only, and numbers have to fit each other.
            name = "".join(sign for sign in given["name"] if sign.isprintable()).strip() or "a name"
            kept = ("cluster", "storages", "kind", "cron", "tz", "policy")
            return (
                {"name": name}
                | {field: value for field, value in changed.items() if field in kept}
                | {"cron": "H 2 * * *"}
            )
        if "collection_name" in given and "type" in given:
            # Of a job's fields most belong to one type only, and together they are refused.
            kept = {"type", "collection_name", "cluster", "storage_id", "metadata"}
            return {name: value for name, value in changed.items() if name in kept} | {"type": "backup"}
        # Half of the storages are folders.
        if "type" in given and ("path" in given or "s3_bucket" not in given):
            return changed | {"type": "local", "path": self.values["path"]}
        return changed


@pytest.fixture
def secret(db: None) -> str:
    from apps.api.services import create_token

    return create_token(user=make_user(superuser=True), name="t", scope=Scope.ADMINISTER, now=timezone.now())[1]


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_is_one_that_the_schema_describes(operation_id: str, world: World, secret: str) -> None:
    operation = described()[operation_id]
    ((shard, name),) = [(s, n) for s, (n,) in world.snapshots.items() if s == ("{shardId}" in operation.path)]
    where = "shards/0/" if shard else ""
    world.values["location"] = f"{world.values['url']}/collections/films/{where}snapshots/{name}"
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )
    statuses: list[int] = []
    other_paths = {one.path for one in described().values()} - {operation.path}

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=cases, named=world.names(operation.path), sense=st.integers(0, 3))
    def run(case: Any, named: dict[str, Any], sense: int) -> None:
        if sense > 0:  # else an id of nothing, a name that cannot be
            case.path_parameters = {**(case.path_parameters or {}), **named}
        if sense > 1:
            case.query, case.body = world.sensible(case.query), world.sensible(case.body)
        if case.formatted_path in other_paths:
            return  # "preview" for an id: that is another operation's address, and says so
        # A header that was made up may be one that carries a key.
        case.headers = {k: v for k, v in (case.headers or {}).items() if k.lower() not in ("api-key", "authorization")}
        response = case.call(headers={"api-key": secret})
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    for seed in range(MORE_ROUNDS):
        if any(status < 400 for status in statuses):
            break
        # Which cases come follows from the test's own text: now and then none of them is one that can be done.
        hypothesis.seed(seed)(run)()
    print(operation_id, sorted(statuses))
    assert len(statuses) >= EXAMPLES / 2
    assert any(status < 400 for status in statuses), statuses
