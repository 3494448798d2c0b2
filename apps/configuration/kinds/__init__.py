"""Kinds: clusters, storages, policies, schedules, channels: as the document has them and as the services take them."""

from apps.configuration.kinds.base import EntryInvalid, Given, Kind
from apps.configuration.kinds.channels import Channels
from apps.configuration.kinds.places import Clusters, Storages
from apps.configuration.kinds.rules import Policies, Schedules

__all__ = ["KINDS", "EntryInvalid", "Given", "Kind"]

#: In the order in which they are made: what a later one refers to is there by then.
KINDS: tuple[Kind, ...] = (Clusters(), Storages(), Policies(), Schedules(), Channels())
