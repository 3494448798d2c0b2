"""The form of a storage: one for all types; static/backupmgr/storage_form.js shows the fields of the chosen one."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from apps.core.admin_forms import ConnectionForm, secret_field
from apps.storage.models import StorageConfig


class StorageForm(ConnectionForm):
    secrets = ("s3_secret_key",)

    s3_secret_key = secret_field("Secret key")

    max_jobs = forms.IntegerField(
        label="Jobs at once",
        required=False,
        min_value=1,
        max_value=100,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Schedules start no further backup while so many jobs use this storage.",
    )

    class Meta:
        model = StorageConfig
        fields = [
            "name", "type", "is_default", "path", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key",
            "s3_secret_key", "s3_prefix", "s3_addressing_style", "verify_tls", "ca", "max_jobs",
        ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._access_key = self.instance.s3_access_key
        self._masked = self.instance.masked_access_key
        if self._masked:
            self.initial["s3_access_key"] = self._masked

    def clean_max_jobs(self) -> int:
        """Empty keeps what it was."""
        return int(self.cleaned_data["max_jobs"] or self.instance.max_jobs)

    def clean_s3_access_key(self) -> str:
        """The key as it was shown, masked, means the key that is there."""
        entered = str(self.cleaned_data.get("s3_access_key") or "").strip()
        return self._access_key if entered == self._masked else entered

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        for name in ("name", "path", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_prefix"):
            if isinstance(data.get(name), str):
                data[name] = data[name].strip()
        return data
