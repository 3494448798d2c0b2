"""RetentionPolicy: how long backups are kept. Hold: this one stays, whatever any rule says."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from apps.backups.retention.rules import COUNTED_TIERS, CapAction, Pick, Rules, Span
from apps.core.models import TimestampedModel, UuidModel

PICKS = [(Pick.LAST.value, "the last of each period"), (Pick.FIRST.value, "the first of each period")]
CAP_ACTIONS = [(CapAction.WARN.value, "say so"), (CapAction.DELETE.value, "let the oldest go")]


class RetentionPolicy(TimestampedModel):
    """Which backups are kept, and for how long. Rules keep (union), limits take away, guards always win."""

    name = models.CharField(max_length=100, unique=True)
    keep_last = models.PositiveIntegerField(default=0)
    keep_hourly = models.PositiveIntegerField(default=0)
    keep_daily = models.PositiveIntegerField(default=0)
    keep_weekly = models.PositiveIntegerField(default=0)
    keep_monthly = models.PositiveIntegerField(default=0)
    keep_yearly = models.PositiveIntegerField(default=0)
    #: Everything this close to the newest good backup: 36h, 14d, 8w, 6m, 2y; empty for no such rule.
    keep_within = models.CharField(max_length=8, blank=True, default="")
    #: Goes at this age even when a rule keeps it; empty for no limit.
    max_age = models.CharField(max_length=8, blank=True, default="")
    #: Of one set (cluster, collection, storage); null for no limit.
    size_cap_bytes = models.BigIntegerField(null=True, blank=True)
    cap_action = models.CharField(max_length=6, choices=CAP_ACTIONS, default=CapAction.WARN.value)
    min_redundancy = models.PositiveIntegerField(default=2)
    pick = models.CharField(max_length=5, choices=PICKS, default=Pick.LAST.value)
    #: IANA zone in which hours, days, weeks, months and years begin.
    tz = models.CharField("time zone", max_length=64, default="UTC")
    min_age_seconds = models.PositiveIntegerField(default=3600)
    grace_days = models.PositiveIntegerField(default=1)
    #: Grows with every change of what it does; the plan that a person confirmed names the version.
    version = models.PositiveIntegerField(default=1)
    #: The version whose first deletions were confirmed; an older one means: wait for a confirmation.
    confirmed_version = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["name"]
        verbose_name = "retention policy"
        verbose_name_plural = "retention policies"
        permissions = [("confirm_retention", "Can let go what a policy's preview shows, and take it back")]
        constraints = [
            models.CheckConstraint(
                condition=Q(*[(f"keep_{tier}__gt", 0) for tier in COUNTED_TIERS], _connector=Q.OR) | ~Q(keep_within=""),
                name="policy_keeps_something",
            ),
            models.CheckConstraint(condition=Q(min_redundancy__gte=1), name="policy_min_redundancy"),
            models.CheckConstraint(condition=Q(grace_days__lte=30), name="policy_grace_days"),
            models.CheckConstraint(condition=Q(pick__in=[p.value for p in Pick]), name="policy_pick_known"),
            models.CheckConstraint(condition=Q(cap_action__in=[a.value for a in CapAction]), name="policy_cap_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def rules(self) -> Rules:
        """The policy as the pure function takes it. Raises: ValueError when a text column holds nonsense."""
        return Rules(
            **{f"keep_{tier}": getattr(self, f"keep_{tier}") for tier in COUNTED_TIERS},
            keep_within=Span.parse(self.keep_within) if self.keep_within else None,
            max_age=Span.parse(self.max_age) if self.max_age else None,
            size_cap_bytes=self.size_cap_bytes,
            cap_action=CapAction(self.cap_action),
            min_redundancy=self.min_redundancy,
            pick=Pick(self.pick),
            zone=self.tz,
            min_age_seconds=self.min_age_seconds,
        )

    def clean(self) -> None:
        """Check what the rules say. Raises: ValidationError by field."""
        problems = Rules.problems_of({field.name: getattr(self, field.attname) for field in self._meta.concrete_fields})
        if problems:
            raise ValidationError(problems)


class HoldQuerySet(models.QuerySet["Hold"]):
    def active(self, now: datetime) -> HoldQuerySet:
        """Holds that hold now."""
        return self.filter(Q(until=None) | Q(until__gt=now), released_at=None)


class Hold(UuidModel):
    """A backup that stays: who wants it, why, and until when. Released ones remain as history."""

    backup = models.ForeignKey("backups.Backup", on_delete=models.CASCADE, related_name="holds")
    reason = models.CharField(max_length=300)
    #: Null: until somebody releases it.
    until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    objects = HoldQuerySet.as_manager()

    class Meta:
        constraints = [models.CheckConstraint(condition=~Q(reason=""), name="hold_has_a_reason")]
        indexes = [models.Index(fields=["backup"], condition=Q(released_at=None), name="hold_in_force")]

    def __str__(self) -> str:
        return f"Hold: {self.reason}"
