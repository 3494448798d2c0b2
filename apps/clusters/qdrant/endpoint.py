"""Endpoint: where a node is, how to prove who we are, and how long to wait."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from apps.clusters.qdrant.errors import CaInvalid

# A peer that vanished without a word (power, cable) is noticed after 30 + 6 × 10 seconds even when we only listen.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))

CONNECT_TIMEOUT_SECONDS = 10.0


class PeerGuard(Protocol):
    """Judges where connections have led (apps/core/outbound.py)."""

    def check(self, host: str, connection: socket.socket) -> None:
        """Check the peer of a connection to `host`, and close it when it may not be. Raises: BackupmgrError."""

    def pools(self, pools: dict[str, Any]) -> dict[str, Any]:
        """Return urllib3 pool classes whose connections are checked."""


@dataclass(frozen=True)
class Endpoint:
    """One node's REST address with credentials and time-outs. Its repr never shows the key."""

    url: str
    api_key: str = field(default="", repr=False)
    verify_tls: bool = True
    #: PEM text of the CA that signed the node's certificate; empty for the system's CAs.
    ca: str = ""
    #: For one small request.
    timeout_seconds: float = 30.0
    #: For a transfer: how long no byte may move.
    stall_seconds: float = 60.0
    #: For a transfer: how long a node may be away before going on is given up.
    outage_seconds: float = 0.0
    #: For the calls in which a node makes or restores a snapshot, which take as long as the data is large.
    snapshot_timeout_seconds: float = 6 * 3600.0
    #: Somebody waits: `timeout_seconds` bounds every call, those that may take longer as well.
    is_quick: bool = False
    #: Who checks where connections lead; None for nobody.
    guard: PeerGuard | None = field(default=None, repr=False, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request.

        Identity encoding: Qdrant compresses whatever a client says it accepts, snapshots too; the bytes would
        then differ from its checksum, come without a length and at a tenth of the speed.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "backupmgr"}
        if self.api_key:
            headers["api-key"] = self.api_key
        return headers

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS settings for this node. Raises: CaInvalid."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
        except (ssl.SSLError, TypeError, ValueError) as error:  # TypeError: not ASCII
            raise CaInvalid("The CA certificate is not PEM text of a certificate.") from error
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def connect(self, timeout_seconds: float) -> http.client.HTTPConnection:
        """Open a connection for bulk data; `timeout_seconds` is for each later read and write.

        Raises: OSError; BackupmgrError when the guard refuses where it led.
        """
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=CONNECT_TIMEOUT_SECONDS, context=self.ssl_context()
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_TIMEOUT_SECONDS)
        connection.connect()
        if self.guard is not None:
            self.guard.check(host, connection.sock)
        connection.sock.settimeout(timeout_seconds)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    def target(self, path: str) -> str:
        """Return the request target for `path` (already quoted), below the base path of the URL if it has one."""
        return urlsplit(self.url).path.rstrip("/") + path


def check_node_url(url: str) -> None:
    """Check that `url` can be a node's REST address. Raises: ValueError with a sentence."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError("This is no valid address: write http://host:6333 or https://host.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError("Write the node's REST address as http://host:6333 or https://host.")
    if parts.username or parts.password:
        raise ValueError("Leave credentials out of the address; the API key has a field of its own.")
    if parts.query or parts.fragment or any(ord(character) <= 32 for character in url):
        raise ValueError("The address must have no query, no fragment and no spaces.")


def check_api_key(key: str) -> None:
    """Check that `key` can be sent as a header. Raises: ValueError with a sentence."""
    if not key.isascii() or not (key.isprintable() or not key) or key != key.strip():
        raise ValueError("An API key is sent in a header: printable ASCII, no spaces at the ends.")


def segment(name: object) -> str:
    """Quote one path segment: a collection, snapshot or alias name, whatever it holds."""
    return quote(str(name), safe="")


def break_connection(connection: http.client.HTTPConnection) -> None:
    """Make every blocked call on the connection return at once; safe from another thread."""
    if connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_RDWR)
