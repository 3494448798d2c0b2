"""What can go wrong with storages, and between us and a storage.

StorageError
  StorageUnreachable   no connection, or no answer in time
    StorageUntrusted   the endpoint's certificate was not accepted
  StorageDenied        wrong credentials, or not allowed; a folder that cannot be read or written
  BucketMissing        the bucket or the folder does not exist
  StorageFull          no room left
  StorageRefused       the storage understood the request and refuses it; settings that cannot be used
  StorageFault         the storage answered with a fault of its own
ObjectMissing          nothing is stored under that key
ObjectExists           something is stored there already
StorageInvalid         settings of a storage that cannot be
DefaultStorageNeeded   a change that would leave no default storage
StorageMissing         the storage was deleted meanwhile
StorageNameTaken       another storage has that name
StorageChanged         somebody else changed the storages at the same moment
StorageInUse           backups or jobs refer to the storage

Transient is what may pass by itself: no connection, no answer, a fault of the storage's own. A full storage is not:
somebody has to make room first, and writing for hours until it is full again helps nobody.
"""

from __future__ import annotations

from apps.core.errors import Conflict, InvalidRequest, NotFound, Unavailable


class StorageError(Unavailable):
    """Any failure of a call to a storage."""

    http_status = 502


class StorageUnreachable(StorageError):
    """No connection, or no answer in time."""

    http_status = 503


class StorageUntrusted(StorageUnreachable):
    """The TLS certificate of the endpoint was not accepted."""

    transient = False


class StorageDenied(StorageError):
    """Wrong credentials, or they do not allow this."""

    transient = False


class BucketMissing(StorageError):
    """The bucket, or the folder, does not exist."""

    transient = False


class StorageFull(StorageError):
    """There is no room left."""

    transient = False


class StorageRefused(StorageError):
    """The storage understood the request and refuses it, or its settings cannot be used."""

    transient = False


class StorageFault(StorageError):
    """The storage answered with a fault of its own."""


class ObjectMissing(NotFound):
    """Nothing is stored under that key."""


class ObjectExists(Conflict):
    """Something is stored under that key already."""


class StorageInvalid(InvalidRequest):
    """Settings that cannot be; `fields` holds a sentence for each field that is wrong."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        super().__init__(" ".join(fields.values()))


class DefaultStorageNeeded(InvalidRequest):
    """A change that would leave no default storage."""


class StorageMissing(NotFound):
    """The storage was deleted meanwhile."""


class StorageNameTaken(Conflict):
    """Another storage has that name."""


class StorageChanged(Conflict):
    """Somebody else changed the storages at the same moment."""


class StorageInUse(Conflict):
    """Backups or jobs refer to the storage."""
