"""The form of a cluster."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from apps.clusters.models import Cluster
from apps.clusters.qdrant import Endpoint
from apps.clusters.services import with_addresses
from apps.core.admin_forms import ConnectionForm, clear_field, secret_field


class ClusterForm(ConnectionForm):
    """`url` holds all addresses, one a line; the model keeps them as url, other_urls and nodes."""

    secrets = ("api_key", "restore_api_key")

    url = forms.CharField(
        label="URLs",
        max_length=50_000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "spellcheck": "false", "autocapitalize": "off"}),
        help_text="REST address of each node, one a line, for example http://qdrant:6333. Not that of a load balancer.",
    )
    api_key = secret_field("API key")
    clear_api_key = clear_field("Clear the API key")
    restore_api_key = secret_field("API key for restores")
    clear_restore_api_key = clear_field("Clear the API key for restores")
    max_backup_age_hours = forms.IntegerField(
        label="Maximum age of backups",
        required=False,
        min_value=1,
        max_value=24 * 366,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Hours. A collection whose newest backup is older is overdue, unless a schedule says otherwise.",
    )

    max_jobs = forms.IntegerField(
        label="Jobs at once",
        required=False,
        min_value=1,
        max_value=100,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Schedules start no further backup while so many jobs run on this cluster.",
    )
    max_jobs_per_node = forms.IntegerField(
        label="Jobs at once per node",
        required=False,
        min_value=1,
        max_value=100,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="The same, for each of its nodes.",
    )

    class Meta:
        model = Cluster
        fields = [
            "name", "url", "api_key", "restore_api_key", "max_backup_age_hours", "max_jobs", "max_jobs_per_node",
            "is_default", "verify_tls", "ca",
        ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            self.initial["url"] = "\n".join(self.instance.addresses)
        if "restore_api_key" in self.fields and not self.instance.restore_api_key:
            self.fields["restore_api_key"].help_text = "Not set: restores use the API key."

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]).strip()

    def clean_url(self) -> str:
        """Take the lines apart; the first is the url, and the others go to the row as they belong there."""
        urls = [line.strip().rstrip("/") for line in str(self.cleaned_data["url"]).splitlines() if line.strip()]
        for name, value in with_addresses(self.instance, {"urls": urls}).items():
            setattr(self.instance, name, value)
        return str(self.instance.url)

    def clean_max_backup_age_hours(self) -> int:
        """Empty keeps what it was."""
        given = self.cleaned_data["max_backup_age_hours"]
        return int(self.instance.max_backup_age_hours if given is None else given)

    def clean_max_jobs(self) -> int:
        """Empty keeps what it was."""
        return int(self.cleaned_data["max_jobs"] or self.instance.max_jobs)

    def clean_max_jobs_per_node(self) -> int:
        """Empty keeps what it was."""
        return int(self.cleaned_data["max_jobs_per_node"] or self.instance.max_jobs_per_node)

    def clean_ca(self) -> str:
        ca = str(self.cleaned_data.get("ca") or "").strip()
        if ca:
            try:
                Endpoint(url="", ca=ca).ssl_context()
            except ValueError as error:
                self.add_error("ca", str(error))
        return ca
