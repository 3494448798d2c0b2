"""Clusters with their blackouts and what is said of their collections (tags, maximum ages), and storages."""

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
from apps.schedules.ages import set_age
from apps.schedules.cluster_blackouts import cluster_windows, set_cluster_windows
from apps.schedules.models import CollectionTag, MaximumAge
from apps.schedules.models.ages import MOST_HOURS
from apps.schedules.tags import set_tags
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.windows_text import parse_windows, write_windows
from apps.storage.errors import StorageInvalid
from apps.storage.models import StorageConfig, StorageType
from apps.storage.services import create_storage, delete_storage, update_storage

_HOURS = read.numbers_by_name(1, MOST_HOURS)


class Clusters(Kind):
    section, noun = "clusters", "cluster"
    fields = (
        Field("name", read.line), Field("urls", read.lines), Field("is_default", read.flag),
        Field("api_key", read.secret), Field("restore_api_key", read.secret), Field("verify_tls", read.flag),
        Field("ca", read.text), Field("max_backup_age_hours", read.small_number), Field("max_jobs", read.small_number),
        Field("max_jobs_per_node", read.small_number), Field("blackouts", read.blackouts),
        Field("tags", read.lists_by_name), Field("collection_max_age_hours", _HOURS),
        Field("tag_max_age_hours", _HOURS),
    )  # fmt: skip
    removable = ("api_key", "restore_api_key")
    _COLUMNS = ("is_default", "verify_tls", "ca", "max_backup_age_hours", "max_jobs", "max_jobs_per_node")
    #: What is no column of the cluster.
    _BESIDE = ("blackouts", "tags", "collection_max_age_hours", "tag_max_age_hours")

    def all(self) -> Iterable[Cluster]:
        return Cluster.objects.order_by("-is_default", "name")

    def find(self, values: Mapping[str, Any]) -> Cluster | None:
        return Cluster.objects.filter(name=values["name"]).first()

    def show(self, row: Cluster) -> dict[str, Any]:
        tags: dict[str, list[str]] = {}
        for tag in CollectionTag.objects.filter(cluster=row).order_by("collection_name", "tag"):
            tags.setdefault(tag.collection_name, []).append(tag.tag)
        shown = {"name": row.name, "urls": list(row.addresses)} | self.secrets(row) | plain(row, self._COLUMNS)
        of_collections, of_tags = _ages(row)
        return shown | {
            "blackouts": _blackouts(cluster_windows(row)),
            "tags": tags,
            "collection_max_age_hours": of_collections,
            "tag_max_age_hours": of_tags,
        }

    def write(self, row: Cluster | None, given: Given) -> Cluster:
        data = {name: value for name, value in given.values.items() if name not in self._BESIDE}
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
        self._write_ages(written, given.values)
        if "blackouts" in given.values:
            self._write_blackouts(written, given)
        return written

    def _write_tags(self, cluster: Cluster, wanted: Mapping[str, list[str]]) -> None:
        tagged = CollectionTag.objects.filter(cluster=cluster).values_list("collection_name", flat=True)
        for collection in sorted({*wanted, *tagged}):
            try:
                set_tags(cluster=cluster, collection=collection, tags=wanted.get(collection, []))
            except BackupmgrError as error:
                raise EntryInvalid({"tags": f"{collection}: {error}"}) from error

    def _write_ages(self, cluster: Cluster, given: Mapping[str, Any]) -> None:
        """What a field does not name is taken away; what stays as it is, is left alone."""
        of_collections, of_tags = _ages(cluster)
        for owner, known in (("collection", of_collections), ("tag", of_tags)):
            field = f"{owner}_max_age_hours"
            wanted: Mapping[str, int] = given.get(field, known)
            for name in sorted({*wanted, *known}):
                if wanted.get(name) == known.get(name):
                    continue
                names: dict[str, str] = {owner: name}
                try:
                    set_age(cluster=cluster, hours=wanted.get(name), **names)
                except BackupmgrError as error:
                    raise EntryInvalid({field: f"{name}: {error}"}) from error

    def _write_blackouts(self, cluster: Cluster, given: Given) -> None:
        windows = parse_windows("\n".join(given.values["blackouts"]))
        if _blackouts(windows) == _blackouts(cluster_windows(cluster)):
            return
        try:
            set_cluster_windows(cluster=cluster, windows=windows, now=given.now)
        except BackupmgrError as error:
            raise EntryInvalid({"blackouts": str(error).removeprefix("blackouts: ")}) from error

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


def _blackouts(windows: Iterable[Window]) -> list[str]:
    """As lines, weekly ones first: in which order they were given says nothing."""
    ordered = sorted(windows, key=lambda one: (str(one.starts_at or ""), one.weekday or 0, str(one.from_time)))
    return write_windows(ordered).splitlines()


def _ages(cluster: Cluster) -> tuple[dict[str, int], dict[str, int]]:
    """Maximum ages in hours, of collections and of tags."""
    of_collections: dict[str, int] = {}
    of_tags: dict[str, int] = {}
    for row in MaximumAge.objects.filter(cluster=cluster).order_by("collection_name", "tag"):
        if row.tag:
            of_tags[row.tag] = row.hours
        else:
            of_collections[row.collection_name] = row.hours
    return of_collections, of_tags


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
