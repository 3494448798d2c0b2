"""What the rest of the house needs of a storage, whatever is behind it: the Store and Sink protocols.

Keys are relative, with '/' between segments, and never climb (keys.py). Every method raises a StorageError
(errors.py) when the storage cannot be reached, refuses or is full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from apps.core.abort import Abort

#: `locked_until` of an object that is locked with no end in sight (a legal hold); an end that every clock can show.
WITHOUT_END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class StoredObject:
    """An object in a storage. `etag` is whatever the storage calls it by (not a checksum); may be empty.

    `modified_at` is known of listed objects, by the storage's own clock.
    """

    key: str
    size_bytes: int
    etag: str = ""
    modified_at: datetime | None = None


@dataclass(frozen=True)
class Unfinished:
    """An object whose writing was begun and not ended: a multipart upload, or a `.part` file.

    `token` tells it from others under the same key; `started_at` is when the storage last saw it touched, by the
    storage's own clock.
    """

    key: str
    token: str
    started_at: datetime | None = None
    #: Bytes that it takes up; None where that would have to be asked for.
    size_bytes: int | None = None


class Sink(Protocol):
    """One object being written, in parts of one size. Nothing is visible under its key before `commit`."""

    #: Bytes of every part but the last.
    part_size: int
    #: How many threads may call `write` at once.
    concurrency: int
    #: Told, in a sentence, of what broke off and is written again; from any thread. None for nobody.
    on_break: Callable[[str], None] | None

    def write(self, number: int, data: bytearray, length: int) -> None:
        """Write part `number` (from 0): the first `length` bytes of `data`, which may be reused afterwards."""

    def commit(self) -> StoredObject:
        """Make the object visible, durably, once all parts are written."""

    def abort(self) -> None:
        """Remove everything that was written; nothing happens after a successful `commit`.

        May be called twice, and while a `write` is under way. Does not look at the Abort, so it works after that
        tripped; raises StorageError when something could not be removed (`Store.clear` finds it later).
        """


class Source(Protocol):
    """An object being read."""

    size_bytes: int

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with the next bytes; fewer only at the end, 0 after it."""


class Store(Protocol):
    """An open storage."""

    @property
    def is_unsure(self) -> bool:
        """Whether a call that makes something visible was broken off by the Abort: it may take effect yet."""

    def sink(self, key: str, size_bytes: int, abort: Abort) -> Sink:
        """Begin to write an object of `size_bytes`. Raises also: ObjectExists."""

    def source(self, key: str, abort: Abort) -> AbstractContextManager[Source]:
        """Read an object from its beginning. Raises also: ObjectMissing."""

    def put(self, key: str, data: bytes) -> StoredObject:
        """Write a small object whole and durably. Raises also: ObjectExists."""

    def get(self, key: str, max_bytes: int) -> bytes:
        """Read a small object whole. Raises also: ObjectMissing; StorageError when it is larger than `max_bytes`."""

    def stat(self, key: str) -> StoredObject | None:
        """Return what is stored under `key`, None when nothing is."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below the folder `prefix` ('' for all), in no order, however many there are."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when it is not there."""

    def locked_until(self, key: str) -> datetime | None:
        """Return until when the storage itself keeps the object (object lock), None when it does not or does not say.

        A moment that is over may be returned. WITHOUT_END for a legal hold.
        """

    def clear(self, folder: str) -> int:
        """Remove everything below a folder, unfinished uploads included. Returns how many things were removed."""

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Yield what was begun below the folder `prefix` ('' for all) and not ended, in no order.

        Nothing where the storage cannot tell. Whoever writes at this moment is among them.
        """

    def discard(self, item: Unfinished) -> bool:
        """Remove exactly this one; False when it was not there any more."""

    def presign(self, key: str, seconds: int) -> str | None:
        """Return an address from which anybody can read the object for `seconds`; None when there is no such thing."""
