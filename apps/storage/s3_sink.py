"""S3Sink: an object being written by a multipart upload, or by one request when it fits into a part."""

from __future__ import annotations

import secrets
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from apps.core.abort import Abort
from apps.storage.crc32 import combine_crc32, encode_crc32
from apps.storage.errors import StorageError, StorageFault
from apps.storage.s3_bucket import WRITE_TOKEN, Head, S3Bucket
from apps.storage.s3_errors import FAILURES, code_of, is_refused_option, is_taken, storage_error
from apps.storage.s3_window import Window
from apps.storage.stores import StoredObject

MIB = 1024 * 1024
# Six connections of 8 MiB: small parts start and end an upload sooner, more connections bridge the way to a distant
# server, and there is less of it all in memory, on either side (measured in docs/performance.md).
PART_SIZE = 8 * MIB
CONCURRENCY = 6
# S3 takes 10,000 parts; R2 and Garage want them equal.
_MOST_PARTS = 9000
# Memory for buffers, of which the engine keeps concurrency + 2.
_MOST_BUFFERED = 100 * MIB
# What goes to the socket in one call. Its time-out covers a whole call: a part in one piece would have to leave
# within botocore's connect time-out, which a slow line cannot do.
_SEND_SLICE = 256 * 1024
_ABORT_TRIES = 6
# Tries of one part in a row, half a second to ten seconds apart, after which it is given up once the outage lasts too
# long; and failures of all parts together.
_PART_TRIES = 6
_MOST_FAILURES = 500
_LONGEST_STEP_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 30.0


