from __future__ import annotations

import threading
import time

import pytest

from apps.core.abort import Abort
from apps.storage.s3_window import Window


class Stop(Exception):
    pass


def test_after_a_break_one_part_is_under_way_and_one_more_with_each_success() -> None:
    window = Window(3, Abort())
    seen = []
    window.narrow()
    for _ in range(4):
        seen.append(window.allowed)
        window.widen()

    assert seen == [1, 2, 3, 3]


def test_no_more_hold_a_slot_than_are_allowed() -> None:
    window, held, most = Window(2, Abort()), [0], [0]
    lock = threading.Lock()

    def hold() -> None:
        with window.slot():
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            time.sleep(0.02)
            with lock:
                held[0] -= 1

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [2]


def test_who_waits_for_a_slot_stops_when_work_has_to_stop() -> None:
    abort = Abort()
    window = Window(1, abort)
    with window.slot():
        threading.Timer(0.2, abort.trip, [Stop()]).start()
        with pytest.raises(Stop), window.slot():
            pass
