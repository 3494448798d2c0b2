"""Channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from apps.alerts.models import Channel
from apps.alerts.services import ChannelInvalid, delete_channel, save_channel
from apps.configuration import fields as read
from apps.configuration.fields import Field
from apps.configuration.kinds.base import EntryInvalid, Given, Kind, plain


class Channels(Kind):
    section, noun = "channels", "channel"
    _COLUMNS = (
        "kind", "enabled", "is_default", "tell_success", "min_severity", "rules", "clusters", "collections", "tags",
        "quiet_hours", "schedules", "digest", "time_zone",
    )  # fmt: skip
    fields = (
        Field("name", read.line), Field("kind", read.line), Field("enabled", read.flag),
        Field("is_default", read.flag), Field("tell_success", read.flag),
        Field("address", read.secret), Field("signing_key", read.secret), Field("min_severity", read.line),
        Field("rules", read.lines), Field("clusters", read.lines), Field("collections", read.lines),
        Field("tags", read.lines), Field("quiet_hours", read.line), Field("schedules", read.lines),
        Field("digest", read.line), Field("time_zone", read.line),
    )  # fmt: skip

    def all(self) -> Iterable[Channel]:
        return Channel.objects.order_by("name")

    def find(self, values: Mapping[str, Any]) -> Channel | None:
        return Channel.objects.filter(name=values["name"]).first()

    def show(self, row: Channel) -> dict[str, Any]:
        return {"name": row.name} | self.secrets(row) | plain(row, self._COLUMNS)

    def write(self, row: Channel | None, given: Given) -> Channel:
        try:
            return save_channel(channel=row, data=given.values)
        except ChannelInvalid as error:
            raise EntryInvalid(error.problems) from error

    def delete(self, row: Channel, now: datetime) -> None:
        delete_channel(channel=row)
