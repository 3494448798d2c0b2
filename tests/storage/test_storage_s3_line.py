"""A job that has to stop does not wait for an S3 server that keeps a call waiting."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from apps.core.abort import Abort
from apps.storage.backends import Patience
from apps.storage.models import StorageConfig
from apps.storage.opening import open_store
from apps.storage.s3 import S3Store
from apps.storage.whole import give_up
from tests.support import REPOSITORY

sys.path.insert(1, str(REPOSITORY / "scripts"))

from faultlib.proxy import Proxy
from faultlib.rules import Moment, Where
from faultlib.wire_faults import Hold, Truncate, s3_says

pytestmark = pytest.mark.s3

LONG = Patience(connect_seconds=60, read_seconds=60, attempts=5, outage_seconds=60)
#: Far below LONG, and far above what a loaded machine needs.
AT_ONCE_SECONDS = 10.0
KEY = "c/x/run/shard-0.snapshot"
MIB = 1024 * 1024


class Stopped(Exception):
    """Why the work has to stop."""


class Line:
    """A store behind a proxy, and its Abort."""

    def __init__(self, proxy: Proxy, config: StorageConfig) -> None:
        self.proxy = proxy
        self.direct = open_store(config)
        config.s3_endpoint = proxy.url
        self.abort = Abort()
        store = open_store(config, patience=LONG, abort=self.abort)
        assert isinstance(store, S3Store)
        self.store = store

    def ends_at_once(self, where: Where, call: Callable[[], Any]) -> Hold:
        """Make the call, trip the Abort once it is held at `where`, and see that it ends with the Abort's reason."""
        hold = Hold()
        self.proxy.add(where, hold)
        raised: list[BaseException] = []

        def work() -> None:
            try:
                call()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert hold.reached.wait(20)
        self.abort.trip(Stopped())
        thread.join(AT_ONCE_SECONDS)
        assert not thread.is_alive()
        assert [type(error) for error in raised] == [Stopped]
        return hold


@pytest.fixture
def line(s3_config: StorageConfig) -> Iterator[Line]:
    with Proxy(s3_config.s3_endpoint, "s3") as proxy:
        yield Line(proxy, s3_config)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("HEAD", lambda store: store.stat(KEY)),
        ("GET", lambda store: list(store.list("c"))),
        ("GET", lambda store: store.get("c/x/run/manifest.json", 1000)),
        ("DELETE", lambda store: store.delete(KEY)),
        ("POST", lambda store: store.sink(KEY, 20 * MIB, Abort())),
    ],
)
def test_a_call_that_the_server_keeps_waiting_ends_at_once(
    line: Line, method: str, call: Callable[[S3Store], Any]
) -> None:
    hold = line.ends_at_once(Where(method, ".*"), lambda: call(line.store))

    hold.release()
    assert line.store.is_unsure == (method == "POST")


def test_it_ends_in_the_pause_between_two_tries(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.retries import standard

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda self, context: 60.0)
    rule = line.proxy.add(Where("HEAD", ".*"), s3_says(503), times=None)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            line.store.stat(KEY)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not rule.fired and time.monotonic() < deadline:
        time.sleep(0.01)
    line.abort.trip(Stopped())
    thread.join(AT_ONCE_SECONDS)

    assert [type(error) for error in raised] == [Stopped]


def test_tries_are_made_as_before_while_nothing_has_to_stop(line: Line) -> None:
    rule = line.proxy.add(Where("HEAD", ".*"), s3_says(503), times=2)

    line.store.put("c/x/run/manifest.json", b"{}")

    assert rule.fired == 2
    assert line.direct.get("c/x/run/manifest.json", 10) == b"{}"


def test_an_upload_is_ended_after_its_call_was_broken(line: Line) -> None:
    size = 20 * MIB
    sink = line.store.sink(KEY, size, line.abort)
    for number in range(-(-size // sink.part_size)):
        length = min(sink.part_size, size - number * sink.part_size)
        sink.write(number, bytearray(length), length)

    hold = line.ends_at_once(Where("POST", ".*uploadId=.*"), sink.commit)
    give_up(sink)

    assert line.store.is_unsure
    assert list(line.direct.unfinished("c")) == []
    hold.release()
    assert line.direct.stat(KEY) is None


@pytest.mark.parametrize("moment", [Moment.REQUEST, Moment.ANSWER])
def test_a_small_object_whose_answer_is_not_waited_for_goes_again(line: Line, moment: Moment) -> None:
    key = "c/x/run/manifest.json"

    hold = line.ends_at_once(Where("PUT", ".*", moment), lambda: line.store.put(key, b"{}"))

    # What the server had done is undone; what it has not done yet it may still do.
    assert line.store.is_unsure
    assert line.direct.stat(key) is None
    hold.release()


def test_an_upload_whose_answer_was_lost_is_ended_when_it_is_begun_again(line: Line) -> None:
    rule = line.proxy.add(Where("POST", ".*[?]uploads", Moment.DOWNLOAD, at=0.5), Truncate())

    sink = line.store.sink(KEY, 20 * MIB, line.abort)

    assert rule.fired == 1
    assert len(list(line.direct.unfinished("c"))) == 1
    sink.abort()
    assert list(line.direct.unfinished("c")) == []


def test_giving_up_does_not_wait_for_a_server_that_says_nothing(line: Line) -> None:
    sink = line.store.sink(KEY, 20 * MIB, line.abort)
    line.abort.trip(Stopped())
    hold = Hold()
    line.proxy.add(Where(".*", ".*"), hold, times=None)

    began = time.monotonic()
    give_up(sink)

    assert time.monotonic() - began < AT_ONCE_SECONDS
    hold.release()


def test_a_call_is_not_begun_once_work_has_to_stop(line: Line) -> None:
    line.abort.trip(Stopped())

    with pytest.raises(Stopped):
        line.store.stat(KEY)
    assert list(line.proxy.log) == []


def test_connections_do_not_stay_open(line: Line) -> None:
    kept = line.store._bucket.line._open

    for _ in range(3):
        line.store.stat(KEY)
        line.store._bucket.client._endpoint.http_session.close()
    with contextlib.suppress(ConnectionError):
        assert all(handle.fileno() == -1 for handle in list(kept.values()))
    assert len(kept) == 0


def test_tls_connections_are_broken_too(line: Line) -> None:
    """A server that takes the connection and never answers the TLS greeting."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        bucket = line.store._bucket.backend
        config = StorageConfig(
            name="tls",
            type="s3",
            s3_endpoint=f"https://127.0.0.1:{listener.getsockname()[1]}",
            s3_bucket=bucket.bucket_name,
            s3_region="us-east-1",
            s3_access_key="a",
            s3_secret_key="b",
        )
        store = open_store(config, patience=replace(LONG, attempts=1), abort=line.abort)
        threading.Timer(1.0, lambda: line.abort.trip(Stopped())).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            store.stat(KEY)
        assert time.monotonic() - began < AT_ONCE_SECONDS
