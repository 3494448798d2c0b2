"""The forms behind "Back up now…" and "Restore…"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.clusters.qdrant import check_collection_name, check_snapshot_possible
from apps.jobs.batches import check_patterns
from apps.storage.models import StorageConfig

_TEXT = {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}


class KeepingForm(forms.Form):
    """How long the backup stays."""

    policy = forms.ModelChoiceField(
        RetentionPolicy.objects.order_by("name"),
        required=False,
        empty_label="No policy",
        widget=UnfoldAdminSelectWidget,
        help_text="Without one it stays until the day below, or until somebody deletes it.",
    )
    keep_until = forms.DateField(
        label="Keep until",
        required=False,
        widget=UnfoldAdminTextInputWidget({**_TEXT, "inputmode": "numeric", "placeholder": "2027-01-31"}),
        help_text="The last day, in UTC; instead of a policy.",
    )

    def clean_keep_until(self) -> datetime | None:
        day = self.cleaned_data["keep_until"]
        if day is None:
            return None
        if not timezone.now().date() <= day <= date(2999, 12, 31):
            raise forms.ValidationError("Give a day that is still to come.")
        return datetime.combine(day + timedelta(days=1), time(), tzinfo=UTC)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if data.get("policy") and data.get("keep_until"):
            self.add_error("keep_until", "Give a policy or a day, not both.")
        return data


class BackupForm(KeepingForm):
    """What to back up. `names` are the collections that the cluster told of; None when it did not answer."""

    cluster = forms.ModelChoiceField(
        Cluster.objects.order_by("name"), empty_label=None, widget=UnfoldAdminSelectWidget({"data-reload": "cluster"})
    )
    collection = forms.CharField(max_length=255, strip=False, widget=UnfoldAdminTextInputWidget(_TEXT))
    storage = forms.ModelChoiceField(
        StorageConfig.objects.order_by("name"), empty_label=None, widget=UnfoldAdminSelectWidget
    )
    shard = forms.IntegerField(
        label="Single shard",
        required=False,
        min_value=0,
        max_value=2**31 - 1,
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
        help_text="The number of one shard; empty for the whole collection.",
    )

    field_order = ("cluster", "collection", "storage", "shard", "policy", "keep_until")

    def __init__(self, *args: Any, names: Sequence[str] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if names:
            choices = [("", "Choose a collection"), *((name, name) for name in names)]
            self.fields["collection"] = forms.ChoiceField(
                choices=choices,
                widget=UnfoldAdminSelectWidget,
                error_messages={"invalid_choice": "The cluster has no collection “%(value)s”: choose one that it has."},
            )

    def clean_collection(self) -> str:
        name = str(self.cleaned_data["collection"])
        try:
            check_collection_name(name)
            check_snapshot_possible(name)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return name


class BackupAllForm(KeepingForm):
    """Which collections to back up, by names and patterns, one a line."""

    cluster = forms.ModelChoiceField(Cluster.objects.order_by("name"), empty_label=None, widget=UnfoldAdminSelectWidget)
    collections = forms.CharField(
        max_length=20_000,
        widget=UnfoldAdminTextareaWidget({**_TEXT, "rows": 3}),
        help_text="Names and patterns, one a line: * for all, films_* for those that begin with films_.",
    )
    exclude_collections = forms.CharField(
        label="But not",
        required=False,
        max_length=20_000,
        widget=UnfoldAdminTextareaWidget({**_TEXT, "rows": 2}),
        help_text="Names and patterns of collections to leave out, one a line.",
    )
    storage = forms.ModelChoiceField(
        StorageConfig.objects.order_by("name"), empty_label=None, widget=UnfoldAdminSelectWidget
    )

    field_order = ("cluster", "collections", "exclude_collections", "storage", "policy", "keep_until")

    def clean_collections(self) -> list[str]:
        return self._patterns("collections")

    def clean_exclude_collections(self) -> list[str]:
        return self._patterns("exclude_collections")

    def _patterns(self, field: str) -> list[str]:
        patterns = [line.strip() for line in str(self.cleaned_data[field] or "").splitlines() if line.strip()]
        try:
            check_patterns(patterns)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return list(dict.fromkeys(patterns))


class RestoreForm(forms.Form):
    """Where to, and how."""

    target_cluster = forms.ModelChoiceField(
        Cluster.objects.order_by("name"),
        label="Restore into the cluster",
        empty_label=None,
        widget=UnfoldAdminSelectWidget,
    )
    target_collection = forms.CharField(
        label="As collection",
        max_length=255,
        strip=False,
        widget=UnfoldAdminTextInputWidget(_TEXT),
        help_text="A name that is not taken leaves everything that exists untouched.",
    )
    shard = forms.TypedChoiceField(
        label="Shards",
        required=False,
        coerce=int,
        empty_value=None,
        widget=UnfoldAdminSelectWidget,
        help_text="A single shard goes into a collection that exists and replaces that shard's points.",
    )
    overwrite = forms.BooleanField(
        required=False,
        label="Overwrite the collection if it exists",
        widget=UnfoldBooleanWidget,
        help_text="Its points are replaced by those of the backup; what was written since is lost.",
    )
    overwrite_method = forms.ChoiceField(
        label="How to overwrite",
        required=False,
        choices=[
            ("", "Beside and switch where an alias leads to it, else in place"),
            ("switch", "Restore beside, then switch its aliases; the old one is kept"),
            ("in_place", "In place, under its own name"),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text="Beside and switch: clients that come through an alias never find half a collection.",
    )
    no_safety_backup = forms.BooleanField(
        required=False,
        label="Overwrite without a safety backup",
        widget=UnfoldBooleanWidget,
        help_text="Otherwise what is there is backed up first, so that you can go back.",
    )
    restore_aliases = forms.BooleanField(required=False, label="Restore aliases too", widget=UnfoldBooleanWidget)
    replication_factor = forms.IntegerField(
        label="Replicas of each shard",
        required=False,
        min_value=1,
        max_value=64,
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
        help_text="Only for a collection that is created; empty for as many as the backup says.",
    )
    verify_points = forms.ChoiceField(
        label="Compare points afterwards",
        required=False,
        choices=[
            ("", "A sample, where the worker has room to open the parts"),
            ("sample", "A sample of every shard"),
            ("all", "Every point"),
            ("none", "None: counts, configuration and schema only"),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text="Points are read back from every replica and compared with what the backup holds.",
    )

    def __init__(self, *args: Any, backup: Backup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shards = [(str(number), f"Shard {number} only") for number in _shards(backup)]
        whole = [("", "All shards")] if backup.shard_id is None else []
        shard = self.fields["shard"]
        shard.choices = [*whole, *shards]  # type: ignore[attr-defined]
        shard.required = not whole
        aliases = backup.manifest.get("collection", {}).get("aliases") or []
        if aliases:
            self.fields[
                "restore_aliases"
            ].help_text = f"Points {', '.join(map(str, aliases))} to the restored collection."
        else:
            del self.fields["restore_aliases"]

    def clean_target_collection(self) -> str:
        name = str(self.cleaned_data["target_collection"])
        try:
            check_collection_name(name)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return name


def _shards(backup: Backup) -> list[int]:
    return list(backup.parts.order_by("shard_id").values_list("shard_id", flat=True))
