"""Kinds: clusters, storages, policies, schedules, channels: as the document has them and as the services take them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models

from apps.alerts.models import Channel
from apps.alerts.services import ChannelInvalid, delete_channel, save_channel
from apps.audit.trail import record_action
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.clusters.services import create_cluster, delete_cluster, update_cluster
from apps.configuration import fields as read
from apps.configuration.fields import Field
from apps.configuration.references import STORED
from apps.core.crypto import UndecryptableSecret
from apps.core.errors import BackupmgrError, InvalidRequest
from apps.core.fields import Secret
from apps.schedules.admin.forms import parse_windows, write_windows
from apps.schedules.draft import ScheduleData, ScheduleInvalid
from apps.schedules.models import CollectionTag, Schedule
from apps.schedules.retention.policies import (
    PolicyInvalid,
    create_policy,
    delete_policy,
    update_policy,
)
from apps.schedules.services import KeepBackups, create_schedule, data_of, delete_schedule, update_schedule
from apps.schedules.tags import set_tags
from apps.storage.errors import StorageInvalid
from apps.storage.models import StorageConfig, StorageType
from apps.storage.services import create_storage, delete_storage, update_storage


class EntryInvalid(InvalidRequest):
    """An entry cannot be what it says; `problems` has a sentence by field, '' for the entry as a whole."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = dict(problems)


@dataclass(frozen=True)
class Given:
    """What an entry says: values by field (secrets revealed), and the moment of the import."""

    values: Mapping[str, Any]
    now: datetime


class Kind(ABC):
    """A section of the document."""

    section: ClassVar[str]
    #: 'schedule', for sentences.
    noun: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    #: What an entry cannot do without, also when the thing is there already: its name.
    key: ClassVar[tuple[str, ...]] = ("name",)
    #: Secrets that null removes; the others can only be replaced.
    removable: ClassVar[tuple[str, ...]] = ()

    @property
    def by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def name_of(self, values: Mapping[str, Any]) -> str:
        """The name of an entry in sentences: main/nightly."""
        return "/".join(str(values[part]) for part in reversed(self.key))

    @abstractmethod
    def all(self) -> Iterable[Any]:
        """Return the rows, in the order in which they are exported."""

    @abstractmethod
    def find(self, values: Mapping[str, Any]) -> Any | None:
        """Return the row that the entry names, None for a new one."""

    @abstractmethod
    def show(self, row: Any) -> dict[str, Any]:
        """Return the entry of a row; in place of a secret that is set stands `stored`."""

    @abstractmethod
    def write(self, row: Any | None, given: Given) -> Any:
        """Make the row, or change what is given of it, through its service. Raises: EntryInvalid, BackupmgrError."""

    @abstractmethod
    def delete(self, row: Any, now: datetime) -> None:
        """Raises: BackupmgrError."""

    def holds(self, row: Any, name: str, plain: str) -> bool:
        """Tell whether the secret of the row is this one."""
        kept = getattr(row, name)
        try:
            return bool((kept.reveal() if isinstance(kept, Secret) else kept) == plain)
        except UndecryptableSecret:
            return False

    def _secrets(self, row: Any) -> dict[str, str]:
        return {field.name: STORED for field in self.fields if field.is_secret and getattr(row, field.name)}


