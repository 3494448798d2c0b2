"""A StorageConfig row becomes an open Store."""

from __future__ import annotations

from dataclasses import replace

from apps.core.abort import Abort
from apps.storage.backends import Patience, bucket_backend, folder_backend, work_patience
from apps.storage.models import StorageConfig, StorageType
from apps.storage.stores import Store


def open_store(config: StorageConfig, *, patience: Patience | None = None, abort: Abort | None = None) -> Store:
    """Return the storage that a row describes. No connection is made yet.

    `patience` bounds calls to S3 endpoints, by default to what suits jobs; once `abort` trips, they end at once with
    its reason.
    Raises: StorageError when the row cannot be used (folder outside the roots); crypto.UndecryptableSecret.
    """
    if config.type == StorageType.LOCAL:
        from apps.storage.local import LocalStore

        return LocalStore(folder_backend(config))
    from apps.storage.s3 import S3Store  # imports boto3

    patience = patience or work_patience()
    parts = None if patience.attempts == 1 else bucket_backend(config, replace(patience, attempts=1))
    return S3Store(bucket_backend(config, patience), parts, outage_seconds=patience.outage_seconds, abort=abort)
