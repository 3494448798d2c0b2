"""A storage's listing, a folder at a time: memory stays the same however much lies there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from apps.storage.keys import MANIFEST_NAME, is_part_name, is_probe_key
from apps.storage.stores import Store, StoredObject


@dataclass
class StoredFolder:
    """What lies directly in one folder. Only what bears one of our names is kept; the rest is counted."""

    path: str
    manifest: StoredObject | None = None
    #: File name → object.
    parts: dict[str, StoredObject] = field(default_factory=dict)
    #: What connection tests have left; they lie beside the folders of clusters.
    probes: list[StoredObject] = field(default_factory=list)
    others: int = 0
    size_bytes: int = 0
    #: The newest of all; None when the storage does not tell of one.
    modified_at: datetime | None = None
    _untold: bool = False

    def add(self, name: str, stored: StoredObject) -> None:
        if name == MANIFEST_NAME:
            self.manifest = stored
        elif is_part_name(name):
            self.parts[name] = stored
        elif is_probe_key(stored.key):
            self.probes.append(stored)
        else:
            self.others += 1
        self.size_bytes += stored.size_bytes
        if stored.modified_at is None:
            self._untold, self.modified_at = True, None
        elif not self._untold and (self.modified_at is None or stored.modified_at > self.modified_at):
            self.modified_at = stored.modified_at

    @property
    def has_ours(self) -> bool:
        return self.manifest is not None or bool(self.parts)


def stored_folders(store: Store, prefix: str = "") -> Iterator[StoredFolder]:
    """Yield the folders that hold objects, as they are listed.

    Stores list the objects of a folder one after another. Should one not, a folder comes in pieces: so whatever
    follows from something not being there has to be asked of the storage once more. Raises: StorageError.
    """
    current: StoredFolder | None = None
    for stored in store.list(prefix):
        path, _, name = stored.key.rpartition("/")
        if current is None or current.path != path:
            if current is not None:
                yield current
            current = StoredFolder(path)
        current.add(name, stored)
    if current is not None:
        yield current
