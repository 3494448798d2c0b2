"""Pings in three ways: what each receiver is told of a run, in which order, and what may stand in an address."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.alerts.models import AlertClock, Channel, Delivery, DeliveryState
from apps.alerts.outbox import deliver_due
from apps.alerts.senders.errors import NotDelivered
from apps.alerts.senders.http import call
from apps.alerts.senders.ping import MAX_BODY, MAX_MESSAGE, fill, kuma_address
from apps.alerts.services import ChannelInvalid, save_channel
from apps.alerts.services import test_channel as try_channel
from apps.alerts.watch import watch
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.schedules.models import ItemStatus, RunItem, RunStatus, ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class World:
    """A run of the schedule nightly that began ten minutes ago, with one collection, and is under way."""

    def __init__(self, folder: Any) -> None:
        self.storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
        self.cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
        self.schedule = maker(self.cluster)(now=NOW - timedelta(days=3))
        self.run = ScheduleRun.objects.create(
            schedule=self.schedule, slot=NOW - 10 * MINUTE, created_at=NOW - 10 * MINUTE, status=RunStatus.RUNNING
        )
        self.job = make_job(self.cluster, self.storage, status="running")
        self.item = RunItem.objects.create(run=self.run, collection_name="products", storage=self.storage, job=self.job)

    def end(self, status: str, **counts: int) -> None:
        ScheduleRun.objects.filter(pk=self.run.pk).update(status=status, completed_at=NOW, counts=counts)

    def wait(self, name: str, at: datetime) -> RunItem:
        """Another collection whose backup failed at `at`, and waits."""
        job = make_job(
            self.cluster, self.storage, name, status="pending", attempt=1, retry_count=1, heartbeat_at=at,
            wait_reason="The node did not answer.", not_before=at + 5 * MINUTE,
        )  # fmt: skip
        return RunItem.objects.create(run=self.run, collection_name=name, storage=self.storage, job=job)


@pytest.fixture
def world(db: None, folder: Any) -> World:
    return World(folder)


@pytest.fixture
def pings(channel: Callable[..., Channel], httpserver: Any) -> Callable[..., Channel]:
    """Make a ping channel that is older than the run; the receiver takes everything."""

    def make(kind: str = "ping", tail: str = "", **fields: Any) -> Channel:
        from re import compile as pattern

        httpserver.expect_request(pattern(".*")).respond_with_data("OK")
        address = httpserver.url_for("/hook") + tail
        made = channel(kind, kind=kind, schedules=["night*"], address=address, **fields)
        Channel.objects.update(created_at=NOW - timedelta(days=1))
        return made

    return make


def rounds(count: int = 3, at: datetime = NOW) -> None:
    for _ in range(count):
        AlertClock.objects.update(held_until=at)
        watch(clock=lambda: at)


def paths(httpserver: Any) -> list[str]:
    return [request.path for request, _ in httpserver.log]


def test_a_run_is_told_in_its_order_however_long_the_start_takes(
    world: World, pings: Callable[..., Channel], httpserver: Any
) -> None:
    world.end(RunStatus.OK, ok=1)
    pings()
    httpserver.clear_all_handlers()
    httpserver.expect_oneshot_request("/hook/start").respond_with_data("no", status=500)
    rounds()
    assert paths(httpserver) == ["/hook/start"]  # refused: the end waits for its second try

    httpserver.expect_request("/hook/start").respond_with_data("OK")
    httpserver.expect_request("/hook").respond_with_data("OK")
    rounds(at=NOW + timedelta(seconds=11))
    assert paths(httpserver) == ["/hook/start", "/hook/start", "/hook"]


def test_a_start_that_nobody_takes_keeps_the_end_for_half_a_minute_at_most(
    world: World, pings: Callable[..., Channel], httpserver: Any
) -> None:
    world.end(RunStatus.OK, ok=1)
    pings()
    httpserver.clear_all_handlers()
    httpserver.expect_request("/hook/start").respond_with_data("no", status=404)
    httpserver.expect_request("/hook").respond_with_data("OK")
    for second in range(0, 45, 5):
        rounds(1, NOW + timedelta(seconds=second))

    assert paths(httpserver) == ["/hook/start"] * 3 + ["/hook"]


def test_waits_are_logged_once_for_all_that_wait(world: World, pings: Callable[..., Channel], httpserver: Any) -> None:
    pings()
    rounds()
    for number in range(12):
        world.wait(f"c{number:02}", NOW - timedelta(seconds=60 - number))
    rounds()
    rounds(at=NOW + timedelta(seconds=15))

    assert paths(httpserver) == ["/hook/start", "/hook/log"]
    body = httpserver.log[1][0].data.decode()
    assert body.startswith("c00: The node did not answer. It is tried again at 12:04 UTC.")
    assert body.endswith("And 2 more.")
    world.wait("late", NOW + timedelta(seconds=20))
    rounds(at=NOW + timedelta(seconds=30))
    assert paths(httpserver)[2:] == ["/hook/log"]
    assert {request.args["rid"] for request, _ in httpserver.log} == {str(world.run.pk)}


def test_an_expansion_that_waits_is_logged_at_each_try(
    world: World, pings: Callable[..., Channel], httpserver: Any
) -> None:
    pings()
    expanding = ScheduleRun.objects.filter(pk=world.run.pk)
    for count in (1, 2):
        expanding.update(
            status=RunStatus.EXPANDING, expand_count=count, error="The collections could not be listed.",
            claimed_until=NOW + 5 * MINUTE,
        )  # fmt: skip
        rounds()

    assert paths(httpserver) == ["/hook/start", "/hook/log", "/hook/log"]
    assert httpserver.log[1][0].data == b"The collections could not be listed. It is tried again at 12:05 UTC."


def test_a_failed_run_tells_counts_the_first_errors_and_where_to_look(
    world: World, pings: Callable[..., Channel], httpserver: Any, settings: Any
) -> None:
    settings.BACKUPMGR_PUBLIC_URL = "https://backup.example.com/"
    for number in range(12):
        RunItem.objects.create(
            run=world.run, collection_name=f"c{number:02}", storage=world.storage, status=ItemStatus.FAILED,
            message="ö" * 2000,
        )  # fmt: skip
    world.end(RunStatus.PARTIAL, ok=28, failed=12)
    pings()
    rounds()

    assert paths(httpserver) == ["/hook/start", "/hook/fail"]
    body = httpserver.log[1][0].data
    assert len(body) <= MAX_BODY
    lines = body.decode().splitlines()  # cut on a character
    assert lines[0] == "nightly on berlin, run of 2026-03-02 11:50 UTC: partly failed."
    assert lines[1] == f"https://backup.example.com/admin/schedules/schedulerun/{world.run.pk}/change/"
    assert lines[2] == "Collections: 12 failed, 28 succeeded."
    assert lines[3].startswith("- c00: öö")


def test_the_link_of_a_run_leads_to_its_page(world: World, root_client: Any, settings: Any) -> None:
    from apps.alerts.run_words import describe_run

    settings.BACKUPMGR_PUBLIC_URL = "http://testserver"
    link = next(line for line in describe_run(world.run).splitlines() if line.startswith("http"))
    assert root_client.get(link.removeprefix("http://testserver")).status_code == 200


@pytest.fixture
def root_client(admin_client: Any) -> Any:
    return admin_client


# --- Uptime Kuma -------------------------------------------------------------------------------------------
def test_kuma_hears_of_ends_only_up_or_down(world: World, pings: Callable[..., Channel], httpserver: Any) -> None:
    pings("kuma", "/api/push/token?status=up&msg=OK&ping=")
    rounds()
    assert httpserver.log == []
    world.end(RunStatus.FAILED, failed=1)
    RunItem.objects.update(status=ItemStatus.FAILED, message="The disk is full & closed.")
    rounds()

    ((request, _),) = httpserver.log
    assert (request.method, request.path) == ("GET", "/hook/api/push/token")
    assert request.args["status"] == "down"
    assert "The disk is full & closed." in request.args["msg"]
    assert request.args["ping"] == ""
    assert len(request.args) == 3
    assert "token" not in Channel.objects.get().masked


def test_a_kuma_heartbeat_is_up(world: World, channel: Callable[..., Channel], httpserver: Any) -> None:
    httpserver.expect_request("/heart").respond_with_json({"ok": True})
    channel("heart", kind="kuma")
    rounds(1)

    assert [request.args["status"] for request, _ in httpserver.log] == ["up"]


def test_addresses_for_kuma_keep_what_else_they_say() -> None:
    made = kuma_address("https://kuma.example.com/api/push/tok?status=up&msg=OK&ping=&x=1&y=", "down", "a\nb&c=ö " * 90)
    query = parse_qs(urlsplit(made).query, keep_blank_values=True)

    assert made.startswith("https://kuma.example.com/api/push/tok?")
    assert (query["status"], query["ping"], query["x"], query["y"]) == (["down"], [""], ["1"], [""])
    assert len(query["msg"][0]) == MAX_MESSAGE
    assert made.isascii() and " " not in made and "\n" not in made


# --- any URL -----------------------------------------------------------------------------------------------
def test_a_template_is_filled_with_encoded_values(world: World, pings: Callable[..., Channel], httpserver: Any) -> None:
    pings("url", "/{state}/{rid}?m={message}&fixed=1")
    rounds()
    RunItem.objects.update(status=ItemStatus.FAILED, message="50 % of {rid} & more? #1")
    world.end(RunStatus.FAILED, failed=1)
    rounds()

    assert paths(httpserver) == [f"/hook/start/{world.run.pk}", f"/hook/fail/{world.run.pk}"]
    last = httpserver.log[1][0]
    assert "50 % of {rid} & more? #1" in last.args["m"]
    assert last.args["fixed"] == "1"


def test_a_template_without_a_state_is_called_for_successes_only(
    world: World, pings: Callable[..., Channel], httpserver: Any
) -> None:
    pings("url", "/{rid}")
    world.end(RunStatus.FAILED, failed=1)
    rounds()
    assert httpserver.log == []
    world.end(RunStatus.OK, ok=1)
    rounds()
    assert paths(httpserver) == [f"/hook/{world.run.pk}"]


def test_values_cannot_leave_their_place() -> None:
    run = str(uuid.uuid4())
    message = "../../x?y=1&z#@evil.example/\r\nHost: a {state}"
    made = fill("https://hc.example.com/p/{state}?r={rid}&m={message}", "fail", run, message)

    parts = urlsplit(made)
    assert (parts.netloc, parts.path, parts.fragment) == ("hc.example.com", "/p/fail", "")
    assert parse_qs(parts.query) == {"r": [run], "m": ["../../x?y=1&z#@evil.example/ Host: a {state}"]}


@pytest.mark.parametrize(
    "url",
    [
        "https://{state}.example.com/", "https://{rid}/", "https://h.example.com/{token}", "https://h.example.com/{",
        "https://h.example.com/}", "https://h.example.com/{}", "https://h.example.com/{state}{", "{message}",
        "https://169.254.169.254/{state}", "ftp://h.example.com/{state}", "https://u:{message}@h.example.com/",
    ],
)  # fmt: skip
def test_templates_that_lead_elsewhere_are_refused(db: None, url: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        save_channel(channel=None, data={"name": "bad", "kind": "url", "address": url})
    assert "address" in refused.value.problems


@pytest.mark.parametrize("kind", ["kuma", "url"])
def test_the_test_button_sends_to_the_new_kinds(pings: Callable[..., Channel], httpserver: Any, kind: str) -> None:
    made = pings(kind, "?s={state}" if kind == "url" else "")

    assert try_channel(channel=made, now=NOW, clock=lambda: NOW).state == DeliveryState.SENT
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("field", ["is_default", "tell_success"])
def test_a_ping_is_told_of_no_problem_and_of_successes_anyway(channel: Callable[..., Channel], field: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        channel(kind="kuma", **{field: True})
    assert field in refused.value.problems


# --- receivers that hang ----------------------------------------------------------------------------------
@pytest.fixture
def dripping() -> Iterator[str]:
    """A receiver that answers a byte at a time and never comes to an end."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(b"HTTP/1.1 ")
                while not over.wait(0.05):
                    connection.sendall(b" ")
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    over.set()
    server.close()
    thread.join(10)


