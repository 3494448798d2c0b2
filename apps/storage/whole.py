"""Small objects whole, through the sinks and sources of any store."""

from __future__ import annotations

import logging
import threading

from apps.core.errors import BackupmgrError
from apps.storage.errors import StorageRefused
from apps.storage.stores import Sink, Source, StoredObject

#: How long whoever gives up an object waits for it to be removed.
GIVE_UP_SECONDS = 1.0

logger = logging.getLogger(__name__)


def give_up(sink: Sink) -> None:
    """Remove what was written, waiting only a little: a storage that does not answer must not hold up a cancelled job.

    What is left then goes with the folder of the unfinished backup (traces).
    """

    def abort() -> None:
        try:
            sink.abort()
        except BackupmgrError as error:
            logger.warning("An unfinished upload could not be removed yet: %s", error)

    thread = threading.Thread(target=abort, name="give up upload", daemon=True)
    thread.start()
    thread.join(GIVE_UP_SECONDS)


def put_whole(sink: Sink, data: bytes) -> StoredObject:
    """Write `data` and commit. Raises what the sink raises, once nothing is left or the storage does not answer."""
    try:
        for number, start in enumerate(range(0, len(data), sink.part_size)):
            piece = bytearray(data[start : start + sink.part_size])
            sink.write(number, piece, len(piece))
        return sink.commit()
    except BaseException:
        give_up(sink)
        raise


def get_whole(source: Source, max_bytes: int, name: str) -> bytes:
    """Read everything. `name` is for the message. Raises: StorageRefused when it is larger than `max_bytes`."""
    if source.size_bytes > max_bytes:
        raise StorageRefused(f"{name} is larger than {max_bytes} bytes: it is none of ours.")
    data = bytearray(source.size_bytes)
    return bytes(memoryview(data)[: source.readinto(memoryview(data))])
