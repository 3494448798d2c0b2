"""What scans yield, and what they have to be told of the jobs."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from apps.backups.orphans import OrphanKind
from apps.backups.traces import Trace


@dataclass(frozen=True)
class JobFacts:
    """What a scan needs to know of a job."""

    is_active: bool
    is_backup: bool
    ended_at: datetime | None
    attempt: int
    storage_id: uuid.UUID
    collection_name: str


@dataclass(frozen=True)
class BrokenRestore:
    """A restore that ended in the middle of replacing what a collection held, with none after it that completed."""

    collection_name: str
    shard_id: int | None
    job_id: uuid.UUID
    error: str


class JobBook(Protocol):
    """The jobs, as they are at the moment of asking."""

    def facts(self, job_id: uuid.UUID) -> JobFacts | None:
        """Return what is known of the job, None for one that nobody here knows."""

    def facts_of(self, job_ids: list[uuid.UUID]) -> dict[uuid.UUID, JobFacts]:
        """Return what is known of these jobs, by id."""

    def broken_restores(self, cluster_id: uuid.UUID, since: datetime) -> list[BrokenRestore]:
        """Return those into collections of the cluster that ended since then, the newest of each collection."""

    def is_busy(self, cluster_id: str, collection: str) -> bool:
        """Tell whether a job works on the collection at this moment."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a scan judges: what is younger than `age` is left alone, whatever it is."""

    now: datetime
    age: timedelta

    def is_old(self, moment: datetime | None) -> bool:
        """Tell whether the moment is long enough ago; one that nobody knows is not."""
        return moment is not None and self.now - moment >= self.age


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something out of place. `trace` is what removes it, None when nothing here can."""

    kind: OrphanKind
    name: str
    reason: str
    is_ours: bool = False
    trace: Trace | None = None
    storage_id: uuid.UUID | None = None
    cluster_id: uuid.UUID | None = None
    node_url: str = ""
    collection_name: str = ""
    shard_id: int | None = None
    job_id: uuid.UUID | None = None
    backup_id: uuid.UUID | None = None
    size_bytes: int | None = None
    #: Tells things of one name apart (two uploads of one key).
    token: str = ""

    @property
    def identity(self) -> str:
        """The same for the same thing, whenever it is found."""
        place = self.storage_id or self.cluster_id or "host"
        shard = "" if self.shard_id is None else self.shard_id
        text = "\n".join(
            map(str, (self.kind, place, self.node_url, self.collection_name, shard, self.name, self.token))
        )
        return hashlib.sha256(text.encode()).hexdigest()


#: Called now and then during a scan; raises to end it.
Beat = Callable[[], None]


def is_over(facts: JobFacts | None, limits: Limits) -> bool:
    """Tell whether the job is known and has ended long enough ago."""
    return facts is not None and not facts.is_active and limits.is_old(facts.ended_at)
