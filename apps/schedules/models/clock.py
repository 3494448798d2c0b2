"""Clock: what the tickers remember of time, one row for the whole installation."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Clock(models.Model):
    """The only row has the key 1."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: When some worker last looked for what is due. Never goes back by itself (apps/schedules/clock.py).
    last_tick_at = models.DateTimeField()
    #: Since when a clock stands behind `last_tick_at`; null when none does.
    behind_since = models.DateTimeField(null=True, blank=True)
    #: What is wrong with the clock, in a sentence; empty when nothing is.
    alert = models.CharField(max_length=300, blank=True, default="")
    #: Until then nothing expires: a clock that has jumped makes everything look old.
    no_expiry_before = models.DateTimeField(null=True, blank=True)
    #: Which time zone rules the stored times were computed with.
    tzdata = models.CharField(max_length=80, blank=True, default="")
    #: When retention next goes through all sets.
    next_sweep_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_clock")]

    def __str__(self) -> str:
        return f"last tick {self.last_tick_at:%Y-%m-%d %H:%M:%S} UTC"
