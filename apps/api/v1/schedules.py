"""Schedules: make, change, look at, preview, pause, run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, FlagField, IntegerField, TextField, TimeField
from apps.api.permissions import caller
from apps.api.schema import operation
from apps.api.v1.lookup import find_cluster, find_storage
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.v1.runs import RunSerializer
from apps.api.views import ApiView
from apps.core.errors import InvalidRequest
from apps.core.permissions import Scope
from apps.schedules import services
from apps.schedules.draft import ScheduleData
from apps.schedules.models import CatchUp, NothingMatched, Overlap, Schedule
from apps.schedules.preview import Preview, preview_schedule
from apps.schedules.retention.policies import find_policy
from apps.schedules.services import KeepBackups
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.spec import Kind

TAG = "schedules"
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MAX_SECONDS = 400 * 86400


def _kind(**options: Any) -> EnumField:
    return EnumField("ScheduleKind", [kind.value for kind in Kind], **options)


def _choice(component: str, choices: Any, **options: Any) -> EnumField:
    return EnumField(component, list(choices.values), **options)


class BlackoutSerializer(serializers.Serializer[Any]):
    """A time without backups: weekly (weekday, from, to) in the schedule's zone, or once (starts_at, ends_at)."""

    weekday = EnumField("Weekday", _DAYS, required=False, allow_null=True, help_text="The day on which it starts")
    from_time = serializers.TimeField(required=False, allow_null=True, help_text="For example 22:00")
    to_time = serializers.TimeField(required=False, allow_null=True, help_text="Not after from_time: the next day")
    starts_at = TimeField(required=False, allow_null=True)
    ends_at = TimeField(required=False, allow_null=True)
    skips = FlagField(required=False, default=False, help_text="Runs in it are left out instead of put off to its end")
    cancels = FlagField(required=False, default=False, help_text="Backups under way are cancelled when it begins")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        weekly = [attrs.get(name) is not None for name in ("weekday", "from_time", "to_time")]
        once = [attrs.get(name) is not None for name in ("starts_at", "ends_at")]
        if not (all(weekly) and not any(once)) and not (all(once) and not any(weekly)):
            raise serializers.ValidationError("Give weekday, from_time and to_time, or starts_at and ends_at.")
        return attrs

    def to_representation(self, window: Window) -> dict[str, Any]:
        return {
            "weekday": None if window.weekday is None else _DAYS[window.weekday],
            "from_time": window.from_time and window.from_time.isoformat("minutes"),
            "to_time": window.to_time and window.to_time.isoformat("minutes"),
            "starts_at": window.starts_at and self.fields["starts_at"].to_representation(window.starts_at),
            "ends_at": window.ends_at and self.fields["ends_at"].to_representation(window.ends_at),
            "skips": window.skips,
            "cancels": window.cancels,
        }


def _names(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=TextField(max_length=255), max_length=100, **options)


class ScheduleWriteSerializer(serializers.Serializer[Any]):
    """A schedule as people set it."""

    name = TextField(max_length=100)
    cluster = TextField(required=False, help_text="Name or id; the default cluster when left out")
    storages = _names(help_text="Ids or names; each collection is backed up to all of them")
    kind = _kind(required=False, default="cron")
    cron = TextField(
        required=False, allow_blank=True, max_length=200, default="",
        help_text="Five fields in Debian's dialect, @daily and the like; H picks a fixed number for this schedule",
    )  # fmt: skip
    interval_seconds = IntegerField(required=False, allow_null=True, min_value=300, max_value=366 * 86400)
    anchor_at = TimeField(required=False, allow_null=True, help_text="Intervals count from here; now when left out")
    tz = TextField(required=False, default="UTC", max_length=64, help_text="IANA name")
    jitter_seconds = IntegerField(required=False, default=0, min_value=0, max_value=_MAX_SECONDS)
    include = _names(required=False, help_text="Globs; * when left out")
    exclude = _names(required=False)
    tags = _names(required=False, help_text="Only collections that have one of these")
    nothing_matched = _choice("NothingMatched", NothingMatched, required=False, default="fail")
    overlap = _choice("Overlap", Overlap, required=False, default="skip")
    catchup = _choice("CatchUp", CatchUp, required=False, default="latest")
    catchup_window_seconds = IntegerField(required=False, allow_null=True, min_value=1, max_value=_MAX_SECONDS)
    min_interval_seconds = IntegerField(required=False, default=0, min_value=0, max_value=_MAX_SECONDS)
    start_deadline_seconds = IntegerField(required=False, allow_null=True, min_value=60, max_value=_MAX_SECONDS)
    max_runtime_seconds = IntegerField(required=False, default=86400, min_value=60, max_value=_MAX_SECONDS)
    priority = IntegerField(required=False, default=5, min_value=0, max_value=9)
    policy = TextField(required=False, allow_null=True, help_text="Id or name; kept for ever when left out")
    grace_seconds = IntegerField(required=False, allow_null=True, min_value=60, max_value=_MAX_SECONDS)
    enabled = FlagField(required=False, default=True)
    blackouts = BlackoutSerializer(many=True, required=False)


