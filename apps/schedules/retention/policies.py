"""Retention policies and holds as people handle them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from apps.audit.trail import record_action
from apps.backups.models import Backup, BackupStatus, Hold
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import COUNTED_TIERS, CapAction, Pick
from apps.core.errors import Conflict, InvalidRequest, NotFound
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE

#: What people set of a policy.
FIELDS = (
    "name", *(f"keep_{tier}" for tier in COUNTED_TIERS), "keep_within", "max_age", "size_cap_bytes", "cap_action",
    "min_redundancy", "pick", "tz", "min_age_seconds", "grace_days",
)  # fmt: skip
#: A change of anything but the name changes what the policy does.
EFFECTIVE = FIELDS[1:]


class PolicyNotFound(NotFound):
    """There is no policy with that id or name."""


class PolicyInvalid(InvalidRequest):
    """The fields do not describe a policy; `problems` has a sentence for each field."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {sentence}" for name, sentence in problems.items()))
        self.problems = dict(problems)


class PolicyNameTaken(Conflict):
    """Another policy has that name."""


class PolicyInUse(Conflict):
    """Schedules or backups go by the policy."""


def find_policy(reference: str) -> RetentionPolicy:
    """Return the policy with this id or name. Raises: PolicyNotFound."""
    found = None
    with contextlib.suppress(ValueError):
        found = RetentionPolicy.objects.filter(pk=uuid.UUID(reference)).first()
    found = found or (RetentionPolicy.objects.filter(name=reference).first() if "\x00" not in reference else None)
    if found is None:
        raise PolicyNotFound(f"There is no retention policy with the id or name {reference!r}.")
    return found


def draft_policy(*, data: Mapping[str, Any], policy: RetentionPolicy | None = None) -> RetentionPolicy:
    """Return a policy with these fields, not saved. Raises: PolicyInvalid by field."""
    draft = RetentionPolicy.objects.get(pk=policy.pk) if policy is not None else RetentionPolicy()
    for name in FIELDS:
        if name in data:
            setattr(draft, name, data[name])
    problems: dict[str, str] = {}
    draft.name = str(draft.name).strip()
    if not draft.name or len(draft.name) > 100 or not draft.name.isprintable():
        problems["name"] = "Give a name of 1 to 100 printable characters."
    for name, choices in (("pick", Pick), ("cap_action", CapAction)):
        if getattr(draft, name) not in [choice.value for choice in choices]:
            problems[name] = f"One of {', '.join(choice.value for choice in choices)}."
    try:
        draft.clean()
    except ValidationError as error:
        problems |= {name: " ".join(sentences) for name, sentences in error.message_dict.items()}
    if problems:
        raise PolicyInvalid(problems)
    return draft


def create_policy(*, data: Mapping[str, Any]) -> RetentionPolicy:
    """Make a policy. What it lets go first waits for a confirmation. Raises: PolicyInvalid, PolicyNameTaken."""
    policy = draft_policy(data=data)
    try:
        with transaction.atomic():
            policy.save(force_insert=True)
            record_action("retentionpolicy.create", f"Made the policy {policy.name}.", about=policy)
    except IntegrityError as error:
        raise _name_taken(policy, error) from error
    return policy


def update_policy(*, policy: RetentionPolicy, data: Mapping[str, Any]) -> RetentionPolicy:
    """Change a policy. When it does something else from now on, that waits for a confirmation again.

    Raises: PolicyInvalid, PolicyNameTaken.
    """
    draft = draft_policy(data=data, policy=policy)
    try:
        with transaction.atomic():
            before = RetentionPolicy.objects.select_for_update().get(pk=policy.pk)
            changed = [name for name in FIELDS if getattr(before, name) != getattr(draft, name)]
            draft.version, draft.confirmed_version = before.version, before.confirmed_version
            if set(changed) & set(EFFECTIVE):
                draft.version += 1
            draft.save()
            if changed:
                words = f"Changed the policy {draft.name}: {', '.join(changed)}."
                record_action("retentionpolicy.change", words, about=draft)
    except IntegrityError as error:
        raise _name_taken(draft, error) from error
    return draft


def wait_for_confirmation(policy_id: uuid.UUID) -> None:
    """Have the next plan of a policy wait for a person: what its backups are counted by is another by now."""
    RetentionPolicy.objects.filter(pk=policy_id).update(confirmed_version=0)


def delete_policy(*, policy: RetentionPolicy) -> None:
    """Delete a policy that nothing goes by. Raises: PolicyInUse."""
    if policy.schedules.filter(deleted_at=None).exists():
        raise PolicyInUse(f"Schedules go by the policy {policy.name!r}: give them another one first.")
    if policy.backups.exists() or Job.objects.filter(policy=policy, status__in=ACTIVE).exists():
        raise PolicyInUse(f"Backups go by the policy {policy.name!r}: it stays for as long as there are any.")
    try:
        with transaction.atomic():
            policy.schedules.filter(deleted_at__isnull=False).update(policy=None)
            policy.runs.all().delete()
            record_action("retentionpolicy.delete", f"Deleted the policy {policy.name}.", about=policy)
            policy.delete()
    except ProtectedError as error:
        raise PolicyInUse(f"Something goes by the policy {policy.name!r}: it stays.") from error


def _name_taken(policy: RetentionPolicy, error: IntegrityError) -> Exception:
    if RetentionPolicy.objects.filter(name=policy.name).exclude(pk=policy.pk).exists():
        return PolicyNameTaken(f"There is a policy named {policy.name!r} already: choose another name.")
    return error


# --- holds ----------------------------------------------------------------------------------------------------------
def place_hold(
    *, backup: Backup, reason: str, now: datetime, until: datetime | None = None, user: AbstractBaseUser | None = None
) -> Hold:
    """Hold a backup: nothing deletes it until the hold is released or over. One that retention let go comes back.

    Raises: InvalidRequest; Conflict when it is being deleted.
    """
    reason = reason.strip()
    if not reason or len(reason) > 300 or "\x00" in reason:
        raise InvalidRequest("reason: Say in 1 to 300 characters why it must stay.")
    if until is not None and until <= now:
        raise InvalidRequest("until: Give a moment that is still to come, or leave it out.")
    with transaction.atomic():
        held = Backup.objects.select_for_update().defer("manifest").get(pk=backup.pk)
        if held.status == BackupStatus.DELETING:
            raise Conflict("The backup is being deleted: it cannot be held any more.")
        Backup.objects.filter(pk=held.pk).update(expired_at=None, delete_at=None, expire_reason="")
        hold = Hold.objects.create(
            backup=held,
            reason=reason,
            until=until,
            created_by=user,  # type: ignore[misc]
            created_at=now,
        )
        record_action("hold.place", f"Held the backup {held}: {reason}", about=held, user=user)
        return hold


def release_hold(*, hold: Hold, now: datetime, user: AbstractBaseUser | None = None) -> Hold:
    """Release a hold; releasing it twice changes nothing."""
    with transaction.atomic():
        if Hold.objects.filter(pk=hold.pk, released_at=None).update(released_at=now, released_by=user):
            words = f"Released the hold of the backup {hold.backup} ({hold.reason})."
            record_action("hold.release", words, about=hold.backup, user=user)
    return Hold.objects.select_related("backup", "created_by").get(pk=hold.pk)
