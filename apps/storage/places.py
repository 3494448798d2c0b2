"""Which storages lie within which: two rows may lead to the same folder or bucket."""

from __future__ import annotations

from collections.abc import Iterable

from apps.storage.models import StorageConfig, StorageType


def nested_prefixes(storage: StorageConfig, others: Iterable[StorageConfig]) -> list[str]:
    """Return the folders within `storage` that are other storages, as key prefixes without a slash at the end.

    A storage in exactly the same place is none of these: both hold the same.
    """
    own = _pieces(storage)
    return [
        "/".join(pieces[len(own) :])
        for pieces in map(_pieces, others)
        if len(pieces) > len(own) and pieces[: len(own)] == own
    ]


def is_same_place(one: StorageConfig, other: StorageConfig) -> bool:
    """Tell whether two storages lead to the same folder or to the same prefix of one bucket."""
    return _pieces(one) == _pieces(other)


def _pieces(storage: StorageConfig) -> list[str]:
    """Return type, host and bucket, and then the segments of the path."""
    if storage.type == StorageType.LOCAL:
        return [storage.type, "", "", *(piece for piece in storage.path.split("/") if piece)]
    place = [storage.type, storage.s3_endpoint.rstrip("/").lower(), storage.s3_bucket]
    return [*place, *(piece for piece in storage.s3_prefix.split("/") if piece)]