class ScheduleSerializer(serializers.Serializer[Any]):
    """A schedule, and what comes next."""

    id = serializers.CharField()
    name = serializers.CharField()
    cluster = serializers.CharField(source="cluster.name")
    storages = serializers.SerializerMethodField()
    kind = _kind()
    cron = serializers.CharField(allow_blank=True)
    cron_resolved = serializers.CharField(allow_blank=True, help_text="With aliases and H replaced")
    interval_seconds = serializers.IntegerField(allow_null=True)
    anchor_at = TimeField(allow_null=True)
    tz = serializers.CharField()
    jitter_seconds = serializers.IntegerField()
    include = _names()
    exclude = _names()
    tags = _names()
    nothing_matched = _choice("NothingMatched", NothingMatched)
    overlap = _choice("Overlap", Overlap)
    catchup = _choice("CatchUp", CatchUp)
    catchup_window_seconds = serializers.IntegerField(allow_null=True)
    min_interval_seconds = serializers.IntegerField()
    start_deadline_seconds = serializers.IntegerField(allow_null=True)
    max_runtime_seconds = serializers.IntegerField()
    priority = serializers.IntegerField()
    policy = serializers.CharField(source="policy.name", default=None, allow_null=True)
    policy_id = serializers.CharField(allow_null=True)
    grace_seconds = serializers.IntegerField(allow_null=True)
    enabled = serializers.BooleanField()
    paused = serializers.BooleanField(source="is_paused")
    pause_reason = serializers.CharField(allow_blank=True)
    paused_at = TimeField(allow_null=True)
    paused_until = TimeField(allow_null=True)
    next_fire_at = TimeField(allow_null=True, help_text="The next slot, by the rule")
    next_run_at = TimeField(allow_null=True, help_text="When it is run: after jitter and blackouts")
    last_slot = TimeField(allow_null=True)
    error = serializers.CharField(allow_blank=True, help_text="Why it cannot run; empty when it can")
    blackouts = serializers.SerializerMethodField()
    created_at = TimeField()
    updated_at = TimeField()

    def get_storages(self, schedule: Schedule) -> list[str]:
        return sorted(storage.name for storage in schedule.storages.all())

    @extend_schema_field(BlackoutSerializer(many=True))
    def get_blackouts(self, schedule: Schedule) -> list[dict[str, Any]]:
        rows = sorted(schedule.blackouts.all(), key=lambda row: str(row.pk))
        return [BlackoutSerializer().to_representation(row.window) for row in rows]


class SchedulePageSerializer(PageSerializer):
    """A page of schedules."""

    items = ScheduleSerializer(many=True)


class ScheduleQuery(PageQuery):
    """Filters of the list."""

    cluster = serializers.CharField(required=False, help_text="Name or id")
    enabled = serializers.BooleanField(required=False)


class NextRunSerializer(serializers.Serializer[Any]):
    """One of the next runs."""

    slot = TimeField(help_text="By the rule")
    run_at = TimeField(help_text="After jitter and blackouts")
    local = serializers.CharField(help_text="The slot on the wall of the schedule's zone")
    skipped = serializers.BooleanField(help_text="A blackout leaves it out")
    marks = serializers.ListField(child=serializers.CharField(), help_text="What is special about it")


