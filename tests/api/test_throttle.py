"""Guessing is slow: counted over all processes, per name and address, and never at the cost of somebody else."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse

from apps.api.models import FailedAttempts
from apps.api.throttle import Limit, attempt, client_address, forget
from tests.support import REPOSITORY, worker_environment

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
LIMIT = Limit(failures=3, seconds=60)
LOGIN = reverse("admin:login")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_further_attempts_are_refused_for_the_time_and_then_allowed_again(db: None) -> None:
    assert [attempt("a", LIMIT, at(second)) for second in (0, 10, 20)] == [0, 0, 0]
    assert attempt("a", LIMIT, at(30)) == 50
    assert attempt("a", LIMIT, at(79)) == 1
    assert attempt("a", LIMIT, at(81)) == 0


def test_failures_far_apart_are_not_added_up(db: None) -> None:
    assert [attempt("a", LIMIT, at(second)) for second in range(0, 400, 40)] == [0] * 10


def test_one_who_is_refused_does_not_lengthen_it_by_trying(db: None) -> None:
    for second in range(3):
        attempt("a", LIMIT, at(second))

    waits = [attempt("a", LIMIT, at(second)) for second in (10, 20, 30)]

    assert waits == [52, 42, 32]


def test_a_right_attempt_is_not_held_against_anybody(db: None) -> None:
    for _ in range(20):
        assert attempt("a", LIMIT, NOW) == 0
        forget("a")
    assert not FailedAttempts.objects.exists()


def test_others_are_not_touched_and_old_rows_go(db: None) -> None:
    for _ in range(5):
        attempt("a", LIMIT, NOW)

    assert attempt("b", LIMIT, NOW) == 0
    assert attempt("c", LIMIT, at(200)) == 0
    assert FailedAttempts.objects.count() == 1


def test_neither_name_nor_address_can_be_read_in_the_table(db: None) -> None:
    attempt("ana from 10.0.0.1", LIMIT, NOW)

    assert "ana" not in str(list(FailedAttempts.objects.values_list()))


def test_two_processes_count_together(transactional_db: None) -> None:
    program = """
import django; django.setup()
from django.utils import timezone
from apps.api.throttle import Limit, attempt
print(sum(attempt("shared", Limit(30, 600), timezone.now()) == 0 for _ in range(25)))
"""
    environment = worker_environment() | {"DJANGO_SETTINGS_MODULE": "backupmgr.settings"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]

    admitted = [int(process.communicate(timeout=60)[0]) for process in both]

    assert sum(admitted) == 30, admitted
    assert all(admitted)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ([], "198.51.100.1", "203.0.113.9", "198.51.100.1"),
        (["127.0.0.1"], "127.0.0.1", "203.0.113.9", "203.0.113.9"),
        (["127.0.0.1"], "127.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", "1.1.1.1, 203.0.113.9, 10.2.3.4", "203.0.113.9"),
        (["127.0.0.1"], "198.51.100.1", "203.0.113.9", "198.51.100.1"),
        (["127.0.0.1"], "127.0.0.1", "", "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", "<script>", "127.0.0.1"),
        (["127.0.0.1"], "::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ([], "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ([], "", "203.0.113.9", ""),
    ],
)
def test_the_address_of_a_client(
    rf: Any, settings: Any, trusted: list[str], peer: str, forwarded: str, expected: str
) -> None:
    settings.BACKUPMGR_TRUSTED_PROXIES = trusted

    assert client_address(rf.get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)) == expected


# --- the admin's login page --------------------------------------------------------------------------------
@pytest.fixture
def ana(db: None, settings: Any) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.BACKUPMGR_LOGIN_FAILURES = 3
    return User.objects.create_user("ana", password="a-long-pass-phrase", is_staff=True)


def sign_in(password: str, name: str = "ana", **environment: Any) -> Any:
    return Client().post(LOGIN, {"username": name, "password": password}, **environment)


def test_after_some_wrong_passwords_not_even_the_right_one_opens(ana: User) -> None:
    assert [sign_in("wrong").status_code for _ in range(3)] == [200, 200, 200]

    response = sign_in("a-long-pass-phrase")

    assert response.status_code == 429
    assert 1 <= int(response["Retry-After"]) <= 900
    assert "try again in 15 minutes" in response.content.decode()


def test_nobody_locks_ana_out_from_elsewhere_and_her_success_forgets_the_failures(ana: User) -> None:
    for _ in range(6):
        sign_in("wrong", REMOTE_ADDR="203.0.113.9")

    assert sign_in("wrong").status_code == 200
    assert sign_in("a-long-pass-phrase").headers["Location"] == reverse("admin:index")
    assert [sign_in("wrong").status_code for _ in range(3)] == [200, 200, 200]


def test_a_header_does_not_make_a_new_client_unless_the_proxy_is_trusted(ana: User, settings: Any) -> None:
    def guess(number: int) -> int:
        return int(sign_in("wrong", HTTP_X_FORWARDED_FOR=f"203.0.113.{number}").status_code)

    assert [guess(number) for number in range(5)] == [200, 200, 200, 429, 429]

    settings.BACKUPMGR_TRUSTED_PROXIES = ["127.0.0.1"]
    assert guess(1) == 200


def test_names_that_do_not_exist_are_treated_alike(ana: User) -> None:
    assert [sign_in("wrong", "nobody").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_guesses_at_the_same_moment_are_all_counted(transactional_db: None, ana: User) -> None:
    codes: list[int] = []

    def guess() -> None:
        try:
            codes.append(sign_in("wrong").status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(codes) == [200] * 3 + [429] * 5


def test_half_filled_forms_count_nothing(ana: User) -> None:
    for _ in range(5):
        assert sign_in("").status_code == 200

    assert not FailedAttempts.objects.exists()
