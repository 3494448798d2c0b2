from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage

from apps.core.abort import Abort
from apps.core.errors import Conflict
from apps.storage import local
from apps.storage.errors import (
    BucketMissing,
    ObjectExists,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFault,
    StorageFull,
)
from apps.storage.keys import BadKey
from apps.storage.local import LocalStore
from apps.storage.models import StorageConfig
from apps.storage.opening import open_store
from apps.storage.probe import probe_store
from tests.storage.storage_helpers import read_all, write_all

MIB = 1024 * 1024


@pytest.fixture
def store(local_config: StorageConfig) -> LocalStore:
    store = open_store(local_config)
    assert isinstance(store, LocalStore)
    return store


@pytest.fixture
def root(local_config: StorageConfig) -> Path:
    return Path(local_config.path)


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_what_was_written_in_parts_is_read_back(store: LocalStore, root: Path) -> None:
    data = os.urandom(9 * MIB + 17)
    sink = store.sink("c/x/run/shard-0.snapshot", len(data), Abort())

    write_all(sink, data)
    assert store.stat("c/x/run/shard-0.snapshot") is None  # nothing is visible before the commit
    stored = sink.commit()

    assert (stored.key, stored.size_bytes) == ("c/x/run/shard-0.snapshot", len(data))
    assert read_all(store, stored.key) == data
    assert _files(root) == ["c", "c/x", "c/x/run", "c/x/run/shard-0.snapshot"]


def test_only_the_owner_may_read_what_is_stored(store: LocalStore, root: Path) -> None:
    store.put("a/b", b"x")

    assert (root / "a").stat().st_mode & 0o777 == 0o700
    assert (root / "a/b").stat().st_mode & 0o777 == 0o600


def test_an_empty_object_can_be_stored(store: LocalStore) -> None:
    store.put("empty", b"")

    assert store.get("empty", 10) == b""


def test_of_two_sinks_on_one_key_the_first_to_commit_wins(store: LocalStore, root: Path) -> None:
    first, second = store.sink("a/b", 3, Abort()), store.sink("a/b", 3, Abort())
    write_all(first, b"one")
    write_all(second, b"two")
    first.commit()

    with pytest.raises(ObjectExists) as caught:
        second.commit()
    second.abort()

    assert isinstance(caught.value, Conflict)
    assert store.get("a/b", 10) == b"one"
    assert _files(root) == ["a", "a/b"]
    with pytest.raises(ObjectExists):
        store.sink("a/b", 3, Abort())


