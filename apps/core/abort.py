"""Abort: how a job that has to stop ends the blocking calls it is in, at once and from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Abort:
    """A one-way flag with a reason. Whoever blocks on a socket registers a way to break the call.

    Without it a cancelled job would sit in `recv` until its time-out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._reason: BaseException | None = None
        self._breakers: list[Callable[[], None]] = []

    @property
    def reason(self) -> BaseException | None:
        """The error that `check` raises, None while nothing has to stop."""
        return self._reason

    def trip(self, reason: BaseException) -> None:
        """Stop: remember the first reason and break every blocking call under way."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            breakers = list(self._breakers)
        self._event.set()
        for breaker in breakers:
            with suppress(OSError):  # the socket may be closed already
                breaker()

    def check(self) -> None:
        """Raise the reason when work has to stop."""
        if self._reason is not None:
            raise self._reason

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the moment work has to stop. Raises the reason then."""
        self._event.wait(seconds)
        self.check()

    def until(self, seconds: float) -> Iterator[float]:
        """Yield the seconds gone by until `seconds` are over; for polling loops that sleep between rounds."""
        start = time.monotonic()
        while (gone := time.monotonic() - start) < seconds:
            self.check()
            yield gone

    @contextmanager
    def breaking(self, breaker: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `trip` also calls `breaker` (from the tripping thread).

        Raises the reason at once when work has to stop already.
        """
        with self._lock:
            self.check()
            self._breakers.append(breaker)
        try:
            yield
        finally:
            with self._lock:
                self._breakers.remove(breaker)
