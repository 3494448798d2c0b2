"""The memory that transfers share: measured, not counted."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from apps.backups import transfer
from apps.backups.buffers import MIB, Budget
from apps.backups.models import Backup
from apps.backups.transfer import pump
from apps.clusters.models import Cluster
from apps.core.abort import Abort
from apps.sandbox import SandboxCluster
from apps.storage.models import StorageConfig
from apps.storage.stores import StoredObject
from tests.support import Collections, RunJob, story


class Zeros:
    """A source of any length that takes no memory: buffers are made of zeros."""

    def readinto(self, buffer: memoryview) -> int:
        return len(buffer)


class SlowSink:
    """Takes its time for each part, so that the ring fills up; keeps nothing."""

    on_break: Callable[[str], None] | None = None

    def __init__(self, part_size: int, concurrency: int = 6, seconds: float = 0.01) -> None:
        self.part_size = part_size
        self.concurrency = concurrency
        self.seconds = seconds
        self.arrived = 0
        self._lock = threading.Lock()

    def write(self, number: int, data: bytearray, length: int) -> None:
        time.sleep(self.seconds)
        with self._lock:
            self.arrived += length

    def commit(self) -> StoredObject:
        return StoredObject("key", self.arrived)

    def abort(self) -> None:
        """Nothing to remove."""


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Budget]:
    def of(limit_bytes: int) -> Budget:
        made = Budget(limit_bytes)
        monkeypatch.setattr(transfer, "BUDGET", made)
        return made

    return of


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Do it all at the same time and return the results; errors come through."""
    results: list[Any] = [None] * len(work)

    def do(number: int) -> None:
        try:
            results[number] = work[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a transfer hangs"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_eight_nodes_together_stay_within_the_budget(budget: Callable[[int], Budget]) -> None:
    shared = budget(12 * MIB)
    sinks = [SlowSink(MIB) for _ in range(8)]
    size = 16 * MIB
    tracemalloc.start()
    try:
        digests = at_once(*(lambda sink=sink: pump(Zeros(), sink, size, Abort(), lambda count: None) for sink in sinks))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Each of them alone would have eight buffers of 1 MiB: 64 together.
    assert 8 * MIB < peak < 14 * MIB, f"{peak / MIB:.1f} MiB"
    assert set(digests) == {hashlib.sha256(bytes(size)).hexdigest()}
    assert [sink.arrived for sink in sinks] == [size] * 8
    assert shared.used_bytes == 0


def test_one_alone_has_its_whole_ring_and_gives_back_when_another_begins(budget: Callable[[int], Budget]) -> None:
    shared = budget(8 * 1000)
    first, second = SlowSink(1000, seconds=0.002), SlowSink(1000, seconds=0.002)
    seen: list[int] = []
    begun = threading.Event()

    def watch_first(count: int) -> None:
        seen.append(shared.used_bytes)
        if len(seen) == 50:
            begun.set()

    def begin_second() -> str:
        assert begun.wait(30)
        assert shared.used_bytes == 8000, "alone it has all of it"
        return pump(Zeros(), second, 200_000, Abort(), lambda count: None)

    at_once(lambda: pump(Zeros(), first, 600_000, Abort(), watch_first), begin_second)

    assert max(seen) <= 8000
    assert (first.arrived, second.arrived) == (600_000, 200_000)
    assert shared.used_bytes == 0


def test_more_transfers_than_buffers_take_turns_and_none_hangs(budget: Callable[[int], Budget]) -> None:
    shared = budget(2 * 1000)
    sinks = [SlowSink(1000, seconds=0.001) for _ in range(6)]

    at_once(*(lambda sink=sink: pump(Zeros(), sink, 20_000, Abort(), lambda count: None) for sink in sinks))

    assert [sink.arrived for sink in sinks] == [20_000] * 6
    assert shared.used_bytes == 0


def test_a_buffer_larger_than_the_budget_goes_alone(budget: Callable[[int], Budget]) -> None:
    shared = budget(100)
    sink = SlowSink(1000)

    pump(Zeros(), sink, 5000, Abort(), lambda count: None)

    assert sink.arrived == 5000
    assert shared.used_bytes == 0


def test_one_that_fails_gives_everything_back(budget: Callable[[int], Budget]) -> None:
    shared = budget(8 * 1000)

    class Broken(SlowSink):
        def write(self, number: int, data: bytearray, length: int) -> None:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        pump(Zeros(), Broken(1000), 100_000, Abort(), lambda count: None)

    assert shared.used_bytes == 0


def test_one_that_waits_for_memory_can_be_stopped(budget: Callable[[int], Budget]) -> None:
    shared = budget(1000)
    abort = Abort()
    with shared.share(1000) as other:
        assert other.take()
        threading.Timer(0.3, lambda: abort.trip(KeyboardInterrupt("stop"))).start()
        with pytest.raises(KeyboardInterrupt, match="stop"):
            pump(Zeros(), SlowSink(1000), 5000, abort, lambda count: None)


def test_the_limit_is_the_setting(settings: Any) -> None:
    settings.BACKUPMGR_BUFFER_MB = 7
    assert Budget().limit_bytes == 7 * MIB


@pytest.mark.django_db(transaction=True)
def test_a_job_on_three_nodes_with_little_memory_completes_within_it(
    sandbox_cluster: SandboxCluster, storage: StorageConfig, run: RunJob, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BACKUPMGR_BUFFER_MB = 1
    seen: list[int] = []
    take = Budget._take

    def watched(self: Budget, buffer_bytes: int, held: int) -> bool:
        taken = take(self, buffer_bytes, held)
        seen.append(self.used_bytes)
        return taken

    monkeypatch.setattr(Budget, "_take", watched)
    first, *others = sandbox_cluster.urls
    Cluster.objects.create(name="three", url=first, other_urls=others, is_default=True)
    collections = Collections(first)
    collections.create("films", points=90, shards=6, payload_bytes=20_000)

    job = run("backup", "films")

    assert job.status == "completed", story(job)
    assert Backup.objects.get().points_count == 90
    assert all(part.size_bytes > 300_000 for part in Backup.objects.get().parts.all())
    assert 0 < max(seen) <= MIB
