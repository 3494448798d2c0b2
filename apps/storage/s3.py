"""S3Store: a bucket of S3, or of what speaks S3, as a storage. Imported lazily (it imports boto3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from apps.core.abort import Abort
from apps.storage.errors import StorageDenied
from apps.storage.keys import BadKey, check_key
from apps.storage.s3_bucket import S3Bucket
from apps.storage.s3_errors import code_of, is_denied, is_refused_option
from apps.storage.s3_sink import S3Sink
from apps.storage.s3_source import S3Source
from apps.storage.stores import StoredObject, Unfinished
from apps.storage.whole import get_whole, put_whole

if TYPE_CHECKING:
    from storages.backends.s3 import S3Storage

logger = logging.getLogger(__name__)

# The longest that signature version 4 allows.
_LONGEST_PRESIGN_SECONDS = 7 * 24 * 3600


class S3Store:
    """A bucket as a Store. The storage's prefix goes in front of every key and shows in none."""

    def __init__(
        self,
        backend: S3Storage,
        parts_backend: S3Storage | None = None,
        *,
        outage_seconds: float = 0.0,
        abort: Abort | None = None,
    ) -> None:
        self._backend = backend
        self._bucket = S3Bucket(backend, parts_backend, outage_seconds=outage_seconds, abort=abort)

    def __repr__(self) -> str:
        return f"<S3Store {self._bucket.place}>"

    def sink(self, key: str, size_bytes: int, abort: Abort) -> S3Sink:
        """Begin to write an object. Raises: ObjectExists."""
        abort.check()
        return S3Sink(self._bucket, key, size_bytes, abort)

    @contextmanager
    def source(self, key: str, abort: Abort) -> Iterator[S3Source]:
        """Read an object from its beginning. Raises: ObjectMissing."""
        source = S3Source(self._bucket, key, abort)
        try:
            yield source
        finally:
            source.close()

    def put(self, key: str, data: bytes) -> StoredObject:
        """Write a small object whole and durably. Raises: ObjectExists."""
        return put_whole(self.sink(key, len(data), Abort()), data)

    def get(self, key: str, max_bytes: int) -> bytes:
        """Read a small object whole. Raises: ObjectMissing; StorageFault when it is larger than `max_bytes`."""
        with self.source(key, Abort()) as source:
            return get_whole(source, max_bytes, f"{key} in {self._bucket.place}")

    def stat(self, key: str) -> StoredObject | None:
        """Return what is stored under `key`, None when nothing is. Raises: BucketMissing."""
        found = self._bucket.head(key)
        if found is None:
            self._bucket.require()  # a bucket that is gone must not look like a lost backup
            return None
        return StoredObject(key, found.size_bytes, found.etag.strip('"'))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below the folder `prefix` ('' for all), in pages of a thousand."""
        bucket = self._bucket
        pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=bucket.below(prefix))
        with bucket.translated():
            for page in pages:
                for found in page.get("Contents", []):
                    key = bucket.relative(found["Key"])
                    try:
                        check_key(key)
                    except BadKey:  # a folder marker, or something that we never wrote
                        continue
                    yield StoredObject(
                        key, found["Size"], found.get("ETag", "").strip('"'), modified_at=found.get("LastModified")
                    )

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when it is not there.

        In a bucket that keeps versions they go as well, as far as the keys may and no lock forbids it: else a deletion
        would free nothing. Raises also: StorageDenied.
        """
        bucket = self._bucket
        with bucket.translated():
            try:
                answer = bucket.client.delete_object(Bucket=bucket.name, Key=bucket.full(key))
            except ClientError as error:
                if not is_denied(error):
                    raise
                raise StorageDenied(
                    f"{bucket.place} refused to delete {key}: an object lock keeps it, or the keys may not delete."
                ) from error
            if answer.get("DeleteMarker"):
                self._delete_versions(bucket.full(key))

    def _delete_versions(self, full: str) -> None:
        """Remove what a delete marker hides, the marker last: as long as versions are there, it hides them."""
        bucket = self._bucket
        versions, markers = [], []
        try:
            for page in bucket.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name, Prefix=full):
                versions += [found["VersionId"] for found in page.get("Versions", []) if found["Key"] == full]
                markers += [found["VersionId"] for found in page.get("DeleteMarkers", []) if found["Key"] == full]
            for version in versions + markers:
                bucket.client.delete_object(Bucket=bucket.name, Key=full, VersionId=version)
        except ClientError as error:
            if not is_denied(error):
                raise
            logger.info("Older versions of %s stay in %s: locked, or not ours to delete", full, bucket.place)

    def locked_until(self, key: str) -> datetime | None:
        """Return until when the bucket's object lock keeps the object; None when it does not, or hides it."""
        found = self._bucket.head(key)
        return found.locked_until if found is not None else None

    def clear(self, folder: str) -> int:
        """Remove everything below a folder, unfinished uploads included. Returns how many things were removed."""
        check_key(folder)
        # One by one: a backup has few objects, and the call for many wants a checksum that not every server takes.
        keys = [found.key for found in self.list(folder)]
        for key in keys:
            self.delete(key)
        return len(keys) + sum(self.discard(upload) for upload in list(self.unfinished(folder)))

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Yield the multipart uploads below the folder `prefix` ('' for all) that were begun and not ended.

        MinIO lists them for whole keys only, and drops them by itself after a day. None where the server cannot tell.
        """
        bucket = self._bucket
        pages = bucket.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket.name, Prefix=bucket.below(prefix)
        )
        with bucket.translated():
            try:
                for page in pages:
                    for found in page.get("Uploads", []):
                        key = bucket.relative(found["Key"])
                        with suppress(BadKey):
                            yield Unfinished(check_key(key), found["UploadId"], found.get("Initiated"))
            except ClientError as error:
                if not is_refused_option(error):
                    raise

    def discard(self, item: Unfinished) -> bool:
        """Abort exactly this upload; False when it was not there any more."""
        bucket = self._bucket
        with bucket.translated():
            try:
                bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=bucket.full(item.key), UploadId=item.token)
            except ClientError as error:
                if code_of(error) in {"NoSuchUpload", "404"}:
                    return False
                raise
        return True

    @property
    def is_unsure(self) -> bool:
        """Whether a call that makes something visible was broken off by the Abort: it may take effect yet."""
        return self._bucket.line.unanswered

    def presign(self, key: str, seconds: int) -> str:
        """Return an address from which anybody can read the object for `seconds` (seven days at most)."""
        check_key(key)
        with self._bucket.translated():
            url: str = self._backend.url(key, expire=min(seconds, _LONGEST_PRESIGN_SECONDS))
        return url
