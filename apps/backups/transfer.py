"""Moving bytes: read once, hashed once, written once, in constant memory whatever the size.

    source ── reader (caller's thread) ──▶ hasher ──▶ writers (as many as the sink allows)
      ▲                                                   │
      └──────────────── ring of buffers ◀─────────────────┘

The ring bounds the memory: at most `sink.concurrency + 2` buffers of `sink.part_size`, taken from the budget that all
transfers of the process share (buffers.py). Reading, hashing and writing release the interpreter lock, so the three
overlap on two cores.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from apps.backups.buffers import BUDGET, Share
from apps.core.abort import Abort
from apps.core.errors import Unavailable
from apps.storage.stores import Sink, StoredObject

#: How often a blocked thread looks whether the others have failed or work has to stop.
POLL_SECONDS = 0.2
#: Buffer for reading a stored part back.
READ_BYTES = 1024 * 1024


class Readable(Protocol):
    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes only at the end, 0 after it."""


class TransferBroken(Unavailable):
    """The source ended before, or went on after, the size that was announced."""


@dataclass(frozen=True)
class Piece:
    """A buffer on its way through: part `number`, of which the first `length` bytes count."""

    number: int
    buffer: bytearray
    length: int


def pump(source: Readable, sink: Sink, size_bytes: int, abort: Abort, on_bytes: Callable[[int], None]) -> str:
    """Copy `size_bytes` from source to sink and return their SHA-256 in lower-case hex. Does not commit the sink.

    `on_bytes` is called with the size of each part once it is written.
    Raises: TransferBroken; the first error of source, sink or abort. The caller then aborts the sink.
    """
    return _Pump(source, sink, size_bytes, abort, on_bytes).run()


class _Pump:
    def __init__(
        self, source: Readable, sink: Sink, size_bytes: int, abort: Abort, on_bytes: Callable[[int], None]
    ) -> None:
        self._source = source
        self._sink = sink
        self._size = size_bytes
        self._abort = abort
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self._buffer_size = min(sink.part_size, max(size_bytes, 1))
        parts = -(-size_bytes // sink.part_size)
        self._most_buffers = min(sink.concurrency + 2, max(parts, 1))
        self._buffers = 0
        self._ring: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._to_hash: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def run(self) -> str:
        with BUDGET.share(self._buffer_size) as share:
            return self._run(share)

    def _run(self, share: Share) -> str:
        writers = [threading.Thread(target=self._write, daemon=True) for _ in range(self._sink.concurrency)]
        threads = [threading.Thread(target=self._digest, daemon=True), *writers]
        for thread in threads:
            thread.start()
        try:
            self._read(share)
            self._to_hash.put(None)
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL_SECONDS)
                    self._check()
        except BaseException as error:
            # Wakes the threads; they are daemons and not waited for, since a writer may sit in a stalled request.
            self._fail(error)
            self._to_hash.put(None)
            raise
        self._check()
        return self._hash.hexdigest()

    def _read(self, share: Share) -> None:
        left, number = self._size, 0
        while left:
            buffer = self._free_buffer(share)
            wanted = min(len(buffer), left)
            got = self._source.readinto(memoryview(buffer)[:wanted])
            if got < wanted:
                raise TransferBroken(f"The data ended {left - got:,} bytes early (of {self._size:,}): try again.")
            self._to_hash.put(Piece(number, buffer, got))
            left -= got
            number += 1

    def _free_buffer(self, share: Share) -> bytearray:
        """Return a buffer that is free again, or a new one, whichever comes first; wait while there is neither."""
        while True:
            self._check()
            try:
                buffer = self._ring.get_nowait()
            except queue.Empty:
                if self._buffers < self._most_buffers and share.take():
                    self._buffers += 1
                    return bytearray(self._buffer_size)
                try:
                    buffer = self._ring.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
            if not share.is_above:
                return buffer
            del buffer
            self._buffers -= 1
            share.give()

    def _digest(self) -> None:
        while (piece := self._to_hash.get()) is not None and self._failure is None:
            self._hash.update(memoryview(piece.buffer)[: piece.length])
            self._to_write.put(piece)
        for _ in range(self._sink.concurrency):
            self._to_write.put(None)

    def _write(self) -> None:
        while (piece := self._to_write.get()) is not None:
            if self._failure is not None:
                return
            try:
                self._sink.write(piece.number, piece.buffer, piece.length)
                self._on_bytes(piece.length)
            except BaseException as error:  # noqa: BLE001 - handed to the reader's thread, which raises it
                self._fail(error)
                return
            self._ring.put(piece.buffer)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error

    def _check(self) -> None:
        self._abort.check()
        if self._failure is not None:
            raise self._failure


class HashOnly:
    """A sink that keeps nothing: for reading a stored part only to know its SHA-256."""

    part_size = READ_BYTES
    concurrency = 1
    on_break: Callable[[str], None] | None = None

    def write(self, number: int, data: bytearray, length: int) -> None:
        """Nothing to keep."""

    def commit(self) -> StoredObject:
        return StoredObject(key="", size_bytes=0)

    def abort(self) -> None:
        """Nothing to remove."""


def chunks(source: Readable, abort: Abort, on_bytes: Callable[[int], None]) -> Iterator[memoryview]:
    """Yield the source piece by piece, each valid until the next one is asked for."""
    buffer = memoryview(bytearray(READ_BYTES))
    while True:
        abort.check()
        count = source.readinto(buffer)
        if not count:
            return
        yield buffer[:count]
        on_bytes(count)
