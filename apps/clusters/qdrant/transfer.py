"""Bulk data to and from a node: create, download and restore of shard snapshots.

On http.client, not requests: `readinto` on a plain response moves three times the bytes per CPU second, and the
socket is at hand, so that a job that has to stop can break a blocked call (Abort).
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlencode

from apps.clusters.qdrant.endpoint import Endpoint, break_connection, segment
from apps.clusters.qdrant.errors import (
    DownloadBroken,
    NotQdrant,
    QdrantFault,
    QdrantRejected,
    SnapshotChanged,
    SnapshotNotFound,
)
from apps.clusters.qdrant.node import read_answer, snapshots_path, timed_out, unreachable
from apps.clusters.qdrant.types import SnapshotDescription
from apps.core.abort import Abort
from apps.core.errors import BackupmgrError

#: Bytes read or sent between two looks at the abort flag; larger ones gain nothing measurable.
STEP_BYTES = 1024 * 1024
#: Broken downloads in a row, without a byte between them, after which we give up once the outage lasts too long.
MAX_BREAKS_WITHOUT_PROGRESS = 4
#: Broken downloads in all; a node that drops every connection after a few bytes must end some time.
MAX_BREAKS = 200
#: The longest wait before a broken download goes on, whatever an overloaded node asks for (Retry-After).
MAX_PAUSE_SECONDS = 30.0


def create_snapshot(endpoint: Endpoint, collection: str, shard_id: int | None, abort: Abort) -> SnapshotDescription:
    """Have the node make a snapshot and wait until it stands (POST …/snapshots?wait=true).

    The node works on when the connection breaks; the caller then looks what became of it.
    Raises: QdrantError; the reason of `abort`.
    """
    answer = _call(endpoint, "POST", snapshots_path(collection, shard_id) + "?wait=true", None, abort)
    return SnapshotDescription.from_answer(answer)


def recover_snapshot(
    endpoint: Endpoint, collection: str, shard_id: int | None, location: str, sha256: str, abort: Abort
) -> None:
    """Have the node fetch a snapshot from `location` and restore the shard from it (PUT …/snapshots/recover).

    Priority no_sync: this replica becomes what the snapshot holds and no other replica is touched.
    Raises: QdrantError; the reason of `abort`.
    """
    body = {"location": location, "checksum": sha256, "priority": "no_sync"}
    _call(endpoint, "PUT", snapshots_path(collection, shard_id) + "/recover?wait=true", body, abort)


def upload_snapshot(
    endpoint: Endpoint,
    collection: str,
    shard_id: int | None,
    chunks: Iterator[memoryview | bytes],
    size_bytes: int,
    sha256: str,
    abort: Abort,
) -> None:
    """Send a snapshot to the node and restore the shard from it (POST …/snapshots/upload, multipart).

    `chunks` must add up to `size_bytes`. The node compares the checksum before it touches the shard.
    Raises: QdrantError; the reason of `abort`; whatever `chunks` raises.
    """
    boundary = f"backupmgr-{secrets.token_hex(16)}"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="snapshot"; filename="part.snapshot"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    query = urlencode({"wait": "true", "priority": "no_sync", "checksum": sha256})
    path = f"{snapshots_path(collection, shard_id)}/upload?{query}"
    with _connected(endpoint, abort, endpoint.stall_seconds) as connection:
        connection.putrequest("POST", endpoint.target(path), skip_accept_encoding=True)
        for name, value in endpoint.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Type", f"multipart/form-data; boundary={boundary}")
        connection.putheader("Content-Length", str(len(head) + size_bytes + len(tail)))
        connection.endheaders()
        try:
            connection.send(head)
            for chunk in chunks:
                abort.check()
                connection.send(chunk)
            connection.send(tail)
        except (BrokenPipeError, ConnectionResetError):
            # A node that refuses answers before it has read everything; its answer explains more than the pipe.
            abort.check()
            response = _response_after_refusal(endpoint, connection)
            read_answer(
                endpoint, response.status, response.read(64 * 1024), retry_after=response.getheader("Retry-After")
            )
            raise QdrantFault(f"Qdrant at {endpoint.url} closed the connection during an upload.") from None
        connection.sock.settimeout(endpoint.snapshot_timeout_seconds)
        response = connection.getresponse()
        read_answer(endpoint, response.status, response.read(), retry_after=response.getheader("Retry-After"))


class SnapshotDownload:
    """A snapshot being read from a node; goes on by itself from the byte where a connection broke.

    Use as a context manager. Attributes after entering: `size_bytes`, `etag`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        collection: str,
        shard_id: int | None,
        snapshot: str,
        abort: Abort,
        on_break: Callable[[str], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._path = f"{snapshots_path(collection, shard_id)}/{segment(snapshot)}"
        self._snapshot = snapshot
        self._abort = abort
        self._on_break = on_break
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._received = 0
        self._breaks = 0
        self._breaks_without_progress = 0
        self._progress_at = monotonic()
        self.size_bytes = 0
        self.etag = ""

    def __enter__(self) -> SnapshotDownload:
        while self._response is None:
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with the next bytes; fewer only at the end, 0 after it.

        Raises: DownloadBroken, SnapshotChanged and other QdrantErrors; the reason of the abort.
        """
        filled = 0
        while filled < len(buffer) and self._received < self.size_bytes:
            step = buffer[filled : filled + min(STEP_BYTES, self.size_bytes - self._received)]
            count = self._read(step)
            filled += count
            self._received += count
        return filled

    def _read(self, step: memoryview) -> int:
        """Read once; on a break reconnect and return 0."""
        self._abort.check()
        if self._response is None:
            self._open()
        if self._response is None or self._connection is None:
            return 0  # counted as one more break
        try:
            with self._abort.breaking(lambda connection=self._connection: break_connection(connection)):  # type: ignore[misc]
                # One read of the socket at a time: a fill of the whole step would lose what had come of it before a
                # reset, and fetch it again. The body is plain (a length is required), so below is the socket.
                count = self._response.fp.readinto1(step)
        except TimeoutError as error:
            self._break(f"no byte came for {self._endpoint.stall_seconds:.0f} seconds", error)
            return 0
        except (OSError, http.client.HTTPException) as error:
            self._break("the connection was reset", error)
            return 0
        if count == 0:
            self._break("the connection was closed early")
        else:
            self._breaks_without_progress = 0
            self._progress_at = monotonic()
        return count

    def _break(self, cause: str, error: BaseException | None = None, *, pause_seconds: float | None = None) -> None:
        """Count a break and wait a little; the next read opens anew from where we are."""
        self._abort.check()
        self._close()
        self._breaks += 1
        self._breaks_without_progress += 1
        where = f"after {self._received:,} of {self.size_bytes:,} bytes" if self.size_bytes else "before its first byte"
        lasts = monotonic() - self._progress_at > self._endpoint.outage_seconds
        if (self._breaks_without_progress > MAX_BREAKS_WITHOUT_PROGRESS and lasts) or self._breaks > MAX_BREAKS:
            if isinstance(error, QdrantFault):
                raise error  # the node's own words say more
            raise DownloadBroken(
                f"The download of {self._snapshot} from {self._endpoint.url} broke off {where} ({cause}), "
                f"and going on from there did not help: check the network between here and Qdrant.",
            ) from error
        if self._on_break is not None:
            self._on_break(f"Download of {self._snapshot} broke off {where} ({cause}); going on from there.")
        pause = max(pause_seconds or 0.0, min(10.0, 0.25 * 2 ** min(self._breaks_without_progress, 8)))
        self._abort.sleep(min(MAX_PAUSE_SECONDS, pause))

    def _open(self) -> None:
        """Request the file from the byte where we are; the first answer fixes size and ETag.

        What may pass by itself is one more break, after which the next call tries anew.
        """
        first = not self.size_bytes
        headers = dict(self._endpoint.headers)
        if not first:
            # If-Range is ignored by Qdrant; If-Match with a stale ETag is 412.
            headers["Range"] = f"bytes={self._received}-"
            if self.etag:
                headers["If-Match"] = self.etag
        try:
            self._connection = self._endpoint.connect(self._endpoint.stall_seconds)
            with self._abort.breaking(lambda connection=self._connection: break_connection(connection)):  # type: ignore[misc]
                self._connection.request("GET", self._endpoint.target(self._path), headers=headers)
                response = self._connection.getresponse()
        except TimeoutError as error:
            self._break("the node did not answer", error)
            return
        except (OSError, http.client.HTTPException) as error:
            failure = unreachable(self._endpoint, error)
            if not failure.transient:
                self._close()
                raise failure from error
            self._break("the node cannot be reached", error)
            return
        try:
            self._accept(response, first=first)
        except QdrantFault as error:
            if not error.transient:
                self._close()
                raise
            self._break(f"the node answered {error.status}", error, pause_seconds=error.retry_after_seconds)
            return
        except BackupmgrError:
            self._close()
            raise
        self._response = response

    def _accept(self, response: http.client.HTTPResponse, *, first: bool) -> None:
        etag = response.getheader("ETag", "") or ""
        if first:
            if response.status != 200:
                self._refuse(response)
            length = response.getheader("Content-Length")
            if (
                response.status != 200
                or length is None
                or response.getheader("Content-Encoding", "identity") != "identity"
            ):
                raise NotQdrant(
                    f"{self._endpoint.url} sent {self._snapshot} without a length or compressed: is a proxy in between?"
                )
            self.size_bytes, self.etag = int(length), etag
            return
        if response.status >= 300:
            self._refuse(response)
        if etag != self.etag:
            raise self._changed(response.status)
        expected = f"bytes {self._received}-{self.size_bytes - 1}/{self.size_bytes}"
        if response.status == 200 and self._received == 0:
            return
        if response.status != 206 or response.getheader("Content-Range") != expected:
            raise QdrantFault(
                f"{self._endpoint.url} cannot go on with a download from the middle.", status=response.status
            )

    def _refuse(self, response: http.client.HTTPResponse) -> NoReturn:
        """Raise what an answer other than the file means."""
        if response.status in (412, 416):
            raise self._changed(response.status)
        body = response.read(64 * 1024)
        try:
            read_answer(self._endpoint, response.status, body, retry_after=response.getheader("Retry-After"))
        except (SnapshotNotFound, QdrantRejected) as error:
            if response.status != 404:
                raise
            # It was there a moment ago: somebody deleted it, and it has to be made anew.
            raise self._changed(response.status) from error
        raise NotQdrant(
            f"{self._endpoint.url} answered {response.status} to a download: is a proxy in between?",
            status=response.status,
        )

    def _changed(self, status: int) -> SnapshotChanged:
        return SnapshotChanged(
            f"{self._snapshot} on {self._endpoint.url} is gone or was made anew during the download.", status=status
        )

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._connection is not None:
            self._connection.close()
        self._response = self._connection = None


def _call(endpoint: Endpoint, method: str, path: str, body: Any, abort: Abort) -> Any:
    """Make a call that may take hours and that `abort` can break. Raises: QdrantError; the reason of `abort`."""
    with _connected(endpoint, abort, endpoint.snapshot_timeout_seconds) as connection:
        payload = None if body is None else json.dumps(body).encode()
        headers = dict(endpoint.headers)
        if payload is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, endpoint.target(path), body=payload, headers=headers)
        response = connection.getresponse()
        return read_answer(endpoint, response.status, response.read(), retry_after=response.getheader("Retry-After"))


@contextmanager
def _connected(endpoint: Endpoint, abort: Abort, timeout_seconds: float) -> Iterator[http.client.HTTPConnection]:
    """Hold a connection that `abort` breaks; network faults become QdrantErrors."""
    abort.check()
    try:
        connection = endpoint.connect(timeout_seconds)
    except OSError as error:
        raise unreachable(endpoint, error) from error
    try:
        with abort.breaking(lambda: break_connection(connection)):
            yield connection
    except TimeoutError as error:
        abort.check()
        raise timed_out(endpoint, timeout_seconds) from error
    except (OSError, http.client.HTTPException) as error:
        abort.check()
        raise QdrantFault(
            f"Qdrant at {endpoint.url} broke the connection before it answered: look at its log."
        ) from error
    finally:
        connection.close()


def _response_after_refusal(endpoint: Endpoint, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    try:
        connection.sock.settimeout(endpoint.timeout_seconds)
        return connection.getresponse()
    except (OSError, http.client.HTTPException, AttributeError) as error:
        raise QdrantFault(
            f"Qdrant at {endpoint.url} broke the connection during an upload: look at its log."
        ) from error
