"""What can be done with schedules: make, change, switch, pause, run, delete. API, admin and command line come here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models import F

from apps.audit.trail import record_action
from apps.backups.models import Backup, BackupStatus
from apps.core.errors import Conflict, InvalidRequest, NotFound
from apps.core.text import plural
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE
from apps.schedules.advance import upcoming
from apps.schedules.draft import PLAIN, TIMING, ScheduleData, ScheduleInvalid, make_draft
from apps.schedules.fire import poke
from apps.schedules.models import Blackout, OnFire, OnRunning, Schedule, ScheduleRun, Trigger
from apps.schedules.retention.apply import expire_dated
from apps.schedules.retention.policies import wait_for_confirmation
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.slots import smallest_gap
from apps.schedules.timing.spec import Kind


class KeepBackups(StrEnum):
    """What becomes of the backups of a schedule that is deleted."""

    POLICY = "policy"  # they stay under its policy
    FOR_EVER = "for_ever"  # no rule touches them any more
    EXPIRE = "expire"  # they are let go, but what the guards keep


#: What the audit trail names when it changed.
EDITED = (*PLAIN, "cron", "interval_seconds", "anchor_at", "include", "exclude", "tags")

_FATES = {
    KeepBackups.POLICY: "stays under its policy",
    KeepBackups.FOR_EVER: "stays for ever",
    KeepBackups.EXPIRE: "goes",
}


class ScheduleNotFound(NotFound):
    """There is no schedule with that id."""


class ScheduleNameTaken(Conflict):
    """Another schedule of the cluster has that name."""


class ScheduleBusy(Conflict):
    """A backup of this schedule has not ended yet."""

    def __init__(self, sentence: str, job: Job) -> None:
        super().__init__(sentence)
        self.job = job


class ChangedMeanwhile(Conflict):
    """It fired or was edited in the same moment."""


def find_schedule(schedule_id: uuid.UUID | str) -> Schedule:
    """Return the schedule. Raises: ScheduleNotFound."""
    found = Schedule.objects.live().select_related("cluster", "policy").filter(pk=schedule_id).first()
    if found is None:
        raise ScheduleNotFound("There is no schedule with this id.")
    return found


def create_schedule(*, data: ScheduleData, now: datetime, user: AbstractBaseUser | None = None) -> Schedule:
    """Make a schedule; its first run is the next slot from now on. Raises: ScheduleInvalid, ScheduleNameTaken."""
    schedule = make_draft(data, now=now)
    schedule.created_by = user  # type: ignore[assignment]
    schedule.enabled_at = now if schedule.enabled else None
    _set(schedule, upcoming(schedule, now, _windows(schedule, data)))
    try:
        with transaction.atomic():
            schedule.save(force_insert=True)
            schedule.storages.set(data.storages)
            _write_blackouts(schedule, data.blackouts)
            _tell("create", f"Made the schedule {schedule.name}.", schedule, user)
    except IntegrityError as error:
        raise _name_taken(schedule, error) from error
    return schedule


def update_schedule(*, schedule: Schedule, data: ScheduleData, now: datetime) -> Schedule:
    """Change a schedule. What comes next is counted from now when anything changes that it follows from.

    Raises: ScheduleInvalid, ScheduleNameTaken; ChangedMeanwhile.
    """
    before = Schedule.objects.get(pk=schedule.pk)
    windows_before = {row.window for row in before.blackouts.all()}
    storages_before = {storage.pk for storage in before.storages.all()}
    draft = make_draft(data, now=now, schedule=Schedule.objects.get(pk=schedule.pk))
    moved = any(getattr(draft, column) != getattr(before, column) for column in TIMING)
    moved = moved or draft.cluster_id != before.cluster_id or windows_before != set(data.blackouts)
    moved = moved or draft.enabled != before.enabled or bool(before.error)
    if draft.enabled != before.enabled:
        draft.enabled_at = now if draft.enabled else None
    if moved:
        _set(draft, upcoming(draft, now, _windows(draft, data)))
    draft.version = before.version + 1
    draft.updated_at = now
    columns = {
        column.attname: getattr(draft, column.attname)
        for column in Schedule._meta.concrete_fields
        if column.attname not in ("id", "created_at", "created_by_id")
    }
    try:
        with transaction.atomic():
            # A ticker that fires at this moment has made another version of it: the edit then starts from there.
            if not Schedule.objects.filter(pk=before.pk, version=before.version).update(**columns):
                raise ChangedMeanwhile("The schedule ran or was changed at the same moment: look at it again.")
            draft.storages.set(data.storages)
            if draft.policy_id != before.policy_id:
                _move_backups(draft)
            elif draft.policy_id and _counts_otherwise(before, draft, now):
                wait_for_confirmation(draft.policy_id)
            if windows_before != set(data.blackouts):
                _write_blackouts(draft, data.blackouts)
            changed = [name for name in EDITED if getattr(before, name) != getattr(draft, name)]
            changed += ["storages"] if storages_before != {storage.pk for storage in data.storages} else []
            changed += ["blackouts"] if windows_before != set(data.blackouts) else []
            if changed:
                _tell("change", f"Changed the schedule {draft.name}: {', '.join(changed)}.", draft)
    except IntegrityError as error:
        raise _name_taken(draft, error) from error
    return find_schedule(draft.pk)


def switch_schedule(*, schedule: Schedule, enabled: bool, now: datetime) -> Schedule:
    """Switch it on (next slot from now) or off. Raises: ChangedMeanwhile."""
    schedule = find_schedule(schedule.pk)
    if schedule.enabled == enabled:
        return schedule
    schedule.enabled = enabled
    changes = upcoming(schedule, now)
    word = "on" if enabled else "off"
    with transaction.atomic():
        _tell("change", f"Switched the schedule {schedule.name} {word}.", schedule)
        return _change(schedule, enabled=enabled, enabled_at=now if enabled else None, **changes)


def pause_schedule(
    *,
    schedule: Schedule,
    reason: str,
    now: datetime,
    until: datetime | None = None,
    user: AbstractBaseUser | None = None,
) -> Schedule:
    """Pause it, with the reason, until somebody resumes it or until `until`.

    Raises: InvalidRequest, Conflict, ChangedMeanwhile.
    """
    reason = reason.strip()
    if not reason or len(reason) > 300 or "\x00" in reason:
        raise InvalidRequest("reason: Say in 1 to 300 characters why it is paused.")
    if until is not None and until <= now:
        raise InvalidRequest("until: Give a moment that is still to come, or leave it out.")
    if not schedule.enabled:
        raise Conflict("The schedule is switched off: there is nothing to pause.")
    with transaction.atomic():
        _tell("pause", f"Paused the schedule {schedule.name}: {reason}", schedule, user)
        return _change(
            schedule,
            paused_at=now,
            paused_until=until,
            pause_reason=reason,
            paused_by=user,
            next_fire_at=None,
            next_run_at=until,
            error="",
            error_count=0,
        )


def resume_schedule(*, schedule: Schedule, now: datetime) -> Schedule:
    """End a pause: the next slot from now on. Raises: ChangedMeanwhile."""
    if not schedule.is_paused:
        return schedule
    schedule.paused_at = schedule.paused_until = schedule.paused_by = None
    schedule.pause_reason = ""
    with transaction.atomic():
        _tell("resume", f"Resumed the schedule {schedule.name}.", schedule)
        return _change(
            schedule, paused_at=None, paused_until=None, pause_reason="", paused_by=None, **upcoming(schedule, now)
        )


def skip_next(*, schedule: Schedule, now: datetime) -> Schedule:
    """Leave the next run out. Raises: Conflict when there is none; ChangedMeanwhile."""
    if schedule.next_fire_at is None:
        raise Conflict("The schedule has no next run to leave out.")
    slot = f"{schedule.next_fire_at:%Y-%m-%d %H:%M} UTC"
    with transaction.atomic():
        _tell("skip", f"Left out the run of the schedule {schedule.name} that was due at {slot}.", schedule)
        return _change(schedule, **upcoming(schedule, max(now, schedule.next_fire_at)))


def run_now(
    *, schedule: Schedule, now: datetime, user: AbstractBaseUser | None = None, key: str | None = None
) -> ScheduleRun:
    """Run it now, besides its times: they stay as they are.

    With `key` a repetition returns the run of the first time. Raises: ScheduleBusy with the job that is in the way.
    """
    if key is not None:
        if not 1 <= len(key) <= 150 or not key.isprintable():
            raise InvalidRequest("An idempotency key has 1 to 150 printable characters.")
        key = f"{schedule.pk}:{key}"
        known = ScheduleRun.objects.filter(idempotency_key=key).first()
        if known is not None:
            return known
    try:
        with transaction.atomic():
            # Held, so that of two presses at the same moment one sees the other's run.
            held = Schedule.objects.select_for_update().live().filter(pk=schedule.pk).first()
            if held is None:
                raise ScheduleNotFound("The schedule has been deleted meanwhile.")
            _refuse_when_busy(held)
            run = ScheduleRun.objects.create(
                schedule=held,
                trigger=Trigger.MANUAL,
                slot=now,
                created_at=now,
                user=user,  # type: ignore[misc]
                idempotency_key=key,
            )
            _tell("run", f"Ran the schedule {held.name} now.", held, user)
            poke()
    except IntegrityError:
        known = ScheduleRun.objects.filter(idempotency_key=key).first() if key else None
        if known is None:
            raise
        return known
    return run


def _refuse_when_busy(schedule: Schedule) -> None:
    job = Job.objects.filter(schedule_id=schedule.pk, status__in=ACTIVE).order_by("created_at").first()
    if job is not None:
        raise ScheduleBusy(
            f"A backup of this schedule has not ended yet (job {job.pk}, {job.collection_name}): wait or cancel it.",
            job,
        )
    run = ScheduleRun.objects.open().filter(schedule=schedule).order_by("created_at").first()
    if run is not None:
        raise Conflict(f"A run of this schedule has just begun (run {run.pk}): look at that one.")


def delete_schedule(
    *, schedule: Schedule, backups: KeepBackups, now: datetime, user: AbstractBaseUser | None = None
) -> int:
    """Delete the schedule; its runs stay as history, and its backups as asked. Return how many backups it has made.

    Jobs under way go on. EXPIRE lets go at once what no guard keeps (the newest good one of a collection, held ones and
    so on); those go when the guard does. It can be taken back for a day. Raises: ChangedMeanwhile.
    """
    with transaction.atomic():
        _change(
            schedule,
            enabled=False,
            deleted_at=now,
            next_fire_at=None,
            next_run_at=None,
            error="",
            paused_at=None,
            paused_until=None,
            pause_reason="",
        )
        made = Backup.objects.filter(schedule_id=schedule.pk)
        jobs = Job.objects.filter(schedule_id=schedule.pk, status__in=ACTIVE)
        if backups == KeepBackups.FOR_EVER:
            made.update(policy=None, expired_at=None, delete_at=None, expire_reason="")
            jobs.update(policy=None)
        elif backups == KeepBackups.EXPIRE:
            why = f"The schedule {schedule.name} was deleted, and its backups with it."
            facts = {"why": why, "by": user.get_username() if user is not None else ""}
            made.filter(expired_at=None).update(expire_facts=facts)
            made.exclude(status=BackupStatus.DELETING).update(policy=None, keep_until=now)
            jobs.update(policy=None, keep_until=now)
        count = made.count()
        fate = _FATES[backups]
        words = f"Deleted the schedule {schedule.name}; what it made ({plural(count, 'backup')}) {fate}."
        _tell("delete", words, schedule, user)
    if backups == KeepBackups.EXPIRE:
        expire_dated(now=now)  # a kill before this is made up for by the sweep
    return count


def _move_backups(schedule: Schedule) -> None:
    """Put the backups of a schedule under its new policy; what that lets go waits for a confirmation."""
    mine = Backup.objects.filter(schedule_id=schedule.pk)
    mine.exclude(status=BackupStatus.DELETING).update(policy=schedule.policy, keep_until=None)
    if schedule.policy_id:
        wait_for_confirmation(schedule.policy_id)


def _counts_otherwise(before: Schedule, after: Schedule, now: datetime) -> bool:
    """Whether the same rules would hold less history: in another zone, or with runs closer to each other."""
    if before.tz != after.tz:
        return True
    if all(getattr(before, column) == getattr(after, column) for column in ("kind", "cron", "interval_seconds")):
        return False
    gaps = [smallest_gap(row.timing(()), now) if row.kind != Kind.MANUAL else None for row in (before, after)]
    return gaps[1] is not None and (gaps[0] is None or gaps[1] < gaps[0])


# --- inside -------------------------------------------------------------------------------------------------------
def _tell(action: str, words: str, schedule: Schedule, user: AbstractBaseUser | None = None) -> None:
    record_action(f"schedule.{action}", words, about=schedule, user=user)


def _change(schedule: Schedule, **columns: object) -> Schedule:
    changed = Schedule.objects.filter(pk=schedule.pk, version=schedule.version, deleted_at=None).update(
        **columns, version=F("version") + 1
    )
    if not changed:
        raise ChangedMeanwhile("The schedule ran or was changed at the same moment: look at it again.")
    return Schedule.objects.select_related("cluster", "policy").get(pk=schedule.pk)


def _set(schedule: Schedule, columns: dict[str, object]) -> None:
    for column, value in columns.items():
        setattr(schedule, column, value)


def _windows(schedule: Schedule, data: ScheduleData) -> tuple[Window, ...]:
    rows = Blackout.objects.filter(cluster=schedule.cluster_id).order_by("id")
    return tuple(data.blackouts) + tuple(row.window for row in rows)


def _write_blackouts(schedule: Schedule, windows: Sequence[Window]) -> None:
    schedule.blackouts.all().delete()
    Blackout.objects.bulk_create(blackout_row(window, schedule=schedule) for window in windows)


def blackout_row(window: Window, **owner: object) -> Blackout:
    """Return the row of a window, not saved. `owner` is schedule=… or cluster=…."""
    return Blackout(
        weekday=window.weekday,
        from_time=window.from_time,
        to_time=window.to_time,
        starts_at=window.starts_at,
        ends_at=window.ends_at,
        on_fire=OnFire.SKIP if window.skips else OnFire.DEFER,
        on_running=OnRunning.CANCEL if window.cancels else OnRunning.FINISH,
        **owner,
    )


def _name_taken(schedule: Schedule, error: IntegrityError) -> Exception:
    taken = Schedule.objects.live().filter(cluster=schedule.cluster_id, name=schedule.name).exclude(pk=schedule.pk)
    if taken.exists():
        return ScheduleNameTaken(f"The cluster has a schedule named {schedule.name!r} already: choose another name.")
    return error


def data_of(schedule: Schedule) -> ScheduleData:
    """Return the fields of a schedule as people set them."""
    return ScheduleData(
        name=schedule.name,
        cluster=schedule.cluster,
        storages=list(schedule.storages.order_by("name")),
        kind=schedule.kind,
        cron=schedule.cron,
        interval_seconds=schedule.interval_seconds,
        anchor_at=schedule.anchor_at,
        tz=schedule.tz,
        jitter_seconds=schedule.jitter_seconds,
        include=schedule.include,
        exclude=schedule.exclude,
        tags=schedule.tags,
        nothing_matched=schedule.nothing_matched,
        overlap=schedule.overlap,
        catchup=schedule.catchup,
        catchup_window_seconds=schedule.catchup_window_seconds,
        min_interval_seconds=schedule.min_interval_seconds,
        start_deadline_seconds=schedule.start_deadline_seconds,
        max_runtime_seconds=schedule.max_runtime_seconds,
        priority=schedule.priority,
        policy=schedule.policy,
        grace_seconds=schedule.grace_seconds,
        enabled=schedule.enabled,
        blackouts=[row.window for row in schedule.blackouts.order_by("id")],
    )


__all__ = [
    "ChangedMeanwhile", "KeepBackups", "ScheduleBusy", "ScheduleData", "ScheduleInvalid", "ScheduleNameTaken",
    "ScheduleNotFound", "blackout_row", "create_schedule", "data_of", "delete_schedule", "find_schedule",
    "pause_schedule", "resume_schedule", "run_now", "skip_next", "switch_schedule", "update_schedule",
]  # fmt: skip
