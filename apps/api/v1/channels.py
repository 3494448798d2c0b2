"""Channels: whom to tell; and incidents: what is wrong."""

from __future__ import annotations

from typing import Any

from django.db.models import F
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.alerts.models import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryKind,
    DeliveryState,
    Digest,
    Incident,
    Rule,
    Severity,
)
from apps.alerts.services import (
    ChannelNotFound,
    IncidentNotFound,
    acknowledge_incident,
    delete_channel,
    save_channel,
    test_channel,
)
from apps.api.fields import EnumField, FlagField, TextField, TimeField
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.core.permissions import Scope

TAG = "alerts"


def _names(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=TextField(max_length=255), max_length=100, required=False, **options)


class ChannelUpdateSerializer(serializers.Serializer[Any]):
    """Any subset of a channel's fields; what is left out stays, and so do secrets sent empty."""

    name = TextField(required=False, max_length=100)
    kind = EnumField("ChannelKind", list(ChannelKind.values), required=False)
    enabled = FlagField(required=False)
    is_default = FlagField(
        required=False, help_text="Told of what is critical when no other channel asks for it; the one before gives way"
    )
    tell_success = FlagField(required=False, help_text="Told of each run of a schedule that backed up everything")
    address = TextField(
        required=False, write_only=True, max_length=2000, allow_blank=True,
        help_text="E-mail: addresses, separated by commas. Webhook and pings: URL. Apprise: one Apprise URL. Kind "
        "`url`: may hold {state} (success, fail, start, log), {rid} and {message}; without {state} only successes are "
        "sent",
    )  # fmt: skip
    signing_key = TextField(
        required=False, write_only=True, max_length=500, allow_blank=True, help_text="Webhooks: signs the body"
    )
    min_severity = EnumField("AlertSeverity", list(Severity.values), required=False)
    rules = serializers.ListField(
        child=EnumField("AlertRule", list(Rule.values)), required=False, help_text="Empty: all", max_length=50
    )
    clusters = _names(help_text="Globs of cluster names; empty: all")
    collections = _names(help_text="Globs of collection names; empty: all")
    tags = _names(help_text="Collections with one of these tags; empty: all")
    quiet_hours = TextField(
        required=False, max_length=11, allow_blank=True,
        help_text="22:00-07:00 in time_zone: what is not critical waits until they are over. Empty: none",
    )  # fmt: skip
    schedules = _names(help_text="Pings: globs of schedules whose runs are told; empty: a heartbeat every 5 minutes")
    digest = EnumField("ChannelDigest", list(Digest.values), required=False)
    time_zone = TextField(required=False, max_length=64, help_text="IANA name; digests are sent at 08:00 there")
    muted_until = TimeField(required=False, allow_null=True, help_text="Only what is critical is told until then")


class ChannelCreateSerializer(ChannelUpdateSerializer):
    """A channel to make."""

    name = TextField(max_length=100)
    kind = EnumField("ChannelKind", list(ChannelKind.values))
    address = TextField(write_only=True, max_length=2000)


class ChannelSerializer(serializers.Serializer[Any]):
    """A channel without its secrets."""

    id = serializers.CharField()
    name = serializers.CharField()
    kind = EnumField("ChannelKind", list(ChannelKind.values))
    enabled = serializers.BooleanField()
    is_default = serializers.BooleanField()
    tell_success = serializers.BooleanField()
    address = serializers.CharField(source="masked", help_text="Without what may be a secret")
    has_signing_key = serializers.SerializerMethodField()
    min_severity = EnumField("AlertSeverity", list(Severity.values))
    rules = serializers.ListField(child=serializers.CharField())
    clusters = serializers.ListField(child=serializers.CharField())
    collections = serializers.ListField(child=serializers.CharField())
    tags = serializers.ListField(child=serializers.CharField())
    quiet_hours = serializers.CharField(allow_blank=True)
    schedules = serializers.ListField(child=serializers.CharField())
    digest = EnumField("ChannelDigest", list(Digest.values))
    time_zone = serializers.CharField()
    muted_until = TimeField(allow_null=True)
    last_ok_at = TimeField(allow_null=True)
    last_error = serializers.CharField(allow_blank=True)

    def get_has_signing_key(self, row: Channel) -> bool:
        return bool(row.signing_key)


class DeliverySerializer(serializers.Serializer[Any]):
    """A message: on its way, out, or given up."""

    id = serializers.CharField()
    channel = serializers.CharField(source="channel.name")
    kind = EnumField("DeliveryKind", list(DeliveryKind.values))
    state = EnumField("DeliveryState", list(DeliveryState.values))
    subject = serializers.CharField()
    attempts = serializers.IntegerField()
    error = serializers.CharField(allow_blank=True)
    created_at = TimeField()
    sent_at = TimeField(allow_null=True)


