"""Jobs: list, create, look at, cancel, retry, read the story of."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.envelope import BareResponse
from apps.api.fields import (
    MAX_ID,
    MAX_INTEGER,
    EnumField,
    FlagField,
    IntegerField,
    MetadataField,
    ObjectField,
    TextField,
    TimeField,
    job_status,
    job_type,
    overwrite_method,
    replication_factor,
    safety_backup,
    verify_points,
)
from apps.api.idempotency import create_once
from apps.api.permissions import caller, require
from apps.api.schema import operation
from apps.api.v1.lookup import find_backup, find_cluster, find_storage
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.core.permissions import Scope
from apps.jobs.attempts import AttemptOutcome, JobAttempt
from apps.jobs.batches import MAX_PATTERNS, summary_of
from apps.jobs.forecasting import forecast_job
from apps.jobs.models import Job, JobEvent
from apps.jobs.services import JobNotFound, JobRequest, cancel_job, create_job, draft_job, retry_job
from apps.jobs.states import RESTORE_TYPES
from apps.schedules.retention.policies import find_policy

TAG = "jobs"


class ChildrenSerializer(serializers.Serializer[Any]):
    """How many jobs a batch has made, by their state."""

    total = serializers.IntegerField()
    pending = serializers.IntegerField()
    running = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class JobSerializer(serializers.Serializer[Any]):
    """A job, and how far it is."""

    id = serializers.CharField()
    type = job_type()
    status = job_status()
    cluster = serializers.CharField(source="cluster.name", help_text="Name of the cluster")
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True)
    snapshot_name = serializers.SerializerMethodField()
    storage_id = serializers.CharField(allow_null=True)
    backup_id = serializers.CharField(allow_null=True)
    target_cluster = serializers.CharField(source="target_cluster.name", default=None, allow_null=True)
    target_collection = serializers.SerializerMethodField()
    overwrite = serializers.BooleanField()
    restore_aliases = serializers.BooleanField()
    parent_id = serializers.CharField(allow_null=True, help_text="The backup of many collections that it is a part of")
    collections = serializers.ListField(
        child=serializers.CharField(), help_text="What a backup of many collections was asked for; else empty"
    )
    exclude_collections = serializers.ListField(child=serializers.CharField())
    children = serializers.SerializerMethodField(help_text="Of a backup of many collections; else null")
    policy_id = serializers.CharField(allow_null=True, help_text="Backups: the retention policy that it goes by")
    keep_until = TimeField(allow_null=True, help_text="Backups: until when it is to stay, where no policy says")
    options = ObjectField(help_text="What else was asked for, by the names of the operation that created it")
    plan = serializers.SerializerMethodField(help_text="What it would do: with dry_run; else null")
    progress = serializers.IntegerField(min_value=0, max_value=100)
    phase = serializers.CharField(allow_blank=True)
    bytes_done = serializers.IntegerField(help_text="bytes")
    bytes_total = serializers.IntegerField(help_text="bytes; 0 until it is known")
    rate_bytes_per_second = serializers.FloatField(allow_null=True)
    eta_seconds = serializers.FloatField(allow_null=True)
    attempt = serializers.IntegerField(help_text="How many have begun; GET /jobs/{id}/attempts has them all")
    next_attempt_at = TimeField(
        allow_null=True,
        help_text="Pending jobs: when the next attempt starts by itself; null when none has to be waited for",
    )
    wait_reason = serializers.SerializerMethodField(help_text="Pending jobs: what it waits for to pass")
    cancel_requested = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    metadata = ObjectField()
    created_at = TimeField()
    started_at = TimeField(allow_null=True)
    completed_at = TimeField(allow_null=True)

    @extend_schema_field({"type": "object", "additionalProperties": {}, "nullable": True})
    def get_plan(self, job: Job) -> dict[str, Any] | None:
        return getattr(job, "plan", None)

    def get_snapshot_name(self, job: Job) -> str | None:
        return job.snapshot_name or None

    def get_target_collection(self, job: Job) -> str | None:
        return job.target_collection or None

    def get_cancel_requested(self, job: Job) -> bool:
        return job.cancel_requested_at is not None

    @extend_schema_field(ChildrenSerializer(allow_null=True))
    def get_children(self, job: Job) -> dict[str, int] | None:
        return asdict(summary_of(job)) if job.is_batch else None

    def get_error(self, job: Job) -> str | None:
        return job.error or None

    def get_wait_reason(self, job: Job) -> str | None:
        return job.wait_reason or None


class JobPageSerializer(PageSerializer):
    """A page of jobs. The one answer without the envelope."""

    items = JobSerializer(many=True)


class JobQuery(PageQuery):
    """Filters of the list."""

    status = job_status(required=False)
    type = job_type(required=False)
    collection = serializers.CharField(required=False, trim_whitespace=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")
    storage = serializers.CharField(required=False, help_text="Id or name")
    parent_id = serializers.UUIDField(required=False, help_text="Id of a backup of many collections: its parts")


class JobCreateSerializer(serializers.Serializer[Any]):
    """What a job can be asked for. Unknown fields are ignored."""

    type = job_type()
    collection_name = TextField(help_text="With * or ? in it, a backup of all that match: one job each")
    shard_id = IntegerField(required=False, min_value=0, max_value=MAX_INTEGER, help_text="For the shard types")
    snapshot_name = TextField(required=False, max_length=120, help_text="Which backup to restore from")
    storage_id = TextField(required=False, help_text="The default storage when left out")
    metadata = MetadataField(required=False, help_text="Kept and returned as sent; at most 16 KiB")
    cluster = TextField(required=False, help_text="Name or id; the default cluster when left out")
    backup_id = TextField(required=False, help_text="Instead of snapshot_name")
    target_cluster = TextField(required=False, help_text="Restores: name or id; the backup's cluster when left out")
    target_collection = TextField(required=False, help_text="Restores: the same name when left out")
    overwrite = FlagField(required=False, default=False, help_text="Restores: whether an existing collection may go")
    restore_aliases = FlagField(required=False, default=False, help_text="Restores: whether aliases come back too")
    collections = serializers.ListField(
        child=TextField(max_length=255),
        required=False,
        max_length=MAX_PATTERNS,
        help_text="Backups: names and patterns (*, ?, [..]) of many collections; collection_name is * then",
    )
    exclude_collections = serializers.ListField(
        child=TextField(max_length=255),
        required=False,
        max_length=MAX_PATTERNS,
        help_text="Backups of many collections: names and patterns of those to leave out",
    )
    replication_factor = replication_factor()
    safety_backup = safety_backup()
    overwrite_method = overwrite_method()
    verify_points = verify_points()
    hashes_only = FlagField(required=False, default=False, help_text="Verifications: do not open the parts")
    policy = TextField(
        required=False, max_length=100, help_text="Backups: name or id of the retention policy that it goes by"
    )
    keep_until = TimeField(
        required=False, help_text="Backups: a date of its own instead; with neither it stays until somebody deletes it"
    )


class JobCreateQuery(serializers.Serializer[Any]):
    """How to ask."""

    dry_run = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Create nothing: return the job as it would be, with `plan`: its steps, what blocks it, warnings, "
        "and for a backup which replica of which shard from which node, and why",
    )


class JobEventQuery(serializers.Serializer[Any]):
    """Which part of the story."""

    after = serializers.IntegerField(
        required=False, min_value=0, max_value=MAX_ID, default=0, help_text="Only events with a larger id"
    )
    limit = serializers.IntegerField(required=False, min_value=1, max_value=1000, default=500)


class JobEventSerializer(serializers.Serializer[Any]):
    """A line of a job's story."""

    id = serializers.IntegerField(help_text="Grows; the last one seen, as `after`, asks for what came since")
    at = TimeField()
    attempt = serializers.IntegerField()
    level = serializers.CharField(help_text="info, warning or error")
    message = serializers.CharField()
    #: A field named like a property of serializers.
    data = ObjectField(  # type: ignore[assignment]
        help_text="Figures: seconds, bytes; causes (what lies behind an error, nearest first), category, step, …"
    )


