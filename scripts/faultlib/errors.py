"""What stops the fault table itself, as opposed to what it finds."""

from __future__ import annotations


class FaultsError(Exception):
    """Why there is no result, in a sentence."""


class NotReached(FaultsError):
    """The place at which the fault was to strike was never reached: the cell says nothing."""
