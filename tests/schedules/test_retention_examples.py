"""The worked examples of docs/schedules.md, row by row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import BackupFacts, CapAction, Decision, Pick, Rules, Span

#: "n" of the examples: the newest good backup, and with min_redundancy 1 that is the whole redundancy, too.
N = {"newest", "min-redundancy"}


def at(text: str) -> datetime:
    """'03-05' is 2026-03-05T01:00, '03-05T02:00' and '2025-12-28T12:00' are what they say."""
    text = text if text[4:5] == "-" else f"2026-{text}"
    return datetime.fromisoformat(text if "T" in text else f"{text}T01:00").replace(tzinfo=UTC)


def facts(*times: str, **fields: Any) -> list[BackupFacts]:
    return [BackupFacts(id=text, taken_at=at(text), **fields) for text in times]


def rules(**fields: Any) -> Rules:
    fields.setdefault("min_redundancy", 1)
    return Rules(**fields)


def kept(decision: Decision) -> dict[str, set[str]]:
    return {key: set(verdict.codes) for key, verdict in decision.verdicts.items() if verdict.keep}


def gone(decision: Decision) -> set[str]:
    assert set(decision.expire) == {key for key, verdict in decision.verdicts.items() if not verdict.keep}
    return set(decision.expire)


def test_1_the_last_three() -> None:
    found = evaluate(facts("03-01", "03-02", "03-03", "03-04", "03-05"), rules(keep_last=3), at("03-06"))

    assert kept(found) == {"03-05": {"last", *N}, "03-04": {"last"}, "03-03": {"last"}}
    assert found.expire == ("03-01", "03-02")


def test_2_the_last_or_the_first_of_a_day() -> None:
    times = ("01-01T01:00", "01-01T13:00", "01-01T23:00", "01-02T01:00", "01-02T23:30", "01-03T00:30")
    backups, now = facts(*times), at("01-03T12:00")

    last = evaluate(backups, rules(keep_daily=2, pick=Pick.LAST), now)
    first = evaluate(backups, rules(keep_daily=2, pick=Pick.FIRST), now)

    assert set(kept(last)) == {"01-03T00:30", "01-02T23:30"}
    assert set(kept(first)) == {"01-03T00:30", "01-02T01:00"}
    assert gone(last) == set(times) - set(kept(last))
    assert gone(first) == set(times) - set(kept(first))


def test_3_where_a_day_begins_is_a_matter_of_the_zone() -> None:
    backups = facts("06-01T21:30", "06-01T22:30", "06-02T21:59", "06-02T22:01")
    now = at("06-03T12:00")

    utc = evaluate(backups, rules(keep_daily=5, zone="UTC"), now)
    berlin = evaluate(backups, rules(keep_daily=5, zone="Europe/Berlin"), now)

    assert set(kept(utc)) == {"06-02T22:01", "06-01T22:30"}
    assert gone(utc) == {"06-02T21:59", "06-01T21:30"}
    assert set(kept(berlin)) == {"06-02T22:01", "06-02T21:59", "06-01T21:30"}
    assert gone(berlin) == {"06-01T22:30"}


def test_4_days_without_a_backup_do_not_count() -> None:
    found = evaluate(facts("01-01", "01-02", "01-03", "06-01"), rules(keep_daily=3), at("06-01T12:00"))

    assert set(kept(found)) == {"06-01", "01-03", "01-02"}
    assert gone(found) == {"01-01"}


def test_5_within_counts_from_the_newest_backup() -> None:
    found = evaluate(facts("01-01", "01-02", "01-03"), rules(keep_within=Span.parse("7d")), at("06-01"))

    assert set(kept(found)) == {"01-01", "01-02", "01-03"}
    assert gone(found) == set()


def test_6_iso_weeks_and_months() -> None:
    backups = facts("2025-12-28T12:00", "2025-12-29T12:00", "01-04T12:00", "01-05T12:00", "01-08T12:00")

    found = evaluate(backups, rules(keep_weekly=3, keep_monthly=1), at("01-09"))

    assert kept(found) == {
        "01-08T12:00": {"weekly", "monthly", *N},
        "01-04T12:00": {"weekly"},
        "2025-12-28T12:00": {"weekly"},
    }
    weeks = {str(r) for verdict in found.verdicts.values() for r in verdict.reasons if r.code == "weekly"}
    assert weeks == {"weekly 2026-W02", "weekly 2026-W01", "weekly 2025-W52"}
    assert gone(found) == {"01-05T12:00", "2025-12-29T12:00"}


def test_7_the_repeated_hour_is_two_hours() -> None:
    times = [f"10-25T{clock}" for clock in ("00:10", "00:40", "01:10", "01:40", "02:10")]

    found = evaluate(facts(*times), rules(keep_hourly=4, zone="Europe/Berlin"), at("10-25T12:00"))

    assert set(kept(found)) == {"10-25T02:10", "10-25T01:40", "10-25T00:40"}
    assert gone(found) == {"10-25T01:10", "10-25T00:10"}


def test_8_suspect_ones_satisfy_no_rule_and_push_nothing_out() -> None:
    a, b, c, x, y = facts("03-01", "03-02", "03-03", "03-04", "03-05")
    backups = [replace(a, evidence=2), b, c, replace(x, suspect=True), replace(y, suspect=True)]

    found = evaluate(backups, rules(keep_last=2), at("03-06"))

    assert kept(found) == {
        "03-03": {"last", *N},
        "03-02": {"last"},
        "03-01": {"last-verified"},
        "03-04": {"suspect"},
        "03-05": {"suspect"},
    }
    assert gone(found) == set()


def test_9_held_locked_and_used_ones_stay() -> None:
    old, lock, use, n1, n2 = facts("2025-11-01", "2025-12-01", "2026-01-01", "03-01", "03-02")
    backups = [replace(old, held=True), replace(lock, locked_until=at("04-01")), replace(use, in_use=True), n1, n2]

    found = evaluate(backups, rules(keep_last=1), at("03-03"))

    assert kept(found) == {
        "03-02": {"last", *N},
        "2025-11-01": {"hold"},
        "2025-12-01": {"locked"},
        "2026-01-01": {"in-use"},
    }
    assert gone(found) == {"03-01"}


def test_10_what_a_kept_one_needs_stays() -> None:
    f, i1, i2, f2, i3 = facts("03-01", "03-02", "03-03", "03-04", "03-05")
    backups = [f, replace(i1, parent=f.id), replace(i2, parent=i1.id), f2, replace(i3, parent=f2.id)]

    three = evaluate(backups, rules(keep_last=3), at("03-06"))
    two = evaluate(backups, rules(keep_last=2), at("03-06"))

    assert kept(three) == {
        "03-05": {"last", *N},
        "03-04": {"last"},
        "03-03": {"last"},
        "03-02": {"needed-by"},
        "03-01": {"needed-by"},
    }
    assert set(kept(two)) == {"03-05", "03-04"}
    assert two.expire == ("03-03", "03-02", "03-01")


def test_11_a_cap_that_guards_do_not_let_be_met() -> None:
    backups = facts("03-01", "03-02", "03-03", "03-04", "03-05", size_bytes=40)
    backups[1] = replace(backups[1], evidence=2)
    policy = rules(keep_last=5, size_cap_bytes=100, cap_action=CapAction.DELETE, min_redundancy=2)

    found = evaluate(backups, policy, at("03-06"))

    assert set(kept(found)) == {"03-05", "03-04", "03-02"}
    assert "min-redundancy" in kept(found)["03-05"]
    assert "min-redundancy" in kept(found)["03-04"]
    assert "last-verified" in kept(found)["03-02"]
    assert found.over_cap_bytes == 20
    assert found.expire == ("03-01", "03-03")
    assert {reason.code for key in found.expire for reason in found.verdicts[key].reasons} == {"size-cap"}


def test_12_the_greatest_age_beats_rules_and_not_guards() -> None:
    a, b, c = facts("01-01", "01-02", "01-03")
    policy = rules(keep_last=10, max_age=Span.parse("30d"))

    found = evaluate([replace(a, evidence=2), b, c], policy, at("06-01"))

    assert kept(found) == {"01-03": N, "01-01": {"last-verified"}}
    assert gone(found) == {"01-02"}
    assert found.verdicts["01-02"].codes == {"max-age"}


def test_13_a_year_of_days_weeks_months_and_years() -> None:
    start = at("2025-03-01")
    backups = [
        BackupFacts(id=(start + timedelta(days=n)).strftime("%m-%d" if n < 365 else "new %m-%d"),
                    taken_at=start + timedelta(days=n))
        for n in range(366)
    ]  # fmt: skip
    policy = rules(keep_daily=7, keep_weekly=4, keep_monthly=6, keep_yearly=2)

    found = evaluate(backups, policy, at("2026-03-01T12:00"))

    assert set(kept(found)) == {
        "new 03-01", "02-28", "02-27", "02-26", "02-25", "02-24", "02-23",
        "02-22", "02-15", "02-08",
        "01-31", "12-31", "11-30", "10-31",
    }  # fmt: skip
    assert kept(found)["02-28"] == {"daily", "monthly"}
    assert kept(found)["12-31"] == {"monthly", "yearly"}
    assert len(found.expire) == 352


def test_14_one_from_the_future_anchors_nothing() -> None:
    backups = facts("03-01", "03-02", "03-03", "2030-01-01")
    policy = rules(keep_last=1, keep_within=Span.parse("2d"))

    found = evaluate(backups, policy, at("03-03T02:00"))

    assert set(kept(found)) == {"03-03", "03-02", "03-01", "2030-01-01"}
    assert kept(found)["2030-01-01"] == {"clock"}
    assert "newest" in kept(found)["03-03"]
    assert gone(found) == set()
