"""The form of a channel."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from apps.alerts.models import Channel, ChannelKind, Digest, Rule, Severity
from apps.alerts.services import ChannelInvalid, check_channel
from apps.core.admin_forms import ConnectionForm, secret_field

_GLOBS = ("clusters", "collections", "tags", "schedules")


class ChannelForm(ConnectionForm):
    secrets = ("address", "signing_key")

    kind = forms.ChoiceField(choices=ChannelKind.choices, widget=UnfoldAdminSelectWidget)
    address = secret_field("Address")
    signing_key = secret_field("Signing key")
    min_severity = forms.ChoiceField(choices=Severity.choices, widget=UnfoldAdminSelectWidget, label="Least severity")
    rules = forms.MultipleChoiceField(
        choices=Rule.choices,
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        label="Tell of",
        help_text="Nothing ticked: of everything.",
    )
    clusters = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget, help_text="Names or globs, separated by commas; empty: all."
    )
    collections = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget, help_text="Names or globs, separated by commas; empty: all."
    )
    tags = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Collections with one of these tags, separated by commas; empty: all.",
    )
    quiet_hours = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="For example 22:00-07:00, in the time zone below: what is not critical waits until they are over.",
    )
    schedules = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Pings only: schedules whose runs are told. Empty: a heartbeat of this installation every 5 minutes.",
    )
    is_default = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        label="Default channel",
        help_text="Is told of what is critical when no other channel asks for it. At most one channel is that.",
    )
    tell_success = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        label="Tell of successes",
        help_text="A message for each run of a schedule that backed up everything. A digest says the same once a day.",
    )
    digest = forms.ChoiceField(
        choices=Digest.choices, widget=UnfoldAdminSelectWidget, help_text="At 08:00, also when all is well."
    )

    class Meta:
        model = Channel
        fields = [
            "name", "kind", "enabled", "is_default", "address", "signing_key", "min_severity", "rules", "clusters",
            "collections", "tags", "schedules", "quiet_hours", "tell_success", "digest", "time_zone",
        ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in _GLOBS:
            if name in self.fields:
                self.initial[name] = ", ".join(getattr(self.instance, name))
        if "address" in self.fields:
            said = self.fields["address"].help_text
            self.fields["address"].help_text = (
                f"{said} E-mail: addresses, separated by commas. Webhook and pings: a URL. Apprise: one Apprise URL. "
                f"A ping to any URL may hold {{state}} (success, fail, start, log), {{rid}} and {{message}}; without "
                f"{{state}} only successes are sent. It is kept like a password."
            )

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        for name in _GLOBS:
            data[name] = [glob.strip() for glob in str(data.get(name) or "").split(",") if glob.strip()]
        return data

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            try:
                check_channel(self.instance)
            except ChannelInvalid as error:
                for field, sentence in error.problems.items():
                    self.add_error(field if field in self.fields else None, sentence)