class JobAttemptSerializer(serializers.Serializer[Any]):
    """What became of one attempt at a job."""

    number = serializers.IntegerField(help_text="From 1")
    outcome = EnumField(
        "AttemptOutcome", list(AttemptOutcome.values), help_text="returned: its worker was being stopped"
    )
    started_at = TimeField()
    ended_at = TimeField(allow_null=True, help_text="Of a lost one: the last sign of life")
    seconds = serializers.SerializerMethodField(help_text="From start to end, or until now")
    bytes_moved = serializers.IntegerField(help_text="bytes")
    error = serializers.SerializerMethodField()
    error_category = serializers.SerializerMethodField(help_text="Kind of the error: qdrant_timeout, storage_full, …")
    next_attempt_at = TimeField(allow_null=True, help_text="When the next one was to start by itself; null: none was")
    worker = serializers.SerializerMethodField()

    def get_seconds(self, attempt: JobAttempt) -> float:
        return round(attempt.duration_seconds(timezone.now()), 3)

    def get_error(self, attempt: JobAttempt) -> str | None:
        return attempt.error or None

    def get_error_category(self, attempt: JobAttempt) -> str | None:
        return attempt.error_category or None

    def get_worker(self, attempt: JobAttempt) -> str | None:
        return attempt.worker or None


