"""Channel: whom to tell. Incident: what is wrong, from beginning to end. Delivery: one message, until it is out."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.db import models
from django.db.models import Q

from apps.core.crypto import UndecryptableSecret
from apps.core.fields import EncryptedField
from apps.core.models import TimestampedModel, UuidModel
from apps.schedules.models import Schedule


class ChannelKind(models.TextChoices):
    EMAIL = "email", "e-mail"
    WEBHOOK = "webhook", "webhook"
    APPRISE = "apprise", "Apprise (chat and push services)"
    PING = "ping", "dead-man ping (healthchecks)"
    KUMA = "kuma", "dead-man ping (Uptime Kuma push)"
    URL = "url", "dead-man ping (any URL)"


#: Kinds that tell of runs and heartbeats; the others tell of what is wrong.
PING_KINDS = (ChannelKind.PING, ChannelKind.KUMA, ChannelKind.URL)


class Severity(models.TextChoices):
    WARNING = "warning", "warning"
    CRITICAL = "critical", "critical"


class Digest(models.TextChoices):
    NONE = "none", "none"
    DAILY = "daily", "daily"
    WEEKLY = "weekly", "weekly, on Mondays"


class Rule(models.TextChoices):
    """What can be wrong."""

    FAILING = "failing", "backups of a collection fail"
    OVERDUE = "overdue", "a backup is overdue"
    STUCK = "stuck", "a running job gives no sign of life or moves nothing"
    SLOW = "slow", "a backup takes far longer than usual"
    UNPROTECTED = "unprotected", "a collection has never been backed up"
    NEVER_SUCCEEDED = "never_succeeded", "the first backup of a collection is overdue"
    UNSCHEDULED = "unscheduled", "no schedule backs a collection up"
    NEVER_VERIFIED = "never_verified", "no backup of a collection was ever tested"
    VERIFY_FAILED = "verify_failed", "the last test of a backup failed"
    DAMAGED = "damaged", "an older backup is damaged or missing"
    UNREACHABLE = "unreachable", "a cluster has not been heard of"
    STORAGE_UNREACHABLE = "storage_unreachable", "a storage does not answer"
    RUN_FAILED = "run_failed", "a run of a schedule failed as a whole"
    RUN_PARTIAL = "run_partial", "a part of a run did not succeed"
    RUN_SKIPPED = "run_skipped", "a schedule was left out several times in a row"
    SCHEDULE_BROKEN = "schedule_broken", "a schedule cannot be planned"
    PAUSED_LONG = "paused_long", "a schedule is paused for more than a week"
    DELETION_STUCK = "deletion_stuck", "something that has to go cannot be deleted"
    RETENTION_WAITS = "retention_waits", "retention waits for a confirmation"
    RETENTION_STALE = "retention_stale", "retention has not looked for two days"
    CAP = "cap", "backups take more room than their policy allows"
    NO_WORKER = "no_worker", "jobs wait and no worker takes them"
    NOT_FIRING = "not_firing", "no schedule fires"
    CLOCK = "clock", "a clock jumped"
    CHANNEL_BROKEN = "channel_broken", "a channel does not deliver"


class Channel(TimestampedModel):
    """Whom to tell, how, and of what. Where it leads is a secret: such addresses often carry a key."""

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=8, choices=ChannelKind)
    enabled = models.BooleanField(default=True)
    #: Told of what is critical when no other channel is.
    is_default = models.BooleanField(default=False)
    #: Told of each run of a schedule that succeeded, too.
    tell_success = models.BooleanField(default=False)
    #: E-mail: addresses, comma-separated. Webhook and pings: URL. Apprise: one Apprise URL.
    address = EncryptedField()
    #: Webhooks: signs the body (HMAC-SHA256); empty for unsigned ones.
    signing_key = EncryptedField()
    min_severity = models.CharField(max_length=8, choices=Severity, default=Severity.WARNING)
    #: Rules to tell of; empty for all.
    rules = models.JSONField(default=list, blank=True)
    #: Globs of cluster names; empty for all.
    clusters = models.JSONField(default=list, blank=True)
    #: Globs of collection names; empty for all. What is about no collection is told in any case.
    collections = models.JSONField(default=list, blank=True)
    #: Tags of which a collection must have one; empty for all, as above.
    tags = models.JSONField(default=list, blank=True)
    #: `22:00-07:00` on the channel's clock: what is not critical is held back until they are over; empty for none.
    quiet_hours = models.CharField(max_length=11, blank=True, default="")
    digest = models.CharField(max_length=6, choices=Digest, default=Digest.NONE)
    #: IANA zone of the quiet hours and of the digest, which is sent at 08:00 there.
    time_zone = models.CharField(max_length=64, default="UTC")
    next_digest_at = models.DateTimeField(null=True, blank=True)
    muted_until = models.DateTimeField(null=True, blank=True)
    #: Pings only: globs of the schedules whose runs are told; empty for the heartbeat of this installation.
    schedules = models.JSONField(default=list, blank=True)
    next_ping_at = models.DateTimeField(null=True, blank=True)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=ChannelKind.values), name="channel_kind_known"),
            models.CheckConstraint(condition=Q(digest__in=Digest.values), name="channel_digest_known"),
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_channel"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_ping(self) -> bool:
        return self.kind in PING_KINDS

    @property
    def masked(self) -> str:
        """Where it leads, without what may be a secret: hosts, and the first letters of mail addresses."""
        try:
            address = self.address.reveal()
        except UndecryptableSecret:
            return "unreadable: set it again"
        if self.kind == ChannelKind.EMAIL:
            return ", ".join(f"{part.strip()[:2]}…@{part.strip().partition('@')[2]}" for part in address.split(","))
        parts = urlsplit(address)
        if self.kind == ChannelKind.APPRISE:
            return f"{parts.scheme}://…"
        return f"{parts.scheme}://{parts.hostname}/…"

    def is_muted(self, now: datetime) -> bool:
        return self.muted_until is not None and self.muted_until > now


class Target(models.Model):
    """One collection that one schedule means, and by when its next backup has to be there (apps/alerts/targets.py)."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="targets")
    collection_name = models.CharField(max_length=255)
    #: The slot of the newest run of the schedule that backed it up; null before the first.
    last_ok_slot = models.DateTimeField(null=True, blank=True)
    #: When the run that it waits for is due, without the grace; null when no backup is to come.
    due_at = models.DateTimeField(null=True, blank=True)
    #: Null when no backup is to come.
    deadline_at = models.DateTimeField(null=True, blank=True)
    first_seen_at = models.DateTimeField()
    #: A digest of what the two times were worked out from: as long as it stays the same, so do they.
    basis = models.CharField(max_length=32, blank=True, default="")

    #: Whether the row differs from what is stored; set while deadlines are worked out.
    is_changed = False

    class Meta:
        constraints = [models.UniqueConstraint(fields=["schedule", "collection_name"], name="one_target_a_collection")]
        indexes = [models.Index(fields=["deadline_at"], name="target_by_deadline")]

    def __str__(self) -> str:
        return f"{self.collection_name} by {self.schedule_id}"


