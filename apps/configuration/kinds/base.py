"""What a kind of thing in the document has to know, and what an entry is refused with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from apps.configuration.fields import Field
from apps.configuration.references import STORED
from apps.core.crypto import UndecryptableSecret
from apps.core.errors import InvalidRequest
from apps.core.fields import Secret


class EntryInvalid(InvalidRequest):
    """An entry cannot be what it says; `problems` has a sentence by field, '' for the entry as a whole."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = dict(problems)


@dataclass(frozen=True)
class Given:
    """What an entry says: values by field (secrets revealed), and the moment of the import."""

    values: Mapping[str, Any]
    now: datetime


class Kind(ABC):
    """A section of the document."""

    section: ClassVar[str]
    #: 'schedule', for sentences.
    noun: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    #: What an entry cannot do without, also when the thing is there already: its name.
    key: ClassVar[tuple[str, ...]] = ("name",)
    #: Secrets that null removes; the others can only be replaced.
    removable: ClassVar[tuple[str, ...]] = ()

    @property
    def by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def name_of(self, values: Mapping[str, Any]) -> str:
        """The name of an entry in sentences: main/nightly."""
        return "/".join(str(values[part]) for part in reversed(self.key))

    @abstractmethod
    def all(self) -> Iterable[Any]:
        """Return the rows, in the order in which they are exported."""

    @abstractmethod
    def find(self, values: Mapping[str, Any]) -> Any | None:
        """Return the row that the entry names, None for a new one."""

    @abstractmethod
    def show(self, row: Any) -> dict[str, Any]:
        """Return the entry of a row; in place of a secret that is set stands `stored`."""

    @abstractmethod
    def write(self, row: Any | None, given: Given) -> Any:
        """Make the row, or change what is given of it, through its service. Raises: EntryInvalid, BackupmgrError."""

    @abstractmethod
    def delete(self, row: Any, now: datetime) -> None:
        """Raises: BackupmgrError."""

    def holds(self, row: Any, name: str, plain: str) -> bool:
        """Tell whether the secret of the row is this one."""
        kept = getattr(row, name)
        try:
            return bool((kept.reveal() if isinstance(kept, Secret) else kept) == plain)
        except UndecryptableSecret:
            return False

    def secrets(self, row: Any) -> dict[str, str]:
        return {field.name: STORED for field in self.fields if field.is_secret and getattr(row, field.name)}


def plain(row: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
