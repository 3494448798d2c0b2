"""Model fields shared by all rooms."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models

from apps.core.crypto import decrypt, encrypt, encrypted_at


class Secret:
    """A stored secret, still encrypted: opened only where it is used, and harmless in a log, a repr or a template.

    A row with an undecryptable secret can therefore still be listed, edited and repaired; only `reveal` fails.
    """

    __slots__ = ("_token",)

    def __init__(self, token: str = "") -> None:
        self._token = token

    @classmethod
    def of(cls, plain: str) -> Secret:
        """Encrypt `plain`; the empty string means that no secret is set."""
        return cls(encrypt(plain) if plain else "")

    @property
    def token(self) -> str:
        """The encrypted text as the database holds it; empty when no secret is set."""
        return self._token

    def reveal(self) -> str:
        """Return the secret in clear, or the empty string. Raises: crypto.UndecryptableSecret."""
        return decrypt(self._token) if self._token else ""

    @property
    def set_at(self) -> datetime | None:
        """When it was set; None when there is none, or its key is not configured any more."""
        return encrypted_at(self._token) if self._token else None

    def __bool__(self) -> bool:
        return bool(self._token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._token == self._token

    def __hash__(self) -> int:
        return hash(self._token)

    def __str__(self) -> str:
        return "set" if self._token else ""

    def __repr__(self) -> str:
        return f"<Secret {'set' if self._token else 'empty'}>"


if TYPE_CHECKING:
    _TextField = models.TextField[Secret | str, Secret]
else:
    _TextField = models.TextField


class EncryptedField(_TextField):
    """A text column that holds a secret encrypted; in Python it is always a `Secret`.

    Assigning a plain string encrypts it at once, so that no model instance carries the secret in clear.
    """

    description = "A secret, encrypted at rest"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("blank", True)
        kwargs.setdefault("default", "")
        super().__init__(*args, **kwargs)

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, name, _SecretAttribute(self.attname))

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret:
        return Secret(value or "")

    def get_prep_value(self, value: Any) -> str:
        return self.to_python(value).token

    def to_python(self, value: Any) -> Secret:
        return value if isinstance(value, Secret) else Secret.of(value or "")

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj))


class _SecretAttribute:
    """Turns what is assigned to the field into a `Secret`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Any:
        if instance is None:
            return self
        if self.name not in instance.__dict__:  # deferred by .only() or .defer()
            instance.refresh_from_db(fields=[self.name])
        return instance.__dict__[self.name]

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.name] = value if isinstance(value, Secret) else Secret.of(value or "")
