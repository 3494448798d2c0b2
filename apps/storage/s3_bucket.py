"""A bucket with its client, its prefix and what was learned about its server: shared by store, sinks and sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.storage.errors import BucketMissing, ObjectExists, ObjectMissing
from apps.storage.keys import check_key
from apps.storage.s3_errors import FAILURES, code_of, is_missing, storage_error
from apps.storage.s3_line import Line
from apps.storage.stores import WITHOUT_END

if TYPE_CHECKING:
    from storages.backends.s3 import S3Storage

#: Metadata of every object: whose write it was. It decides what became of a call whose answer got lost.
WRITE_TOKEN = "backupmgr-write"  # noqa: S105 - a name


@dataclass
class Features:
    """What the server can do, until it refuses it."""

    checksums: bool = True
    conditional: bool = True


@dataclass(frozen=True)
class Head:
    """What HEAD tells about an object."""

    size_bytes: int
    etag: str
    write_token: str
    #: None when nothing locks it, or the keys may not see that.
    locked_until: datetime | None = None


class S3Bucket:
    """A bucket, seen from below the storage's prefix. Safe to use from several threads."""

    def __init__(
        self,
        backend: S3Storage,
        parts_backend: S3Storage | None = None,
        *,
        outage_seconds: float = 0.0,
        abort: Abort | None = None,
    ) -> None:
        """`parts_backend`: the same without tries of its own, for parts, which the sink sends again by itself.

        Once `abort` trips, every call ends with its reason, but for those inside `line.undoing`.
        """
        self.backend = backend
        self.outage_seconds = outage_seconds
        self.name: str = backend.bucket_name
        self.features = Features()
        self._prefix = f"{backend.location}/" if backend.location else ""
        parts = urlsplit(backend.endpoint_url)
        # The endpoint is checked for credentials when it is saved; a row written past the checks must not leak any.
        self.place = f"the S3 storage {parts.scheme}://{parts.netloc.rpartition('@')[2]} (bucket {self.name})"
        # Clients may be shared by threads, making one may not; the backend would make one per thread.
        with self.translated():
            self.client: Any = backend.connection.meta.client
            self.part_client: Any = (parts_backend or backend).connection.meta.client
            _ = backend.bucket
        self.line = Line(abort or Abort())
        if abort is not None:
            self.line.bind(self.client)
            if self.part_client is not self.client:
                self.line.bind(self.part_client)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever a call to the server raises into the StorageError that it means."""
        try:
            yield
        except BackupmgrError:  # a BadKey is a ValueError, too
            raise
        except FAILURES as error:
            raise storage_error(self.place, error) from error

    def full(self, key: str) -> str:
        """Return the key within the bucket. Raises: keys.BadKey."""
        return self._prefix + check_key(key)

    def below(self, folder: str) -> str:
        """Return what the keys of everything below `folder` ('' for all) start with. Raises: keys.BadKey."""
        return f"{self.full(folder)}/" if folder else self._prefix

    def relative(self, full: str) -> str:
        """Return a key of the bucket without the prefix."""
        return full.removeprefix(self._prefix)

    def head(self, key: str) -> Head | None:
        """Return what is stored under `key`, None when nothing is (or the bucket is missing). Raises: StorageError."""
        with self.translated():
            try:
                found = self.client.head_object(Bucket=self.name, Key=self.full(key))
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
        token = found.get("Metadata", {}).get(WRITE_TOKEN, "")
        until = found.get("ObjectLockRetainUntilDate")
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            until = WITHOUT_END
        return Head(found["ContentLength"], found["ETag"], token, until.astimezone(UTC) if until else None)

    def require(self) -> None:
        """Make sure that the bucket is there: HEAD of an object tells no difference. Raises: BucketMissing."""
        with self.translated():
            try:
                self.client.head_bucket(Bucket=self.name)
            except ClientError as error:
                if code_of(error) in {"404", "NoSuchBucket", "NotFound"}:
                    raise BucketMissing(
                        f"The bucket of {self.place} does not exist: create it, or correct its name."
                    ) from error
                if code_of(error) not in {"403", "AccessDenied", "Forbidden"}:  # may be without that right
                    raise

    def exists(self, key: str) -> ObjectExists:
        return ObjectExists(f"{key} exists already in {self.place}; nothing was overwritten.")

    def missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(f"There is no {key} in {self.place}.")
