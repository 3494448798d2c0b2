"""forecast: on which day each backup would go "if runs go on as planned". Pure: `evaluate` itself, day after day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import BackupFacts, Decision, Rules

#: How far ahead is looked.
DAYS = 400
#: So many backups are looked at in one simulation, over all its days; it ends early when they are used up.
LOOKS = 60_000
#: Reasons that have nothing to do with how many backups there are: a rule, and not a guard, if none of these.
_GUARDS = frozenset(
    ("newest", "last-verified", "min-redundancy", "hold", "locked", "in-use", "clock", "min-age", "frozen", "suspect",
     "needed-by", "no-rules")
)  # fmt: skip
#: Begins the ids of backups that are still to be made.
_PLANNED = "\x00planned "


@dataclass(frozen=True)
class Fate:
    """What would become of one backup."""

    id: str
    #: The day in the policy's zone on which it would be let go; None when it still stays on the last day looked at.
    day: date | None
    #: Why it stays on that last day when no rule keeps it: codes of guards, sorted; empty when a rule does.
    guards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What would become of a set. All of it supposes that each planned run succeeds, with a backup as large as the
    newest good one, that nobody holds or verifies anything else, and that what goes has been confirmed.
    """

    fates: Mapping[str, Fate]
    #: The last day that was looked at: DAYS ahead, or earlier when the plan or the work ends there.
    until: date
    is_whole: bool
    #: What the set holds on the last day.
    count_then: int
    bytes_then: int
    #: How many looks at a backup it took: what it cost.
    looks: int


def forecast(
    backups: Iterable[BackupFacts],
    rules: Rules,
    now: datetime,
    *,
    slots: Iterable[datetime] = (),
    planned_until: datetime | None = None,
    elsewhere: Iterable[BackupFacts] = (),
    frozen: bool = False,
    days: int = DAYS,
    looks: int = LOOKS,
) -> Forecast:
    """Simulate the end of each day in the policy's zone from today on.

    `slots` are when backups are still to be taken, ascending; they are known up to `planned_until`, or to the end.
    Looking once a day gives the same as looking after each backup, but for size caps: rules and guards let go at the
    end of a day whatever they let go within it.
    """
    zone, others = ZoneInfo(rules.zone), list(elsewhere)
    standing = {backup.id: backup for backup in backups}
    waiting = sorted(slots)
    size = _size_of_next(standing.values())
    left = set(standing)
    fates: dict[str, Fate] = {}
    today = now.astimezone(zone).date()
    last_day = today if planned_until is None else planned_until.astimezone(zone).date() - timedelta(days=1)
    # The day on which the plan ends is known in part only.
    wanted = days if planned_until is None else min(days, max(0, (last_day - today).days))
    day, taken, decision = today, 0, _look(standing, rules, now, others, frozen)
    used = len(standing)
    for ahead in range(wanted + 1):
        if not left or used >= looks:
            break
        day = today + timedelta(days=ahead)
        moment = max(now, _end_of(day, zone))
        while taken < len(waiting) and waiting[taken] <= moment:
            planned = BackupFacts(id=f"{_PLANNED}{taken:06}", taken_at=waiting[taken], size_bytes=size)
            standing[planned.id] = planned
            taken += 1
        _settle(standing)
        used += len(standing)
        decision = _look(standing, rules, moment, others, frozen)
        for key in decision.expire:
            del standing[key]
            if key in left:
                left.discard(key)
                fates[key] = Fate(key, day)
    for key in left:
        codes = decision.verdicts[key].codes
        fates[key] = Fate(key, None, tuple(sorted(codes)) if codes <= _GUARDS else ())
    return Forecast(
        fates=fates,
        until=day,
        is_whole=not left or day == today + timedelta(days=days),
        count_then=len(standing),
        bytes_then=sum(backup.size_bytes for backup in standing.values()),
        looks=used,
    )


def _look(
    standing: Mapping[str, BackupFacts], rules: Rules, moment: datetime, others: list[BackupFacts], frozen: bool
) -> Decision:
    return evaluate(standing.values(), rules, moment, elsewhere=others, frozen=frozen)


def _settle(standing: dict[str, BackupFacts]) -> None:
    """Jobs that use a backup now end; of suspect ones it is remembered when the first good one after them came."""
    for key, backup in list(standing.items()):
        if backup.in_use:
            backup = standing[key] = replace(backup, in_use=False)
        if backup.suspect:
            later = [other.taken_at for other in standing.values() if not other.suspect and _is_after(other, backup)]
            known = [*later, *([backup.replaced_at] if backup.replaced_at else [])]
            if known and min(known) != backup.replaced_at:
                standing[key] = replace(backup, replaced_at=min(known))


def _is_after(one: BackupFacts, other: BackupFacts) -> bool:
    return (one.taken_at, one.id) > (other.taken_at, other.id)


def _size_of_next(backups: Iterable[BackupFacts]) -> int:
    good = [backup for backup in backups if not backup.suspect]
    return max(good, key=lambda backup: (backup.taken_at, backup.id)).size_bytes if good else 0


def _end_of(day: date, zone: ZoneInfo) -> datetime:
    """Return the last moment of a day on the walls of a zone, in UTC."""
    midnight = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)
    return midnight.astimezone(UTC) - timedelta(microseconds=1)
