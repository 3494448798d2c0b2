"""Slowing down who guesses: failed attempts are counted in the database, for all web processes together.

An attempt is counted before the password is looked at, and given back when it was right: a hundred guesses at the same
moment are counted a hundred times. One conditional UPDATE each, so the count can neither be lost nor exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Case, F, Value, When
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from apps.api.models import FailedAttempts
from apps.core.addresses import source_address

# A person, or a provider's customer, holds a whole network of this size.
_IPV6_PREFIX = 64


@dataclass(frozen=True)
class Limit:
    """So many failures within `seconds`, and further attempts are refused for `seconds`."""

    failures: int
    seconds: int


def sign_in_limit() -> Limit:
    """Return the limit of wrong passwords for one name from one address."""
    return Limit(settings.BACKUPMGR_LOGIN_FAILURES, settings.BACKUPMGR_LOGIN_LOCK_MINUTES * 60)


def attempt(who: str, limit: Limit, now: datetime) -> int:
    """Count an attempt. Returns 0 when it may be made, or for how many seconds none may be.

    `who` names what is attempted and by whom ("sign-in", name, address); only its hash is kept.
    """
    row = FailedAttempts.objects.filter(pk=_hash(who))
    later = now + timedelta(seconds=limit.seconds)
    for _ in range(3):  # a row may be made, or forgotten, by another process between two steps
        counted = row.filter(until__gt=now, count__lt=limit.failures).update(
            count=F("count") + 1,
            # The attempt that fills the measure begins the time of refusal.
            until=Case(When(count__gte=limit.failures - 1, then=Value(later)), default=F("until")),
        )
        if counted:
            return 0
        known = row.first()
        if known is not None and known.until > now:
            if known.count >= limit.failures:
                return max(1, int((known.until - now).total_seconds() + 0.999))
            continue
        FailedAttempts.objects.filter(until__lte=now).delete()
        try:
            with transaction.atomic():
                FailedAttempts.objects.create(who=_hash(who), count=1, until=later)
            return 0
        except IntegrityError:
            continue
    return 1


def forget(who: str) -> None:
    """Forget the failures: the attempt was right."""
    FailedAttempts.objects.filter(pk=_hash(who)).delete()


def client_address(request: HttpRequest) -> str:
    """Return the address a request comes from; an IPv6 one as its network, of which one client has all."""
    found = source_address(request.META, settings.BACKUPMGR_TRUSTED_PROXIES)
    try:
        address = ip_address(found)
    except ValueError:
        return found
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_PREFIX), strict=False))
    return found


def _hash(who: str) -> str:
    return salted_hmac("backupmgr.attempts", who, algorithm="sha256").hexdigest()
