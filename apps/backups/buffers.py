"""The memory that all transfers of this process share for their buffers: one bound, however many nodes work at once.

A transfer to S3 has eight parts of 8 MiB in its ring, and eight nodes would have eight rings. So buffers are taken from
one budget: every transfer gets an equal part of it, at least one buffer, and gives back what is above its part when
another one joins.
"""

from __future__ import annotations

import threading
from types import TracebackType

from django.conf import settings

MIB = 1024 * 1024


class Budget:
    """So many bytes of buffers, for all who share. Safe to use from several threads."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._members = 0
        self._used = 0

    @property
    def limit_bytes(self) -> int:
        return settings.BACKUPMGR_BUFFER_MB * MIB if self._limit is None else self._limit

    @property
    def used_bytes(self) -> int:
        """How much is taken at this moment."""
        return self._used

    def share(self, buffer_bytes: int) -> Share:
        """Return a transfer's part of the budget, in buffers of one size; to be used as a context manager."""
        return Share(self, buffer_bytes)

    def _join(self, by: int) -> None:
        with self._lock:
            self._members += by

    def _allowed(self, buffer_bytes: int) -> int:
        return max(1, self.limit_bytes // max(1, self._members) // buffer_bytes)

    def _take(self, buffer_bytes: int, held: int) -> bool:
        with self._lock:
            # A buffer that is larger than the whole budget must not wait for ever: it goes alone.
            fits = self._used + buffer_bytes <= self.limit_bytes or self._used == 0
            if held >= self._allowed(buffer_bytes) or not fits:
                return False
            self._used += buffer_bytes
            return True

    def _give(self, size_bytes: int) -> None:
        with self._lock:
            self._used -= size_bytes


class Share:
    """What one transfer has of the budget. Used by one thread."""

    def __init__(self, budget: Budget, buffer_bytes: int) -> None:
        self._budget = budget
        self._size = buffer_bytes
        self._held = 0

    def __enter__(self) -> Share:
        self._budget._join(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._give(self._held * self._size)
        self._held = 0
        self._budget._join(-1)

    def take(self) -> bool:
        """Ask for one more buffer; False when there is none to be had now."""
        if not self._budget._take(self._size, self._held):
            return False
        self._held += 1
        return True

    @property
    def is_above(self) -> bool:
        """Whether others have joined since, so that a buffer is to be given back."""
        return self._held > self._budget._allowed(self._size)

    def give(self) -> None:
        """Give one buffer back; it must not be used any more."""
        self._budget._give(self._size)
        self._held -= 1


#: Of this process, which runs one job at a time.
BUDGET = Budget()