class Incident(UuidModel):
    """Something that is wrong: opened once, told once, reminded of, resolved once."""

    rule = models.CharField(max_length=20, choices=Rule)
    #: What it is about: unique among the open ones of a rule.
    target_key = models.CharField(max_length=500)
    severity = models.CharField(max_length=8, choices=Severity)
    #: One sentence, as of when it was last seen.
    summary = models.TextField()
    cluster_name = models.CharField(max_length=100, blank=True, default="")
    collection_name = models.CharField(max_length=255, blank=True, default="")
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)
    #: Messages about it so far; the number of the next one.
    seq = models.PositiveIntegerField(default=0)
    #: When people were first told, null until then.
    notified_at = models.DateTimeField(null=True, blank=True)
    recovery_notified_at = models.DateTimeField(null=True, blank=True)
    next_reminder_at = models.DateTimeField(null=True, blank=True)
    reminders = models.PositiveIntegerField(default=0)
    #: No reminders until then.
    muted_until = models.DateTimeField(null=True, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=150, blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "target_key"], condition=Q(resolved_at=None), name="one_open_incident_per_target"
            ),
        ]
        indexes = [
            models.Index(fields=["-opened_at", "-id"], name="incident_newest"),
            models.Index(fields=["rule", "target_key", "-resolved_at"], name="incident_by_target"),
        ]

    def __str__(self) -> str:
        return self.summary[:120]

    @property
    def is_open(self) -> bool:
        return self.resolved_at is None


class DeliveryKind(models.TextChoices):
    ALERT = "alert", "alert"
    REMINDER = "reminder", "reminder"
    RECOVERY = "recovery", "recovery"
    DIGEST = "digest", "digest"
    TEST = "test", "test"
    PING = "ping", "ping"
    SUCCESS = "success", "success"


class DeliveryState(models.TextChoices):
    PENDING = "pending", "pending"
    SENDING = "sending", "sending"
    SENT = "sent", "sent"
    DEAD = "dead", "given up"
    #: What it was to tell was over before it could be delivered. No fault of the channel.
    WITHDRAWN = "withdrawn", "taken back"


class Delivery(UuidModel):
    """A message on its way: written in the transaction of what it tells of, sent at least once, under one key."""

    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    kind = models.CharField(max_length=8, choices=DeliveryKind)
    incidents = models.ManyToManyField(Incident, related_name="deliveries", blank=True)
    #: Made of the channel and of what is told: the same message cannot be written twice, and a receiver that gets it
    #: twice can tell (Idempotency-Key).
    key = models.UUIDField(unique=True)
    subject = models.CharField(max_length=300)
    text = models.TextField()
    payload: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    #: What has to be out, or given up, before: the end of a run is not told before its beginning.
    after = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    state = models.CharField(max_length=9, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField()
    #: While it is being sent: when its sender counts as dead.
    lease_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            models.CheckConstraint(condition=Q(state__in=DeliveryState.values), name="delivery_state_known"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="delivery_newest"),
            models.Index(
                fields=["next_try_at"],
                condition=Q(state__in=[DeliveryState.PENDING, DeliveryState.SENDING]),
                name="delivery_waiting",
            ),
        ]

    def __str__(self) -> str:
        return self.subject


class AlertClock(models.Model):
    """One row: who looks after the alerts, and when that was last done."""

    #: Always 1.
    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: Until then another worker holds the round.
    held_until = models.DateTimeField()
    looked_at = models.DateTimeField(null=True, blank=True)
    #: Up to when ended backups have been taken into the targets; null: read all of them.
    targets_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_alert_clock")]

    def __str__(self) -> str:
        return "alert clock"