def _plain(row: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


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
        shown = {"name": row.name, "urls": list(row.addresses)} | self._secrets(row) | _plain(row, self._COLUMNS)
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
        own = _plain(row, ("path",) if row.type == StorageType.LOCAL else self._S3)
        shown = {"name": row.name, "type": row.type, "is_default": row.is_default} | own
        return shown | self._secrets(row) | {"max_jobs": row.max_jobs}

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


class Policies(Kind):
    section, noun = "policies", "policy"
    _COUNTS = (
        "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "min_redundancy",
        "min_age_seconds", "grace_days",
    )  # fmt: skip
    _WORDS = ("keep_within", "max_age", "cap_action", "pick", "tz")
    fields = (
        Field("name", read.line), *(Field(name, read.small_number) for name in _COUNTS),
        *(Field(name, read.line) for name in _WORDS), Field("size_cap_bytes", read.number_or_nothing),
    )  # fmt: skip

    def all(self) -> Iterable[RetentionPolicy]:
        return RetentionPolicy.objects.order_by("name")

    def find(self, values: Mapping[str, Any]) -> RetentionPolicy | None:
        return RetentionPolicy.objects.filter(name=values["name"]).first()

    def show(self, row: RetentionPolicy) -> dict[str, Any]:
        return _plain(row, (field.name for field in self.fields))

    def write(self, row: RetentionPolicy | None, given: Given) -> RetentionPolicy:
        try:
            if row is None:
                return create_policy(data=given.values)
            return update_policy(policy=row, data=given.values)
        except PolicyInvalid as error:
            raise EntryInvalid(error.problems) from error

    def delete(self, row: RetentionPolicy, now: datetime) -> None:
        delete_policy(policy=row)


class Schedules(Kind):
    section, noun = "schedules", "schedule"
    key = ("name", "cluster")
    fields = (
        Field("name", read.line), Field("cluster", read.line), Field("storages", read.lines),
        Field("kind", read.line), Field("cron", read.line), Field("interval_seconds", read.small_number_or_nothing),
        Field("anchor_at", read.moment), Field("tz", read.line), Field("jitter_seconds", read.small_number),
        Field("include", read.lines), Field("exclude", read.lines), Field("tags", read.lines),
        Field("nothing_matched", read.line), Field("overlap", read.line), Field("catchup", read.line),
        Field("catchup_window_seconds", read.small_number_or_nothing),
        Field("min_interval_seconds", read.small_number),
        Field("start_deadline_seconds", read.small_number_or_nothing),
        Field("max_runtime_seconds", read.small_number), Field("priority", read.small_number),
        Field("policy", read.line), Field("grace_seconds", read.small_number_or_nothing),
        Field("enabled", read.flag), Field("blackouts", read.lines),
    )  # fmt: skip
    #: What belongs to one kind of schedule only.
    _RULES: ClassVar[dict[str, Any]] = {"cron": "", "interval_seconds": None, "anchor_at": None}

    def all(self) -> Iterable[Schedule]:
        return Schedule.objects.live().select_related("cluster", "policy").order_by("cluster__name", "name")

    def find(self, values: Mapping[str, Any]) -> Schedule | None:
        rows = Schedule.objects.live().select_related("cluster", "policy")
        return rows.filter(name=values["name"], cluster__name=values["cluster"]).first()

    def show(self, row: Schedule) -> dict[str, Any]:
        data = data_of(row)
        shown = {field.name: getattr(data, field.name) for field in self.fields}
        for name, empty in self._RULES.items():
            if shown[name] == empty:
                del shown[name]
        if row.anchor_at is not None:
            shown["anchor_at"] = row.anchor_at.astimezone(UTC).isoformat()
        for name in ("include", "exclude", "tags"):
            shown[name] = list(shown[name])
        return shown | {
            "cluster": row.cluster.name,
            "storages": [storage.name for storage in data.storages],
            "policy": row.policy.name if row.policy else None,
            "blackouts": write_windows(data.blackouts).splitlines(),
        }

    def write(self, row: Schedule | None, given: Given) -> Schedule:
        values = self._rows_of(given.values)
        if row is None and "kind" not in values:
            values["kind"] = "cron"
        try:
            if row is None:
                values.setdefault("storages", [])
                return create_schedule(data=ScheduleData(**values), now=given.now)
            if values.get("kind", row.kind) != row.kind:
                values = self._RULES | values
            return update_schedule(schedule=row, data=replace(data_of(row), **values), now=given.now)
        except ScheduleInvalid as error:
            raise EntryInvalid(error.problems) from error

    def _rows_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put rows in place of names. Raises: EntryInvalid."""
        values, problems = dict(given), {}
        cluster = Cluster.objects.filter(name=values["cluster"]).first()
        if cluster is None:
            problems["cluster"] = f"There is no cluster named {values['cluster']!r}, neither here nor in the document."
        values["cluster"] = cluster
        if "storages" in values:
            found = {storage.name: storage for storage in StorageConfig.objects.filter(name__in=values["storages"])}
            missing = [name for name in values["storages"] if name not in found]
            if missing:
                problems["storages"] = f"There is no storage named {missing[0]!r}, neither here nor in the document."
            values["storages"] = list(found.values())
        if values.get("policy"):
            policy = RetentionPolicy.objects.filter(name=values["policy"]).first()
            if policy is None:
                problems["policy"] = f"There is no policy named {values['policy']!r}, neither here nor in the document."
            values["policy"] = policy
        elif "policy" in values:
            values["policy"] = None
        if "blackouts" in values:
            try:
                values["blackouts"] = parse_windows("\n".join(values["blackouts"]))
            except ValueError as error:
                problems["blackouts"] = str(error)
        if problems:
            raise EntryInvalid(problems)
        return values

    def delete(self, row: Schedule, now: datetime) -> None:
        delete_schedule(schedule=row, backups=KeepBackups.POLICY, now=now)


class Channels(Kind):
    section, noun = "channels", "channel"
    _COLUMNS = (
        "kind", "enabled", "min_severity", "rules", "clusters", "collections", "tags", "quiet_hours", "schedules",
        "digest", "time_zone",
    )  # fmt: skip
    fields = (
        Field("name", read.line), Field("kind", read.line), Field("enabled", read.flag),
        Field("address", read.secret), Field("signing_key", read.secret), Field("min_severity", read.line),
        Field("rules", read.lines), Field("clusters", read.lines), Field("collections", read.lines),
        Field("tags", read.lines), Field("quiet_hours", read.line), Field("schedules", read.lines),
        Field("digest", read.line), Field("time_zone", read.line),
    )  # fmt: skip

    def all(self) -> Iterable[Channel]:
        return Channel.objects.order_by("name")

    def find(self, values: Mapping[str, Any]) -> Channel | None:
        return Channel.objects.filter(name=values["name"]).first()

    def show(self, row: Channel) -> dict[str, Any]:
        return {"name": row.name} | self._secrets(row) | _plain(row, self._COLUMNS)

    def write(self, row: Channel | None, given: Given) -> Channel:
        try:
            return save_channel(channel=row, data=given.values)
        except ChannelInvalid as error:
            raise EntryInvalid(error.problems) from error

    def delete(self, row: Channel, now: datetime) -> None:
        delete_channel(channel=row)


#: In the order in which they are made: what a later one refers to is there by then.
KINDS: tuple[Kind, ...] = (Clusters(), Storages(), Policies(), Schedules(), Channels())


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
