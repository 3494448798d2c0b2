"""Backups: list, look at, delete, restore from."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.exceptions import API_PREFIX
from apps.api.fields import (
    MAX_INTEGER,
    EnumField,
    FlagField,
    IntegerField,
    MetadataField,
    ObjectField,
    TextField,
    TimeField,
    overwrite_method,
    replication_factor,
    safety_backup,
    verify_points,
)
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.jobs import JobSerializer
from apps.api.v1.leftovers import LeftoverSerializer
from apps.api.v1.lookup import BackupNotFound, find_cluster, find_storage
from apps.api.v1.origin import OriginSerializer
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.backups.models import Backup, BackupStatus, Part, VerificationKind
from apps.backups.origin import origin_of
from apps.core.permissions import Scope
from apps.jobs import services
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType

TAG = "backups"


def _status(**options: Any) -> EnumField:
    return EnumField("BackupStatus", list(BackupStatus.values), **options)


def proof_kind(**options: Any) -> EnumField:
    return EnumField("VerificationKind", list(VerificationKind.values), **options)


class BackupSerializer(serializers.Serializer[Any]):
    """A backup: what it is of, where it lies, how well it is proved."""

    id = serializers.CharField()
    snapshot_name = serializers.CharField(help_text="Names it for restores")
    status = _status()
    status_reason = serializers.CharField(allow_blank=True)
    cluster = serializers.CharField(source="cluster_name")
    cluster_id = serializers.CharField(allow_null=True, help_text="null when that cluster is not registered here")
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True, help_text="null for a backup of the whole collection")
    storage = serializers.CharField(source="storage.name")
    storage_id = serializers.CharField()
    path = serializers.CharField(help_text="Folder within the storage")
    size_bytes = serializers.IntegerField()
    points_count = serializers.IntegerField()
    shard_count = serializers.IntegerField()
    qdrant_version = serializers.CharField(allow_blank=True)
    manifest_sha256 = serializers.CharField()
    job_id = serializers.CharField(allow_null=True)
    started_at = TimeField()
    created_at = TimeField()
    proof = proof_kind(allow_null=True, help_text="The strongest verification so far; null when it was never tested")
    checked_at = TimeField(allow_null=True, help_text="When every stored part was last compared with the manifest")
    opened_at = TimeField(allow_null=True, help_text="When every part was last opened in the engine, and counted")
    restored_at = TimeField(allow_null=True, help_text="When a restore was last proved equal to the manifest")
    policy_id = serializers.CharField(allow_null=True, help_text="The retention policy that it goes by")
    keep_until = TimeField(allow_null=True)
    locked_until = TimeField(allow_null=True, help_text="Its storage keeps it until then")
    expired_at = TimeField(allow_null=True, help_text="When retention let it go; it can be taken back until delete_at")
    expire_reason = serializers.CharField(allow_blank=True)
    delete_at = TimeField(allow_null=True)


class PartSerializer(serializers.Serializer[Any]):
    """One file of a backup."""

    shard_id = serializers.IntegerField()
    key = serializers.CharField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()
    points_count = serializers.IntegerField()


class BackupDetailSerializer(BackupSerializer):
    """A backup with its parts, where they came from, and its manifest."""

    parts = PartSerializer(many=True)
    origin = serializers.SerializerMethodField()
    manifest = ObjectField()

    @extend_schema_field(OriginSerializer)
    def get_origin(self, backup: Backup) -> dict[str, Any]:
        return OriginSerializer(origin_of(backup)).data


class BackupPageSerializer(PageSerializer):
    """A page of backups."""

    items = BackupSerializer(many=True)


class BackupQuery(PageQuery):
    """Filters of the list."""

    status = _status(required=False)
    collection = serializers.CharField(required=False, trim_whitespace=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")
    storage = serializers.CharField(required=False, help_text="Id or name")
    expired = EnumField(
        "ExpiredBackups", ["hide", "show", "only"], required=False, default="hide",
        help_text="Those that retention let go, and that can still be restored and taken back",
    )  # fmt: skip


class BackupRestoreSerializer(serializers.Serializer[Any]):
    """How to restore; with nothing said, into the collection and cluster that it came from."""

    shard_id = IntegerField(required=False, min_value=0, max_value=MAX_INTEGER, help_text="This shard only")
    target_cluster = TextField(required=False, help_text="Name or id")
    target_collection = TextField(required=False)
    overwrite = FlagField(required=False, default=False)
    restore_aliases = FlagField(required=False, default=False)
    replication_factor = replication_factor()
    safety_backup = safety_backup()
    overwrite_method = overwrite_method()
    verify_points = verify_points()
    metadata = MetadataField(required=False)


class BackupDeletionQuery(serializers.Serializer[Any]):
    """Whether to wait until it is gone."""

    wait = serializers.BooleanField(
        required=False,
        default=True,
        help_text="false: 202 at once, a worker deletes it. 202 also comes when the storage does not take it yet",
    )


class BackupsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("listBackups", "Backups, newest first", tag=TAG, query=[BackupQuery], answer=BackupPageSerializer)
    def get(self, request: Request) -> Response:
        query = self.query(BackupQuery)
        # Manifests may be large and are no part of the list.
        rows = Backup.objects.select_related("storage").defer("manifest")
        if "status" in query:
            rows = rows.filter(status=query["status"])
        if query["expired"] != "show":
            rows = rows.filter(expired_at__isnull=query["expired"] == "hide")
        if "collection" in query:
            rows = rows.filter(collection_name=query["collection"])
        if "cluster" in query:
            rows = rows.filter(cluster=find_cluster(query["cluster"]))
        if "storage" in query:
            rows = rows.filter(storage=find_storage(query["storage"]))
        return Response(BackupPageSerializer(read_page(rows, query)).data)


class OneBackup(ApiView):
    """An operation on the backup that the path names."""

    def backup(self) -> Backup:
        """Return the backup of the path. Raises: BackupNotFound, NotFound."""
        parts = Prefetch("parts", Part.objects.order_by("shard_id"))
        found = Backup.objects.select_related("storage", "cluster").prefetch_related(parts)
        backup = found.filter(pk=self.path_uuid()).first()
        if backup is None:
            raise BackupNotFound("There is no backup with this id.")
        return backup


class BackupView(OneBackup):
    scopes = {"GET": Scope.READ, "DELETE": Scope.ADMINISTER}

    @operation("getBackup", "A backup with its parts and its manifest", tag=TAG, answer=BackupDetailSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(BackupDetailSerializer(self.backup()).data)

    @operation(
        "deleteBackup",
        "Delete a backup, its files included",
        tag=TAG,
        query=[BackupDeletionQuery],
        answer=TRUE,
        also={
            202: OpenApiResponse(LeftoverSerializer, description="It is being deleted; Location names how far it is")
        },
    )
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        wait = self.query(BackupDeletionQuery)["wait"]
        left = services.delete_backup(backup_id=self.path_uuid(), now=timezone.now(), user=caller(request), wait=wait)
        if left is None:
            return Response(True)
        where = f"{API_PREFIX}/leftovers/{left.pk}"
        return Response(LeftoverSerializer(left).data, status=202, headers={"Location": where})


class BackupRestoreView(OneBackup):
    scopes = {"POST": Scope.RESTORE}

    @operation(
        "restoreBackup", "Start a job that restores it", tag=TAG, body=BackupRestoreSerializer, answer=JobSerializer
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        backup = self.backup()
        data = self.body(BackupRestoreSerializer)
        shard_id = data.get("shard_id", backup.shard_id)
        asked = JobRequest(
            type=JobType.RESTORE if shard_id is None else JobType.SHARD_RESTORE,
            collection_name=backup.collection_name,
            backup=backup,
            shard_id=shard_id,
            target_cluster=find_cluster(data["target_cluster"]) if "target_cluster" in data else None,
            target_collection=data.get("target_collection", ""),
            overwrite=data["overwrite"],
            restore_aliases=data["restore_aliases"],
            replication_factor=data.get("replication_factor"),
            safety_backup=data["safety_backup"],
            overwrite_method=data.get("overwrite_method", ""),
            verify_points=data.get("verify_points", ""),
            metadata=data.get("metadata", {}),
        )
        job = services.create_job(request=asked, now=timezone.now(), user=caller(request))
        return Response(JobSerializer(job).data)
