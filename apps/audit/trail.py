"""Writing the trail: services say what was done, the request that is being answered says by whom and from where."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone

from apps.audit.models import AuditEntry, Outcome, Via
from apps.core.addresses import source_address

_API_PREFIX = "/api/"


@dataclass(frozen=True)
class About:
    """The object that an entry is about: its model's name, its key, and what people call it."""

    type: str = ""
    id: str = ""
    name: str = ""

    @classmethod
    def of(cls, obj: Model, name: str = "") -> About:
        return cls(str(obj._meta.model_name), str(obj.pk), name or str(obj))


@dataclass
class Call:
    """The request that is being answered, and what the trail says of it so far."""

    request: HttpRequest
    #: (object type, object id) of the entries written.
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def via(self) -> Via:
        return Via.API if self.request.path.startswith(_API_PREFIX) else Via.ADMIN


#: The call that this thread answers; None in workers and commands.
current_call: ContextVar[Call | None] = ContextVar("audited_call", default=None)


def record_action(
    action: str,
    summary: str,
    *,
    about: Model | About | None = None,
    user: AbstractBaseUser | None = None,
    outcome: Outcome = Outcome.DONE,
) -> AuditEntry:
    """Add an entry; in the transaction of what it tells of, so that both stand or neither does.

    `summary` holds no secret. `user` counts only where no request tells who it is.
    """
    call = current_call.get()
    if not isinstance(about, About):
        about = About.of(about) if about is not None else About()
    entry = AuditEntry(
        created_at=timezone.now(),
        via=Via.SYSTEM if call is None else call.via,
        outcome=outcome,
        action=action[:80],
        summary=summary,
        object_type=about.type[:60],
        object_id=about.id[:255],
        object_name=about.name[:300],
    )
    if call is None:
        _sign(entry, user)
    else:
        signed_in = getattr(call.request, "user", None)
        _sign(entry, signed_in if isinstance(signed_in, AbstractBaseUser) else user)
        entry.token = token_words(call.request)
        entry.address = source_address(call.request.META, settings.BACKUPMGR_TRUSTED_PROXIES)
        call.told.append((entry.object_type, entry.object_id))
    entry.save()
    return entry


def token_words(request: HttpRequest) -> str:
    """Name and beginning of the API token that signed the request in, empty without one."""
    token = getattr(request, "auth", None)
    prefix = getattr(token, "prefix", "")
    return f"{getattr(token, 'name', '')} ({prefix})"[:140] if prefix else ""


def _sign(entry: AuditEntry, user: AbstractBaseUser | None) -> None:
    if user is not None and user.pk is not None:
        entry.actor, entry.actor_id = user.get_username()[:150], str(user.pk)
