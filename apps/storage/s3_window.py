"""How many parts of an upload may be under way: all at first, one after a break, and one more with each success.

A part that breaks off has to be sent again from its beginning, so that a line which breaks often wastes the less the
fewer are under way; and an overloaded server (SlowDown) asks for just that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apps.core.abort import Abort

_POLL_SECONDS = 0.2


class Window:
    """Slots for parts under way. Safe to use from several threads."""

    def __init__(self, limit: int, abort: Abort) -> None:
        self._limit = limit
        self._abort = abort
        self._allowed = limit
        self._taken = 0
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        return self._allowed

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot and hold it. Raises: the reason of the abort."""
        with self._changed:
            while self._taken >= self._allowed:
                self._changed.wait(_POLL_SECONDS)
                self._abort.check()
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    def widen(self) -> None:
        """A part arrived."""
        with self._changed:
            self._allowed = min(self._limit, self._allowed + 1)
            self._changed.notify_all()

    def narrow(self) -> None:
        """A part broke off."""
        with self._changed:
            self._allowed = 1
