"""The tables of this room: schedules and their blackouts, runs and their items, retention runs, the clock."""

from __future__ import annotations

from apps.schedules.models.ages import MaximumAge
from apps.schedules.models.clock import Clock
from apps.schedules.models.retention import RetentionRun, RetentionStatus, RetentionTrigger
from apps.schedules.models.run import ItemStatus, RunItem, RunStatus, ScheduleRun, Trigger
from apps.schedules.models.schedule import Blackout, CatchUp, NothingMatched, OnFire, OnRunning, Overlap, Schedule
from apps.schedules.models.tags import CollectionTag

__all__ = [
    "Blackout", "CatchUp", "Clock", "CollectionTag", "ItemStatus", "MaximumAge", "NothingMatched", "OnFire",
    "OnRunning", "Overlap", "RetentionRun", "RetentionStatus", "RetentionTrigger", "RunItem", "RunStatus", "Schedule",
    "ScheduleRun", "Trigger",
]  # fmt: skip
