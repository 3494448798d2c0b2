from __future__ import annotations

import socket
import threading
import time

import pytest

from apps.core.abort import Abort


def test_check_raises_the_first_reason_only() -> None:
    abort = Abort()
    abort.check()

    abort.trip(ValueError("first"))
    abort.trip(ValueError("second"))

    with pytest.raises(ValueError, match="first"):
        abort.check()


def test_a_blocked_read_ends_when_tripped() -> None:
    abort = Abort()
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    threading.Timer(0.2, lambda: abort.trip(ValueError("stop"))).start()

    with abort.breaking(lambda: ours.shutdown(socket.SHUT_RDWR)):
        assert ours.recv(10) == b""

    assert time.monotonic() - started < 5
    ours.close()
    theirs.close()


def test_nothing_begins_once_tripped() -> None:
    abort = Abort()
    abort.trip(ValueError("stop"))

    with pytest.raises(ValueError, match="stop"), abort.breaking(lambda: None):
        pytest.fail("the block must not run")


def test_a_breaker_is_forgotten_after_its_block() -> None:
    abort, called = Abort(), []
    with abort.breaking(lambda: called.append(1)):
        pass

    abort.trip(ValueError("stop"))

    assert called == []


def test_sleep_ends_at_once_when_tripped() -> None:
    abort = Abort()
    threading.Timer(0.1, lambda: abort.trip(ValueError("stop"))).start()
    started = time.monotonic()

    with pytest.raises(ValueError, match="stop"):
        abort.sleep(30)

    assert time.monotonic() - started < 5
