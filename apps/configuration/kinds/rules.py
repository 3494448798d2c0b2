"""Policies and schedules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.configuration import fields as read
from apps.configuration.fields import Field
from apps.configuration.kinds.base import EntryInvalid, Given, Kind, plain
from apps.schedules.draft import ScheduleData, ScheduleInvalid
from apps.schedules.models import Schedule
from apps.schedules.retention.policies import (
    PolicyInvalid,
    create_policy,
    delete_policy,
    update_policy,
)
from apps.schedules.services import KeepBackups, create_schedule, data_of, delete_schedule, update_schedule
from apps.schedules.timing.windows_text import parse_windows, write_windows
from apps.storage.models import StorageConfig


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
        return plain(row, (field.name for field in self.fields))

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
        Field("enabled", read.flag), Field("blackouts", read.blackouts),
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
            values["blackouts"] = parse_windows("\n".join(values["blackouts"]))
        if problems:
            raise EntryInvalid(problems)
        return values

    def delete(self, row: Schedule, now: datetime) -> None:
        delete_schedule(schedule=row, backups=KeepBackups.POLICY, now=now)
