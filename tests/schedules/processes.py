"""Processes of their own that work on the test's database."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from django.db import connections


def in_a_process(work: Callable[[], None]) -> Any:
    """Fork a process that works on the database over connections of its own."""
    connections.close_all()
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work,))
    process.start()
    return process


def _alone(work: Callable[[], None]) -> None:
    connections.close_all()
    try:
        work()
    finally:
        connections.close_all()
