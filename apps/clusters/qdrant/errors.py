"""What can go wrong between us and a Qdrant node.

QdrantError
  QdrantUnreachable     no connection: refused, no such host
    QdrantTlsRefused    no connection: the two did not agree on TLS
    CaInvalid           the CA certificate that was entered is none
  QdrantTimeout         connected, but no answer in time
  QdrantFault           an answer that is a fault (5xx, 429), or a connection that broke before there was one
    NotQdrant           no Qdrant answer at all: a redirect, a page, a proxy that alters what it passes on
  QdrantDenied          401 or 403: the key is missing, wrong or may not do this
  QdrantRejected        any other 4xx: Qdrant understood and refuses
  DownloadBroken        a snapshot did not arrive whole, however often it was resumed
  SnapshotChanged       the snapshot on the node is gone or no longer the one the download began with
CollectionNotFound      404 for the collection
SnapshotNotFound        404 for the snapshot

Transient is what may pass by itself: all but what somebody has to change (address, certificate, key, request).
"""

from __future__ import annotations

from apps.core.errors import NotFound, Unavailable


class QdrantError(Unavailable):
    """Any failure of a call to Qdrant."""

    http_status = 502

    def __init__(self, message: str, *, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        #: HTTP status that Qdrant answered with, None when it did not answer.
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class QdrantUnreachable(QdrantError):
    """No connection to the node."""

    http_status = 503


class QdrantTlsRefused(QdrantUnreachable):
    """The node's certificate was not accepted, or it does not speak TLS."""

    transient = False


class CaInvalid(QdrantUnreachable, ValueError):
    """The CA certificate is no PEM text of a certificate; also a ValueError, for forms."""

    transient = False


class QdrantTimeout(QdrantError):
    """The node did not answer in time."""

    http_status = 504


class QdrantFault(QdrantError):
    """The node answered with a fault of its own, or broke off before it had answered."""


class NotQdrant(QdrantFault):
    """What answers is no Qdrant, or something in between alters its answers: the address has to be corrected."""

    transient = False


class QdrantDenied(QdrantError):
    """The API key is missing, wrong, or lacks the right."""

    transient = False


class QdrantRejected(QdrantError):
    """The node understood the request and refuses it."""

    transient = False


class DownloadBroken(QdrantError):
    """A snapshot did not arrive whole."""


class SnapshotChanged(QdrantError):
    """The snapshot on the node is gone, or another one under the same name."""


class CollectionNotFound(NotFound):
    """The cluster has no collection of that name."""


class SnapshotNotFound(NotFound):
    """The node has no snapshot of that name."""
