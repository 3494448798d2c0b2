"""The admin of schedules and retention: pages that explain what will happen, and lists of what did."""

from __future__ import annotations

from apps.schedules.admin.deleted import DeletedBackupAdmin
from apps.schedules.admin.holds import HoldAdmin
from apps.schedules.admin.policies import RetentionPolicyAdmin, RetentionRunAdmin
from apps.schedules.admin.runs import ScheduleRunAdmin
from apps.schedules.admin.schedules import ScheduleAdmin

__all__ = [
    "DeletedBackupAdmin", "HoldAdmin", "RetentionPolicyAdmin", "RetentionRunAdmin", "ScheduleAdmin", "ScheduleRunAdmin",
]  # fmt: skip
