"""Where a node recovers from: an address that it can fetch, made of what the client wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from django.conf import settings

from apps.clusters.qdrant import QdrantError
from apps.core.errors import NotFound, Unprocessable
from apps.storage.keys import check_key
from apps.storage.models import StorageConfig, StorageType
from apps.storage.services import open_store

_SIGNATURE = re.compile(r"\?\S*(X-Amz-|Signature=|AWSAccessKeyId=)\S*", re.IGNORECASE)


class LocationMissing(NotFound):
    """Nothing is stored where the location points."""


@dataclass(frozen=True)
class Source:
    """What the node is told (`url`, may carry a signature) and what the client wrote (`location`)."""

    url: str
    location: str
    is_presigned: bool = False

    def without_secrets(self, error: QdrantError) -> QdrantError:
        """Return an error of the same kind whose sentence holds no signature: Qdrant quotes the address it got."""
        if not self.is_presigned:
            return error
        text = _SIGNATURE.sub("?…", str(error).replace(self.url, self.location))
        return type(error)(text, status=error.status)


def resolve(location: str) -> Source:
    """Return the source that a location stands for.

    http, https and file go to the node as they are; s3://storage/key and s3://bucket/key become a presigned
    address. Raises: Unprocessable, LocationMissing; StorageErrors.
    """
    try:
        parts = urlsplit(location)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise Unprocessable("location: this is no valid address.") from None
    if any(ord(character) <= 32 for character in location):
        raise Unprocessable("location: an address has no spaces and no control characters (write %20).")
    if parts.scheme in ("http", "https"):
        if not host:
            raise Unprocessable("location: the address names no host.")
        return Source(location, location)
    if parts.scheme == "file":
        if host or not parts.path.startswith("/"):
            raise Unprocessable("location: write file:///path/on/the/node.")
        return Source(location, location)
    if parts.scheme == "s3":
        return _presigned(location)
    raise Unprocessable("location: must begin with http://, https://, file:// or s3://.")


def _presigned(location: str) -> Source:
    # Not urlsplit's netloc: names of storages may hold capitals, spaces (as %20) and colons.
    name, _, key = unquote(location.partition("://")[2]).partition("/")
    storage, key = _storage_for(name, key)
    try:
        check_key(key)
    except ValueError:
        raise Unprocessable("location: write s3://storage/key, with a key that does not climb.") from None
    store = open_store(storage)
    if store.stat(key) is None:
        raise LocationMissing(f"The storage {storage.name!r} holds nothing under {key!r}.")
    url = store.presign(key, settings.BACKUPMGR_PRESIGN_SECONDS)
    if url is None:
        raise Unprocessable(f"A node cannot fetch from the storage {storage.name!r}: start a restore job instead.")
    return Source(url, location, is_presigned=True)


def _storage_for(name: str, key: str) -> tuple[StorageConfig, str]:
    """Find the S3 storage by its name, or else by its bucket; return it with the key relative to its prefix."""
    found = StorageConfig.objects.filter(type=StorageType.S3)
    storage = found.filter(name=name).first()
    if storage is not None:
        return storage, key
    for candidate in found.filter(s3_bucket=name).order_by("-is_default", "name", "id"):
        prefix = candidate.s3_prefix.strip("/")
        if not prefix:
            return candidate, key
        if key.startswith(f"{prefix}/"):
            return candidate, key.removeprefix(f"{prefix}/")
    raise Unprocessable(f"location: no S3 storage is configured with the name or the bucket {name!r}.")
