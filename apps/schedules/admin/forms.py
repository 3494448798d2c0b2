"""The form of a schedule: what people type, and how it becomes ScheduleData and back."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.schedules.admin import presets
from apps.schedules.draft import ScheduleData
from apps.schedules.models import CatchUp, NothingMatched, Overlap, Schedule
from apps.schedules.services import data_of
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.spec import Kind
from apps.schedules.timing.windows_text import parse_windows, write_windows
from apps.storage.models import StorageConfig

_PLAIN = {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}


def _text(label: str, *, help_text: str = "", required: bool = False, **attrs: str) -> forms.CharField:
    widget = UnfoldAdminTextInputWidget({**_PLAIN, **attrs})
    return forms.CharField(label=label, required=required, help_text=help_text, widget=widget, max_length=200)


def _lines(label: str, help_text: str) -> forms.CharField:
    widget = UnfoldAdminTextareaWidget({**_PLAIN, "rows": 3})
    return forms.CharField(label=label, required=False, help_text=help_text, widget=widget, strip=False)


def _number(label: str, help_text: str, low: int, high: int, required: bool = False) -> forms.IntegerField:
    widget = UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"})
    return forms.IntegerField(
        label=label, required=required, help_text=help_text, min_value=low, max_value=high, widget=widget
    )


class ScheduleForm(forms.Form):
    """All fields of a schedule. `problems` of the services land at the fields of the same name."""

    name = _text("Name", required=True)
    cluster = forms.ModelChoiceField(Cluster.objects.order_by("name"), empty_label=None, widget=UnfoldAdminSelectWidget)
    include = _lines("Collections", "Names or patterns, one a line: * is every collection, films* all that begin so.")
    exclude = _lines("Except", "Names or patterns that are left out, one a line.")
    tags = _lines("Only with a tag", "Tags, one a line; a collection needs one of them.")
    storages = forms.ModelMultipleChoiceField(
        StorageConfig.objects.order_by("name"), label="To", widget=forms.CheckboxSelectMultiple
    )
    kind = forms.ChoiceField(
        label="When",
        choices=[
            (presets.HOURLY, "Every hour"),
            (presets.DAILY, "Every day"),
            (presets.WEEKLY, "Every week"),
            (presets.MONTHLY, "Every month"),
            (Kind.CRON.value, "At other times (cron)"),
            (Kind.INTERVAL.value, "Every so often"),
            (Kind.MANUAL.value, "Only when asked for"),
        ],
        widget=UnfoldAdminSelectWidget,
    )
    at = forms.TimeField(
        label="At",
        required=False,
        input_formats=["%H:%M"],
        help_text="On the clock of the time zone below, for example 02:30. Every hour: at these minutes.",
        error_messages={"invalid": "Give hours and minutes: 02:30."},
        widget=UnfoldAdminTextInputWidget({**_PLAIN, "placeholder": "02:30"}),
    )
    weekdays = forms.MultipleChoiceField(
        label="On", required=False, choices=presets.WEEKDAYS, widget=forms.CheckboxSelectMultiple
    )
    day = forms.ChoiceField(
        label="On day",
        required=False,
        choices=presets.DAYS,
        help_text="Months that have no such day get no run.",
        widget=UnfoldAdminSelectWidget,
    )
    cron = _text(
        "Times (cron)",
        help_text="Minute, hour, day of month, month, day of week: 30 2 * * * is daily at 02:30. Also @hourly, @daily, "
        "@weekly, @monthly, @yearly; H picks a fixed number for this schedule. Of day of month and day of week one is "
        "enough, unless one of them begins with *: then both have to fit.",
        list="cron-presets",
    )
    interval_minutes = _number("Every … minutes", "Counted as elapsed time, whatever clocks do.", 5, 366 * 1440)
    tz = _text("Time zone", required=True, help_text="IANA name, for example Europe/Berlin.", list="zones")
    jitter_minutes = _number("Spread the start over … minutes", "By a fixed amount for each schedule.", 0, 1440)
    blackouts = _lines(
        "Blackouts",
        "One a line: fri 22:00-06:00, or 2026-12-24 18:00 - 2026-12-26 08:00 (UTC). With skip, runs are left out "
        "instead of waiting for its end; with cancel, backups under way are cancelled.",
    )
    policy = forms.ModelChoiceField(
        RetentionPolicy.objects.order_by("name"),
        required=False,
        empty_label="Keep for ever",
        label="Retention policy",
        widget=UnfoldAdminSelectWidget,
    )
    overlap = forms.ChoiceField(
        label="When the one before still runs", choices=Overlap.choices, widget=UnfoldAdminSelectWidget
    )
    catchup = forms.ChoiceField(
        label="Runs missed by downtime", choices=CatchUp.choices, widget=UnfoldAdminSelectWidget
    )
    nothing_matched = forms.ChoiceField(
        label="When no collection matches", choices=NothingMatched.choices, widget=UnfoldAdminSelectWidget
    )
    min_interval_minutes = _number("Not when a backup is younger than … minutes", "0: always.", 0, 400 * 1440)
    start_deadline_minutes = _number(
        "Give up when not started after … minutes", "Empty: 6 h, or half the time between two runs.", 1, 400 * 1440
    )
    catchup_window_hours = _number(
        "Make up for what is not older than … hours", "Empty: as long as the next one has not come.", 1, 9600
    )
    grace_minutes = _number(
        "A backup may be late by … minutes",
        "Until it counts as overdue. Empty: worked out from the time between two runs and from how long backups take.",
        1,
        400 * 1440,
    )
    max_runtime_hours = _number("Stop after … hours", "", 1, 9600, required=True)
    priority = _number("Priority", "0 to 9; half an hour of waiting counts as one more.", 0, 9, required=True)
    enabled = forms.BooleanField(label="Switched on", required=False, widget=UnfoldBooleanWidget)
    #: Only where it may be started: what is made, changed or switched on counts from now, and makes up for nothing.
    run_now = forms.BooleanField(
        label="Also run it now",
        required=False,
        help_text="When it is saved, once, besides its times.",
        widget=UnfoldBooleanWidget,
    )

    #: What seldom differs from its default stands behind a click.
    OPTIONS = (
        "overlap", "catchup", "catchup_window_hours", "nothing_matched", "min_interval_minutes",
        "start_deadline_minutes", "max_runtime_hours", "grace_minutes", "priority",
    )  # fmt: skip
    #: Not optional, although only the service or the chosen kind asks for them.
    NEEDED = ("include", "at", "weekdays", "day", "cron", "interval_minutes")

    def __init__(self, *args: Any, may_run: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        if not may_run:
            del self.fields["run_now"]
        for name in self.NEEDED:
            self.fields[name].is_needed = True  # type: ignore[attr-defined]

    @property
    def main_fields(self) -> list[forms.BoundField]:
        return [field for field in self if field.name not in (*self.OPTIONS, "enabled", "run_now")]

    @property
    def option_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.OPTIONS]

    @property
    def last_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in ("enabled", "run_now") if name in self.fields]

    @property
    def options_wrong(self) -> bool:
        """Something in the options has to be mended: they are shown then."""
        return any(name in self.errors for name in self.OPTIONS)

    def clean_blackouts(self) -> list[Window]:
        try:
            return parse_windows(self.cleaned_data["blackouts"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        kind = data.get("kind")
        for name, kinds in FIELDS_OF_KINDS.items():
            if kind not in kinds and name in self.errors:  # not shown, and not used
                del self.errors[name]
                data[name] = None
        if kind in presets.PRESETS and data.get("at") is None and "at" not in self.errors:
            self.add_error("at", "Give hours and minutes: 02:30.")
        if kind == presets.WEEKLY and not data.get("weekdays") and "weekdays" not in self.errors:
            self.add_error("weekdays", "Choose at least one day.")
        if kind == presets.MONTHLY and not data.get("day") and "day" not in self.errors:
            self.add_error("day", "Choose a day.")
        return data

    def schedule_data(self, schedule: Schedule | None) -> ScheduleData:
        data = self.cleaned_data
        kind, cron = data["kind"], data["cron"]
        if kind in presets.PRESETS:
            kind, cron = Kind.CRON.value, presets.to_cron(kind, data)

        def lines(name: str) -> list[str]:
            return [line.strip() for line in data[name].splitlines() if line.strip()]

        def seconds(name: str, unit: int = 60) -> int | None:
            return None if data[name] is None else data[name] * unit

        interval = seconds("interval_minutes") if kind == Kind.INTERVAL else None
        same = schedule is not None and schedule.interval_seconds == interval
        return ScheduleData(
            name=data["name"],
            cluster=data["cluster"],
            storages=list(data["storages"]),
            kind=kind,
            cron=cron if kind == Kind.CRON else "",
            interval_seconds=interval,
            anchor_at=schedule.anchor_at if same and schedule is not None else None,
            tz=data["tz"],
            jitter_seconds=seconds("jitter_minutes") or 0,
            include=lines("include"),
            exclude=lines("exclude"),
            tags=lines("tags"),
            nothing_matched=data["nothing_matched"],
            overlap=data["overlap"],
            catchup=data["catchup"],
            catchup_window_seconds=seconds("catchup_window_hours", 3600),
            min_interval_seconds=seconds("min_interval_minutes") or 0,
            start_deadline_seconds=seconds("start_deadline_minutes"),
            max_runtime_seconds=seconds("max_runtime_hours", 3600) or 86400,
            priority=data["priority"],
            policy=data["policy"],
            grace_seconds=seconds("grace_minutes"),
            enabled=data["enabled"],
            blackouts=data["blackouts"],
        )

    def take(self, problems: dict[str, str]) -> None:
        """Put what the services refuse beside the fields."""
        fields = {
            "interval_seconds": "interval_minutes", "jitter_seconds": "jitter_minutes",
            "min_interval_seconds": "min_interval_minutes", "start_deadline_seconds": "start_deadline_minutes",
            "max_runtime_seconds": "max_runtime_hours", "catchup_window_seconds": "catchup_window_hours",
            "grace_seconds": "grace_minutes",
        }  # fmt: skip
        for name, sentence in problems.items():
            field = fields.get(name, name)
            if field == "cron" and self.cleaned_data.get("kind") in presets.PRESETS:
                field = "kind"
            self.add_error(field if field in self.fields else None, sentence)


def initial_of(schedule: Schedule) -> dict[str, Any]:
    """Return the form's values for a saved schedule."""
    data = data_of(schedule)
    deadline = data.start_deadline_seconds
    return {
        "name": data.name,
        "cluster": data.cluster,
        "include": "\n".join(data.include),
        "exclude": "\n".join(data.exclude),
        "tags": "\n".join(data.tags),
        "storages": data.storages,
        "kind": data.kind,
        "cron": data.cron,
        "interval_minutes": data.interval_seconds // 60 if data.interval_seconds else None,
        "tz": data.tz,
        "jitter_minutes": data.jitter_seconds // 60,
        "blackouts": write_windows(data.blackouts),
        "policy": data.policy,
        "overlap": data.overlap,
        "catchup": data.catchup,
        "nothing_matched": data.nothing_matched,
        "min_interval_minutes": data.min_interval_seconds // 60,
        "start_deadline_minutes": deadline // 60 if deadline is not None else None,
        "catchup_window_hours": _up(data.catchup_window_seconds, 3600),
        "grace_minutes": _up(data.grace_seconds, 60),
        "max_runtime_hours": max(1, data.max_runtime_seconds // 3600),
        "priority": data.priority,
        "enabled": data.enabled,
    } | (presets.of_cron(data.cron) if data.kind == Kind.CRON else {})


def _up(seconds: int | None, unit: int) -> int | None:
    """In whole units, one at least."""
    return None if seconds is None else max(1, round(seconds / unit))


#: Fields that belong to some kinds only, for static/backupmgr/schedule_form.js.
FIELDS_OF_KINDS = {
    "at": list(presets.PRESETS), "weekdays": [presets.WEEKLY], "day": [presets.MONTHLY], "cron": [Kind.CRON.value],
    "interval_minutes": [Kind.INTERVAL.value],
}  # fmt: skip
NEW = {
    "include": "*", "kind": presets.DAILY, "at": "02:30", "weekdays": ["0"], "day": "1", "cron": "30 2 * * *",
    "jitter_minutes": 10, "overlap": "skip", "catchup": "latest", "nothing_matched": "fail", "min_interval_minutes": 0,
    "max_runtime_hours": 24, "priority": 5, "enabled": True,
}  # fmt: skip
