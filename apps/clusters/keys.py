"""What an API key may do, found out without changing anything.

Qdrant checks the right before it looks whether the collection exists. So a snapshot of a collection that nobody has
answers 404 to those who may make snapshots and 403 to everybody else; the same goes for recovering a shard. (Read in
Qdrant 1.18's snapshot handlers, and recorded in tests/recordings/auth.jsonl for collections that exist.)
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum

from apps.clusters.models import Purpose
from apps.clusters.qdrant import CollectionNotFound, Endpoint, QdrantDenied, QdrantNode, QdrantRejected
from apps.clusters.registry import Problem, ProblemKind
from apps.core.errors import BackupmgrError

SHARD = 0


class KeyVerdict(StrEnum):
    """What a key is good for."""

    FINE = "fine"
    MISSING = "missing"
    WRONG = "wrong"
    READ_ONLY = "read_only"
    #: A token for single collections, or one that lacks a right.
    LIMITED = "limited"
    #: The node did not answer the question.
    UNKNOWN = "unknown"


_KINDS = {
    KeyVerdict.MISSING: ProblemKind.KEY_MISSING,
    KeyVerdict.WRONG: ProblemKind.KEY_WRONG,
    KeyVerdict.READ_ONLY: ProblemKind.KEY_READ_ONLY,
    KeyVerdict.LIMITED: ProblemKind.KEY_LIMITED,
}


@dataclass(frozen=True)
class KeyCheck:
    """What the key for one purpose may do; `message` is a sentence for people."""

    purpose: Purpose
    verdict: KeyVerdict
    message: str
    #: Whether backups and restores share one key.
    is_shared: bool

    @property
    def problem(self) -> Problem | None:
        """The problem that this is, None when the key does what it is for, or nobody knows."""
        kind = _KINDS.get(self.verdict)
        if kind is None:
            return None
        # With one key for all, one that cannot restore is good enough for who only makes backups.
        is_error = not (self.purpose == Purpose.RESTORE and self.is_shared)
        return Problem(kind, self.message, is_error=is_error)


def check_keys(backup: Endpoint, restore: Endpoint, *, is_shared: bool) -> tuple[KeyCheck, ...]:
    """Find out what the keys may do; nothing is changed on the node. A node that fails is a verdict, too."""
    return (
        _check(backup, Purpose.BACKUP, is_shared=is_shared),
        _check(restore, Purpose.RESTORE, is_shared=is_shared),
    )


def demand_right_to_restore(endpoint: Endpoint, *, is_shared: bool) -> None:
    """Make sure that the key that restores use may restore, without changing anything on the node.

    A node that does not tell is no refusal. Raises: QdrantDenied with a sentence for people.
    """
    check = _check(endpoint, Purpose.RESTORE, is_shared=is_shared)
    if check.problem is not None:
        raise QdrantDenied(check.message, status=403)


def _check(endpoint: Endpoint, purpose: Purpose, *, is_shared: bool) -> KeyCheck:
    nobodys = f"backupmgr-asks-for-rights-{uuid.uuid4().hex}"
    path = f"/collections/{nobodys}/shards/{SHARD}/snapshots"

    def verdict(verdict: KeyVerdict, message: str) -> KeyCheck:
        return KeyCheck(purpose, verdict, message, is_shared)

    try:
        with QdrantNode(endpoint) as node:
            if purpose == Purpose.BACKUP:
                node.call("POST", path, params={"wait": "true"})
            else:
                body = {"location": "none.snapshot", "priority": "no_sync"}
                node.call("PUT", f"{path}/recover", params={"wait": "true"}, json=body)
    except (CollectionNotFound, QdrantRejected):
        return verdict(KeyVerdict.FINE, _FINE[purpose] if endpoint.api_key else "The node asks for no API key.")
    except QdrantDenied as error:
        return verdict(*_denied(error, endpoint, purpose, is_shared=is_shared))
    except BackupmgrError as error:
        return verdict(KeyVerdict.UNKNOWN, f"What the API key may do could not be found out: {error}")
    return verdict(KeyVerdict.UNKNOWN, "What the API key may do could not be found out: the node's answer is odd.")


_FINE = {
    Purpose.BACKUP: "The API key may make snapshots.",
    Purpose.RESTORE: "The API key may restore.",
}


def _denied(error: QdrantDenied, endpoint: Endpoint, purpose: Purpose, *, is_shared: bool) -> tuple[KeyVerdict, str]:
    name = "API key for restores" if purpose == Purpose.RESTORE and not is_shared else "API key"
    if error.status == 401:
        if not endpoint.api_key:
            return KeyVerdict.MISSING, f"Qdrant at {endpoint.url} asks for an API key, and none is set: enter one."
        return KeyVerdict.WRONG, f"Qdrant at {endpoint.url} does not accept the {name}: enter the right one."
    if purpose == Purpose.RESTORE and "is required" not in str(error):
        # Rights are always named so ("Global manage access is required"). Anything else is a way of restoring that the
        # node does not offer ("Snapshot URL recovery is disabled"), and there are others.
        return KeyVerdict.UNKNOWN, f"What the {name} may do could not be found out: {error}"
    # Who may read everything is told "manage access", who has single collections "access to collection …".
    if "manage access" not in str(error):
        return (
            KeyVerdict.LIMITED,
            f"The {name} is one for single collections: it may be enough for those, which only a backup of one can "
            f"tell, and restores need a key for everything.",
        )
    if purpose == Purpose.BACKUP:
        return (
            KeyVerdict.READ_ONLY,
            f"The {name} may only read: it can list and download snapshots but not make them, so backups would fail. "
            f"Enter a key with full access.",
        )
    if is_shared:
        return (
            KeyVerdict.READ_ONLY,
            f"The {name} cannot restore: enter one with full access as the API key for restores before you need it.",
        )
    return KeyVerdict.READ_ONLY, f"The {name} may not recover collections: enter one with full access."
