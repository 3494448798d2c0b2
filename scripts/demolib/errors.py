"""What ends the demo early."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message is the one sentence that its user reads."""


class Interrupted(BaseException):
    """A signal asks the demo to end. Like KeyboardInterrupt no Exception, so that nothing swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
