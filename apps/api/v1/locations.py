"""Where a node recovers from: an address that it can fetch, made of what the client wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from django.conf import settings

from apps.clusters.qdrant import QdrantError, QdrantNode
from apps.core.errors import BackupmgrError, NotFound, Unprocessable
from apps.core.outbound import AddressRefused, current_policy, split_url
from apps.storage.keys import check_key
from apps.storage.models import StorageConfig, StorageType
from apps.storage.services import open_store

#: The first version of Qdrant that reads file:// inside its folder of snapshots only.
_CONFINES_FILES = (1, 17, 1)
_QUERY = re.compile(r"(https?://[^\s?#\"'()]*)\?[^\s\"')]*", re.IGNORECASE)
_SIGNATURE = re.compile(r"\?\S*(X-Amz-|Signature=|AWSAccessKeyId=)\S*", re.IGNORECASE)


class LocationMissing(NotFound):
    """Nothing is stored where the location points."""


@dataclass(frozen=True)
class Source:
    """What the node is told (`url`, may carry a signature) and what may be repeated of it (`shown`)."""

    url: str
    shown: str
    is_presigned: bool = False

    @property
    def is_file(self) -> bool:
        return self.url.startswith("file:")

    def without_secrets(self, error: BackupmgrError) -> BackupmgrError:
        """Return an error of the same kind whose sentence holds no signature: Qdrant quotes the address it got."""
        text = _SIGNATURE.sub("?…", _QUERY.sub(r"\1?…", str(error).replace(self.url, self.shown)))
        if text == str(error):
            return error
        return type(error)(text, status=error.status) if isinstance(error, QdrantError) else type(error)(text)


def resolve(location: str) -> Source:
    """Return the source that a location stands for.

    http, https and file go to the node as they are; s3://storage/key and s3://bucket/key become a presigned address.
    http and https are held against the policy of outbound.py; what the node itself resolves or is redirected to is out
    of our hands (SECURITY.md). Raises: Unprocessable, LocationMissing; StorageErrors.
    """
    try:
        parts = split_url(location, ("http", "https", "file", "s3"))
        if parts.scheme == "s3":
            return _presigned(location)
        if parts.scheme == "file":
            return _file(location)
        current_policy().check_url(location)
    except AddressRefused as error:
        raise Unprocessable(f"location: {error}") from None
    return Source(location, parts._replace(query="…" if parts.query else "", fragment="").geturl())


def check_node_reads_files_safely(node: QdrantNode) -> None:
    """Check that the node confines file:// to its own snapshots. Raises: Unprocessable; QdrantErrors.

    Qdrant does so from 1.17.1 on; an earlier one reads any file of its host.
    """
    root = node.call("GET", "/", enveloped=False)
    version = str(root.get("version", "")) if isinstance(root, dict) else ""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < _CONFINES_FILES:
        raise Unprocessable(
            f"location: Qdrant {version or 'of an unknown version'} would read any file of its host (1.17.1 and later "
            f"do not): use http:// or s3://, or upgrade the node."
        )


def _file(location: str) -> Source:
    parts = urlsplit(location)
    if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise Unprocessable("location: write file:///path/on/the/node.")
    if not settings.BACKUPMGR_ALLOW_FILE_LOCATION:
        raise Unprocessable("location: files of the node are not allowed here (BACKUPMGR_ALLOW_FILE_LOCATION).")
    if any(piece in (".", "..") for piece in unquote(parts.path).split("/")):
        raise Unprocessable("location: write the path of the file without '.' and '..'.")
    return Source(parts.geturl(), location)


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
