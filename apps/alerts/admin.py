"""The admin of alerts: channels with a test button, incidents, and what became of each message."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.paginator import InfinitePaginator

from apps.alerts.forms import ChannelForm
from apps.alerts.models import Channel, Delivery, DeliveryState, Incident, Severity
from apps.alerts.ping_settings import settings_of
from apps.alerts.services import FIELDS, acknowledge_incident, save_channel, test_channel
from apps.core.admin_cells import BAD, NOTHING, OFF, OK, WAIT, WARN, state_cell, time_cell
from apps.core.admin_kit import ConsoleAdmin, FactAdmin, demand, may
from apps.core.errors import BackupmgrError
from apps.core.permissions import Scope

_STATES = {
    DeliveryState.PENDING: ("Waiting", WAIT),
    DeliveryState.SENDING: ("Being sent", WAIT),
    DeliveryState.SENT: ("Sent", OK),
    DeliveryState.DEAD: ("Given up", BAD),
    DeliveryState.WITHDRAWN: ("Taken back", OFF),
}


@admin.register(Channel)
class ChannelAdmin(ConsoleAdmin):
    form = ChannelForm
    list_display = ["name", "kind", "leads_to", "state", "last_sent"]
    list_display_links = ["name"]
    search_fields = ["name"]
    ordering = ["name"]
    change_form_template = "admin/alerts/channel_form.html"
    empty_title = "Nobody is told yet"
    empty_text = "A channel says whom to tell when something is wrong: by mail, webhook, chat, or a dead-man ping."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:channel_id>/test/", "alerts_channel_test", self.test_view)]

    @admin.display(description="Leads to")
    def leads_to(self, channel: Channel) -> str:
        return channel.masked

    @admin.display(description="Status")
    def state(self, channel: Channel) -> SafeString:
        if not channel.enabled:
            return state_cell("Off", OFF)
        if channel.last_error:
            return state_cell("Does not deliver", BAD, title=channel.last_error)
        if channel.is_muted(timezone.now()):
            return state_cell("Muted", OFF)
        return state_cell("Delivers", OK) if channel.last_ok_at else state_cell("Not tried yet", WAIT)

    @admin.display(description="Last delivery")
    def last_sent(self, channel: Channel) -> str | SafeString:
        return time_cell(channel.last_ok_at) if channel.last_ok_at else NOTHING

    def save_model(self, request: HttpRequest, obj: Channel, form: Any, change: bool) -> None:
        data = {name: form.cleaned_data[name] for name in FIELDS if name in form.cleaned_data} | form.entered
        saved = save_channel(channel=obj if change else None, data=data)
        obj.__dict__.update(saved.__dict__)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Channel | None = None, **kwargs: Any
    ) -> HttpResponse:
        if obj is not None:
            context["ping_settings"] = settings_of(obj, now=timezone.now())
        return super().render_change_form(request, context, *args, obj=obj, **kwargs)

    def test_view(self, request: HttpRequest, channel_id: uuid.UUID) -> HttpResponse:
        demand(request, "alerts.change_channel")
        channel = self.find(request, str(channel_id))
        if not isinstance(channel, Channel):
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        delivery = test_channel(channel=channel, now=timezone.now(), clock=timezone.now)
        if delivery.state == DeliveryState.SENT:
            messages.success(request, f"{channel.name} took the test message. Look whether it arrived.")
        else:
            messages.error(request, f"{channel.name} did not take the test message. {delivery.error}")
        return HttpResponseRedirect(self.object_url(channel))


class OpenFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Open"), ("no", "Over")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() in ("yes", "no"):
            return queryset.filter(resolved_at__isnull=self.value() == "yes")
        return queryset


@admin.register(Incident)
class IncidentAdmin(FactAdmin):
    list_display = ["what", "state", "since", "until", "told"]
    list_display_links = ["what"]
    list_filter = [OpenFilter, "rule", "severity"]
    search_fields = ["summary", "collection_name", "cluster_name"]
    search_help_text = "Collection, cluster or words"
    ordering = ["-opened_at", "-id"]
    sortable_by: list[str] = []
    paginator = InfinitePaginator
    empty_title = "Nothing has been wrong"
    empty_text = "What goes wrong stands here, from its beginning to its end, with who was told."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:incident_id>/acknowledge/", "alerts_incident_acknowledge", self.acknowledge_view)]

    @admin.display(description="What")
    def what(self, incident: Incident) -> SafeString:
        text = incident.summary if len(incident.summary) <= 160 else f"{incident.summary[:159]}…"
        return format_html('{}<span class="bm-sub">{}</span>', text, incident.get_rule_display())

    @admin.display(description="Status")
    def state(self, incident: Incident) -> SafeString:
        if not incident.is_open:
            return state_cell("Over", OK)
        return state_cell("Critical", BAD) if incident.severity == Severity.CRITICAL else state_cell("Warning", WARN)

    @admin.display(description="Since")
    def since(self, incident: Incident) -> SafeString:
        return time_cell(incident.opened_at)

    @admin.display(description="Until")
    def until(self, incident: Incident) -> str | SafeString:
        return time_cell(incident.resolved_at) if incident.resolved_at else NOTHING

    @admin.display(description="People told")
    def told(self, incident: Incident) -> str | SafeString:
        return time_cell(incident.notified_at) if incident.notified_at else NOTHING

    def detail_view(self, request: HttpRequest, obj: Incident) -> HttpResponse:
        deliveries = [
            (delivery, state_cell(*_STATES[DeliveryState(delivery.state)]))
            for delivery in obj.deliveries.select_related("channel").order_by("-created_at", "-id")[:50]
        ]
        return self.page(
            request,
            "admin/alerts/incident.html",
            title=obj.get_rule_display().capitalize(),
            incident=obj,
            state=self.state(obj),
            deliveries=deliveries,
            may_acknowledge=obj.is_open and may(request, Scope.OPERATE),
        )

    def acknowledge_view(self, request: HttpRequest, incident_id: uuid.UUID) -> HttpResponse:
        demand(request, "jobs.operate_job")
        incident = self.find(request, str(incident_id))
        if not isinstance(incident, Incident):
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            acknowledge_incident(
                incident_id=incident.pk, muted_until=None, who=request.user.get_username(), now=timezone.now()
            )
            messages.success(request, "Noted: nobody is reminded of this any more. Its end is told.")
        except BackupmgrError as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(self.object_url(incident))


@admin.register(Delivery)
class DeliveryAdmin(FactAdmin):
    list_display = ["message", "to", "result", "written", "sent"]
    list_display_links = ["message"]
    list_filter = ["state", "kind", "channel"]
    list_select_related = ["channel"]
    search_fields = ["subject"]
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    paginator = InfinitePaginator
    empty_title = "No message yet"
    empty_text = "Every message to a channel stands here, with what became of it, for 90 days."

    @admin.display(description="Message")
    def message(self, delivery: Delivery) -> str:
        return delivery.subject

    @admin.display(description="To")
    def to(self, delivery: Delivery) -> str:
        return delivery.channel.name

    @admin.display(description="Result")
    def result(self, delivery: Delivery) -> SafeString:
        word, tone = _STATES[DeliveryState(delivery.state)]
        return state_cell(word, tone, title=delivery.error)

    @admin.display(description="Written")
    def written(self, delivery: Delivery) -> SafeString:
        return time_cell(delivery.created_at)

    @admin.display(description="Sent")
    def sent(self, delivery: Delivery) -> str | SafeString:
        return time_cell(delivery.sent_at) if delivery.sent_at else NOTHING

    def object_queryset(self, request: HttpRequest) -> Any:
        return Delivery.objects.select_related("channel")

    def detail_view(self, request: HttpRequest, obj: Delivery) -> HttpResponse:
        return self.page(
            request,
            "admin/alerts/delivery.html",
            title=obj.subject[:120],
            delivery=obj,
            state=self.result(obj),
            channel_url=reverse("admin:alerts_channel_change", args=[obj.channel_id]),
        )