class IncidentSerializer(serializers.Serializer[Any]):
    """Something that is wrong, from its beginning to its end."""

    id = serializers.CharField()
    rule = EnumField("AlertRule", list(Rule.values))
    severity = EnumField("AlertSeverity", list(Severity.values))
    summary = serializers.CharField()
    cluster = serializers.CharField(source="cluster_name", allow_blank=True)
    collection = serializers.CharField(source="collection_name", allow_blank=True)
    opened_at = TimeField()
    last_seen_at = TimeField()
    resolved_at = TimeField(allow_null=True)
    notified_at = TimeField(allow_null=True)
    acknowledged_at = TimeField(allow_null=True)
    acknowledged_by = serializers.CharField(allow_blank=True)


class IncidentQuery(PageQuery):
    """Which incidents."""

    open = serializers.BooleanField(required=False, allow_null=True, default=None, help_text="true: what is wrong now")
    rule = EnumField("AlertRule", list(Rule.values), required=False)


class IncidentPageSerializer(PageSerializer):
    """A page of incidents."""

    items = IncidentSerializer(many=True)


class DeliveryPageSerializer(PageSerializer):
    """A page of deliveries."""

    items = DeliverySerializer(many=True)


class AcknowledgeSerializer(serializers.Serializer[Any]):
    """For how long nobody is reminded."""

    muted_until = TimeField(required=False, allow_null=True, help_text="Left out: until it is over")


class ChannelsView(ApiView):
    scopes = {"GET": Scope.ADMINISTER, "POST": Scope.ADMINISTER}

    @operation("listChannels", "All channels", tag=TAG, answer=ChannelSerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(ChannelSerializer(Channel.objects.order_by("name", "id"), many=True).data)

    @operation("createChannel", "Make a channel", tag=TAG, body=ChannelCreateSerializer, answer=ChannelSerializer)
    def post(self, request: Request) -> Response:
        return Response(ChannelSerializer(save_channel(channel=None, data=self.body(ChannelCreateSerializer))).data)


class _OneChannel(ApiView):
    def channel(self) -> Channel:
        found = Channel.objects.filter(pk=self.path_uuid()).first()
        if found is None:
            raise ChannelNotFound("There is no channel with this id.")
        return found


class ChannelView(_OneChannel):
    scopes = {"GET": Scope.ADMINISTER, "PUT": Scope.ADMINISTER, "DELETE": Scope.ADMINISTER}

    @operation("getChannel", "One channel", tag=TAG, answer=ChannelSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(ChannelSerializer(self.channel()).data)

    @operation("updateChannel", "Change a channel", tag=TAG, body=ChannelUpdateSerializer, answer=ChannelSerializer)
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        data = self.body(ChannelUpdateSerializer)
        return Response(ChannelSerializer(save_channel(channel=self.channel(), data=data)).data)

    @operation("deleteChannel", "Forget a channel and its deliveries", tag=TAG, answer=TRUE)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        delete_channel(channel=self.channel())
        return Response(True)


class ChannelTestView(_OneChannel):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "testChannel", "Send a real message now; the answer says what came of it", tag=TAG, answer=DeliverySerializer
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        delivery = test_channel(channel=self.channel(), now=timezone.now(), clock=timezone.now)
        return Response(DeliverySerializer(delivery).data)


class IncidentsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listIncidents",
        "What is or was wrong, newest first",
        tag=TAG,
        query=[IncidentQuery],
        answer=IncidentPageSerializer,
    )
    def get(self, request: Request) -> Response:
        query = self.query(IncidentQuery)
        # Pages are in the order of `created_at`, here as elsewhere.
        rows = Incident.objects.annotate(created_at=F("opened_at"))
        if query["open"] is not None:
            rows = rows.filter(resolved_at__isnull=query["open"])
        if "rule" in query:
            rows = rows.filter(rule=query["rule"])
        return Response(IncidentPageSerializer(read_page(rows, query)).data)


class IncidentAcknowledgeView(ApiView):
    scopes = {"POST": Scope.OPERATE}

    @operation(
        "acknowledgeIncident",
        "Note that somebody knows: no reminders until then",
        tag=TAG,
        body=AcknowledgeSerializer,
        answer=IncidentSerializer,
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        key = self.path_uuid()
        if not Incident.objects.filter(pk=key).exists():
            raise IncidentNotFound("There is no incident with this id.")
        until = self.body(AcknowledgeSerializer).get("muted_until")
        who = caller(request).get_username()
        found = acknowledge_incident(incident_id=key, muted_until=until, who=who, now=timezone.now())
        return Response(IncidentSerializer(found).data)


class DeliveriesView(ApiView):
    scopes = {"GET": Scope.ADMINISTER}

    @operation(
        "listDeliveries",
        "Messages, newest first; kept for 90 days",
        tag=TAG,
        query=[PageQuery],
        answer=DeliveryPageSerializer,
    )
    def get(self, request: Request) -> Response:
        rows = Delivery.objects.select_related("channel")
        return Response(DeliveryPageSerializer(read_page(rows, self.query(PageQuery))).data)
