"""Firing on rows alone: what a due schedule turns into, and what comes next."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ

from apps.core.errors import Conflict
from apps.schedules.clock import keep_time
from apps.schedules.fire import fire_due
from apps.schedules.models import Schedule, ScheduleRun
from apps.schedules.services import (
    ChangedMeanwhile,
    KeepBackups,
    data_of,
    delete_schedule,
    pause_schedule,
    resume_schedule,
    run_now,
    skip_next,
    switch_schedule,
    update_schedule,
)
from apps.schedules.tick import tick
from apps.schedules.timing.blackouts import Window
from tests.schedules.conftest import NOW

Make = Callable[..., Schedule]


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-{text}").replace(tzinfo=UTC)


def runs(schedule: Schedule) -> list[tuple[str, str, int]]:
    """(slot, status, how many slots it stands for), oldest first."""
    rows = ScheduleRun.objects.filter(schedule=schedule).order_by("slot", "status")
    return [(f"{row.slot:%d %H:%M}", row.status, row.missed_count) for row in rows]


def upcoming(schedule: Schedule) -> tuple[datetime | None, datetime | None]:
    row = Schedule.objects.get(pk=schedule.pk)
    return row.next_fire_at, row.next_run_at


def test_a_new_schedule_runs_at_its_next_slot_and_not_for_what_lies_behind(make: Make) -> None:
    schedule = make()

    assert upcoming(schedule) == (at("02T02:30"), at("02T02:30"))
    fire_due(now=at("02T02:29"))
    assert runs(schedule) == []


def test_firing_writes_the_run_its_delivery_and_the_next_time_together(make: Make) -> None:
    schedule = make()

    fire_due(now=at("02T02:30"))

    assert runs(schedule) == [("02 02:30", "expanding", 0)]
    assert upcoming(schedule) == (at("03T02:30"), at("03T02:30"))
    assert OrmQ.objects.count() == 1
    fire_due(now=at("02T02:31"))
    assert len(runs(schedule)) == 1


def test_downtime_is_made_up_for_once_and_the_rest_is_one_row(make: Make) -> None:
    schedule = make(cron="0 * * * *")

    fire_due(now=at("01T18:20"))

    assert runs(schedule) == [("01 17:00", "missed", 5), ("01 18:00", "expanding", 0)]
    missed = ScheduleRun.objects.get(status="missed")
    assert missed.missed_from == at("01T13:00")
    assert ScheduleRun.objects.get(status="expanding").is_catch_up
    assert upcoming(schedule) == (at("01T19:00"), at("01T19:00"))


def test_without_catch_up_all_of_them_are_missed(make: Make) -> None:
    schedule = make(cron="0 * * * *", catchup="none")

    fire_due(now=at("01T18:20"))

    assert runs(schedule) == [("01 18:00", "missed", 6)]
    assert upcoming(schedule)[0] == at("01T19:00")


def test_a_tick_that_is_a_little_late_is_no_downtime(make: Make) -> None:
    schedule = make(cron="0 * * * *", catchup="none")

    fire_due(now=at("01T13:04"))

    assert runs(schedule) == [("01 13:00", "expanding", 0)]


def test_what_lies_outside_the_window_is_not_made_up_for(make: Make) -> None:
    schedule = make(catchup_window_seconds=3600)

    fire_due(now=at("02T04:00"))

    assert runs(schedule) == [("02 02:30", "missed", 1)]


def test_nothing_is_made_up_for_just_before_the_next_run(make: Make) -> None:
    schedule = make()

    fire_due(now=at("03T02:10"))

    assert runs(schedule) == [("02 02:30", "missed", 1)]
    assert upcoming(schedule)[0] == at("03T02:30")


def test_a_monthly_run_is_made_up_for_days_later(make: Make) -> None:
    schedule = make(cron="0 3 2 * *")

    fire_due(now=at("09T12:00"))

    assert runs(schedule) == [("02 03:00", "expanding", 0)]


def test_jitter_moves_the_run_and_not_the_slot(make: Make) -> None:
    schedule = make(jitter_seconds=600)
    slot, run = upcoming(schedule)
    assert slot == at("02T02:30")
    assert run is not None and slot <= run <= slot + timedelta(seconds=600)
    assert run == slot + schedule.timing().offset

    fire_due(now=run - timedelta(seconds=1))
    assert runs(schedule) == []
    fire_due(now=run)
    assert runs(schedule) == [("02 02:30", "expanding", 0)]


OVERNIGHT = Window(weekday=4, from_time=time(22), to_time=time(6))  # from Friday, 2 January


class TestBlackouts:
    def test_one_run_when_the_window_ends(self, make: Make) -> None:
        schedule = make(cron="0 * * * *", blackouts=[OVERNIGHT])
        fire_due(now=at("02T21:00"))
        ScheduleRun.objects.all().delete()

        assert upcoming(schedule) == (at("02T22:00"), at("03T06:00"))
        fire_due(now=at("03T03:00"))
        assert runs(schedule) == []
        fire_due(now=at("03T06:00"))

        assert runs(schedule) == [("03 05:00", "blackout", 8), ("03 06:00", "expanding", 0)]
        assert upcoming(schedule)[0] == at("03T07:00")

    def test_a_nightly_run_is_put_off_to_the_end(self, make: Make) -> None:
        schedule = make(blackouts=[OVERNIGHT])
        fire_due(now=at("02T02:30"))
        ScheduleRun.objects.all().delete()

        assert upcoming(schedule) == (at("03T02:30"), at("03T06:00"))
        fire_due(now=at("03T06:00"))

        assert runs(schedule) == [("03 02:30", "expanding", 0)]

    def test_or_left_out(self, make: Make) -> None:
        schedule = make(blackouts=[Window(weekday=4, from_time=time(22), to_time=time(6), skips=True)])
        fire_due(now=at("02T02:30"))
        fire_due(now=at("03T02:30"))

        assert runs(schedule) == [("02 02:30", "expanding", 0), ("03 02:30", "blackout", 1)]
        assert upcoming(schedule)[0] == at("04T02:30")

    def test_a_whole_day_and_one_off(self, make: Make) -> None:
        whole = make("whole", blackouts=[Window(weekday=4, from_time=time(0), to_time=time(0))])
        once = make("once", blackouts=[Window(starts_at=at("02T02:00"), ends_at=at("02T03:00"))])

        assert upcoming(whole) == (at("02T02:30"), at("03T00:00"))
        assert upcoming(once) == (at("02T02:30"), at("02T03:00"))

    def test_of_a_cluster_hold_for_all_its_schedules(self, make: Make, away: Any) -> None:
        from apps.schedules.services import blackout_row

        blackout_row(Window(weekday=4, from_time=time(2), to_time=time(4)), cluster=away).save()

        assert upcoming(make()) == (at("02T02:30"), at("02T04:00"))

    def test_jitter_never_leads_into_one(self, make: Make) -> None:
        schedule = make(jitter_seconds=3600, blackouts=[Window(weekday=4, from_time=time(2, 30, 1), to_time=time(5))])

        assert upcoming(schedule)[1] == at("02T02:30")


class TestPause:
    def test_a_paused_schedule_does_not_fire_and_resumes_with_the_next_slot(self, make: Make) -> None:
        schedule = make(cron="0 * * * *")
        paused = pause_schedule(schedule=schedule, reason="migration", now=at("01T12:30"))
        assert upcoming(paused) == (None, None)

        fire_due(now=at("01T15:00"))
        assert runs(schedule) == []
        resume_schedule(schedule=paused, now=at("01T15:30"))

        assert upcoming(schedule) == (at("01T16:00"), at("01T16:00"))
        assert runs(schedule) == []

    def test_a_pause_ends_by_itself(self, make: Make) -> None:
        schedule = make(cron="0 * * * *")
        pause_schedule(schedule=schedule, reason="migration", until=at("01T15:30"), now=at("01T12:30"))

        fire_due(now=at("01T15:29"))
        assert Schedule.objects.get().is_paused
        fire_due(now=at("01T15:30"))

        row = Schedule.objects.get()
        assert not row.is_paused and row.pause_reason == ""
        assert row.next_fire_at == at("01T16:00")
        assert runs(schedule) == []

    def test_needs_a_reason_and_a_moment_to_come(self, make: Make) -> None:
        with pytest.raises(Exception, match="reason"):
            pause_schedule(schedule=make(), reason="  ", now=NOW)
        with pytest.raises(Exception, match="until"):
            pause_schedule(schedule=Schedule.objects.get(), reason="x", until=NOW, now=NOW)


class TestRunNow:
    def test_leaves_the_times_alone(self, make: Make) -> None:
        schedule = make()
        before = upcoming(schedule)

        run = run_now(schedule=schedule, now=NOW)

        assert run.trigger == "manual" and run.status == "expanding"
        assert upcoming(schedule) == before

    def test_the_same_key_twice_is_one_run(self, make: Make) -> None:
        schedule = make()

        first = run_now(schedule=schedule, now=NOW, key="k")
        second = run_now(schedule=schedule, now=NOW + timedelta(seconds=1), key="k")

        assert first.pk == second.pk
        assert ScheduleRun.objects.count() == 1

    def test_a_second_press_is_a_conflict(self, make: Make) -> None:
        schedule = make()
        run_now(schedule=schedule, now=NOW)

        with pytest.raises(Conflict, match="just begun"):
            run_now(schedule=schedule, now=NOW)

    def test_works_for_manual_and_paused_ones(self, make: Make) -> None:
        manual = make("manual", kind="manual")
        assert upcoming(manual) == (None, None)

        assert run_now(schedule=manual, now=NOW).status == "expanding"


class TestEditing:
    def test_another_time_counts_from_now(self, make: Make) -> None:
        from dataclasses import replace

        schedule = make()
        changed = update_schedule(
            schedule=schedule, data=replace(data_of(schedule), cron="0 4 * * *"), now=at("02T03:00")
        )

        assert upcoming(changed)[0] == at("02T04:00")
        fire_due(now=at("02T03:30"))
        assert runs(schedule) == []

    def test_another_name_does_not_touch_what_is_due(self, make: Make) -> None:
        from dataclasses import replace

        schedule = make()
        update_schedule(schedule=schedule, data=replace(data_of(schedule), name="other"), now=at("02T03:00"))

        assert upcoming(schedule)[0] == at("02T02:30")

    def test_an_edit_during_a_claim_wins_and_the_ticker_lets_go(self, make: Make, monkeypatch: Any) -> None:
        from dataclasses import replace

        from apps.schedules import fire

        schedule = make()
        work_out = fire._advance

        def edited_meanwhile(row: Schedule, windows: Any, now: datetime) -> Any:
            step = work_out(row, windows, now)
            fresh = Schedule.objects.get()
            if fresh.version == row.version and fresh.cron != "0 5 * * *":
                update_schedule(schedule=fresh, data=replace(data_of(fresh), cron="0 5 * * *"), now=now)
            return step

        monkeypatch.setattr(fire, "_advance", edited_meanwhile)
        fire_due(now=at("02T02:30"))

        assert runs(schedule) == []
        assert upcoming(schedule)[0] == at("02T05:00")

    def test_a_change_of_what_has_fired_meanwhile_is_a_conflict(self, make: Make) -> None:
        schedule = make()
        fire_due(now=at("02T02:30"))

        with pytest.raises(ChangedMeanwhile):
            pause_schedule(schedule=schedule, reason="x", now=at("02T02:31"))

    def test_switched_off_and_on(self, make: Make) -> None:
        schedule = switch_schedule(schedule=make(), enabled=False, now=NOW)
        fire_due(now=at("05T00:00"))
        assert runs(schedule) == []

        switch_schedule(schedule=schedule, enabled=True, now=at("05T00:00"))

        assert upcoming(schedule)[0] == at("05T02:30")
        fire_due(now=at("05T00:10"))
        assert runs(schedule) == []

    def test_the_next_run_can_be_left_out(self, make: Make) -> None:
        schedule = skip_next(schedule=make(), now=NOW)

        assert upcoming(schedule)[0] == at("03T02:30")

    def test_a_deleted_one_fires_no_more_and_keeps_its_runs(self, make: Make) -> None:
        schedule = make()
        fire_due(now=at("02T02:30"))
        delete_schedule(schedule=Schedule.objects.get(), backups=KeepBackups.POLICY, now=at("02T03:00"))

        fire_due(now=at("09T02:30"))

        assert len(runs(schedule)) == 1
        assert make().name == schedule.name  # the name is free again


class TestPoison:
    def test_one_that_cannot_be_read_stops_no_other_and_says_why(self, make: Make) -> None:
        bad, good = make("bad", priority=9), make("good")
        Schedule.objects.filter(pk=bad.pk).update(cron_resolved="61 25 * * *")

        fire_due(now=at("02T02:30"))

        assert runs(good) == [("02 02:30", "expanding", 0)]
        assert runs(bad) == []
        row = Schedule.objects.get(pk=bad.pk)
        assert row.error.startswith("cron: The stored expression '61 25 * * *' cannot be read")
        assert row.next_run_at == at("02T02:35")
        fire_due(now=at("02T02:35"))
        assert Schedule.objects.get(pk=bad.pk).next_run_at == at("02T02:45")

    def test_is_tried_again_and_recovers(self, make: Make) -> None:
        bad = make("bad")
        Schedule.objects.filter(pk=bad.pk).update(tz="Mars/Olympus")
        fire_due(now=at("02T02:30"))
        assert Schedule.objects.get().error.startswith("tz: ")

        Schedule.objects.filter(pk=bad.pk).update(tz="UTC")
        fire_due(now=at("02T02:35"))

        assert runs(bad) == [("02 02:30", "expanding", 0)]
        assert Schedule.objects.get().error == ""

    def test_a_row_that_the_database_refuses_stops_no_other(self, make: Make, monkeypatch: Any) -> None:
        from apps.schedules import fire

        bad, good = make("bad", priority=9), make("good")
        work_out = fire._advance

        def refused(row: Schedule, windows: Any, now: datetime) -> Any:
            step = work_out(row, windows, now)
            if row.pk == bad.pk:
                step.changes["next_run_at"] = at("01T00:00")  # before the slot: the database refuses that
            return step

        monkeypatch.setattr(fire, "_advance", refused)
        fire_due(now=at("02T02:30"))

        assert runs(good) == [("02 02:30", "expanding", 0)]
        assert "internal error" in Schedule.objects.get(pk=bad.pk).error


class TestABatch:
    """Many schedules that are due together are written by few statements."""

    def test_costs_as_many_queries_for_many_as_for_few(self, make: Make) -> None:
        def cost(now: datetime) -> int:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                fire_due(now=now)
            return len(captured)

        for n in range(3):
            make(f"schedule {n}", cron="0 * * * *", catchup="none")
        cost(at("01T14:00"))  # the first misses make the rows that count them
        few = cost(at("01T16:30"))
        for n in range(3, 33):
            make(f"schedule {n}", cron="0 * * * *", catchup="none", now=at("01T16:30"))
        cost(at("01T18:30"))

        assert cost(at("01T20:30")) == few
        assert ScheduleRun.objects.filter(status="missed", slot=at("01T20:00"), missed_count=2).count() == 33

    def test_one_that_the_database_refuses_leaves_the_others_theirs(self, make: Make, monkeypatch: Any) -> None:
        from apps.schedules import fire

        every = [make(f"schedule {n}") for n in range(12)]
        bad = every[5]
        work_out = fire._advance

        def refused(row: Schedule, windows: Any, now: datetime) -> Any:
            step = work_out(row, windows, now)
            if row.pk == bad.pk:
                step.runs[0].missed_count = 3  # without its first slot: no such row can be stored
            return step

        monkeypatch.setattr(fire, "_advance", refused)
        assert fire_due(now=at("02T02:30")) == 12

        for schedule in every:
            assert runs(schedule) == ([] if schedule == bad else [("02 02:30", "expanding", 0)])
        row = Schedule.objects.get(pk=bad.pk)
        assert "internal error" in row.error
        assert row.next_run_at == at("02T02:35")
        assert row.next_fire_at == at("02T02:30")  # it is still owed
        assert not Schedule.objects.exclude(pk=bad.pk).exclude(error="", next_run_at=at("03T02:30")).exists()

        monkeypatch.setattr(fire, "_advance", work_out)
        fire_due(now=at("02T02:35"))
        assert runs(bad) == [("02 02:30", "expanding", 0)]

    def test_one_that_is_edited_meanwhile_keeps_the_edit_and_the_others_fire(
        self, make: Make, monkeypatch: Any
    ) -> None:
        from dataclasses import replace

        from apps.schedules import fire

        edited, off, *others = [make(f"schedule {n}", priority=9 - n) for n in range(5)]
        write = fire._write_all

        def meanwhile(steps: Any, now: datetime) -> int:
            if Schedule.objects.get(pk=off.pk).enabled:
                fresh = Schedule.objects.get(pk=edited.pk)
                update_schedule(schedule=fresh, data=replace(data_of(fresh), cron="0 5 * * *"), now=now)
                switch_schedule(schedule=Schedule.objects.get(pk=off.pk), enabled=False, now=now)
            return write(steps, now)

        monkeypatch.setattr(fire, "_write_all", meanwhile)
        assert fire_due(now=at("02T02:30")) == 3

        assert runs(edited) == runs(off) == []
        assert upcoming(edited) == (at("02T05:00"), at("02T05:00"))
        assert upcoming(off) == (None, None)
        assert [runs(schedule) for schedule in others] == [[("02 02:30", "expanding", 0)]] * 3

    def test_a_slot_that_has_its_run_already_keeps_it_and_the_schedule_goes_on(self, make: Make) -> None:
        twice, once = make("twice"), make("once")
        ScheduleRun.objects.create(schedule=twice, slot=at("02T02:30"), created_at=NOW, status="ok", completed_at=NOW)

        fire_due(now=at("02T02:30"))

        assert runs(twice) == [("02 02:30", "ok", 0)]
        assert runs(once) == [("02 02:30", "expanding", 0)]
        assert upcoming(twice) == upcoming(once) == (at("03T02:30"), at("03T02:30"))


class TestClock:
    def test_a_clock_put_back_fires_nothing_and_says_so(self, make: Make) -> None:
        from apps.schedules.models import Clock

        schedule = make(cron="0 * * * *")
        tick(now=at("01T15:00"))
        fired = runs(schedule)

        tick(now=at("01T12:05"))
        tick(now=at("01T12:10"))

        assert runs(schedule) == fired
        assert "no schedule fires" in Clock.objects.get().alert

    def test_and_is_believed_when_it_stays_so(self, make: Make) -> None:
        from apps.schedules.models import Clock

        schedule = make(cron="0 * * * *")
        tick(now=at("01T15:00"))

        for minute in range(5, 40, 5):
            tick(now=at(f"01T12:{minute:02}"))

        assert Clock.objects.get().alert == ""
        assert upcoming(schedule)[0] == at("01T13:00")
        tick(now=at("01T13:00"))
        assert upcoming(schedule)[0] == at("01T14:00")
        assert len(runs(schedule)) == len({slot for slot, _, _ in runs(schedule)})

    def test_a_jump_ahead_is_no_downtime(self, make: Make) -> None:
        from apps.schedules.clock import may_expire
        from apps.schedules.models import Clock

        schedule = make(cron="0 * * * *")
        keep_time(now=at("01T12:30"))

        keep_time(now=at("03T12:30"), jumped_by=timedelta(days=2))
        fire_due(now=at("03T12:30"))

        assert runs(schedule) == []
        assert upcoming(schedule)[0] == at("03T13:00")
        assert "jumped ahead by 48.0 h" in Clock.objects.get().alert
        assert not may_expire(at("03T12:31"))
        assert may_expire(at("03T18:31"))

    def test_other_time_zone_rules_move_what_lies_ahead_only(self, make: Make, monkeypatch: Any, tmp_path: Any) -> None:
        import zoneinfo

        from apps.schedules.clock import follow_tzdata

        late, ahead = make("late", tz="Europe/Berlin"), make("ahead", tz="Europe/Berlin")
        Schedule.objects.filter(pk=late.pk).update(next_fire_at=at("01T01:30"), next_run_at=at("01T01:30"))
        follow_tzdata(now=NOW)
        assert not follow_tzdata(now=NOW)
        folder = tmp_path / "zones" / "Europe"
        folder.mkdir(parents=True)
        for base in zoneinfo.TZPATH:
            source = __import__("pathlib").Path(base) / "Europe" / "Kyiv"
            if source.is_file():
                (folder / "Berlin").write_bytes(source.read_bytes())
                break
        try:
            zoneinfo.reset_tzpath(to=[str(tmp_path / "zones")])

            assert follow_tzdata(now=NOW)

            assert upcoming(ahead)[0] == at("02T00:30")  # Kyiv's 02:30
            assert upcoming(late)[0] == at("01T01:30")
        finally:
            zoneinfo.reset_tzpath()
            zoneinfo.ZoneInfo.clear_cache()


def test_an_idle_tick_makes_three_queries(make: Make) -> None:
    make()
    tick(now=NOW)

    with CaptureQueriesContext(
        connection,
    ) as captured:
        tick(now=NOW + timedelta(seconds=5))

    assert len(captured) <= 3, [query["sql"] for query in captured]


def test_an_enabled_schedule_without_a_future_is_refused_by_the_database(make: Make) -> None:
    from django.db import IntegrityError, transaction

    schedule = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Schedule.objects.filter(pk=schedule.pk).update(next_fire_at=None, next_run_at=None)


def test_two_runs_of_one_slot_are_refused_by_the_database(make: Make) -> None:
    from django.db import IntegrityError, transaction

    schedule = make()
    fire_due(now=at("02T02:30"))
    with pytest.raises(IntegrityError), transaction.atomic():
        ScheduleRun.objects.create(schedule=schedule, slot=at("02T02:30"), created_at=NOW)
