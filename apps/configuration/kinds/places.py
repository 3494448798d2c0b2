"""Clusters with the tags of their collections, and storages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from apps.audit.trail import record_action
from apps.clusters.models import Cluster
from apps.clusters.services import create_cluster, delete_cluster, update_cluster
from apps.configuration import fields as read
from apps.configuration.fields import Field
from apps.configuration.kinds.base import EntryInvalid, Given, Kind, plain
from apps.core.errors import BackupmgrError
from apps.schedules.models import CollectionTag
from apps.schedules.tags import set_tags
from apps.storage.errors import StorageInvalid
from apps.storage.models import StorageConfig, StorageType
from apps.storage.services import create_storage, delete_storage, update_storage


class Clusters(Kind):
    section, noun = "clusters", "cluster"
    fields = (
        Field("name", read.line), Field("urls", read.lines), Field("is_default", read.flag),
        Field("api_key", read.secret), Field("restore_api_key", read.secret), Field("verify_tls", read.flag),
        Field("ca", read.text), Field("max_backup_age_hours", read.small_number), Field("max_jobs", read.small_number),
        Field("max_jobs_per_node", read.small_number), Field("tags", read.lists_by_name),
    )  # fmt: skip
    removable = ("api_key", "restore_api_key")
    _COLUMNS = ("is_default", "verify_tls", "ca", "max_backup_age_hours", "max_jobs", "max_jobs_per_node")

    def all(self) -> Iterable[Cluster]:
        return Cluster.objects.order_by("-is_default", "name")

    def find(self, values: Mapping[str, Any]) -> Cluster | None:
        return Cluster.objects.filter(name=values["name"]).first()

    def show(self, row: Cluster) -> dict[str, Any]:
        tags: dict[str, list[str]] = {}
        for tag in CollectionTag.objects.filter(cluster=row).order_by("collection_name", "tag"):
            tags.setdefault(tag.collection_name, []).append(tag.tag)
        shown = {"name": row.name, "urls": list(row.addresses)} | self.secrets(row) | plain(row, self._COLUMNS)
        return shown | {"tags": tags}

    def write(self, row: Cluster | None, given: Given) -> Cluster:
        data = {name: value for name, value in given.values.items() if name != "tags"}
        _check_default(Cluster, data)
        draft = Cluster() if row is None else Cluster.objects.get(pk=row.pk)
        for name in self._COLUMNS:
            if name in data:
                setattr(draft, name, data[name])
        draft.name = data["name"]
        _check_columns(draft, ("name", *self._COLUMNS))
        if row is None:
            if not data.get("urls"):
                raise EntryInvalid({"urls": "A cluster needs the address of at least one node."})
            written = create_cluster(data=data)
        else:
            if "urls" in data and not data["urls"]:
                raise EntryInvalid({"urls": "A cluster needs the address of at least one node."})
            written = update_cluster(cluster=row, data=data)
        record_action(*_told("cluster", written, row is None), about=written)
        if "tags" in given.values:
            self._write_tags(written, given.values["tags"])
        return written

    def _write_tags(self, cluster: Cluster, wanted: Mapping[str, list[str]]) -> None:
        tagged = CollectionTag.objects.filter(cluster=cluster).values_list("collection_name", flat=True)
        for collection in sorted({*wanted, *tagged}):
            try:
                set_tags(cluster=cluster, collection=collection, tags=wanted.get(collection, []))
            except BackupmgrError as error:
                raise EntryInvalid({"tags": f"{collection}: {error}"}) from error

    def delete(self, row: Cluster, now: datetime) -> None:
        delete_cluster(cluster=row)


class Storages(Kind):
    section, noun = "storages", "storage"
    fields = (
        Field("name", read.line), Field("type", read.line), Field("is_default", read.flag),
        Field("path", read.line), Field("s3_endpoint", read.line), Field("s3_bucket", read.line),
        Field("s3_region", read.line), Field("s3_prefix", read.line), Field("s3_addressing_style", read.line),
        Field("s3_access_key", read.secret), Field("s3_secret_key", read.secret), Field("verify_tls", read.flag),
        Field("ca", read.text), Field("max_jobs", read.small_number),
    )  # fmt: skip
    _S3 = ("s3_endpoint", "s3_bucket", "s3_region", "s3_prefix", "s3_addressing_style", "verify_tls", "ca")

    def all(self) -> Iterable[StorageConfig]:
        return StorageConfig.objects.order_by("-is_default", "name")

    def find(self, values: Mapping[str, Any]) -> StorageConfig | None:
        return StorageConfig.objects.filter(name=values["name"]).first()

    def show(self, row: StorageConfig) -> dict[str, Any]:
        own = plain(row, ("path",) if row.type == StorageType.LOCAL else self._S3)
        shown = {"name": row.name, "type": row.type, "is_default": row.is_default} | own
        return shown | self.secrets(row) | {"max_jobs": row.max_jobs}

    def write(self, row: StorageConfig | None, given: Given) -> StorageConfig:
        _check_default(StorageConfig, given.values)
        try:
            # The folder is made after the import has been committed (importing.py).
            if row is None:
                written = create_storage(data=given.values, with_folder=False)
            else:
                written = update_storage(storage=row, data=given.values, with_folder=False)
        except StorageInvalid as error:
            raise EntryInvalid(error.fields) from error
        record_action(*_told("storageconfig", written, row is None), about=written)
        return written

    def delete(self, row: StorageConfig, now: datetime) -> None:
        delete_storage(storage=row)


def _told(kind: str, row: models.Model, is_new: bool) -> tuple[str, str]:
    noun = "storage" if kind == "storageconfig" else kind
    if is_new:
        return f"{kind}.add", f"Added the {noun} {row} by an import."
    return f"{kind}.change", f"Changed the {noun} {row} by an import."


def _check_default(model: type[Cluster] | type[StorageConfig], data: Mapping[str, Any]) -> None:
    """Raises: EntryInvalid when there would be no default. The entry that is the default comes first."""
    if data.get("is_default") is False and not model.objects.filter(is_default=True).exists():
        raise EntryInvalid({"is_default": "One of them is the default: write is_default: true there."})


def _check_columns(row: models.Model, names: Iterable[str]) -> None:
    """Hold values against what their columns take. Raises: EntryInvalid."""
    wanted = set(names)
    try:
        row.clean_fields(exclude=[field.name for field in row._meta.concrete_fields if field.name not in wanted])
    except ValidationError as error:
        raise EntryInvalid({name: " ".join(said) for name, said in error.message_dict.items()}) from error
