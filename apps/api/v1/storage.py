"""Storages: list, create, change, remove, test."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, FlagField, IntegerField, TextField, TimeField, storage_type
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.lookup import StorageNotFound
from apps.api.views import ApiView
from apps.core.permissions import Scope
from apps.storage.models import AddressingStyle, StorageConfig
from apps.storage.services import create_storage, delete_storage, probe_store, update_storage

TAG = "storage"

_FOLDER = ("path",)
_S3 = ("s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_prefix", "s3_addressing_style", "ca")


@extend_schema_field(OpenApiTypes.URI)
class _Uri(TextField):
    """An address; whether it is acceptable is the storage's to judge."""


class StorageConfigUpdateSerializer(serializers.Serializer[Any]):
    """Any subset of a storage's fields; what is left out stays."""

    name = TextField(required=False, max_length=100)
    path = TextField(required=False, max_length=1000)
    s3_endpoint = _Uri(required=False, max_length=500)
    s3_bucket = TextField(required=False, max_length=100)
    s3_region = TextField(required=False, max_length=100)
    s3_access_key = TextField(required=False, max_length=200)
    s3_secret_key = TextField(required=False, max_length=1000, write_only=True)
    is_default = FlagField(required=False)
    s3_prefix = TextField(required=False, max_length=300, allow_blank=True)
    s3_addressing_style = EnumField("S3AddressingStyle", list(AddressingStyle.values), required=False)
    verify_tls = FlagField(required=False)
    ca = TextField(required=False, allow_blank=True, max_length=100_000, help_text="PEM")
    max_jobs = IntegerField(required=False, min_value=1, max_value=100, help_text="Schedules start no more at once")


class StorageConfigCreateSerializer(StorageConfigUpdateSerializer):
    """path for a folder; endpoint, bucket, region, access key and secret key for S3."""

    name = TextField(max_length=100)
    type = storage_type()


class StorageConfigSerializer(serializers.Serializer[Any]):
    """A storage without its secrets; the fields of the other type are null."""

    id = serializers.CharField()
    name = serializers.CharField()
    type = storage_type()
    path = serializers.CharField(allow_null=True)
    s3_endpoint = serializers.CharField(allow_null=True)
    s3_bucket = serializers.CharField(allow_null=True)
    s3_region = serializers.CharField(allow_null=True)
    s3_access_key = serializers.CharField(source="masked_access_key", allow_null=True, help_text="masked")
    s3_prefix = serializers.CharField(allow_null=True)
    s3_addressing_style = EnumField("S3AddressingStyle", list(AddressingStyle.values), allow_null=True)
    verify_tls = serializers.BooleanField()
    ca = serializers.CharField(allow_null=True)
    is_default = serializers.BooleanField()
    max_jobs = serializers.IntegerField(help_text="Schedules start no backup while so many jobs use it")
    created_at = TimeField()
    updated_at = TimeField()

    def to_representation(self, instance: StorageConfig) -> dict[str, Any]:
        shown = super().to_representation(instance)
        for field in _S3 if instance.type == "local" else _FOLDER:
            shown[field] = None
        return shown


class StorageTestSerializer(serializers.Serializer[Any]):
    """Whether a probe object could be written, read back and removed, and why not."""

    success = serializers.BooleanField()
    message = serializers.CharField()


class StorageConfigsView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.ADMINISTER}

    @operation("listStorageConfigs", "All storages", tag=TAG, answer=StorageConfigSerializer(many=True))
    def get(self, request: Request) -> Response:
        storages = StorageConfig.objects.order_by("name", "id")
        return Response(StorageConfigSerializer(storages, many=True).data)

    @operation(
        "createStorageConfig",
        "Add a storage",
        tag=TAG,
        body=StorageConfigCreateSerializer,
        answer=StorageConfigSerializer,
    )
    def post(self, request: Request) -> Response:
        storage = create_storage(data=self.body(StorageConfigCreateSerializer), user=caller(request))
        return Response(StorageConfigSerializer(storage).data)


class StorageConfigView(ApiView):
    scopes = {"PUT": Scope.ADMINISTER, "DELETE": Scope.ADMINISTER}

    @operation(
        "updateStorageConfig",
        "Change a storage",
        tag=TAG,
        body=StorageConfigUpdateSerializer,
        answer=StorageConfigSerializer,
    )
    def put(self, request: Request, id: str) -> Response:  # noqa: A002 - the contract's name
        storage = self._storage()
        data = self.body(StorageConfigUpdateSerializer)
        changed = update_storage(storage=storage, data=data, user=caller(request))
        return Response(StorageConfigSerializer(changed).data)

    @operation("deleteStorageConfig", "Remove a storage; nothing in it is touched", tag=TAG, answer=TRUE)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        delete_storage(storage=self._storage(), user=caller(request))
        return Response(True)

    def _storage(self) -> StorageConfig:
        storage = StorageConfig.objects.filter(pk=self.path_uuid()).first()
        if storage is None:
            raise StorageNotFound("There is no storage with this id.")
        return storage


class StorageTestView(ApiView):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "testStorage",
        "Write, read back and remove a probe object; nothing is saved",
        tag=TAG,
        body=StorageConfigCreateSerializer,
        answer=StorageTestSerializer,
    )
    def post(self, request: Request) -> Response:
        config = StorageConfig(**self.body(StorageConfigCreateSerializer))
        try:
            config.clean()
        except ValidationError as error:
            raise serializers.ValidationError(error.message_dict) from error
        result = probe_store(config)
        return Response(StorageTestSerializer({"success": result.success, "message": result.message}).data)
