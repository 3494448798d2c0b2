"""evaluate: which backups of a set stay, and why. Pure: the same facts give the same answer, in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from apps.backups.retention.rules import BackupFacts, CapAction, Decision, Pick, Reason, Rules, Verdict

#: A backup dated later than this after now was written by a clock that was wrong.
FUTURE = timedelta(minutes=5)
#: A suspect backup goes this long after a newer good one was taken.
SUSPECT_KEPT = timedelta(days=30)


def evaluate(
    backups: Iterable[BackupFacts],
    rules: Rules,
    now: datetime,
    *,
    elsewhere: Iterable[BackupFacts] = (),
    frozen: bool = False,
) -> Decision:
    """Decide about the backups of one set (one policy, cluster, collection and storage).

    `elsewhere` are all other backups of the same collection, under whatever policy and in whatever storage: the
    guards "newest" and "last-verified" look at them, too. `frozen`: something is wrong with the collection, nothing
    goes. All times are aware and in UTC.
    """
    newest_first = sorted(backups, key=_age, reverse=True)
    facts = {backup.id: backup for backup in newest_first}
    reasons: dict[str, list[Reason]] = {backup.id: [] for backup in newest_first}
    guards: dict[str, list[Reason]] = {backup.id: [] for backup in newest_first}
    future = {backup.id for backup in newest_first if _is_future(backup, now)}
    good = [backup for backup in newest_first if backup.id not in future and not backup.suspect]
    if rules.says_nothing:
        for backup in newest_first:
            guards[backup.id].append(Reason("no-rules"))

    _apply_rules(good, rules, reasons)
    gone = _strip_old(newest_first, rules, now, reasons)
    _apply_guards(newest_first, good, future, rules, now, guards, list(elsewhere), frozen)
    kept = {key for key in facts if reasons[key] or guards[key]}
    capped, over = _apply_cap(newest_first, kept, guards, rules)
    kept -= capped
    for key, child in _needed(kept, facts).items():
        kept.add(key)
        guards[key].append(Reason("needed-by", child))

    verdicts = {}
    for key, backup in facts.items():
        why = reasons[key] + guards[key] if key in kept else _why_not(backup, key in capped, gone.get(key))
        verdicts[key] = Verdict(key, key in kept, tuple(why))
    return Decision(verdicts, _order(newest_first, kept), over)


def _age(backup: BackupFacts) -> tuple[datetime, str]:
    return backup.taken_at, backup.id


def _is_future(backup: BackupFacts, now: datetime) -> bool:
    return backup.taken_at > now + FUTURE


# --- rules ------------------------------------------------------------------------------------------------------
def _hour(local: datetime) -> str:
    # With the offset: the hour that a clock repeats in autumn is two hours.
    return local.strftime("%Y-%m-%d %Hh %z")


def _week(local: datetime) -> str:
    year, week, _ = local.isocalendar()
    return f"{year}-W{week:02}"


_PERIODS: tuple[tuple[str, Callable[[datetime], str]], ...] = (
    ("hourly", _hour),
    # A third of the time of strftime: a forecast asks for many.
    ("daily", lambda local: local.date().isoformat()),
    ("weekly", _week),
    ("monthly", lambda local: local.date().isoformat()[:7]),
    ("yearly", lambda local: local.date().isoformat()[:4]),
)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _apply_rules(good: list[BackupFacts], rules: Rules, reasons: dict[str, list[Reason]]) -> None:
    """Give every backup that a rule keeps its reasons; `good` is newest first."""
    zone = _zone(rules.zone)
    for place, backup in enumerate(good[: rules.keep_last], 1):
        reasons[backup.id].append(Reason("last", str(place)))
    local = {backup.id: backup.taken_at.astimezone(zone) for backup in good}
    for tier, period_of in _PERIODS:
        wanted = getattr(rules, f"keep_{tier}")
        chosen: dict[str, BackupFacts] = {}
        for backup in good if wanted else ():
            period = period_of(local[backup.id])
            if period not in chosen and len(chosen) == wanted:
                break
            if rules.pick == Pick.FIRST or period not in chosen:
                chosen[period] = backup
        for period, backup in chosen.items():
            reasons[backup.id].append(Reason(tier, period))
    if rules.keep_within is not None and good:
        # From the newest backup, not from now: a schedule that stands still must not eat its own history.
        edge = rules.keep_within.before(good[0].taken_at, zone)
        for backup in good:
            if backup.taken_at >= edge:
                reasons[backup.id].append(Reason("within", str(rules.keep_within)))


def _strip_old(
    newest_first: list[BackupFacts], rules: Rules, now: datetime, reasons: dict[str, list[Reason]]
) -> dict[str, Reason]:
    """Take the reasons away from whatever is older than the limit; return those and the limit."""
    if rules.max_age is None:
        return {}
    edge = rules.max_age.before(now, _zone(rules.zone))
    gone = {backup.id: Reason("max-age", str(rules.max_age)) for backup in newest_first if backup.taken_at < edge}
    for key in gone:
        reasons[key].clear()
    return gone


# --- guards -----------------------------------------------------------------------------------------------------
def _apply_guards(
    newest_first: list[BackupFacts],
    good: list[BackupFacts],
    future: set[str],
    rules: Rules,
    now: datetime,
    guards: dict[str, list[Reason]],
    elsewhere: list[BackupFacts],
    frozen: bool,
) -> None:
    everywhere = good + [backup for backup in elsewhere if not backup.suspect and not _is_future(backup, now)]
    if everywhere:
        newest = max(everywhere, key=_age)
        if newest.id in guards:
            guards[newest.id].append(Reason("newest"))
        proved = max(everywhere, key=lambda backup: (backup.evidence, *_age(backup)))
        if proved.evidence > 0 and proved.id in guards:
            guards[proved.id].append(Reason("last-verified"))
    for backup in good[: rules.min_redundancy]:
        guards[backup.id].append(Reason("min-redundancy"))
    for backup in newest_first:
        mine = guards[backup.id]
        if backup.held:
            mine.append(Reason("hold"))
        if backup.locked_until is not None and backup.locked_until > now:
            mine.append(Reason("locked", backup.locked_until.strftime("until %Y-%m-%d %H:%M UTC")))
        if backup.in_use:
            mine.append(Reason("in-use"))
        if backup.id in future:
            mine.append(Reason("clock"))
        elif now - backup.taken_at < timedelta(seconds=rules.min_age_seconds):
            mine.append(Reason("min-age"))
        if frozen:
            mine.append(Reason("frozen"))
        if backup.suspect and backup.id not in future:
            newer = [other for other in good if _age(other) > _age(backup)]
            if not newer:
                mine.append(Reason("suspect", "no newer good one"))
            # The first one may be gone already: with a few kept, none that is there would ever be 30 days old.
            elif now < min(filter(None, (backup.replaced_at, newer[-1].taken_at))) + SUSPECT_KEPT:
                mine.append(Reason("suspect", f"{SUSPECT_KEPT.days} d after a newer good one"))


# --- size cap, parents, order -------------------------------------------------------------------------------------
def _apply_cap(
    newest_first: list[BackupFacts], kept: set[str], guards: dict[str, list[Reason]], rules: Rules
) -> tuple[set[str], int]:
    """Return what has to go for the set to fit, oldest first, and by how many bytes it still does not."""
    if rules.size_cap_bytes is None:
        return set(), 0
    facts = {backup.id: backup for backup in newest_first}

    def size(keys: set[str]) -> int:
        return sum(facts[key].size_bytes for key in keys | set(_needed(keys, facts)))

    stripped: set[str] = set()
    total = size(kept)
    if rules.cap_action == CapAction.DELETE:
        for backup in reversed(newest_first):
            if total <= rules.size_cap_bytes:
                break
            if backup.id in kept and not guards[backup.id]:
                stripped.add(backup.id)
                total = size(kept - stripped)
    return stripped, max(0, total - rules.size_cap_bytes)


def _needed(kept: set[str], facts: Mapping[str, BackupFacts]) -> dict[str, str]:
    """Return the ancestors of kept backups that are not kept themselves, each with a child that needs it."""
    needed: dict[str, str] = {}
    for key in sorted(kept, key=lambda key: _age(facts[key]), reverse=True):
        child, parent = key, facts[key].parent
        while parent is not None and parent in facts and parent not in kept and parent not in needed:
            needed[parent] = child
            child, parent = parent, facts[parent].parent
    return needed


def _why_not(backup: BackupFacts, capped: bool, too_old: Reason | None) -> list[Reason]:
    if backup.suspect:
        return [Reason("suspect", f"more than {SUSPECT_KEPT.days} d after a newer good one")]
    if capped:
        return [Reason("size-cap")]
    return [too_old or Reason("no-rule-keeps-it")]


def _order(newest_first: list[BackupFacts], kept: set[str]) -> tuple[str, ...]:
    """Oldest first, but children before the parents that they need."""
    going = {backup.id: backup for backup in reversed(newest_first) if backup.id not in kept}
    children: dict[str, list[str]] = {}
    for key, backup in going.items():
        if backup.parent in going and backup.parent is not None:
            children.setdefault(backup.parent, []).append(key)
    ordered: dict[str, None] = {}
    opened: set[str] = set()
    for key in going:
        stack = [key]
        while stack:
            current = stack[-1]
            if current in opened or current not in children:
                ordered.setdefault(stack.pop())
                continue
            opened.add(current)
            stack.extend(child for child in reversed(children[current]) if child not in opened)
    return tuple(ordered)