def test_the_name_is_given_atomically_where_there_are_no_hard_links(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    late = store.sink("a/b", 3, Abort())
    write_all(late, b"two")

    store.put("a/b", b"one")
    with pytest.raises(ObjectExists):
        late.commit()
    late.abort()

    assert store.get("a/b", 10) == b"one"
    assert _files(root) == ["a", "a/b"]


def test_abort_leaves_nothing_and_may_be_called_twice(store: LocalStore, root: Path) -> None:
    sink = store.sink("a/b/c", 5 * MIB, Abort())
    sink.write(0, bytearray(4 * MIB), 4 * MIB)
    assert _files(root) != []

    sink.abort()
    sink.abort()

    assert _files(root) == []
    with pytest.raises(StorageFault):
        sink.write(1, bytearray(4 * MIB), MIB)


def test_abort_during_a_write_does_not_close_the_file_under_it(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    outcome: list[BaseException] = []
    real = os.pwrite

    def slow(descriptor: int, data: Any, offset: int) -> int:
        inside.set()
        go_on.wait(10)
        return real(descriptor, data, offset)

    def write() -> None:
        try:
            sink.write(0, bytearray(100), 100)
        except BaseException as error:
            outcome.append(error)

    sink = store.sink("a/b", 100, Abort())
    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=write)
    thread.start()
    assert inside.wait(10)
    sink.abort()
    descriptor = os.open(os.devnull, os.O_RDONLY)  # would get the sink's number, had it been closed
    go_on.set()
    thread.join(10)
    os.close(descriptor)

    assert outcome == []
    assert _files(root) == []


def test_a_sink_with_a_part_missing_is_not_committed(store: LocalStore, root: Path) -> None:
    sink = store.sink("a/b", 5 * MIB, Abort())
    sink.write(1, bytearray(4 * MIB), MIB)

    with pytest.raises(StorageFault, match="1 of 2 parts"):
        sink.commit()
    with pytest.raises(ValueError, match="Part 0"):
        sink.write(0, bytearray(4 * MIB), MIB)
    sink.abort()

    assert _files(root) == []


def test_a_tripped_abort_ends_writing_and_reading(store: LocalStore) -> None:
    class Cancelled(Exception):
        pass

    store.put("there", b"data")
    abort = Abort()
    sink = store.sink("a/b", 3, abort)
    with store.source("there", abort) as source:
        abort.trip(Cancelled())

        with pytest.raises(Cancelled):
            source.readinto(memoryview(bytearray(4)))
        with pytest.raises(Cancelled):
            sink.write(0, bytearray(3), 3)
        with pytest.raises(Cancelled):
            sink.commit()
    sink.abort()
    assert [found.key for found in store.list("")] == ["there"]


@pytest.fixture
def small_disk(folder_root: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = folder_root / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_known_before_the_first_byte(small_disk: Path) -> None:
    store = LocalStore(FileSystemStorage(location=small_disk))

    with pytest.raises(StorageFull, match=str(small_disk)) as caught:
        store.sink("a/b", 2 * MIB, Abort())

    assert not caught.value.transient
    assert _files(small_disk) == []


def test_a_disk_that_fills_up_during_writing_is_reported(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "reserve", lambda *_: None)
    store = LocalStore(FileSystemStorage(location=small_disk))
    sink = store.sink("a/b", 2 * MIB, Abort())

    with pytest.raises(StorageFull, match="free space"):
        sink.write(0, bytearray(2 * MIB), 2 * MIB)
    sink.abort()

    assert _files(small_disk) == []


def test_a_limit_on_the_size_of_files_is_reported_as_no_room(store: LocalStore, root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StorageFull):
            store.sink("a/b", 2 * MIB, Abort())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert _files(root) == []


def test_a_folder_that_may_not_be_written_is_reported() -> None:
    store = LocalStore(FileSystemStorage(location="/sys"))  # refuses even root

    with pytest.raises(StorageDenied, match="/sys"):
        store.sink("a/b", 10, Abort())


def test_a_missing_folder_is_no_empty_storage(store: LocalStore, root: Path) -> None:
    root.rmdir()

    for call in (
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.put("a", b"x"),
        lambda: store.get("a", 10),
        lambda: store.delete("a"),
        lambda: store.clear("a"),
    ):
        with pytest.raises(BucketMissing, match="does not exist"):
            call()
    assert not root.exists()


def test_a_file_in_place_of_the_folder_is_reported(store: LocalStore, root: Path) -> None:
    root.rmdir()
    root.write_text("a file")

    with pytest.raises(BucketMissing, match="is no folder"):
        store.put("a/b", b"x")


def test_links_inside_the_folder_are_not_followed(store: LocalStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "real").mkdir()
    (root / "real" / "folder").symlink_to(outside)

    assert list(store.list("")) == []
    assert store.stat("file") is None
    with pytest.raises(ObjectMissing):
        store.get("file", 100)
    for call in (
        lambda: store.get("folder/secret", 100),
        lambda: store.delete("folder/secret"),
        lambda: store.clear("folder"),
        lambda: store.put("folder/new", b"x"),
    ):
        with pytest.raises(StorageDenied, match="symbolic link"):
            call()
    assert store.clear("real") == 1  # the link itself
    store.delete("file")

    assert _files(root) == ["folder"]
    assert (outside / "secret").read_text() == "secret"


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "a\x00b", ""])
def test_a_key_that_climbs_is_refused_everywhere(store: LocalStore, key: str) -> None:
    for call in (
        store.stat,
        store.delete,
        store.clear,
        lambda key: store.put(key, b"x"),
        lambda key: store.get(key, 9),
    ):
        with pytest.raises(BadKey):
            call(key)


def test_list_shows_whole_objects_only_and_stays_below_its_folder(store: LocalStore, root: Path) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        store.put(key, key.encode())
    unfinished = store.sink("a/4", 10, Abort())
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_text("not ours")

    assert sorted((found.key, found.size_bytes) for found in store.list("a")) == [("a/1", 3), ("a/b/2", 5)]
    assert sorted(found.key for found in store.list("")) == ["a/1", "a/b/2", "ab/3"]
    assert list(store.list("nowhere")) == []
    unfinished.abort()


def test_delete_removes_the_folders_it_empties_but_never_the_storage(store: LocalStore, root: Path) -> None:
    store.put("a/b/1", b"x")
    store.put("a/2", b"x")

    store.delete("a/b/1")
    assert _files(root) == ["a", "a/2"]
    store.delete("a/2")
    store.delete("a/2")

    assert _files(root) == []
    assert root.is_dir()


def test_clear_removes_a_folder_with_its_unfinished_files_and_nothing_else(store: LocalStore, root: Path) -> None:
    for key in ("c/x/run/1", "c/x/run/deep/2", "c/x/run2/3"):
        store.put(key, b"x")
    store.sink("c/x/run/4", 10, Abort())

    assert store.clear("c/x/run") == 3
    assert store.clear("c/x/run") == 0

    assert [found.key for found in store.list("")] == ["c/x/run2/3"]
    assert "c/x/run" not in _files(root)


def test_an_object_larger_than_expected_is_not_read(store: LocalStore) -> None:
    store.put("a", b"12345")

    with pytest.raises(StorageError, match="larger than 4 bytes"):
        store.get("a", 4)


def test_the_connection_test_leaves_nothing(local_config: StorageConfig, root: Path) -> None:
    local_config._state.adding = False

    result = probe_store(local_config)

    assert result.success, result.message
    assert str(root) in result.message
    assert _files(root) == []


def test_the_connection_test_names_what_is_wrong_with_a_folder(local_config: StorageConfig, root: Path) -> None:
    local_config._state.adding = False
    root.rmdir()

    result = probe_store(local_config)

    assert not result.success
    assert "does not exist" in result.message and str(root) in result.message


def test_the_test_of_a_draft_makes_the_folder_as_saving_would_and_removes_it(
    local_config: StorageConfig, folder_root: Path
) -> None:
    local_config.path = str(folder_root / "new" / "deep")

    assert probe_store(local_config).success
    assert not (folder_root / "new").exists()
