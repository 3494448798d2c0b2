"""S3Source: an object being read; a connection that breaks is opened anew where it broke."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError as Urllib3Error

from apps.core.abort import Abort
from apps.storage.errors import StorageError, StorageFault
from apps.storage.s3_bucket import S3Bucket
from apps.storage.s3_errors import code_of, is_missing, storage_error

# What one read may raise when the connection breaks or is broken. ValueError: a TLS socket that was shut down.
_BROKEN = (BotoCoreError, Urllib3Error, OSError, ValueError)
# Between two looks at `abort`; larger reads are no faster, and urllib3 takes each into memory of its own.
_READ_SLICE = 1024 * 1024
# New connections without a byte in between; each of them has botocore's own tries.
_TRIES = 3
# New connections altogether: an endpoint that cuts after every few bytes must not keep a job busy for ever.
_MOST_CONNECTIONS = 100


class S3Source:
    """An object being read from its beginning, by one thread."""

    def __init__(self, bucket: S3Bucket, key: str, abort: Abort) -> None:
        self._bucket = bucket
        self._key = key
        self._abort = abort
        self._position = 0
        self._connections = 0
        self._fruitless = 0
        self._body: Any = None
        answer = self._request()
        self._etag = answer["ETag"]
        self.size_bytes = answer["ContentLength"]
        self._body = answer["Body"]

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with the next bytes; fewer only at the end, 0 after it.

        Raises: the reason of `abort`, which breaks a blocked read; StorageError, ObjectMissing when it was removed.
        """
        wanted = min(len(buffer), self.size_bytes - self._position)
        done = 0
        with self._abort.breaking(self._break):
            while done < wanted:
                self._abort.check()
                problem: BaseException | None = None
                got = 0
                try:
                    got = self._body.readinto(buffer[done : min(wanted, done + _READ_SLICE)])
                except _BROKEN as error:
                    problem = error
                if not got:
                    self._reconnect(problem)
                    continue
                done += got
                self._position += got
                self._fruitless = 0
        return done

    def close(self) -> None:
        """Close the connection; what was not read stays unread."""
        if self._body is not None:
            with suppress(*_BROKEN):
                self._body.close()

    def _request(self) -> dict[str, Any]:
        """Ask for the object from `_position` on. Raises: ObjectMissing; StorageError."""
        self._abort.check()
        self._connections += 1
        options: Any = {}
        if self._connections > 1:
            options = {"Range": f"bytes={self._position}-", "IfMatch": self._etag}
        bucket = self._bucket
        with bucket.translated():
            try:
                return bucket.client.get_object(Bucket=bucket.name, Key=bucket.full(self._key), **options)
            except ClientError as error:
                if is_missing(error):
                    raise bucket.missing(self._key) from error
                if code_of(error) in {"PreconditionFailed", "412", "InvalidRange", "416"}:
                    raise self._changed() from error
                raise

    def _reconnect(self, problem: BaseException | None) -> None:
        """Open a new connection after `problem` (None: the old one ended too early)."""
        self._abort.check()
        self.close()
        problem = problem or ConnectionResetError("ended too early")
        if self._fruitless >= _TRIES or self._connections >= _MOST_CONNECTIONS:
            raise storage_error(self._bucket.place, problem) from problem
        self._abort.sleep(0.2 * 4**self._fruitless)
        self._fruitless += 1
        answer = self._request()
        # A server that ignores the range sends everything again; its bytes must not land in the middle of ours.
        if self._position and not answer.get("ContentRange", "").startswith(f"bytes {self._position}-"):
            answer["Body"].close()
            raise StorageFault(f"{self._bucket.place} cannot send an object from the middle, and the connection broke.")
        if answer["ETag"] != self._etag:
            answer["Body"].close()
            raise self._changed()
        self._body = answer["Body"]

    def _changed(self) -> StorageError:
        return StorageFault(f"An object in {self._bucket.place} was replaced while it was read: try again.")

    def _break(self) -> None:
        """End a blocked read, from another thread."""
        # urllib3 2.3 and later; with an older one the read ends at its time-out.
        shutdown = getattr(getattr(self._body, "_raw_stream", None), "shutdown", None)
        if shutdown is not None:
            with suppress(OSError, ValueError, RuntimeError):  # nothing is being read on that connection any more
                shutdown()
