from __future__ import annotations

from apps.core.errors import BackupmgrError


class NotDelivered(BackupmgrError):
    """The receiver did not take the message. The sentence holds no address and no key."""