class PreviewSerializer(serializers.Serializer[Any]):
    """What a schedule would do. Nothing is saved."""

    sentence = serializers.CharField()
    cron_resolved = serializers.CharField(allow_blank=True)
    runs = NextRunSerializer(many=True)
    lint = serializers.ListField(child=serializers.CharField(), help_text="Allowed, and probably not meant")
    matched = serializers.SerializerMethodField()
    excluded = serializers.SerializerMethodField()
    unmatched = serializers.SerializerMethodField()
    listing_error = serializers.CharField(allow_blank=True, help_text="Why the collections could not be listed")

    def get_matched(self, preview: Preview) -> list[str]:
        return list(preview.selection.matched) if preview.selection else []

    def get_excluded(self, preview: Preview) -> list[str]:
        return list(preview.selection.excluded) if preview.selection else []

    def get_unmatched(self, preview: Preview) -> list[str]:
        return list(preview.selection.unmatched) if preview.selection else []


class PauseSerializer(serializers.Serializer[Any]):
    """Why it is paused, and until when."""

    reason = TextField(max_length=300)
    until = TimeField(required=False, allow_null=True, help_text="Until somebody resumes it, when left out")


class ScheduleDeleteQuery(serializers.Serializer[Any]):
    """What becomes of the backups that it made."""

    backups = EnumField(
        "KeepBackups", [choice.value for choice in KeepBackups], required=False, default="policy",
        help_text="policy: they stay under the policy; for_ever: no rule touches them any more; expire: they are let "
        "go, but what has to stay (the newest good one, held ones, …), and can be taken back for a day",
    )  # fmt: skip
    confirm = TextField(required=False, max_length=100, help_text="With expire: the name of the schedule once more")


def read_windows(rows: list[dict[str, Any]]) -> list[Window]:
    """From blackouts of a body to what the services take."""
    return [
        Window(**{**row, "weekday": None if row.get("weekday") is None else _DAYS.index(row["weekday"])})
        for row in rows
    ]


def _data(values: dict[str, Any]) -> ScheduleData:
    """From the body to what the services take. Raises: NotFound for names of nothing."""
    plain = {name: values[name] for name in values if name not in ("cluster", "storages", "policy", "blackouts")}
    plain.setdefault("include", ["*"])
    return ScheduleData(
        **plain,
        cluster=find_cluster(values.get("cluster")),
        storages=list({storage.pk: storage for storage in map(find_storage, values["storages"])}.values()),
        policy=find_policy(values["policy"]) if values.get("policy") is not None else None,
        blackouts=read_windows(values.get("blackouts", [])),
    )


class SchedulesView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.ADMINISTER}

    @operation(
        "listSchedules", "Schedules, newest first", tag=TAG, query=[ScheduleQuery], answer=SchedulePageSerializer
    )
    def get(self, request: Request) -> Response:
        query = self.query(ScheduleQuery)
        rows = Schedule.objects.live().select_related("cluster", "policy").prefetch_related("storages", "blackouts")
        if "cluster" in query:
            rows = rows.filter(cluster=find_cluster(query["cluster"]))
        if "enabled" in query:
            rows = rows.filter(enabled=query["enabled"])
        return Response(SchedulePageSerializer(read_page(rows, query)).data)

    @operation("createSchedule", "Make a schedule", tag=TAG, body=ScheduleWriteSerializer, answer=ScheduleSerializer)
    def post(self, request: Request) -> Response:
        data = _data(self.body(ScheduleWriteSerializer))
        schedule = services.create_schedule(data=data, now=timezone.now(), user=caller(request))
        return Response(ScheduleSerializer(schedule).data)


