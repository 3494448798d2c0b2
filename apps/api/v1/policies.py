"""Retention: policies, what they would let go, what they let go, and holds."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import MAX_ID, EnumField, IntegerField, TextField, TimeField
from apps.api.permissions import caller
from apps.api.schema import operation
from apps.api.v1.lookup import find_backup
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.v1.policy_plans import PolicyPlanSerializer
from apps.api.views import ApiView
from apps.backups.models import Hold
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import MAX_COUNT, CapAction, Pick
from apps.core.errors import NotFound
from apps.core.permissions import Scope
from apps.schedules.models import RetentionRun, RetentionStatus, RetentionTrigger
from apps.schedules.retention import policies
from apps.schedules.retention.apply import confirm_plan, undo_run
from apps.schedules.retention.outlook import forecast_plan
from apps.schedules.retention.plan import plan_change

TAG = "retention"


class RetentionRunNotFound(NotFound):
    """There is no such evaluation."""


class HoldNotFound(NotFound):
    """There is no hold with that id."""


def _count() -> IntegerField:
    return IntegerField(required=False, min_value=0, max_value=MAX_COUNT)


class PolicyRulesSerializer(serializers.Serializer[Any]):
    """The rules of a policy; what is left out stays as it is, or gets its default."""

    keep_last = _count()
    keep_hourly = _count()
    keep_daily = _count()
    keep_weekly = _count()
    keep_monthly = _count()
    keep_yearly = _count()
    keep_within = TextField(required=False, allow_blank=True, max_length=8, help_text="36h, 14d, 8w, 6m, 2y")
    max_age = TextField(required=False, allow_blank=True, max_length=8, help_text="Beats the rules, not the guards")
    size_cap_bytes = IntegerField(required=False, allow_null=True, min_value=1, max_value=MAX_ID)
    cap_action = EnumField("CapAction", [action.value for action in CapAction], required=False)
    min_redundancy = IntegerField(required=False, min_value=1, max_value=MAX_COUNT)
    pick = EnumField("Pick", [pick.value for pick in Pick], required=False)
    tz = TextField(required=False, max_length=64, help_text="Where days, weeks, months and years begin")
    min_age_seconds = IntegerField(required=False, min_value=0, max_value=366 * 86400)
    grace_days = IntegerField(required=False, min_value=0, max_value=30)


class PolicyCreateSerializer(PolicyRulesSerializer):
    """A policy: a name, and at least one rule."""

    name = TextField(max_length=100)


class PolicyUpdateSerializer(PolicyRulesSerializer):
    """What is to change."""

    name = TextField(max_length=100, required=False)


class PolicySerializer(serializers.Serializer[Any]):
    """A retention policy."""

    id = serializers.CharField()
    name = serializers.CharField()
    sentence = serializers.CharField(source="rules.sentence", help_text="What it keeps, in words")
    keep_last = serializers.IntegerField()
    keep_hourly = serializers.IntegerField()
    keep_daily = serializers.IntegerField()
    keep_weekly = serializers.IntegerField()
    keep_monthly = serializers.IntegerField()
    keep_yearly = serializers.IntegerField()
    keep_within = serializers.CharField(allow_blank=True)
    max_age = serializers.CharField(allow_blank=True)
    size_cap_bytes = serializers.IntegerField(allow_null=True)
    cap_action = EnumField("CapAction", [action.value for action in CapAction])
    min_redundancy = serializers.IntegerField()
    pick = EnumField("Pick", [pick.value for pick in Pick])
    tz = serializers.CharField()
    min_age_seconds = serializers.IntegerField()
    grace_days = serializers.IntegerField()
    version = serializers.IntegerField(help_text="Grows with every change of what it does")
    waits_for_confirmation = serializers.SerializerMethodField()
    created_at = TimeField()
    updated_at = TimeField()

    def get_waits_for_confirmation(self, policy: RetentionPolicy) -> bool:
        return policy.confirmed_version < policy.version


class PolicyPageSerializer(PageSerializer):
    """A page of policies."""

    items = PolicySerializer(many=True)


class PolicyPreviewSerializer(PolicyRulesSerializer):
    """Rules to try; what is left out is as it is."""

    forecast = serializers.BooleanField(
        required=False, default=True, help_text="Work out when each backup would go if runs go on as planned"
    )


class ConfirmSerializer(serializers.Serializer[Any]):
    """Which plan: the digest of the preview, or of one of its sets."""

    digest = TextField(max_length=64)


class RetentionRunSerializer(serializers.Serializer[Any]):
    """One look at one set of backups, and what became of it."""

    id = serializers.CharField()
    policy_id = serializers.CharField()
    policy_version = serializers.IntegerField()
    cluster = serializers.CharField(source="cluster_name")
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True)
    storage_id = serializers.CharField()
    is_scheduled = serializers.BooleanField()
    trigger = EnumField("RetentionTrigger", list(RetentionTrigger.values))
    status = EnumField("RetentionStatus", list(RetentionStatus.values))
    reason = serializers.CharField(allow_blank=True)
    error = serializers.CharField(allow_blank=True, help_text="Why it failed; empty when it did not")
    digest = serializers.CharField(allow_blank=True)
    counts = serializers.DictField(child=serializers.IntegerField())
    plan = serializers.ListField(child=serializers.DictField(), help_text="What was to go, in order")
    created_at = TimeField()
    completed_at = TimeField(allow_null=True)
    confirmed_at = TimeField(allow_null=True)


class RetentionRunPageSerializer(PageSerializer):
    """A page of evaluations."""

    items = RetentionRunSerializer(many=True)


class RetentionRunQuery(PageQuery):
    """Filters of the list."""

    policy = serializers.CharField(required=False, help_text="Id or name")
    status = EnumField("RetentionStatus", list(RetentionStatus.values), required=False)


class HoldSerializer(serializers.Serializer[Any]):
    """A backup that stays: who wants it, why, and until when."""

    id = serializers.CharField()
    backup_id = serializers.CharField()
    reason = serializers.CharField()
    until = TimeField(allow_null=True)
    created_by = serializers.CharField(source="created_by.username", default=None, allow_null=True)
    created_at = TimeField()
    released_at = TimeField(allow_null=True)


class HoldPageSerializer(PageSerializer):
    """A page of holds."""

    items = HoldSerializer(many=True)


class HoldCreateSerializer(serializers.Serializer[Any]):
    """Which backup, and why."""

    backup_id = TextField()
    reason = TextField(max_length=300)
    until = TimeField(required=False, allow_null=True, help_text="Until somebody releases it, when left out")


class PoliciesView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.ADMINISTER}

    @operation("listPolicies", "Retention policies", tag=TAG, query=[PageQuery], answer=PolicyPageSerializer)
    def get(self, request: Request) -> Response:
        return Response(PolicyPageSerializer(read_page(RetentionPolicy.objects.all(), self.query(PageQuery))).data)

    @operation("createPolicy", "Make a retention policy", tag=TAG, body=PolicyCreateSerializer, answer=PolicySerializer)
    def post(self, request: Request) -> Response:
        return Response(PolicySerializer(policies.create_policy(data=self.body(PolicyCreateSerializer))).data)


class _OnePolicy(ApiView):
    def policy(self) -> RetentionPolicy:
        """Return the policy of the path. Raises: PolicyNotFound, NotFound."""
        return policies.find_policy(str(self.path_uuid()))


class PolicyView(_OnePolicy):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER, "DELETE": Scope.ADMINISTER}

    @operation("getPolicy", "One retention policy", tag=TAG, answer=PolicySerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(PolicySerializer(self.policy()).data)

    @operation(
        "updatePolicy", "Change a policy; what it then lets go first waits for a confirmation", tag=TAG,
        body=PolicyUpdateSerializer, answer=PolicySerializer,
    )  # fmt: skip
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        data = self.body(PolicyUpdateSerializer)
        return Response(PolicySerializer(policies.update_policy(policy=self.policy(), data=data)).data)

    @operation("deletePolicy", "Delete a policy that nothing goes by", tag=TAG, answer=PolicySerializer)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        policy = self.policy()
        shown = PolicySerializer(policy).data
        policies.delete_policy(policy=policy)
        return Response(shown)


class PolicyPreviewView(_OnePolicy):
    scopes = {"POST": Scope.READ}

    @operation(
        "previewPolicy", "What it would let go now and in time, as it is or with other rules. Saves nothing", tag=TAG,
        body=PolicyPreviewSerializer, answer=PolicyPlanSerializer,
    )  # fmt: skip
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        policy, data, now = self.policy(), self.body(PolicyPreviewSerializer), timezone.now()
        wants_forecast = data.pop("forecast")
        draft = policies.draft_policy(data=data, policy=policy)
        change = plan_change(policy, rules=draft.rules, now=now)
        forecasts = forecast_plan(change.after, now=now) if wants_forecast else {}
        context = {"forecasts": forecasts, "change": change}
        return Response(PolicyPlanSerializer(change.after, context=context).data)


class PolicyApplyView(_OnePolicy):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "applyPolicy", "Let go what the preview with this digest showed; 409 when it is another one by now", tag=TAG,
        body=ConfirmSerializer, answer=RetentionRunSerializer(many=True),
    )  # fmt: skip
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        policy, digest = self.policy(), self.body(ConfirmSerializer)["digest"]
        runs = confirm_plan(policy=policy, digest=digest, now=timezone.now(), user=caller(request))
        return Response(RetentionRunSerializer(runs, many=True).data)


class RetentionRunsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listRetentionRuns", "What retention found and did, newest first", tag=TAG, query=[RetentionRunQuery],
        answer=RetentionRunPageSerializer,
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        query = self.query(RetentionRunQuery)
        rows = RetentionRun.objects.all()
        if "policy" in query:
            rows = rows.filter(policy=policies.find_policy(query["policy"]))
        if "status" in query:
            rows = rows.filter(status=query["status"])
        return Response(RetentionRunPageSerializer(read_page(rows, query)).data)


class RetentionUndoView(ApiView):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "undoRetentionRun", "Take back what it let go, as long as it is there; its policy then waits", tag=TAG,
        answer=RetentionRunSerializer,
    )  # fmt: skip
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        run = RetentionRun.objects.filter(pk=self.path_uuid()).first()
        if run is None:
            raise RetentionRunNotFound("There is no such evaluation.")
        undo_run(run=run, now=timezone.now())
        return Response(RetentionRunSerializer(RetentionRun.objects.get(pk=run.pk)).data)


class HoldsView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.OPERATE}

    @operation(
        "listHolds", "Holds, newest first, released ones too", tag=TAG, query=[PageQuery], answer=HoldPageSerializer
    )
    def get(self, request: Request) -> Response:
        rows = Hold.objects.select_related("created_by")
        return Response(HoldPageSerializer(read_page(rows, self.query(PageQuery))).data)

    @operation(
        "createHold", "Hold a backup: nothing deletes it", tag=TAG, body=HoldCreateSerializer, answer=HoldSerializer
    )
    def post(self, request: Request) -> Response:
        data = self.body(HoldCreateSerializer)
        hold = policies.place_hold(
            backup=find_backup(data["backup_id"]),
            reason=data["reason"],
            until=data.get("until"),
            now=timezone.now(),
            user=caller(request),
        )
        return Response(HoldSerializer(hold).data)


class HoldView(ApiView):
    scopes = {"DELETE": Scope.ADMINISTER}

    @operation("releaseHold", "Release a hold; it stays as history", tag=TAG, answer=HoldSerializer)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        hold = Hold.objects.filter(pk=self.path_uuid()).first()
        if hold is None:
            raise HoldNotFound("There is no hold with this id.")
        return Response(HoldSerializer(policies.release_hold(hold=hold, now=timezone.now(), user=caller(request))).data)
