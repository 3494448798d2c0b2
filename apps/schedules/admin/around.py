"""Small pages beside schedules: the tags and the maximum age of a collection, and the blackouts of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from apps.clusters.models import Cluster
from apps.core.admin_kit import demand
from apps.core.errors import BackupmgrError
from apps.schedules.ages import set_age
from apps.schedules.cluster_blackouts import cluster_windows, set_cluster_windows
from apps.schedules.models import MaximumAge
from apps.schedules.models.ages import MOST_HOURS
from apps.schedules.tags import set_tags, tags_of_collection
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.windows_text import parse_windows, write_windows

if TYPE_CHECKING:
    from apps.schedules.admin.schedules import ScheduleAdmin

CHANGE = "schedules.change_schedule"


class CollectionForm(forms.Form):
    tags = forms.CharField(
        required=False,
        help_text="Words that schedules and channels select by, separated by commas.",
        widget=UnfoldAdminTextInputWidget({"autocomplete": "off"}),
    )
    hours = forms.IntegerField(
        label="Maximum age in hours",
        required=False,
        min_value=1,
        max_value=MOST_HOURS,
        help_text="Counts whatever schedules do. Empty: what its tags say, or else its cluster.",
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
    )


class BlackoutsForm(forms.Form):
    blackouts = forms.CharField(
        required=False,
        help_text="One a line, as in the form of a schedule. Weekly ones go by the clock of each schedule's zone.",
        widget=UnfoldAdminTextareaWidget,
    )

    def clean_blackouts(self) -> list[Window]:
        try:
            return parse_windows(self.cleaned_data["blackouts"])
        except ValueError as error:
            raise ValidationError(str(error)) from error


def _cluster(reference: str) -> Cluster | None:
    try:
        return Cluster.objects.filter(pk=reference).first()
    except (ValidationError, ValueError):
        return None


def collection_view(page: ScheduleAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, CHANGE)
    cluster, name = _cluster(request.GET.get("cluster", "")), request.GET.get("name", "")
    if cluster is None or not name or "\x00" in name:
        return page.gone(request, "collection")
    own = MaximumAge.objects.filter(cluster=cluster, collection_name=name).first()
    initial = {"tags": ", ".join(tags_of_collection(cluster=cluster, collection=name)), "hours": own and own.hours}
    form = CollectionForm(request.POST if request.method == "POST" else None, initial=initial)
    back = f"{reverse('admin:clusters_collection')}?{urlencode({'cluster': str(cluster.pk), 'name': name})}"
    if request.method == "POST" and form.is_valid():
        tags = [tag for tag in form.cleaned_data["tags"].split(",") if tag.strip()]
        try:
            with transaction.atomic():
                set_tags(cluster=cluster, collection=name, tags=tags)
                set_age(cluster=cluster, collection=name, hours=form.cleaned_data["hours"])
            messages.success(request, f"Saved tags and maximum age of {name}.")
            return HttpResponseRedirect(back)
        except BackupmgrError as error:
            form.add_error(None, str(error))
    lead = [f"{name} on {cluster.name}"]
    return page.page(
        request, "admin/schedules/small_form.html", title="Tags and maximum age", form=form, lead=lead, verb="Save",
        back=back,
    )  # fmt: skip


def blackouts_view(page: ScheduleAdmin, request: HttpRequest, cluster_id: str) -> HttpResponse:
    demand(request, CHANGE)
    cluster = _cluster(str(cluster_id))
    if cluster is None:
        return page.gone(request, "cluster")
    initial = {"blackouts": write_windows(cluster_windows(cluster))}
    form = BlackoutsForm(request.POST if request.method == "POST" else None, initial=initial)
    back = reverse("admin:clusters_cluster_overview", args=[cluster.pk])
    if request.method == "POST" and form.is_valid():
        try:
            set_cluster_windows(cluster=cluster, windows=form.cleaned_data["blackouts"], now=timezone.now())
            messages.success(request, f"Saved the blackouts of {cluster.name}.")
            return HttpResponseRedirect(back)
        except BackupmgrError as error:
            form.add_error("blackouts", str(error))
    lead = [f"No schedule backs {cluster.name} up in these times."]
    return page.page(
        request, "admin/schedules/small_form.html", title=f"Blackouts of {cluster.name}", form=form, lead=lead,
        verb="Save", back=back,
    )  # fmt: skip