def test_a_receiver_that_drips_is_left_after_the_time_out(dripping: str, settings: Any) -> None:
    settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS = 0.5
    began = time.monotonic()

    with pytest.raises(NotDelivered, match=r"did not answer within 0\.5 s"):
        call("POST", dripping)
    assert time.monotonic() - began < 20  # it would go on for ever


@pytest.mark.parametrize("answer", [404, 409, 500, "hang", "closed"])
def test_whatever_a_receiver_does_the_backup_and_its_run_go_on(
    world: World, pings: Callable[..., Channel], httpserver: Any, settings: Any, answer: int | str
) -> None:
    """Pings are rows that others send: what ends a run or a job neither waits for them nor looks at them."""
    from apps.schedules.settle import settle_runs

    settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS = 0.3
    made = pings()
    httpserver.clear_all_handlers()
    held = threading.Event()
    if answer == "hang":
        httpserver.expect_request("/hook/start").respond_with_handler(lambda request: held.wait(20) and None)
    elif answer == "closed":
        save_channel(channel=made, data={"address": "http://127.0.0.1:9/hook"})
    else:
        httpserver.expect_request("/hook/start").respond_with_data("no", status=answer)
    rounds(1)  # the start is refused, or hangs
    Job.objects.filter(pk=world.job.pk).update(status="completed", started_at=NOW - MINUTE, completed_at=NOW)
    began = time.monotonic()
    settle_runs(now=NOW + MINUTE)
    took = time.monotonic() - began
    held.set()

    job, run = Job.objects.get(), ScheduleRun.objects.get()
    assert (job.status, job.duration_seconds(NOW), run.status) == ("completed", 60.0, RunStatus.OK)
    assert run.completed_at == NOW + MINUTE
    assert took < 1
    deliver_due(clock=lambda: NOW)
    assert not Delivery.objects.filter(state=DeliveryState.SENT).exists()
