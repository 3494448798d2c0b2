"""Serializer fields that take JSON at its word: a number is a number, a text is a text, an enum has a name.

DRF's own fields turn "3" into 3, 3 into "3" and "yes" into true; the schema would then say less than is true.
"""

from __future__ import annotations

import json
import math
from datetime import UTC
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.core.permissions import SCOPE_CHOICES
from apps.jobs.services import MAX_METADATA_BYTES
from apps.jobs.states import JobStatus, JobType
from apps.storage.models import StorageType

#: What PositiveIntegerField holds on every database; Qdrant's shard ids are far below.
MAX_INTEGER = 2**31 - 1
#: What ids that are numbers can be.
MAX_ID = 2**63 - 1


class TextField(serializers.CharField):
    """A JSON string, kept as it is: names may begin and end with spaces."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **options})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class IntegerField(serializers.IntegerField):
    """A JSON number without a fraction."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, (int, float)):
            self.fail("invalid")
        if isinstance(data, float):
            if not math.isfinite(data) or not data.is_integer():
                self.fail("invalid")
            data = int(data)
        return int(data)


@extend_schema_field(OpenApiTypes.INT64)
class PeerIdField(serializers.IntegerField):
    """The id of a Qdrant peer, up to 2^64."""


class FlagField(serializers.BooleanField):
    """JSON true or false."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return bool(data)


class EnumField(serializers.ChoiceField):
    """One of some words, in any letter case. Described as a component of its own (`component`)."""

    def __init__(self, component: str, values: list[str], **options: Any) -> None:
        self.component = component
        super().__init__(choices=values, **options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        value: str = data.lower()
        if value not in self.choices:
            options = ", ".join(str(choice) for choice in self.choices)
            raise serializers.ValidationError(f"{data[:60]!r} is none of {options}.")
        return value

    def to_representation(self, value: Any) -> str:
        return str(value)


class EnumExtension(OpenApiSerializerFieldExtension):
    """Describes an EnumField by reference, so that one enum is one type in generated clients."""

    target_class = EnumField

    def get_name(self) -> str:
        return str(self.target.component)

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.target.choices)}


class TimeField(serializers.DateTimeField):
    """RFC 3339 in UTC, whatever time zone the admin shows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(default_timezone=UTC, **options)


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ObjectField(serializers.JSONField):
    """Any JSON object."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("This must be a JSON object.")
        return data


class MetadataField(ObjectField):
    """What a client wants to find again on its job: kept and returned as sent."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        value = super().to_internal_value(data)
        if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_METADATA_BYTES:
            raise serializers.ValidationError(f"At most {MAX_METADATA_BYTES // 1024} KiB of JSON are kept.")
        return value


def job_type(**options: Any) -> EnumField:
    return EnumField("JobType", list(JobType.values), **options)


def job_status(**options: Any) -> EnumField:
    return EnumField("JobStatus", list(JobStatus.values), **options)


def storage_type(**options: Any) -> EnumField:
    return EnumField("StorageType", list(StorageType.values), **options)


def token_scope(**options: Any) -> EnumField:
    return EnumField("TokenScope", [label for label, _ in SCOPE_CHOICES], **options)


def replication_factor() -> IntegerField:
    return IntegerField(
        required=False,
        min_value=1,
        max_value=64,
        help_text="Restores that create the collection: replicas of each shard; as in the backup when left out",
    )


def safety_backup() -> FlagField:
    return FlagField(
        required=False, default=True, help_text="Restores that overwrite: back up first what is there, to go back to"
    )


def overwrite_method() -> EnumField:
    return EnumField(
        "OverwriteMethod",
        ["switch", "in_place"],
        required=False,
        help_text="Restores that overwrite. switch: restore beside, and switch the aliases that lead to the collection "
        "in one call; the old one is kept (/kept-collections). in_place: under the collection's own name. Left out: "
        "switch where an alias leads to it, else in_place",
    )


def verify_points() -> EnumField:
    return EnumField(
        "VerifyPoints",
        ["sample", "all", "none"],
        required=False,
        help_text="Restores: which points are read back and compared with the backup one by one; when left out a "
        "sample of the smaller parts, where the worker can open them",
    )
