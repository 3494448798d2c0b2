"""Names as Qdrant judges them."""

from __future__ import annotations

# Qdrant 1.18 answers 422 for a collection name with one of these (recorded) and for control characters.
_FORBIDDEN = frozenset('<>:"/\\|?*')
MAX_COLLECTION_NAME_BYTES = 255
# Snapshot files are `{collection}-shard-{id}-{YYYY-mm-dd-HH-MM-SS}.snapshot`, made in a temporary folder of that
# name plus a random suffix; file names end at 255 bytes.
MAX_SNAPSHOT_COLLECTION_NAME_BYTES = 190


def check_collection_name(name: str) -> None:
    """Check a collection name the way Qdrant does. Raises: ValueError with a sentence."""
    if not name or name in (".", ".."):
        raise ValueError("A collection name must not be empty, '.' or '..'.")
    if len(name.encode()) > MAX_COLLECTION_NAME_BYTES:
        raise ValueError(f"A collection name must have at most {MAX_COLLECTION_NAME_BYTES} bytes.")
    bad = sorted(
        {character for character in name if character in _FORBIDDEN or ord(character) < 32 or ord(character) == 127}
    )
    if bad:
        raise ValueError(f"A collection name cannot contain {' '.join(repr(character) for character in bad)}.")


def check_snapshot_possible(name: str) -> None:
    """Check that Qdrant can snapshot a collection of that name. Raises: ValueError with a sentence.

    Qdrant accepts collection names of up to 255 bytes, but the snapshot's file name contains the collection's
    and overflows what a file system allows: the node then answers 500 (recorded).
    """
    if len(name.encode()) > MAX_SNAPSHOT_COLLECTION_NAME_BYTES:
        raise ValueError(
            f"Qdrant cannot make a snapshot of a collection whose name has {len(name.encode())} bytes: the snapshot's "
            f"file name becomes too long. Copy the points into a collection with a shorter name."
        )
