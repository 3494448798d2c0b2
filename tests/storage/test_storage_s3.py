from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from typing import Any

import pytest
import requests

from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.storage.backends import Patience
from apps.storage.errors import (
    BucketMissing,
    ObjectExists,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageUnreachable,
)
from apps.storage.models import StorageConfig
from apps.storage.opening import open_store
from apps.storage.probe import probe_store
from apps.storage.s3 import S3Store
from apps.storage.s3_sink import PART_SIZE
from tests.storage.storage_helpers import Proxy, read_all, write_all

pytestmark = pytest.mark.s3

MIB = 1024 * 1024
QUICK = Patience(connect_seconds=2, read_seconds=3, attempts=1)


@pytest.fixture
def store(s3_config: StorageConfig) -> S3Store:
    store = open_store(s3_config, patience=Patience(connect_seconds=5, read_seconds=20, attempts=3))
    assert isinstance(store, S3Store)
    return store


def _uploads(store: S3Store, prefix: str) -> list[str]:
    bucket = store._bucket
    answer = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=bucket.below(prefix))
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def test_what_was_written_in_parallel_parts_is_read_back(store: S3Store) -> None:
    data = os.urandom(40 * MIB + 17)
    sink = store.sink("c/x/run/shard-0.snapshot", len(data), Abort())

    write_all(sink, data)
    assert store.stat("c/x/run/shard-0.snapshot") is None  # nothing is visible before the commit
    stored = sink.commit()

    assert (stored.key, stored.size_bytes) == ("c/x/run/shard-0.snapshot", len(data))
    assert stored.etag
    assert read_all(store, stored.key) == data
    assert store._bucket.features.checksums and store._bucket.features.conditional
    assert _uploads(store, "c") == []


