"""Snapshot downloads, streamed from the node to the client in constant memory."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header
from rest_framework.request import Request

from apps.api.v1.passthrough import RefusedByQdrant
from apps.clusters.qdrant import (
    CollectionNotFound,
    DownloadBroken,
    Endpoint,
    QdrantDenied,
    QdrantError,
    QdrantFault,
    QdrantTimeout,
    QdrantUnreachable,
    SnapshotNotFound,
)

logger = logging.getLogger(__name__)

#: Larger buffers gain nothing measurable, and there is one for each download under way.
CHUNK_BYTES = 256 * 1024
_ERROR_BYTES = 4096

_CONDITIONS = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_PASSED_BACK = ("Content-Range", "ETag", "Last-Modified", "Accept-Ranges")


def download(endpoint: Endpoint, path: str, name: str, request: Request) -> HttpResponseBase:
    """Begin a download from the node and return the answer that streams it.

    Ranges and conditions are the node's to judge. Raises: QdrantErrors, SnapshotNotFound, CollectionNotFound,
    RefusedByQdrant (a range past the end, a condition that does not hold).
    """
    headers = {header: request.headers[header] for header in _CONDITIONS if header in request.headers}
    connection, upstream = _begin(endpoint, path, name, headers)
    # Qdrant ignores If-Range: it would go on with a part of another file.
    if upstream.status == 206 and request.headers.get("If-Range") not in (None, upstream.getheader("ETag")):
        connection.close()
        connection, upstream = _begin(endpoint, path, name, {k: v for k, v in headers.items() if k != "Range"})
    return _answer(connection, upstream, name, with_body=request.method != "HEAD")


def _begin(
    endpoint: Endpoint, path: str, name: str, headers: dict[str, str]
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask the node for the file; return once its headers are here."""
    try:
        connection = endpoint.connect(endpoint.stall_seconds)
    except OSError as error:
        raise QdrantUnreachable(
            f"Qdrant at {endpoint.url} cannot be reached: is it running, and is the address right?"
        ) from error
    try:
        connection.request("GET", endpoint.target(path), headers=endpoint.headers | headers)
        upstream = connection.getresponse()
        if upstream.status not in (200, 206, 304):
            raise _refusal(endpoint, upstream)
    except TimeoutError as error:
        connection.close()
        raise QdrantTimeout(f"Qdrant at {endpoint.url} did not begin to send {name} in time.") from error
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise QdrantFault(f"Qdrant at {endpoint.url} broke the connection before it sent {name}.") from error
    except BaseException:
        connection.close()
        raise
    return connection, upstream


def _answer(
    connection: http.client.HTTPConnection, upstream: http.client.HTTPResponse, name: str, *, with_body: bool
) -> HttpResponseBase:
    answer: HttpResponseBase
    length = upstream.getheader("Content-Length")
    body = _Body(connection, upstream, name, int(length) if length is not None else None)
    if upstream.status == 304:
        body.close()
        answer = HttpResponse(status=304)
    else:
        if with_body:
            answer = StreamingHttpResponse(body, status=upstream.status)
        else:  # HEAD: nobody reads what the node has begun to send
            body.close()
            answer = HttpResponse(status=upstream.status)
        answer["Content-Type"] = "application/octet-stream"
        answer["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
        # Compressed by a proxy, it would match neither its length nor its checksum.
        answer["Cache-Control"] = "no-transform"
        if length is not None:
            answer["Content-Length"] = length
    for header in _PASSED_BACK:
        value = upstream.getheader(header)
        if value is not None:
            answer[header] = value
    return answer


class _Body:
    """The bytes of a snapshot on their way through. Closed by Django when the client is served or gone."""

    def __init__(
        self, connection: http.client.HTTPConnection, upstream: http.client.HTTPResponse, name: str, length: int | None
    ) -> None:
        self._connection = connection
        self._upstream = upstream
        self._name = name
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        try:
            while chunk := self._upstream.read(CHUNK_BYTES):
                sent += len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(sent) from error
        finally:
            self.close()
        if self._length is not None and sent < self._length:
            raise self._broken(sent)

    def close(self) -> None:
        self._upstream.close()
        self._connection.close()

    def _broken(self, sent: int) -> DownloadBroken:
        """The status line is long gone: all that is left is to break off before the promised length."""
        logger.warning("The download of %s broke off after %d bytes.", self._name, sent)
        return DownloadBroken(f"The download of {self._name} broke off after {sent} bytes.")


def _refusal(endpoint: Endpoint, upstream: http.client.HTTPResponse) -> Exception:
    """Say in our words why the node does not send the file. Its explanations of downloads are plain text."""
    text = upstream.read(_ERROR_BYTES).decode("utf-8", "replace").strip()[:500]
    where, status = f"Qdrant at {endpoint.url}", upstream.status
    if status == 401:
        return QdrantDenied(f"{where} does not accept the API key: set the right one on the cluster.", status=status)
    if status == 403:
        return QdrantDenied(f"{where} forbids this with the given API key.", status=status)
    if status == 404 and "ollection" in text:
        return CollectionNotFound(f"{where} has no such collection.")
    if status == 404:
        return SnapshotNotFound(f"{where} has no such snapshot (or shard).")
    if status == 412:
        return RefusedByQdrant("The snapshot is not the one that If-Match names: start the download anew.", 412)
    if status == 416:
        return RefusedByQdrant("The range lies past the end of the snapshot.", 416)
    if status in (400, 422):
        return RefusedByQdrant(f"{where} refuses ({status}).", status)
    if status >= 500 or status == 429:
        return QdrantFault(f"{where} answered with a fault ({status}).", status=status)
    return QdrantError(f"{where} answered {status} to a download.", status=status)
