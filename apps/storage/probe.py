"""The connection test of a storage: write, read back, compare, remove."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.storage.backends import FOLDER_MODE, PROBE_PATIENCE, folder_backend
from apps.storage.errors import StorageError, StorageFault, StorageUnreachable
from apps.storage.filesystem import make_folders, prune_folders, translated
from apps.storage.keys import probe_key
from apps.storage.models import StorageConfig, StorageType
from apps.storage.opening import open_store
from apps.storage.stores import Store

logger = logging.getLogger(__name__)

# Somebody waits for the answer. A folder on a dead network mount, or a name server, can block for much longer.
_DEADLINE_SECONDS = 18.0
_PROBE_BYTES = 4096
# More than one part of every kind of storage: with S3 this opens a multipart upload.
_LARGE_BYTES = 17 * 1024 * 1024


@dataclass(frozen=True)
class ProbeResult:
    """What came of a connection test; `message` is a sentence either way."""

    success: bool
    message: str


def probe_store(config: StorageConfig) -> ProbeResult:
    """Write an object, read it back, remove it, and begin a large one; takes 18 seconds at most.

    The row need not be saved. A storage that fails, or a row that cannot be used, is a result and no exception.
    """
    results: list[ProbeResult] = []
    abort = Abort()

    def run() -> None:
        try:
            with _folder_of_draft(config):
                results.append(_probe(config, abort))
        except BackupmgrError as error:
            results.append(ProbeResult(False, str(error)))
        except Exception:  # the thread's outer edge: it must not die without an answer
            logger.exception("The test of a storage failed unexpectedly")
            results.append(ProbeResult(False, "The test failed in a way nobody foresaw: see the log of this server."))

    # In a thread of its own, because nothing else ends a call into a dead mount; left behind, it cleans up and ends.
    thread = threading.Thread(target=run, name="storage-probe", daemon=True)
    thread.start()
    thread.join(_DEADLINE_SECONDS)
    late = StorageUnreachable(f"{config.location} did not answer within {_DEADLINE_SECONDS:.0f} seconds.")
    if not results:
        abort.trip(late)
    return results[0] if results else ProbeResult(False, str(late))


def _probe(config: StorageConfig, abort: Abort) -> ProbeResult:
    started = time.monotonic()
    store = open_store(config, patience=PROBE_PATIENCE)
    key = probe_key()
    data = secrets.token_bytes(_PROBE_BYTES)
    store.put(key, data)
    try:
        abort.check()
        if store.get(key, _PROBE_BYTES) != data:
            raise StorageFault(f"{config.location} gave back other bytes than were written: do not use it.")
        abort.check()
        _probe_large(config, store, abort)
        abort.check()
        until = store.locked_until(key)
        store.delete(key)
        if store.stat(key) is not None:
            raise StorageFault(f"{config.location} still shows an object that was deleted: check its rules.")
    except BaseException:
        with suppress(StorageError):
            store.delete(key)
        raise
    took = time.monotonic() - started
    words = f"Wrote, read back and removed a test object in {config.location} ({took:.1f} s)."
    if until is not None:
        words += f" It locks what is written (object lock): what is written now stays until {until:%Y-%m-%d %H:%M} UTC."
    return ProbeResult(True, words)


@contextmanager
def _folder_of_draft(config: StorageConfig) -> Iterator[None]:
    """Make the folder of a row that is not saved, as saving would, and remove it after the test."""
    if config.type != StorageType.LOCAL or not config._state.adding:
        yield
        return
    folder = Path(folder_backend(config).location)
    above = next(path for path in (folder, *folder.parents) if path.is_dir())
    with translated(above):
        make_folders(above, folder, FOLDER_MODE)
    try:
        yield
    finally:
        prune_folders(above, folder)


def _probe_large(config: StorageConfig, store: Store, abort: Abort) -> None:
    try:
        store.sink(probe_key(), _LARGE_BYTES, abort).abort()
    except StorageError as error:
        raise type(error)(
            f"Small objects can be written to {config.location}, but no large one can be begun: {error}"
        ) from error
