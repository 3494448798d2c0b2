"""What can be done with storages: open, test, save, delete."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models.deletion import ProtectedError, RestrictedError

from apps.audit.trail import record_action
from apps.core.text import plural
from apps.storage.backends import FOLDER_MODE
from apps.storage.errors import (
    DefaultStorageNeeded,
    StorageChanged,
    StorageInUse,
    StorageInvalid,
    StorageMissing,
    StorageNameTaken,
)
from apps.storage.models import AddressingStyle, StorageConfig, StorageType
from apps.storage.opening import open_store
from apps.storage.probe import ProbeResult, probe_store
from apps.storage.validation import resolve_folder

__all__ = [
    "ProbeResult",
    "create_storage",
    "delete_storage",
    "draft_storage",
    "make_folder",
    "open_store",
    "probe_store",
    "update_storage",
]

logger = logging.getLogger(__name__)

#: The fields that a person sets.
FIELDS = (
    "name",
    "type",
    "is_default",
    "path",
    "s3_endpoint",
    "s3_bucket",
    "s3_region",
    "s3_access_key",
    "s3_secret_key",
    "s3_prefix",
    "s3_addressing_style",
    "verify_tls",
    "ca",
    "max_jobs",
)
_NO_TEXT = frozenset({"is_default", "verify_tls", "max_jobs"})
# Two savers can collide on "exactly one default": the loser tries again and finds the winner's row.
_SAVE_TRIES = 3


def create_storage(*, data: Mapping[str, Any], user: object | None = None, with_folder: bool = True) -> StorageConfig:
    """Save a new storage; the first one becomes the default. The folder of a folder storage is made.

    `data` maps names of FIELDS to values; None means "not set". `user` is for the log. Without `with_folder` the
    caller sees to the folder (`make_folder`), for example because this may still be taken back.
    Raises: StorageInvalid, StorageNameTaken, StorageChanged.
    """
    storage = StorageConfig()
    _apply(storage, data)
    for left in reversed(range(_SAVE_TRIES)):
        try:
            with transaction.atomic():
                _validate(storage)
                storage.save(force_insert=True)
            break
        except IntegrityError as error:
            _give_up_or_retry(storage, left, error)
    if with_folder:
        make_folder(storage)
    transaction.on_commit(lambda: logger.info("Storage %s created by %s", storage.pk, user))
    return storage


def draft_storage(*, data: Mapping[str, Any]) -> StorageConfig:
    """Return a storage that is not saved, for a test of its connection. Raises: StorageInvalid."""
    storage = StorageConfig()
    _apply(storage, data)
    _validate_fields(storage)
    return storage


def update_storage(
    *, storage: StorageConfig, data: Mapping[str, Any], user: object | None = None, with_folder: bool = True
) -> StorageConfig:
    """Change the fields in `data` (as for `create_storage`), leave the others. Returns the row as saved.

    A secret key left out or empty stays, and so does an access key sent back the masked way it was shown.
    Raises: StorageInvalid, StorageNameTaken, StorageChanged, StorageMissing; DefaultStorageNeeded when the default
    storage should stop being it.
    """
    for left in reversed(range(_SAVE_TRIES)):
        try:
            with transaction.atomic():
                current = _locked(storage)
                was_default = current.is_default
                _apply(current, data)
                if was_default and not current.is_default:
                    raise DefaultStorageNeeded(
                        f"{current.name} is the default storage: make another one the default instead."
                    )
                _validate(current)
                current.save(force_update=True)
            break
        except IntegrityError as error:
            _give_up_or_retry(current, left, error)
    if with_folder and ("path" in data or "type" in data):
        make_folder(current)
    transaction.on_commit(lambda: logger.info("Storage %s updated by %s", current.pk, user))
    return current


def delete_storage(*, storage: StorageConfig, user: object | None = None) -> None:
    """Forget a storage; what is stored there stays.

    Raises: StorageMissing; DefaultStorageNeeded for the default one; StorageInUse while backups or jobs refer to it.
    """
    with transaction.atomic():
        current = _locked(storage)
        if current.is_default:
            raise DefaultStorageNeeded(
                f"{current.name} is the default storage: make another one the default before deleting it."
            )
        if uses := _uses(current):
            raise StorageInUse(
                f"{current.name} cannot be deleted: {' and '.join(uses)} refer to it. Delete those first."
            )
        record_action("storageconfig.delete", f"Deleted the storage {current.name}.", about=current)
        try:
            current.delete()
        except (ProtectedError, RestrictedError, IntegrityError) as error:  # made since we counted
            raise StorageInUse(f"{current.name} cannot be deleted: something refers to it since just now.") from error
    logger.info("Storage %s deleted by %s", storage.pk, user)


def _apply(storage: StorageConfig, data: Mapping[str, Any]) -> None:
    """Set the fields in `data`. Raises: StorageInvalid for what is no field or no text."""
    problems = {field: f"There is no field {field!r} in a storage." for field in data if field not in FIELDS}
    for field in (field for field in FIELDS if field in data):
        value = data[field]
        if field in _NO_TEXT:
            if value is None:
                continue
        elif value is None:
            value = AddressingStyle.AUTO if field == "s3_addressing_style" else ""
        elif not isinstance(value, str):
            problems[field] = f"The {_label(field)} must be text."
            continue
        elif field != "ca":
            value = value.strip()
        if field == "s3_secret_key" and not value:
            continue
        if field == "s3_access_key" and value and value == storage.masked_access_key:
            continue
        setattr(storage, field, value)
    if problems:
        raise StorageInvalid(problems)


def _validate(storage: StorageConfig) -> None:
    """Raises: StorageInvalid; StorageNameTaken."""
    _validate_fields(storage)
    if _name_taken(storage):
        raise _taken(storage)


def _validate_fields(storage: StorageConfig) -> None:
    """Raises: StorageInvalid."""
    try:
        # Not the constraints: save() hands the default over, which the check of "one default" knows nothing of.
        storage.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        raise StorageInvalid(
            {
                field: " ".join(
                    # Django's own have a code and speak of "this field"; the sentences of validation.py have none.
                    f"{_label(field).capitalize()}: {message}" if problem.code else message
                    for problem in problems
                    for message in problem.messages
                )
                for field, problems in error.error_dict.items()
            }
        ) from error


def _label(field: str) -> str:
    return str(StorageConfig._meta.get_field(field).verbose_name)  # type: ignore[union-attr]


def _name_taken(storage: StorageConfig) -> bool:
    return StorageConfig.objects.exclude(pk=storage.pk).filter(name=storage.name).exists()


def _taken(storage: StorageConfig) -> StorageNameTaken:
    return StorageNameTaken(f"There is a storage named {storage.name} already: choose another name.")


def _give_up_or_retry(storage: StorageConfig, tries_left: int, error: IntegrityError) -> None:
    """Return when another try makes sense. Raises: StorageNameTaken, StorageChanged."""
    if _name_taken(storage):
        raise _taken(storage) from error
    if not tries_left:
        raise StorageChanged("Somebody else changed the storages at the same moment: try again.") from error


def _locked(storage: StorageConfig) -> StorageConfig:
    """Return the row as it is now, locked until the transaction ends (SQLite locks the whole database anyway)."""
    try:
        return StorageConfig.objects.select_for_update().get(pk=storage.pk)
    except StorageConfig.DoesNotExist as error:
        raise StorageMissing(f"The storage {storage.name} does not exist any more.") from error


def _uses(storage: StorageConfig) -> list[str]:
    """Count what keeps the storage from being deleted, in words; without loading it, there may be a million jobs."""
    uses = []
    for relation in StorageConfig._meta.related_objects:
        if getattr(relation, "on_delete", None) in (models.PROTECT, models.RESTRICT):
            model = relation.related_model
            count = model._base_manager.filter(**{relation.field.name: storage}).count()
            if count:
                uses.append(plural(count, str(model._meta.verbose_name), str(model._meta.verbose_name_plural)))
    return uses


def make_folder(storage: StorageConfig) -> None:
    """Make the folder of a folder storage, at this moment only: one that is missing later is a disk not mounted."""
    if storage.type != StorageType.LOCAL:
        return
    try:
        resolve_folder(storage.path).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except (OSError, ValueError):
        # The storage is saved all the same: its test, and every job, say what is wrong with the folder.
        logger.warning("The folder of storage %s could not be made", storage.pk, exc_info=True)