def part_size_for(size_bytes: int) -> int:
    """Return the bytes of a part: as few as keep the object below S3's limit of parts."""
    if size_bytes <= PART_SIZE:
        return max(size_bytes, 1)
    return max(PART_SIZE, -(-size_bytes // (_MOST_PARTS * MIB)) * MIB)


def concurrency_for(part_size: int) -> int:
    """Return how many parts may be under way, so that all buffers together stay within bounds."""
    return max(1, min(CONCURRENCY, _MOST_BUFFERED // part_size - 2))


class _Abandoned(BaseException):
    """Leaves a request in the middle: botocore catches, and tries again after, every Exception."""


class _Body:
    """The bytes of a part for botocore: sent without a copy, in pieces, and no further once work has to stop."""

    def __init__(self, view: memoryview, abort: Abort) -> None:
        self._view = view
        self._abort = abort
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, amount: int | None = None) -> memoryview:
        """Return the next piece, of our size: the 16 KiB that http.client asks for cost more than the sending."""
        if self._abort.reason is not None:
            raise _Abandoned
        piece = self._view[self._position : self._position + _SEND_SLICE]
        self._position += len(piece)
        return piece

    def seek(self, position: int, whence: int = 0) -> int:
        self._position = position + (0, self._position, len(self._view))[whence]
        return self._position

    def tell(self) -> int:
        return self._position


@dataclass(frozen=True)
class _Part:
    etag: str
    crc: int


class S3Sink:
    """An object being written. `write` may be called by `concurrency` threads at once; `commit` by one, after them."""

    def __init__(self, bucket: S3Bucket, key: str, size_bytes: int, abort: Abort) -> None:
        self.part_size = part_size_for(size_bytes)
        self.concurrency = concurrency_for(self.part_size)
        self._bucket = bucket
        self._key = key
        self._where: dict[str, Any] = {"Bucket": bucket.name, "Key": bucket.full(key)}
        self._size = size_bytes
        self._abort = abort
        self._token = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._small = b""
        self._upload_id = ""
        self._checksums = bucket.features.checksums
        # Whether the object may be there although `commit` has not returned.
        self._maybe_published = False
        self._committed = False
        self._given_up = False
        self._window = Window(self.concurrency, abort)
        self._failures = 0
        self._arrived_at = time.monotonic()
        #: Told, in a sentence, of each part that has to be sent again; from any thread.
        self.on_break: Callable[[str], None] | None = None
        if bucket.head(key) is not None:
            raise bucket.exists(key)
        abort.check()
        if size_bytes > self.part_size:
            self._upload_id = self._create_upload()

    def write(self, number: int, data: bytearray, length: int) -> None:
        """Write part `number` (from 0): the first `length` bytes of `data`, which may be reused afterwards.

        Raises: the reason of `abort`; StorageError; ValueError when the length is not that of the part.
        """
        self._abort.check()
        if number < 0 or length != min(self.part_size, self._size - number * self.part_size):
            raise ValueError(f"Part {number} of {self._size} bytes cannot have {length} bytes.")
        with memoryview(data) as whole, whole[:length] as view:
            crc = zlib.crc32(view)
            if self._upload_id:
                part = _Part(self._upload(number, view, crc), crc)
            else:
                self._small, part = bytes(view), _Part("", crc)
        with self._lock:
            self._parts[number] = part

    def commit(self) -> StoredObject:
        """Make the object visible under its key; what the server then shows is compared.

        Raises: the reason of `abort`; ObjectExists when somebody else was faster; StorageError.
        """
        self._abort.check()
        count = -(-self._size // self.part_size)
        if missing := count - len(self._parts):
            raise StorageFault(f"{missing} of {count} parts were never written to {self._bucket.place}.")
        self._maybe_published = True
        self._publish()
        found = self._bucket.head(self._key)
        if found is None or found.size_bytes != self._size:
            shown = "no object" if found is None else f"{found.size_bytes} bytes"
            raise StorageFault(f"{self._bucket.place} shows {shown} where {self._size} bytes were written: check it.")
        self._committed = True
        return StoredObject(self._key, self._size, found.etag.strip('"'))

    def abort(self) -> None:
        """Remove everything that was written; nothing happens after a successful `commit`.

        May be called twice, and while a `write` is under way. Raises: StorageError when it could not be removed.
        """
        if self._committed:
            return
        self._small = b""
        self._given_up = True
        with self._bucket.line.undoing():
            if self._upload_id:
                self._abort_upload()
            if self._maybe_published and self._is_ours(self._bucket.head(self._key)):
                with self._bucket.translated():
                    self._bucket.client.delete_object(**self._where)

    # --- the upload ----------------------------------------------------------------------------------------
    def _create_upload(self) -> str:
        options: dict[str, Any] = {"ContentType": "application/octet-stream", "Metadata": {WRITE_TOKEN: self._token}}
        client = self._bucket.client
        with self._bucket.translated():
            if self._checksums:
                try:
                    # AWS takes checksums of parts only when the upload was begun with their algorithm.
                    begun = client.create_multipart_upload(
                        **self._where, **options, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
                    )
                    return self._only(begun)
                except ClientError as error:
                    if not is_refused_option(error):
                        raise
            begun = client.create_multipart_upload(**self._where, **options)
            self._forgo_checksums()  # only once it worked without: the refusal was about them
            return self._only(begun)

    def _only(self, begun: dict[str, Any]) -> str:
        """Return the id of the upload; one whose answer got lost, so that it was begun again, is ended."""
        identifier: str = begun["UploadId"]
        if not begun.get("ResponseMetadata", {}).get("RetryAttempts"):
            return identifier
        client, key = self._bucket.client, self._where["Key"]
        try:
            found = client.list_multipart_uploads(Bucket=self._bucket.name, Prefix=key).get("Uploads", [])
            for upload in found:  # nobody else writes under a key of this attempt
                if upload["Key"] == key and upload["UploadId"] != identifier:
                    client.abort_multipart_upload(**self._where, UploadId=upload["UploadId"])
        except ClientError as error:
            # A server that cannot list them, or has ended it already.
            if not is_refused_option(error) and code_of(error) not in {"NoSuchUpload", "404"}:
                raise
        return identifier

    def _upload(self, number: int, view: memoryview, crc: int) -> str:
        """Send a part, and again when that breaks off: the parts that have arrived stay. Returns its ETag."""
        began, tries = time.monotonic(), 0
        while True:
            with self._window.slot():
                if self._given_up:  # a part that arrives now would bring the aborted upload back
                    raise StorageFault(f"Writing to {self._bucket.place} was given up.")
                try:
                    etag = self._send_part(number, view, crc)
                except StorageError as error:
                    self._window.narrow()
                    tries += 1
                    if self._is_hopeless(error, tries, began):
                        raise
                    failure = error
                else:
                    self._window.widen()
                    self._arrived_at = time.monotonic()
                    return etag
            if self.on_break is not None:
                name = self._key.rpartition("/")[2]
                self.on_break(f"Part {number + 1} of {name} did not arrive and is sent again: {failure}")
            pause = max(min(0.25 * 2 ** min(tries, 8), _LONGEST_STEP_SECONDS), failure.retry_after_seconds or 0.0)
            self._abort.sleep(min(pause, _LONGEST_PAUSE_SECONDS))

    def _is_hopeless(self, error: StorageError, tries: int, began: float) -> bool:
        """Tell whether a part that failed is not to be sent again."""
        with self._lock:
            self._failures += 1
        lost = code_of(error.__cause__ or error) == "NoSuchUpload"
        quiet = time.monotonic() - max(began, self._arrived_at)
        over = tries >= _PART_TRIES and quiet > self._bucket.outage_seconds
        return over or lost or not error.transient or self._failures > _MOST_FAILURES

    def _send_part(self, number: int, view: memoryview, crc: int) -> str:
        """Send a part once. Returns its ETag."""
        request: dict[str, Any] = {**self._where, "UploadId": self._upload_id, "PartNumber": number + 1}
        client = self._bucket.part_client
        try:
            with self._bucket.translated():
                if self._checksums:
                    try:
                        return client.upload_part(**request, Body=self._body(view), ChecksumCRC32=encode_crc32(crc))[
                            "ETag"
                        ]
                    except ClientError as error:
                        if not is_refused_option(error):
                            raise
                etag = client.upload_part(**request, Body=self._body(view))["ETag"]
                self._forgo_checksums()
                return etag
        except _Abandoned:
            self._abort.check()
            raise

    def _body(self, view: memoryview) -> Any:
        return _Body(view, self._abort)

    def _forgo_checksums(self) -> None:
        self._checksums = self._bucket.features.checksums = False

    def _publish(self) -> None:
        """Send the request that makes the object visible, with as much protection as the server knows."""
        features = self._bucket.features
        checksums, conditional = self._checksums, features.conditional
        while True:
            try:
                self._send_last(checksums, conditional)
            except FAILURES as error:
                # A try whose answer got lost may have worked: then the next one finds no upload, or the key taken.
                if self._is_ours(found := self._bucket.head(self._key)):
                    return
                if found is not None or is_taken(error):
                    raise self._bucket.exists(self._key) from error
                if not is_refused_option(error) or not (checksums or conditional):
                    raise storage_error(self._bucket.place, error) from error
                if checksums:
                    checksums = False
                else:
                    conditional = False
            else:
                if not checksums:
                    self._forgo_checksums()
                features.conditional = conditional
                return

    def _send_last(self, checksums: bool, conditional: bool) -> None:
        options: dict[str, Any] = {"IfNoneMatch": "*"} if conditional else {}
        numbered = sorted(self._parts.items())
        client = self._bucket.client
        if not self._upload_id:
            if checksums:
                options["ChecksumCRC32"] = encode_crc32(numbered[0][1].crc if numbered else 0)
            client.put_object(
                **self._where,
                Body=self._small,
                ContentType="application/octet-stream",
                Metadata={WRITE_TOKEN: self._token},
                **options,
            )
            return
        parts: list[Any] = []
        total = 0
        for number, part in numbered:
            entry = {"PartNumber": number + 1, "ETag": part.etag}
            if checksums:
                entry["ChecksumCRC32"] = encode_crc32(part.crc)
                total = combine_crc32(total, part.crc, min(self.part_size, self._size - number * self.part_size))
            parts.append(entry)
        if checksums:
            options |= {"ChecksumCRC32": encode_crc32(total), "ChecksumType": "FULL_OBJECT"}
        client.complete_multipart_upload(
            **self._where, UploadId=self._upload_id, MultipartUpload={"Parts": parts}, **options
        )

    def _is_ours(self, found: Head | None) -> bool:
        return found is not None and found.write_token == self._token

    def _abort_upload(self) -> None:
        """Abort the upload until the server knows nothing of it: a part that arrives meanwhile revives its data."""
        client = self._bucket.client
        identified: dict[str, Any] = {**self._where, "UploadId": self._upload_id}
        with self._bucket.translated():
            for round_number in range(_ABORT_TRIES):
                try:
                    client.abort_multipart_upload(**identified)
                    client.list_parts(**identified, MaxParts=1)
                except ClientError as error:
                    if code_of(error) in {"NoSuchUpload", "404", "NotFound", "NoSuchKey"}:
                        return
                    if is_refused_option(error):  # no ListParts: the abort itself has to do
                        return
                    raise
                time.sleep(0.1 * 2**round_number)
        raise StorageFault(f"{self._bucket.place} still shows an upload that was aborted: remove it there.")