class JobsView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.OPERATE}

    @operation("listJobs", "Jobs, newest first", tag=TAG, query=[JobQuery], answer=JobPageSerializer, bare=True)
    def get(self, request: Request) -> Response:
        query = self.query(JobQuery)
        rows = Job.objects.select_related("cluster", "target_cluster")
        if "status" in query:
            rows = rows.filter(status=query["status"])
        if "type" in query:
            rows = rows.filter(type=query["type"])
        if "collection" in query:
            rows = rows.filter(collection_name=query["collection"])
        if "cluster" in query:
            rows = rows.filter(cluster=find_cluster(query["cluster"]))
        if "storage" in query:
            rows = rows.filter(storage=find_storage(query["storage"]))
        if "parent_id" in query:
            rows = rows.filter(parent_id=query["parent_id"])
        return BareResponse(JobPageSerializer(read_page(rows, query)).data)

    @operation(
        "createJob",
        "Start a backup or a restore (restores need the scope restore)",
        tag=TAG,
        body=JobCreateSerializer,
        query=[JobCreateQuery],
        answer=JobSerializer,
        headers={"Idempotency-Key": "A repetition with the same key and body returns the first one's job, for 7 days"},
    )
    def post(self, request: Request) -> Response:
        data = self.body(JobCreateSerializer)
        if data["type"] in RESTORE_TYPES:
            require(request, Scope.RESTORE)
        asked = JobRequest(
            type=data["type"],
            collection_name=data["collection_name"],
            cluster=find_cluster(data["cluster"]) if "cluster" in data else None,
            storage=find_storage(data["storage_id"]) if "storage_id" in data else None,
            shard_id=data.get("shard_id"),
            snapshot_name=data.get("snapshot_name", ""),
            backup=find_backup(data["backup_id"]) if "backup_id" in data else None,
            target_cluster=find_cluster(data["target_cluster"]) if "target_cluster" in data else None,
            target_collection=data.get("target_collection", ""),
            overwrite=data["overwrite"],
            restore_aliases=data["restore_aliases"],
            replication_factor=data.get("replication_factor"),
            safety_backup=data["safety_backup"],
            overwrite_method=data.get("overwrite_method", ""),
            verify_points=data.get("verify_points", ""),
            hashes_only=data["hashes_only"],
            metadata=data.get("metadata", {}),
            collections=tuple(data.get("collections", ())),
            exclude_collections=tuple(data.get("exclude_collections", ())),
            policy=find_policy(data["policy"]) if "policy" in data else None,
            keep_until=data.get("keep_until"),
        )
        now, user = timezone.now(), caller(request)
        if self.query(JobCreateQuery)["dry_run"]:
            draft = draft_job(request=asked, now=now, user=user)
            draft.plan = forecast_job(draft).to_json()  # type: ignore[attr-defined]
            return Response(JobSerializer(draft).data)
        create = partial(create_job, request=asked, now=now, user=user)
        key = request.headers.get("Idempotency-Key")
        job = create() if key is None else create_once(user=user, key=key, body=request.data, now=now, create=create)
        return Response(JobSerializer(job).data)


class _OneJob(ApiView):
    def job(self) -> Job:
        """Return the job of the path. Raises: JobNotFound, NotFound."""
        job = Job.objects.select_related("cluster", "target_cluster").filter(pk=self.path_uuid()).first()
        if job is None:
            raise JobNotFound("There is no job with this id.")
        return job


class JobView(_OneJob):
    scopes = {"GET": Scope.READ}

    @operation("getJob", "One job", tag=TAG, answer=JobSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002 - the contract's name
        return Response(JobSerializer(self.job()).data)


class JobCancelView(_OneJob):
    scopes = {"POST": Scope.OPERATE}

    @operation("cancelJob", "Cancel a pending or running job", tag=TAG, answer=JobSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        job = cancel_job(job_id=self.path_uuid(), now=timezone.now(), user=caller(request))
        return Response(JobSerializer(job).data)


class JobRetryView(_OneJob):
    scopes = {"POST": Scope.OPERATE}

    @operation(
        "retryJob",
        "Retry a failed or cancelled job, or start one now that waits for its next attempt (restores need the scope "
        "restore)",
        tag=TAG,
        answer=JobSerializer,
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        if self.job().type in RESTORE_TYPES:
            require(request, Scope.RESTORE)
        job = retry_job(job_id=self.path_uuid(), now=timezone.now(), user=caller(request))
        return Response(JobSerializer(job).data)


class JobAttemptsView(_OneJob):
    scopes = {"GET": Scope.READ}

    @operation("listJobAttempts", "A job's attempts, oldest first", tag=TAG, answer=JobAttemptSerializer(many=True))
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(JobAttemptSerializer(self.job().attempts.order_by("number"), many=True).data)


class JobEventsView(_OneJob):
    scopes = {"GET": Scope.READ}

    @operation(
        "listJobEvents",
        "A job's story, oldest first",
        tag=TAG,
        query=[JobEventQuery],
        answer=JobEventSerializer(many=True),
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        query = self.query(JobEventQuery)
        events = JobEvent.objects.filter(job=self.job(), id__gt=query["after"]).order_by("id")[: query["limit"]]
        return Response(JobEventSerializer(events, many=True).data)
