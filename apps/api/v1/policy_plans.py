"""Plans of retention as the API shows them: verdicts, when each backup would go, and what other rules would change."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.api.fields import TimeField
from apps.backups.retention.forecast import Forecast
from apps.schedules.retention.outlook import fate_words
from apps.schedules.retention.plan import PolicyPlan, SetPlan


class VerdictSerializer(serializers.Serializer[Any]):
    """A backup, whether it stays, and every reason."""

    backup_id = serializers.CharField()
    snapshot_name = serializers.CharField()
    taken_at = TimeField()
    size_bytes = serializers.IntegerField()
    keep = serializers.BooleanField()
    reasons = serializers.ListField(child=serializers.CharField())
    expires_on = serializers.DateField(
        allow_null=True, help_text="When it would go if runs go on as planned, in the policy's zone; null: not foreseen"
    )
    outlook = serializers.CharField(allow_blank=True, help_text="The same in words; empty when it was not worked out")


class ForecastSerializer(serializers.Serializer[Any]):
    """What a set would hold if runs go on as planned, each as large as the newest one."""

    until = serializers.DateField(help_text="The last day that was looked at")
    is_whole = serializers.BooleanField(help_text="False: schedules run too often to look 400 days ahead")
    count_then = serializers.IntegerField(help_text="Backups on that day")
    bytes_then = serializers.IntegerField()


class SetPlanSerializer(serializers.Serializer[Any]):
    """What becomes of the backups of one collection in one storage."""

    cluster = serializers.CharField()
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True)
    storage = serializers.CharField()
    is_scheduled = serializers.BooleanField(help_text="Made by schedules; others are counted apart")
    digest = serializers.CharField()
    kept = serializers.IntegerField()
    expired = serializers.IntegerField()
    bytes_expired = serializers.IntegerField()
    over_cap_bytes = serializers.IntegerField(help_text="What the size cap cannot be met by; 0 when it is")
    frozen = serializers.CharField(allow_blank=True, help_text="Why nothing goes; empty when there is no such reason")
    brake = serializers.CharField(allow_blank=True, help_text="Why it waits for a confirmation")
    forecast = ForecastSerializer(
        allow_null=True, help_text="Null when it was not asked for, or the policy has too much"
    )
    backups = VerdictSerializer(many=True)

    def to_representation(self, plan: SetPlan) -> dict[str, Any]:
        group = plan.key.group
        forecast: Forecast | None = self.context.get("forecasts", {}).get(plan.key)
        fates = forecast.fates if forecast is not None else {}
        verdicts = [
            VerdictSerializer(
                {
                    "backup_id": row.id,
                    "snapshot_name": row.snapshot_name,
                    "taken_at": row.taken_at,
                    "size_bytes": row.size_bytes,
                    "keep": verdict.keep,
                    "reasons": [str(reason) for reason in verdict.reasons],
                    "expires_on": fates[row.id].day if row.id in fates else None,
                    "outlook": fate_words(forecast, row.id),
                }
            ).data
            for row, verdict in plan.listed()
        ]
        return {
            "cluster": group.cluster_name,
            "collection_name": group.collection_name,
            "shard_id": group.shard_id,
            "storage": plan.key.storage_name,
            "is_scheduled": plan.key.is_scheduled,
            "digest": plan.digest,
            "kept": len(verdicts) - len(plan.expire),
            "expired": len(plan.expire),
            "bytes_expired": plan.bytes_expired,
            "over_cap_bytes": plan.decision.over_cap_bytes,
            "frozen": plan.frozen,
            "brake": plan.brake(),
            "forecast": ForecastSerializer(forecast).data if forecast is not None else None,
            "backups": verdicts,
        }


class DifferenceSerializer(serializers.Serializer[Any]):
    """A backup of which the policy, as it is and as it would be, thinks differently."""

    cluster = serializers.CharField(source="set.key.group.cluster_name")
    collection_name = serializers.CharField(source="set.key.group.collection_name")
    storage = serializers.CharField(source="set.key.storage_name")
    backup_id = serializers.CharField(source="row.id")
    snapshot_name = serializers.CharField(source="row.snapshot_name")
    taken_at = TimeField(source="row.taken_at")
    size_bytes = serializers.IntegerField(source="row.size_bytes")
    reasons = serializers.ListField(child=serializers.CharField(), source="verdict.reasons", help_text="By those rules")


class PolicyChangeSerializer(serializers.Serializer[Any]):
    """What the given rules would change; two empty lists when they are those of the policy."""

    would_go = DifferenceSerializer(many=True, help_text="Stay by the policy as it is")
    would_stay = DifferenceSerializer(many=True, help_text="Go by the policy as it is")
    bytes_more = serializers.IntegerField(help_text="How much more would be let go; negative when less")


class PolicyPlanSerializer(serializers.Serializer[Any]):
    """What a policy would let go now. Confirming its digest lets go exactly that."""

    digest = serializers.CharField()
    kept = serializers.IntegerField(source="kept_count")
    expired = serializers.IntegerField(source="expire_count")
    bytes_expired = serializers.IntegerField()
    sets = SetPlanSerializer(many=True)
    changes = serializers.SerializerMethodField()

    @extend_schema_field(PolicyChangeSerializer)
    def get_changes(self, plan: PolicyPlan) -> Any:
        return PolicyChangeSerializer(self.context["change"]).data
