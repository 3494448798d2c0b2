"""The maximum ages of a cluster: of its collections and of tags, set and taken away on one page."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.clusters.models import Cluster, ObservedCollection
from apps.core.admin_kit import demand
from apps.core.errors import BackupmgrError
from apps.core.text import plural
from apps.schedules.ages import set_age
from apps.schedules.models import CollectionTag, MaximumAge
from apps.schedules.models.ages import MOST_HOURS

if TYPE_CHECKING:
    from apps.schedules.admin.schedules import ScheduleAdmin

OF_COLLECTION, OF_TAG = "collection", "tag"


class AgeForm(forms.Form):
    of = forms.ChoiceField(
        label="Of",
        choices=[(OF_TAG, "all collections with a tag"), (OF_COLLECTION, "one collection")],
        widget=UnfoldAdminSelectWidget,
    )
    name = forms.CharField(
        label="Tag or collection",
        max_length=255,
        strip=False,
        help_text="It need not be there yet. A name that has an age already gets the new one.",
        widget=UnfoldAdminTextInputWidget(
            {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false", "list": "age-names"}
        ),
    )
    hours = forms.IntegerField(
        label="Maximum age in hours",
        min_value=1,
        max_value=MOST_HOURS,
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
    )


def ages_view(page: ScheduleAdmin, request: HttpRequest, cluster_id: uuid.UUID) -> HttpResponse:
    demand(request, "schedules.change_schedule")
    cluster = Cluster.objects.filter(pk=cluster_id).first()
    if cluster is None:
        return page.gone(request, "cluster")
    taking = request.method == "POST" and "remove" in request.POST
    form = AgeForm(request.POST if request.method == "POST" and not taking else None)
    if taking or (request.method == "POST" and form.is_valid()):
        given = request.POST if taking else form.cleaned_data
        of, name, hours = given.get("of", ""), given.get("name", ""), None if taking else form.cleaned_data["hours"]
        try:
            set_age(cluster=cluster, hours=hours, **{OF_TAG if of == OF_TAG else OF_COLLECTION: name})
            messages.success(request, f"{name}: {f'at most {hours} h' if hours else 'no age of its own any more'}.")
            return HttpResponseRedirect(request.path)
        except BackupmgrError as error:
            if taking:
                messages.error(request, str(error))
            else:
                form.add_error("name", str(error))
    overview = reverse("admin:clusters_cluster_overview", args=[cluster.pk])
    tags = Counter(CollectionTag.objects.filter(cluster=cluster).values_list("tag", flat=True))
    seen = ObservedCollection.objects.filter(cluster=cluster, gone_at=None).order_by("name")
    return page.page(
        request,
        "admin/schedules/ages.html",
        title=f"Maximum ages of {cluster.name}",
        crumbs=[("Clusters", reverse("admin:clusters_cluster_changelist")), (cluster.name, overview)],
        cluster=cluster,
        rows=[
            _row(age, tags) for age in MaximumAge.objects.filter(cluster=cluster).order_by("-tag", "collection_name")
        ],
        names=[*sorted(tags), *seen.values_list("name", flat=True)[:500]],
        form=form,
        back=overview,
    )


def _row(age: MaximumAge, tags: Counter[str]) -> dict[str, Any]:
    return {
        "of": OF_TAG if age.tag else OF_COLLECTION,
        "name": age.tag or age.collection_name,
        "words": f"tag, {plural(tags[age.tag], 'collection')}" if age.tag else "collection",
        "hours": age.hours,
    }
