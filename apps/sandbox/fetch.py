"""Pulling a snapshot from an http(s) address, and checking hashes."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import QdrantError, internal, invalid, wrong_input

_COPY_BYTES = 1 << 20
# Qdrant gives up on a source that sends nothing for so long.
_STALL_SECONDS = 60.0
_MAX_REDIRECTS = 10


def check_sha256(value: object, where: str = "JSON body") -> str | None:
    """Return a checksum in lower case, None for none. Raises: QdrantError (422) when it is no SHA-256."""
    if value is None:
        return None
    text = str(value)
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return text.lower()
    detail = f'"expected_length": Number(64), "length": Number({len(text)}), "value": String("{text}")'
    raise invalid(f"checksum: Validation error: invalid_sha256_hash [{{{detail}}}]", where)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, api_key: str | None, target: Path) -> str:
    """Download an address into a new file and return the SHA-256 of what came.

    The key goes along as `api-key`. Raises: QdrantError 400 for a status other than 2xx; 500 when the source
    cannot be reached, stalls, or ends before its announced length.
    """
    try:
        connection, response, place = _open(url, api_key)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise internal(f"Http request error: error sending request for url ({url})") from error
    digest, held = hashlib.sha256(), 0
    try:
        if not 200 <= response.status < 300:
            status = f"{response.status} {http.client.responses.get(response.status, '')}".strip()
            raise wrong_input(f"Failed to download tar from {place}: status - {status}")
        with target.open("xb", buffering=0) as file:
            buffer = memoryview(bytearray(_COPY_BYTES))
            while count := response.readinto(buffer):
                digest.update(buffer[:count])
                file.write(buffer[:count])
                held += count
        if response.length:
            raise internal(f"Http request error: request or response body error for url ({url})")
    except (OSError, http.client.HTTPException) as error:
        raise internal(f"Http request error: request or response body error for url ({url})") from error
    finally:
        connection.close()
    return digest.hexdigest()


def _open(url: str, api_key: str | None) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, str]:
    headers = {"Accept-Encoding": "identity", "Accept": "*/*"}
    if api_key is not None:
        headers["api-key"] = api_key
    for _ in range(_MAX_REDIRECTS):
        parts = urlsplit(url)
        connection = _connect(parts)
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        if response.status not in (301, 302, 303, 307, 308) or not response.headers.get("location"):
            return connection, response, url
        connection.close()
        following = urljoin(url, response.headers["location"])
        if urlsplit(following).netloc != parts.netloc:
            headers.pop("api-key", None)
        url = following
    raise ValueError("too many redirects")


def _connect(parts: SplitResult) -> http.client.HTTPConnection:
    if not parts.hostname:
        raise ValueError("no host")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_STALL_SECONDS, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_STALL_SECONDS)


def check_hash(expected: str | None, actual: str) -> None:
    """Compare a promised hash with that of a recovered file. Raises: QdrantError (400)."""
    if expected is not None and expected.lower() != actual:
        raise QdrantError(400, f"Wrong input: Snapshot checksum mismatch: expected {expected}, got {actual}")
