"""Targets: what a schedule owes each collection, and by when."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.alerts.target_states import TargetState, read_targets
from apps.api.fields import EnumField, TimeField
from apps.api.schema import operation
from apps.api.v1.schedules import TAG, OneSchedule
from apps.core.permissions import Scope
from apps.protection.facts import verdict_now


class TargetSerializer(serializers.Serializer[Any]):
    """One collection that the schedule backs up, and by when its next backup has to be there."""

    collection = serializers.CharField()
    state = EnumField("TargetState", [state.value for state in TargetState])
    last_ok_slot = TimeField(
        allow_null=True, help_text="The newest run that backed it up into all storages; null before the first"
    )
    due_at = TimeField(allow_null=True, help_text="When the run that it waits for is due")
    deadline_at = TimeField(allow_null=True, help_text="By when the backup has to be there: `overdue` from then on")
    tested_at = TimeField(allow_null=True, help_text="When a backup of it was last tested, whoever made it")


class ScheduleTargetsView(OneSchedule):
    scopes = {"GET": Scope.READ}

    @operation(
        "listScheduleTargets",
        "By when which backups have to be there; none while it is paused, off, or runs only when asked",
        tag=TAG,
        answer=TargetSerializer(many=True),
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        now = timezone.now()
        found = read_targets(verdict_now(now), now=now, schedule=self.schedule())
        return Response(TargetSerializer(found, many=True).data)
