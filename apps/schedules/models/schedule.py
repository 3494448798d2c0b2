"""Schedule: when which collections are backed up to where. Blackout: when not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.models import TimestampedModel, UuidModel
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.spec import Kind, Timing
from apps.storage.models import StorageConfig


class Overlap(models.TextChoices):
    SKIP = "skip", "leave the collection out"
    QUEUE_ONE = "queue_one", "wait, at most once"
    CANCEL_RUNNING = "cancel_running", "cancel the one that runs"


class CatchUp(models.TextChoices):
    LATEST = "latest", "make up for the latest one"
    NONE = "none", "leave them out"


class NothingMatched(models.TextChoices):
    FAIL = "fail", "the run fails"
    WARN = "warn", "the run says so and is fine"


class OnFire(models.TextChoices):
    DEFER = "defer", "run once when it ends"
    SKIP = "skip", "leave the run out"


class OnRunning(models.TextChoices):
    FINISH = "finish", "let it finish"
    CANCEL = "cancel", "cancel it"


def _every_collection() -> list[str]:
    return ["*"]


class ScheduleQuerySet(models.QuerySet["Schedule"]):
    def live(self) -> ScheduleQuerySet:
        """Those that have not been deleted."""
        return self.filter(deleted_at=None)

    def due(self, now: datetime) -> ScheduleQuerySet:
        """Those that the ticker has to look at now: a run is due, a pause ends, or an error is to be tried again."""
        return self.filter(enabled=True, next_run_at__lte=now).order_by("-priority", "next_run_at", "id")


class Schedule(TimestampedModel):
    """Backs up the collections it selects, each to every one of its storages, whenever it is due."""

    name = models.CharField(max_length=100)
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="schedules")
    storages = models.ManyToManyField(StorageConfig, related_name="schedules")

    # When
    kind = models.CharField(max_length=8, choices=[(kind.value, kind.value) for kind in Kind])
    cron = models.CharField(max_length=200, blank=True, default="")
    #: `cron` with aliases and H replaced: what the slots are computed from.
    cron_resolved = models.CharField(max_length=200, blank=True, default="")
    interval_seconds = models.PositiveIntegerField(null=True, blank=True)
    anchor_at = models.DateTimeField(null=True, blank=True)
    tz = models.CharField("time zone", max_length=64, default="UTC")
    #: The most that the start is put off by, so that not all start at once; by how much is fixed by the id.
    jitter_seconds = models.PositiveIntegerField(default=0)

    # Which collections
    include: models.JSONField[Any, Any] = models.JSONField(default=_every_collection)
    exclude: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    tags: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    nothing_matched = models.CharField(max_length=4, choices=NothingMatched, default=NothingMatched.FAIL)

    # How
    overlap = models.CharField(max_length=16, choices=Overlap, default=Overlap.SKIP)
    catchup = models.CharField(max_length=8, choices=CatchUp, default=CatchUp.LATEST)
    #: How old a missed slot may be to be made up for; null: as long as the next one has not come.
    catchup_window_seconds = models.PositiveIntegerField(null=True, blank=True)
    #: No backup of a collection that has one in the same storage younger than this; 0: always.
    min_interval_seconds = models.PositiveIntegerField(default=0)
    #: A backup that has not started this long after it was due fails; null: 6 h, or half the gap if that is less.
    start_deadline_seconds = models.PositiveIntegerField(null=True, blank=True)
    max_runtime_seconds = models.PositiveIntegerField(default=24 * 3600)
    priority = models.PositiveSmallIntegerField(default=5)
    policy = models.ForeignKey(
        RetentionPolicy, on_delete=models.PROTECT, null=True, blank=True, related_name="schedules"
    )
    #: How late a backup may be before somebody is told; null: worked out from the gap and from how long backups take.
    grace_seconds = models.PositiveIntegerField(null=True, blank=True)

    # Whether
    enabled = models.BooleanField(default=True)
    enabled_at = models.DateTimeField(null=True, blank=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_until = models.DateTimeField(null=True, blank=True)
    pause_reason = models.CharField(max_length=300, blank=True, default="")
    paused_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    deleted_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    # What comes next; written by apps/schedules/advance.py alone
    #: The slot that is due next: a time by the rule, before jitter and blackouts.
    next_fire_at = models.DateTimeField(null=True, blank=True)
    #: When the ticker has to look at it: when the slot runs, when a pause ends, when an error is tried again.
    next_run_at = models.DateTimeField(null=True, blank=True)
    last_slot = models.DateTimeField(null=True, blank=True)
    #: Grows with every change: a ticker that worked with an older one has to think again.
    version = models.PositiveIntegerField(default=1)
    #: Why it cannot run, in a sentence; empty when it can. Tried again at `next_run_at`.
    error = models.CharField(max_length=500, blank=True, default="")
    error_count = models.PositiveIntegerField(default=0)

    objects = ScheduleQuerySet.as_manager()

    class Meta:
        permissions = [("run_schedule", "Can run, pause and resume schedules")]
        constraints = [
            models.UniqueConstraint(
                fields=["cluster", "name"], condition=Q(deleted_at=None), name="one_schedule_a_name"
            ),
            models.CheckConstraint(
                condition=Q(kind=Kind.CRON, interval_seconds=None, anchor_at=None) & ~Q(cron="") & ~Q(cron_resolved="")
                | Q(kind=Kind.INTERVAL, cron="", cron_resolved="", interval_seconds__gt=0, anchor_at__isnull=False)
                | Q(kind=Kind.MANUAL, cron="", cron_resolved="", interval_seconds=None, anchor_at=None),
                name="schedule_columns_of_its_kind",
            ),
            models.CheckConstraint(
                condition=Q(enabled=False)
                | Q(next_run_at__isnull=False)
                | Q(kind=Kind.MANUAL)
                | Q(paused_at__isnull=False, paused_until=None)
                | ~Q(error=""),
                name="schedule_has_a_future",
            ),
            models.CheckConstraint(
                condition=Q(next_fire_at=None) | Q(next_run_at__gte=F("next_fire_at")), name="schedule_runs_after_slot"
            ),
            models.CheckConstraint(
                condition=Q(paused_at=None, pause_reason="", paused_until=None)
                | Q(paused_at__isnull=False) & ~Q(pause_reason=""),
                name="schedule_pause_has_a_reason",
            ),
            models.CheckConstraint(condition=Q(deleted_at=None) | Q(enabled=False), name="schedule_deleted_is_off"),
            models.CheckConstraint(condition=Q(priority__lte=9), name="schedule_priority_0_to_9"),
            models.CheckConstraint(condition=Q(overlap__in=Overlap.values), name="schedule_overlap_known"),
            models.CheckConstraint(condition=Q(catchup__in=CatchUp.values), name="schedule_catchup_known"),
        ]
        indexes = [
            models.Index(fields=["next_run_at"], condition=Q(enabled=True), name="schedule_due"),
            models.Index(fields=["name", "id"], condition=Q(deleted_at=None), name="schedule_by_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None

    def timing(self, windows: tuple[Window, ...] | None = None) -> Timing:
        """What the slots follow from. Reads the blackouts of the schedule and its cluster unless they are given."""
        if windows is None:
            rows = Blackout.objects.filter(Q(schedule=self) | Q(cluster=self.cluster_id))
            windows = tuple(row.window for row in rows.order_by("id"))
        return Timing(
            kind=Kind(self.kind),
            cron=self.cron_resolved,
            interval_seconds=self.interval_seconds or 0,
            anchor_at=self.anchor_at.astimezone(UTC) if self.anchor_at else None,
            zone=self.tz,
            jitter_seconds=self.jitter_seconds,
            jitter_key=str(self.pk),
            windows=windows,
        )


class Blackout(UuidModel):
    """A time without backups, of one schedule or of a whole cluster: weekly in the schedule's zone, or once."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, null=True, blank=True, related_name="blackouts")
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, null=True, blank=True, related_name="blackouts")
    #: Weekly: 0 is Monday; the range belongs to the day on which it starts, and may cross midnight.
    weekday = models.PositiveSmallIntegerField(null=True, blank=True)
    from_time = models.TimeField(null=True, blank=True)
    to_time = models.TimeField(null=True, blank=True)
    #: Once.
    starts_at = models.DateTimeField(null=True, blank=True)
    ends_at = models.DateTimeField(null=True, blank=True)
    on_fire = models.CharField(max_length=5, choices=OnFire, default=OnFire.DEFER)
    on_running = models.CharField(max_length=6, choices=OnRunning, default=OnRunning.FINISH)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(schedule=None, cluster__isnull=False) | Q(schedule__isnull=False, cluster=None),
                name="blackout_one_owner",
            ),
            models.CheckConstraint(
                condition=Q(
                    weekday__lte=6, from_time__isnull=False, to_time__isnull=False, starts_at=None, ends_at=None
                )
                | Q(weekday=None, from_time=None, to_time=None, starts_at__isnull=False, ends_at__gt=F("starts_at")),
                name="blackout_weekly_or_once",
            ),
        ]

    def __str__(self) -> str:
        return self.window.sentence

    @property
    def window(self) -> Window:
        return Window(
            weekday=self.weekday,
            from_time=self.from_time,
            to_time=self.to_time,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            skips=self.on_fire == OnFire.SKIP,
            cancels=self.on_running == OnRunning.CANCEL,
        )
