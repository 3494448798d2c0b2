"""Forms of the things we connect to: secrets are written and never shown, one of the things is the default."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.utils import timezone
from django.utils.formats import date_format
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanWidget

from apps.core.fields import Secret


def secret_field(label: str) -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}, render_value=False),
    )


def clear_field(label: str) -> forms.BooleanField:
    return forms.BooleanField(label=label, required=False, widget=UnfoldBooleanWidget)


def _state_of(secret: Secret) -> str:
    if not secret:
        return "Not set."
    on = f" on {date_format(timezone.localtime(secret.set_at), 'j M Y')}" if secret.set_at else ""
    return f"Set{on}. Leave empty to keep it, enter a new one to replace it."


class ConnectionForm(forms.ModelForm):
    """`secrets` names fields declared with `secret_field`; empty keeps the secret that is set.

    A secret that may be missing stands beside a `clear_field` named clear_<name>.
    """

    secrets: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: What was typed into the secret fields, in clear.
        self.entered: dict[str, str] = {}
        self._stored: dict[str, Secret] = {name: getattr(self.instance, name) for name in self.secrets}
        for name, stored in self._stored.items():
            if name in self.fields:  # not so for someone who may only look
                self.initial[name] = ""
                self.fields[name].help_text = _state_of(stored)
        if "is_default" in self.fields and self.instance.is_default and not self.instance._state.adding:
            self.fields["is_default"].disabled = True
            self.fields["is_default"].help_text = "This is the default. To change that, make another one the default."

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        for name, stored in self._stored.items():
            entered, clear = data.get(name), data.get(f"clear_{name}")
            self.entered[name] = entered or ""
            if entered and clear:
                self.add_error(name, "Either enter a new one or clear the one that is set, not both.")
            elif not entered:
                data[name] = Secret() if clear else stored
        return data

    def _get_validation_exclusions(self) -> set[str]:
        # A new default takes over from the old one when it is saved: that is no clash.
        return super()._get_validation_exclusions() | {"is_default"}  # type: ignore[misc]