def test_bytes_damaged_on_the_way_are_refused_by_the_server(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = store.sink("a/b", PART_SIZE + 1, Abort())
    real = sink._body

    def damaged(view: memoryview) -> Any:
        return real(memoryview(bytes(len(view))))

    monkeypatch.setattr(sink, "_body", damaged)
    with pytest.raises(StorageError, match="checksum"):
        sink.write(0, bytearray(os.urandom(PART_SIZE)), PART_SIZE)
    sink.abort()


def test_of_two_sinks_on_one_key_the_first_to_commit_wins(store: S3Store) -> None:
    size = PART_SIZE + 3
    first, second = store.sink("a/b", size, Abort()), store.sink("a/b", size, Abort())
    write_all(first, b"1" * size)
    write_all(second, b"2" * size)
    first.commit()

    with pytest.raises(ObjectExists):
        second.commit()
    second.abort()

    assert read_all(store, "a/b") == b"1" * size
    assert _uploads(store, "a") == []


def test_a_small_object_is_written_once_only(store: S3Store) -> None:
    late = store.sink("a/manifest.json", 3, Abort())
    write_all(late, b"two")
    store.put("a/manifest.json", b"one")

    with pytest.raises(ObjectExists):
        store.put("a/manifest.json", b"new")
    with pytest.raises(ObjectExists):
        late.commit()
    late.abort()

    assert store.get("a/manifest.json", 10) == b"one"
    with pytest.raises(StorageError, match="larger than 2 bytes"):
        store.get("a/manifest.json", 2)


def test_an_empty_object_can_be_stored(store: S3Store) -> None:
    store.put("empty", b"")

    assert store.get("empty", 10) == b""


def test_abort_leaves_no_upload_and_no_object_and_may_be_called_twice(store: S3Store) -> None:
    sink = store.sink("a/b", 2 * PART_SIZE, Abort())
    sink.write(0, bytearray(PART_SIZE), PART_SIZE)
    assert len(_uploads(store, "a")) == 1

    sink.abort()
    sink.abort()

    assert _uploads(store, "a") == []
    assert list(store.list("")) == []


def test_nothing_is_stored_where_nothing_was_written(store: S3Store) -> None:
    assert store.stat("nothing") is None
    assert list(store.list("")) == []
    store.delete("nothing")
    with pytest.raises(ObjectMissing):
        store.get("nothing", 10)


def test_list_and_clear_stay_below_their_folder_and_hide_the_prefix(store: S3Store, s3_config: StorageConfig) -> None:
    for key in ("c/x/run/1", "c/x/run/deep/2", "c/x/run2/3"):
        store.put(key, key.encode())
    store.sink("c/x/run/4", PART_SIZE + 1, Abort())

    assert sorted(found.key for found in store.list("c/x/run")) == ["c/x/run/1", "c/x/run/deep/2"]
    assert store.clear("c/x/run") == 3
    assert store.clear("c/x/run") == 0

    assert [(found.key, found.size_bytes) for found in store.list("")] == [("c/x/run2/3", 10)]
    assert _uploads(store, "c") == []
    s3_config.s3_prefix = ""
    assert len([found for found in open_store(s3_config).list("tests") if found.key.endswith("c/x/run2/3")]) >= 1


def test_keys_may_hold_any_character(store: S3Store) -> None:
    key = "Größe/日本 語/a+b&c%20=#?.bin"
    store.put(key, b"data")

    assert store.get(key, 10) == b"data"
    assert [found.key for found in store.list("Größe")] == [key]
    assert requests.get(store.presign(key, 60), timeout=10).content == b"data"
    assert store.clear("Größe") == 1


def test_anybody_can_read_a_presigned_address_and_nothing_else(store: S3Store) -> None:
    store.put("a", b"data")
    url = store.presign("a", 60)

    assert requests.get(url, timeout=10).content == b"data"
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert requests.get(url.partition("?")[0], timeout=10).status_code == 403
    assert "X-Amz-Expires=604800" in store.presign("a", 10**9)


def test_a_download_that_is_cut_goes_on_where_it_broke(store: S3Store, s3_config: StorageConfig) -> None:
    data = os.urandom(6 * MIB)
    store.put("a", data)
    with Proxy(s3_config.s3_endpoint, cut_after=2 * MIB, cuts=2) as proxy:
        s3_config.s3_endpoint = proxy.endpoint

        assert read_all(open_store(s3_config, patience=QUICK), "a") == data
        assert proxy.cuts_left == 0


def test_a_download_that_is_cut_for_ever_ends(
    store: S3Store, s3_config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.storage.s3_source._MOST_CONNECTIONS", 5)
    store.put("a", os.urandom(MIB))
    with Proxy(s3_config.s3_endpoint, cut_after=1000, cuts=1000) as proxy:
        s3_config.s3_endpoint = proxy.endpoint
        with pytest.raises(StorageUnreachable, match="broke"):
            read_all(open_store(s3_config, patience=QUICK), "a")


def test_an_object_replaced_during_the_download_is_not_mixed(store: S3Store, s3_config: StorageConfig) -> None:
    store.put("a", os.urandom(2 * MIB))
    with Proxy(s3_config.s3_endpoint, cut_after=MIB, cuts=1) as proxy:
        s3_config.s3_endpoint = proxy.endpoint
        with open_store(s3_config, patience=QUICK).source("a", Abort()) as source:
            source.readinto(memoryview(bytearray(1000)))
            store.delete("a")
            store.put("a", os.urandom(2 * MIB))

            with pytest.raises(StorageError, match="replaced while it was read"):
                source.readinto(memoryview(bytearray(2 * MIB)))


class Cancelled(Exception):
    pass


def test_a_tripped_abort_breaks_a_blocked_read_at_once(store: S3Store, s3_config: StorageConfig) -> None:
    store.put("a", os.urandom(2 * MIB))
    abort = Abort()
    with Proxy(s3_config.s3_endpoint, cut_after=MIB, cuts=1, stall=True) as proxy:
        s3_config.s3_endpoint = proxy.endpoint
        slow = open_store(s3_config, patience=Patience(connect_seconds=2, read_seconds=60, attempts=1))
        threading.Timer(0.5, abort.trip, [Cancelled()]).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            read_all(slow, "a", abort)

    assert time.monotonic() - started < 5


def test_a_tripped_abort_ends_an_upload_in_the_middle_of_a_part(store: S3Store, s3_config: StorageConfig) -> None:
    abort = Abort()
    with Proxy(s3_config.s3_endpoint, up_bytes_per_second=2 * MIB) as proxy:
        s3_config.s3_endpoint = proxy.endpoint
        sink = open_store(s3_config).sink("a/b", 2 * PART_SIZE, abort)
        threading.Timer(0.7, abort.trip, [Cancelled()]).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            sink.write(0, bytearray(PART_SIZE), PART_SIZE)
        assert time.monotonic() - started < 4
        with pytest.raises(Cancelled):
            sink.write(1, bytearray(PART_SIZE), PART_SIZE)
        sink.abort()

    assert _uploads(store, "a") == []


def test_a_slow_line_is_not_taken_for_a_dead_one(s3_config: StorageConfig) -> None:
    """A part takes longer than every time-out here; botocore would give it no longer than one of them."""
    with Proxy(s3_config.s3_endpoint, up_bytes_per_second=3 * MIB) as proxy:
        s3_config.s3_endpoint = proxy.endpoint
        slow = open_store(s3_config, patience=Patience(connect_seconds=1, read_seconds=2, attempts=1))
        sink = slow.sink("a/b", PART_SIZE + 1, Abort())
        started = time.monotonic()
        write_all(sink, bytes(PART_SIZE + 1))

        assert time.monotonic() - started > 2
        assert sink.commit().size_bytes == PART_SIZE + 1


# --- what goes wrong with the settings ----------------------------------------------------------------------


def _calls(config: StorageConfig) -> list[BackupmgrError]:
    """Make every kind of call; each has to fail. Returns the errors."""
    store = open_store(config, patience=QUICK)
    errors = []
    for call in (
        lambda: store.stat("a"),
        lambda: store.put("a", b"x"),
        lambda: store.get("a", 10),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
        lambda: store.clear("a"),
        lambda: store.sink("a", PART_SIZE + 1, Abort()),
    ):
        with pytest.raises(BackupmgrError) as caught:
            call()
        errors.append(caught.value)
    return errors


def _everything_said(error: BaseException) -> str:
    """The traceback with all causes, as a log would show it, and the representations."""
    said = "".join(traceback.format_exception(error))
    while error.__cause__ is not None:
        error = error.__cause__
        said += repr(error) + repr(vars(error))
    return said


@pytest.mark.parametrize("field", ["s3_access_key", "s3_secret_key"])
def test_wrong_credentials_are_named_and_never_shown(s3_config: StorageConfig, field: str) -> None:
    canary = "CANARY0123456789SECRET"
    s3_config.s3_secret_key = canary
    if field == "s3_access_key":
        s3_config.s3_access_key = "AKUNKNOWN"

    for error in _calls(s3_config):
        assert type(error) is StorageDenied, repr(error)
        assert s3_config.s3_endpoint in str(error) and s3_config.s3_bucket in str(error)
        assert canary not in _everything_said(error)
    result = probe_store(s3_config)
    assert not result.success
    assert "key" in result.message and canary not in result.message
    assert canary not in repr(s3_config) + repr(s3_config.s3_secret_key) + repr(open_store(s3_config))


def test_a_missing_bucket_is_named(s3_config: StorageConfig) -> None:
    s3_config.s3_bucket = "no-such-bucket"
    store = open_store(s3_config, patience=QUICK)

    for call in (
        lambda: store.stat("a"),
        lambda: store.put("a", b"x"),
        lambda: list(store.list("")),
        lambda: store.sink("a", PART_SIZE + 1, Abort()),
    ):
        with pytest.raises(BucketMissing, match="no-such-bucket"):
            call()
    assert "no-such-bucket" in probe_store(s3_config).message


def test_an_endpoint_nobody_listens_at_is_named(s3_config: StorageConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    s3_config.s3_endpoint = f"http://127.0.0.1:{port}"

    for error in _calls(s3_config):
        assert type(error) is StorageUnreachable
        assert s3_config.s3_endpoint in str(error)


def test_an_endpoint_that_never_answers_is_found_out_in_time(s3_config: StorageConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        s3_config.s3_endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()

        result = probe_store(s3_config)

    assert not result.success
    assert "in time" in result.message
    assert time.monotonic() - started < 20


def test_the_connection_test_leaves_nothing(store: S3Store, s3_config: StorageConfig) -> None:
    result = probe_store(s3_config)

    assert result.success, result.message
    assert list(store.list("")) == []
    assert _uploads(store, "") == []


def test_the_connection_test_says_when_large_objects_are_refused(
    s3_config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> str:
        raise StorageDenied("no uploads for you.")

    monkeypatch.setattr("apps.storage.s3_sink.S3Sink._create_upload", refuse)

    result = probe_store(s3_config)

    assert not result.success
    assert "no large one" in result.message
