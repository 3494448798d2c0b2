"""Small objects whole, through the sinks and sources of any store."""

from __future__ import annotations

from apps.storage.errors import StorageRefused
from apps.storage.stores import Sink, Source, StoredObject


def put_whole(sink: Sink, data: bytes) -> StoredObject:
    """Write `data` and commit; whatever goes wrong, nothing stays behind. Raises what the sink raises."""
    try:
        for number, start in enumerate(range(0, len(data), sink.part_size)):
            piece = bytearray(data[start : start + sink.part_size])
            sink.write(number, piece, len(piece))
        return sink.commit()
    except BaseException:
        sink.abort()
        raise


def get_whole(source: Source, max_bytes: int, name: str) -> bytes:
    """Read everything. `name` is for the message. Raises: StorageRefused when it is larger than `max_bytes`."""
    if source.size_bytes > max_bytes:
        raise StorageRefused(f"{name} is larger than {max_bytes} bytes: it is none of ours.")
    data = bytearray(source.size_bytes)
    return bytes(memoryview(data)[: source.readinto(memoryview(data))])