class SchedulePreviewView(ApiView):
    scopes = {"POST": Scope.READ}
    reaches_qdrant = True

    @operation(
        "previewSchedule", "What a schedule would do: next ten runs, collections, lint. Saves nothing", tag=TAG,
        body=ScheduleWriteSerializer, answer=PreviewSerializer,
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        data = _data(self.body(ScheduleWriteSerializer))
        return Response(PreviewSerializer(preview_schedule(data=data, now=timezone.now())).data)


class OneSchedule(ApiView):
    def schedule(self) -> Schedule:
        """Return the schedule of the path. Raises: ScheduleNotFound, NotFound."""
        return services.find_schedule(self.path_uuid())


class ScheduleView(OneSchedule):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER, "DELETE": Scope.ADMINISTER}

    @operation("getSchedule", "One schedule", tag=TAG, answer=ScheduleSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(ScheduleSerializer(self.schedule()).data)

    @operation(
        "updateSchedule", "Replace a schedule's fields; what is left out gets its default", tag=TAG,
        body=ScheduleWriteSerializer, answer=ScheduleSerializer,
    )  # fmt: skip
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        schedule = self.schedule()
        values = self.body(ScheduleWriteSerializer)
        data = _data({"cluster": str(schedule.cluster_id)} | values)
        if data.anchor_at is None and schedule.interval_seconds == data.interval_seconds:
            data = replace(data, anchor_at=schedule.anchor_at)
        return Response(
            ScheduleSerializer(services.update_schedule(schedule=schedule, data=data, now=timezone.now())).data
        )

    @operation(
        "deleteSchedule", "Delete a schedule; its runs stay as history", tag=TAG, query=[ScheduleDeleteQuery],
        answer=ScheduleSerializer,
    )  # fmt: skip
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        schedule = self.schedule()
        query = self.query(ScheduleDeleteQuery)
        choice = KeepBackups(query["backups"])
        if choice == KeepBackups.EXPIRE and query.get("confirm") != schedule.name:
            raise InvalidRequest("confirm: Give the name of the schedule whose backups are to go.")
        services.delete_schedule(schedule=schedule, backups=choice, now=timezone.now(), user=caller(request))
        return Response(ScheduleSerializer(schedule).data)


class ScheduleForecastView(OneSchedule):
    scopes = {"GET": Scope.READ}
    reaches_qdrant = True

    @operation("forecastSchedule", "What a saved schedule will do next", tag=TAG, answer=PreviewSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        schedule = self.schedule()
        preview = preview_schedule(data=services.data_of(schedule), now=timezone.now(), schedule=schedule)
        return Response(PreviewSerializer(preview).data)


class SchedulePauseView(OneSchedule):
    scopes = {"POST": Scope.OPERATE}

    @operation("pauseSchedule", "Pause it, with the reason", tag=TAG, body=PauseSerializer, answer=ScheduleSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        schedule, data = self.schedule(), self.body(PauseSerializer)
        paused = services.pause_schedule(
            schedule=schedule,
            reason=data["reason"],
            until=data.get("until"),
            now=timezone.now(),
            user=caller(request),
        )
        return Response(ScheduleSerializer(paused).data)


class ScheduleResumeView(OneSchedule):
    scopes = {"POST": Scope.OPERATE}

    @operation("resumeSchedule", "End a pause: the next slot from now on", tag=TAG, answer=ScheduleSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        resumed = services.resume_schedule(schedule=self.schedule(), now=timezone.now())
        return Response(ScheduleSerializer(resumed).data)


class ScheduleSkipView(OneSchedule):
    scopes = {"POST": Scope.OPERATE}

    @operation("skipNextRun", "Leave the next run out", tag=TAG, answer=ScheduleSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(ScheduleSerializer(services.skip_next(schedule=self.schedule(), now=timezone.now())).data)


class ScheduleRunView(OneSchedule):
    scopes = {"POST": Scope.OPERATE}

    @operation(
        "runSchedule", "Run it now, besides its times; 409 while a backup of it has not ended", tag=TAG,
        answer=RunSerializer, headers={"Idempotency-Key": "A repetition with the same key returns the first one's run"},
    )  # fmt: skip
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        key = request.headers.get("Idempotency-Key")
        run = services.run_now(schedule=self.schedule(), now=timezone.now(), user=caller(request), key=key)
        return Response(RunSerializer(run).data)
