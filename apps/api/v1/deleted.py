"""Deleted backups: what is known of backups that are gone."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Q
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import TimeField
from apps.api.schema import operation
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.backups.models import DeletedBackup
from apps.core.errors import NotFound
from apps.core.permissions import Scope

TAG = "backups"


class DeletedBackupNotFound(NotFound):
    """There is no such record."""


class DeletedBackupSerializer(serializers.Serializer[Any]):
    """What a deleted backup was, why it went, and who wanted that."""

    id = serializers.CharField(help_text="Of this record")
    backup_id = serializers.CharField(help_text="The id that the backup had")
    snapshot_name = serializers.CharField()
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True)
    cluster = serializers.CharField(source="cluster_name")
    storage = serializers.CharField(source="storage_name")
    path = serializers.CharField(help_text="The folder that it was in")
    taken_at = TimeField()
    size_bytes = serializers.IntegerField()
    points_count = serializers.IntegerField()
    parts_count = serializers.IntegerField()
    manifest_sha256 = serializers.CharField(allow_blank=True)
    job_id = serializers.CharField(allow_null=True, help_text="The job that made it")
    schedule_id = serializers.CharField(allow_null=True, help_text="The schedule that made it")
    reason = serializers.CharField(allow_blank=True)
    let_go_at = TimeField(allow_null=True, help_text="When retention let it go; null when somebody deleted it")
    retention_run_id = serializers.CharField(allow_null=True, help_text="The evaluation that let it go")
    policy_id = serializers.CharField(allow_null=True)
    policy = serializers.CharField(source="policy_name", allow_blank=True)
    policy_version = serializers.IntegerField(allow_null=True)
    policy_rules = serializers.DictField(help_text="As they were when they let it go; empty when no policy did")
    deleted_by = serializers.CharField(
        allow_blank=True, help_text="Who deleted it, or confirmed what the policy lets go; empty: it went by itself"
    )
    asked_at = TimeField(allow_null=True, help_text="When the deletion began")
    erased_at = TimeField(help_text="When the storage, asked for each of its objects, had none any more")
    created_at = TimeField()


class DeletedBackupPageSerializer(PageSerializer):
    """A page of records."""

    items = DeletedBackupSerializer(many=True)


class DeletedBackupQuery(PageQuery):
    """Filters of the list. Cluster, storage and policy may be gone themselves: by the name or id that they had."""

    collection_name = serializers.CharField(required=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")
    storage = serializers.CharField(required=False, help_text="Name or id")
    policy = serializers.CharField(required=False, help_text="Name or id")


class DeletedBackupsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listDeletedBackups", "Backups that are gone: which, when, why", tag=TAG, query=[DeletedBackupQuery],
        answer=DeletedBackupPageSerializer,
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        query = self.query(DeletedBackupQuery)
        rows = DeletedBackup.objects.all()
        if "collection_name" in query:
            rows = rows.filter(collection_name=query["collection_name"])
        for name in ("cluster", "storage", "policy"):
            if name in query:
                rows = rows.filter(_named(name, query[name]))
        return Response(DeletedBackupPageSerializer(read_page(rows, query)).data)


class DeletedBackupView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getDeletedBackup", "One backup that is gone", tag=TAG, answer=DeletedBackupSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        found = DeletedBackup.objects.filter(pk=self.path_uuid()).first()
        if found is None:
            raise DeletedBackupNotFound("There is no such record: it may be older than they are kept.")
        return Response(DeletedBackupSerializer(found).data)


def _named(name: str, value: str) -> Q:
    """Rows whose cluster, storage or policy had this name or id."""
    wanted = Q(**{f"{name}_name": value})
    try:
        return wanted | Q(**{f"{name}_id": uuid.UUID(value)})
    except ValueError:
        return wanted
