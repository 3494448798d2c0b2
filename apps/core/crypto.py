"""Encryption of secrets at rest: Fernet (AES-128-CBC with HMAC-SHA256) under rotatable keys.

The keys are `settings.BACKUPMGR_FIELD_KEYS`, newest first: the first one encrypts, every one decrypts. Rotation:
put a new key in front, restart, run `manage.py rotate_field_keys`, remove the old key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.core.errors import BackupmgrError


class UndecryptableSecret(BackupmgrError):
    """A stored secret was encrypted with a key that is not configured any more."""

    http_status = 409

    def __init__(self) -> None:
        super().__init__(
            "A stored secret cannot be decrypted with the configured field keys: put the key it was saved with back "
            "into BACKUPMGR_FIELD_KEYS (or the data folder's field.keys), or enter the secret again."
        )


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "BACKUPMGR_FIELD_KEYS holds something that is no Fernet key: each must be 32 bytes in URL-safe base64."
        ) from error


def _current() -> MultiFernet:
    keys = tuple(settings.BACKUPMGR_FIELD_KEYS)
    if not keys:
        raise ImproperlyConfigured("BACKUPMGR_FIELD_KEYS is empty: secrets cannot be kept without a key.")
    return _fernet(keys)


def encrypt(plain: str) -> str:
    """Encrypt `plain` with the newest key."""
    return _current().encrypt(plain.encode()).decode("ascii")


def decrypt(token: str) -> str:
    """Return what `encrypt` was given.

    Raises: UndecryptableSecret when no configured key fits or the stored text was altered.
    """
    try:
        return _current().decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise UndecryptableSecret from error


def encrypted_at(token: str) -> datetime | None:
    """Return when `encrypt` made the text (rotation keeps that); None when no configured key fits."""
    for key in settings.BACKUPMGR_FIELD_KEYS:
        try:
            return datetime.fromtimestamp(Fernet(key).extract_timestamp(token.encode()), UTC)
        except InvalidToken:
            continue
    return None


def rotate(token: str) -> str:
    """Re-encrypt with the newest key. Raises: UndecryptableSecret."""
    try:
        return _current().rotate(token.encode()).decode("ascii")
    except InvalidToken as error:
        raise UndecryptableSecret from error
