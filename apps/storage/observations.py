"""Whether a storage answers: looked at now and then, so that one that is gone is known before the next backup needs it.

Workers look at every storage once in ten minutes, whoever comes first (a conditional UPDATE decides), and every minute
at one that did not answer. Nothing is written to it: a bucket may lock what is written, and a full disk is no storage
that cannot be reached. The look takes a few small requests, in a thread that is left behind when it hangs.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from apps.core.crypto import UndecryptableSecret
from apps.core.errors import BackupmgrError
from apps.storage.backends import PROBE_PATIENCE
from apps.storage.errors import StorageUnreachable
from apps.storage.keys import probe_key
from apps.storage.models import StorageConfig
from apps.storage.observed import StorageObservation
from apps.storage.opening import open_store

logger = logging.getLogger(__name__)

EVERY = timedelta(minutes=10)
#: One that did not answer is asked again after this.
AGAIN = timedelta(minutes=1)
#: A storage that did not answer over so long, asked several times, counts as unreachable.
LOST_AFTER = timedelta(minutes=3)
#: For one look: a mount that is dead, or a name server, can block for much longer than any time-out of ours.
LOOK_SECONDS = 15.0

_lock = threading.Lock()
#: Looks that hang, by storage: another one would hang as well.
_hanging: dict[UUID, threading.Thread] = {}


def observe_storages_due(*, now: datetime) -> int:
    """Look at every storage whose turn it is; return how many. Talks to storages. Raises: DatabaseError."""
    if not settings.BACKUPMGR_CHECK_SECONDS:
        return 0
    missing = StorageConfig.objects.filter(observation=None)
    StorageObservation.objects.bulk_create(
        [StorageObservation(storage=storage, next_check_at=now) for storage in missing], ignore_conflicts=True
    )
    # What lies further ahead than a look can was written before the clock was set back.
    due = Q(next_check_at__lte=now) | Q(next_check_at__gt=now + 2 * EVERY)
    looked = 0
    for row in StorageObservation.objects.filter(due).select_related("storage"):
        mine = StorageObservation.objects.filter(pk=row.pk, next_check_at=row.next_check_at)
        if mine.update(next_check_at=now + EVERY):
            looked += 1
            keep(row.storage, look_at(row.storage), now=now)
    return looked


def look_at(storage: StorageConfig, *, seconds: float = LOOK_SECONDS) -> str:
    """Ask the storage for an object that is not there; return why that did not work, empty when it did."""
    said: list[str] = []

    def ask() -> None:
        try:
            store = open_store(storage, patience=PROBE_PATIENCE)
            # A look-up tells a folder that is not mounted; a listing tells a bucket that is gone.
            store.stat(probe_key())
            next(iter(store.list(probe_key())), None)
            said.append("")
        except (BackupmgrError, UndecryptableSecret) as error:
            said.append(str(error))
        except Exception:  # the thread's outer edge: it must not die without an answer
            logger.exception("The look at the storage %s failed unexpectedly", storage.name)
            said.append("The look failed in a way nobody foresaw: see the log of the worker.")

    with _lock:
        before = _hanging.get(storage.pk)
        if before is not None and before.is_alive():
            return str(_no_answer(storage, seconds))
        thread = threading.Thread(target=ask, name="storage-look", daemon=True)
        _hanging[storage.pk] = thread
        thread.start()
    thread.join(seconds)
    return said[0] if said else str(_no_answer(storage, seconds))


def keep(storage: StorageConfig, problem: str, *, now: datetime) -> None:
    """Write down what came of a look."""
    row = StorageObservation.objects.filter(storage=storage)
    if not problem:
        row.update(tried_at=now, seen_at=now, failing_since=None, problem="")
        return
    row.update(
        tried_at=now, failing_since=Coalesce(F("failing_since"), now), problem=problem, next_check_at=now + AGAIN
    )


def _no_answer(storage: StorageConfig, seconds: float) -> StorageUnreachable:
    return StorageUnreachable(f"{storage.location} did not answer within {seconds:.0f} seconds.")
