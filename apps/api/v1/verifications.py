"""Verifications: start one, and read what came of those before."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.exceptions import API_PREFIX
from apps.api.fields import EnumField, FlagField, MetadataField, ObjectField, TimeField
from apps.api.permissions import caller
from apps.api.schema import operation
from apps.api.v1.backups import TAG, OneBackup, proof_kind
from apps.api.v1.jobs import JobSerializer
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.backups.models import Verification, VerificationResult
from apps.core.permissions import Scope
from apps.jobs.services import JobRequest, create_job
from apps.jobs.states import JobType


class BackupVerifySerializer(serializers.Serializer[Any]):
    """How to verify; with nothing said, hashes are compared and every part is opened in Qdrant's engine."""

    hashes_only = FlagField(required=False, default=False, help_text="Compare SHA-256 alone, do not open the parts")
    metadata = MetadataField(required=False)


class VerificationSerializer(serializers.Serializer[Any]):
    """A verdict on a backup: tested how, when, by whom, and what came of it."""

    id = serializers.CharField()
    kind = proof_kind(help_text="checked: hashes; opened: in Qdrant's engine, too; restored: restored and compared")
    result = EnumField("VerificationResult", list(VerificationResult.values))
    created_at = TimeField()
    by = serializers.CharField(allow_blank=True, help_text="Who asked for it")
    job_id = serializers.CharField(allow_null=True)
    method = serializers.CharField(allow_blank=True, help_text="What was compared with what")
    reason = serializers.CharField(allow_blank=True, help_text="Why it failed")
    points_compared = serializers.IntegerField(help_text="Points compared one by one with what the backup holds")
    details = ObjectField()


class VerificationPageSerializer(PageSerializer):
    """A page of verifications."""

    items = VerificationSerializer(many=True)


class BackupVerifyView(OneBackup):
    scopes = {"POST": Scope.OPERATE}

    @operation(
        "verifyBackup",
        "Start a job that verifies it without restoring it",
        tag=TAG,
        body=BackupVerifySerializer,
        also={202: OpenApiResponse(JobSerializer, description="The job; Location names it")},
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        backup = self.backup()
        data = self.body(BackupVerifySerializer)
        asked = JobRequest(
            type=JobType.VERIFY,
            collection_name=backup.collection_name,
            backup=backup,
            hashes_only=data["hashes_only"],
            metadata=data.get("metadata", {}),
        )
        job = create_job(request=asked, now=timezone.now(), user=caller(request))
        return Response(JobSerializer(job).data, status=202, headers={"Location": f"{API_PREFIX}/jobs/{job.pk}"})


class BackupVerificationsView(OneBackup):
    scopes = {"GET": Scope.READ}

    @operation(
        "listBackupVerifications",
        "What its verifications found, newest first",
        tag=TAG,
        query=[PageQuery],
        answer=VerificationPageSerializer,
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        rows = Verification.objects.filter(backup=self.backup())
        return Response(VerificationPageSerializer(read_page(rows, self.query(PageQuery))).data)
