from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from apps.backups.transfer import HashOnly, TransferBroken, chunks, pump
from apps.core.abort import Abort
from apps.storage.stores import StoredObject


class MemorySource:
    """Gives `data`, at most `step` bytes at a call short of the end, and can stop or fail early."""

    def __init__(self, data: bytes, fail_at: int | None = None) -> None:
        self.data = data
        self.position = 0
        self.fail_at = fail_at

    def readinto(self, buffer: memoryview) -> int:
        if self.fail_at is not None and self.position >= self.fail_at:
            raise ConnectionResetError("cut")
        piece = self.data[self.position : self.position + len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)


class MemorySink:
    """Keeps parts by number; writes are slow and out of order when asked."""

    def __init__(self, part_size: int, concurrency: int, delay: float = 0.0, fail_at: int | None = None) -> None:
        self.part_size = part_size
        self.concurrency = concurrency
        self.delay = delay
        self.fail_at = fail_at
        self.parts: dict[int, bytes] = {}
        self.buffers: set[int] = set()

    def write(self, number: int, data: bytearray, length: int) -> None:
        time.sleep(self.delay * (number % 3))
        if number == self.fail_at:
            raise OSError("no room")
        self.buffers.add(id(data))
        self.parts[number] = bytes(data[:length])

    def commit(self) -> StoredObject:
        return StoredObject("key", len(self.content))

    def abort(self) -> None:
        self.parts.clear()

    @property
    def content(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 54_321])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_every_byte_arrives_in_order_and_is_hashed(size: int, concurrency: int) -> None:
    data = os.urandom(size)
    sink = MemorySink(part_size=1000, concurrency=concurrency, delay=0.002)
    counted: list[int] = []

    digest = pump(MemorySource(data), sink, size, Abort(), counted.append)

    assert sink.content == data
    assert digest == hashlib.sha256(data).hexdigest()
    assert sum(counted) == size


def test_memory_is_bounded_by_the_ring() -> None:
    sink = MemorySink(part_size=100, concurrency=3, delay=0.001)

    pump(MemorySource(bytes(20_000)), sink, 20_000, Abort(), lambda count: None)

    assert len(sink.buffers) <= 3 + 2


def test_a_source_that_ends_early_is_an_error_with_the_figures() -> None:
    with pytest.raises(TransferBroken, match="ended 500 bytes early"):
        pump(MemorySource(bytes(1500)), MemorySink(1000, 2), 2000, Abort(), lambda count: None)


def test_the_sources_error_comes_through() -> None:
    with pytest.raises(ConnectionResetError):
        pump(MemorySource(bytes(9000), fail_at=3000), MemorySink(1000, 2), 9000, Abort(), lambda count: None)


def test_the_sinks_error_comes_through_and_stops_the_reading() -> None:
    source = MemorySource(bytes(1_000_000))

    with pytest.raises(OSError, match="no room"):
        pump(source, MemorySink(1000, 2, delay=0.001, fail_at=5), 1_000_000, Abort(), lambda count: None)

    assert source.position < 100_000


def test_an_abort_ends_it_although_the_sink_hangs() -> None:
    hanging = threading.Event()

    class HangingSink(MemorySink):
        def write(self, number: int, data: bytearray, length: int) -> None:
            hanging.wait(20)

    abort = Abort()
    threading.Timer(0.3, lambda: abort.trip(KeyboardInterrupt("stop"))).start()
    started = time.monotonic()

    with pytest.raises(KeyboardInterrupt, match="stop"):
        pump(MemorySource(bytes(100_000)), HangingSink(1000, 2), 100_000, abort, lambda count: None)

    assert time.monotonic() - started < 3
    hanging.set()


def test_hashing_alone_gives_the_digest() -> None:
    data = os.urandom(3_000_000)

    digest = pump(MemorySource(data), HashOnly(), len(data), Abort(), lambda count: None)

    assert digest == hashlib.sha256(data).hexdigest()


def test_chunks_give_the_whole_source_and_count_it() -> None:
    data = os.urandom(2_500_000)
    counted: list[int] = []

    received = b"".join(bytes(chunk) for chunk in chunks(MemorySource(data), Abort(), counted.append))

    assert received == data
    assert sum(counted) == len(data)
