"""No GET changes anything: every page of the admin that links lead to, every address that its forms post to, and every
GET operation of the API leave all tables and the node as they were."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import Resolver404, resolve
from django.utils import timezone

from apps.clusters.models import Cluster, ObservedCollection
from apps.schedules.ages import set_age
from apps.schedules.models import ScheduleRun
from tests.api.conftest import generated_schema, make_user
from tests.api.test_schemathesis import World, one_connection, world  # noqa: F401 - fixtures
from tests.support import Collections

#: What a visit may write. The session of who is signed in: Django stores what it says of the visitor (messages, its
#: expiry), and nothing of ours reads it. No table of ours is left out, and neither is the audit trail.
EXCEPTED = {Session}
#: Of each kind of page so many are opened, with each set of filters.
OF_A_KIND = 2
#: Fewer kinds than this, and the walk has not seen the console.
FEWEST_KINDS = 60


def everything() -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        if model in EXCEPTED:
            continue
        columns = [field.attname for field in model._meta.concrete_fields]
        rows = model._default_manager.order_by("pk").values_list(*columns)
        found[model._meta.label] = [tuple(map(str, row)) for row in rows]
    return found


class Watch:
    """Compares all tables with how they were, after each request that wrote anything at all (and took it back)."""

    def __init__(self, *, beside: Iterable[str] = ()) -> None:
        self.before = {label: rows for label, rows in everything().items() if label not in beside}
        self.wrote = False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.wrote = self.wrote or not sql.startswith(("SELECT", "SAVEPOINT", "RELEASE"))
        return execute(sql, params, many, context)

    def assert_same(self, where: str, *, anyway: bool = False) -> None:
        if self.wrote or anyway:
            after = everything()
            for label, rows in self.before.items():
                assert after[label] == rows, f"GET {where} changed {label}"
        self.wrote = False


def on_the_node(collections: Collections) -> list[Any]:
    names = sorted(one["name"] for one in collections.call("GET", "/collections")["result"]["collections"])
    return [
        (name, collections.call("GET", f"/collections/{quote(name)}{where}/snapshots")["result"])
        for name in names
        for where in ("", "/shards/0")
    ]


@pytest.fixture
def lived_in(world: World) -> World:  # noqa: F811
    """Some more of what pages show: collections that were seen, ages, runs that a calendar leads to."""
    now, cluster = timezone.now(), Cluster.objects.get(name="main")
    for name, gone in (("films", None), ("films-2", None), ("dropped", now)):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now, gone_at=gone)
    set_age(cluster=cluster, tag="gold", hours=12)
    run = ScheduleRun.objects.get()
    ScheduleRun.objects.create(schedule=run.schedule, slot=now, created_at=now, completed_at=now, status="ok")
    return world


def staff(group: str | None) -> User:
    user = make_user(group, superuser=group is None)
    user.is_staff = True
    user.save()
    return user


def links_of(html: str) -> Iterator[str]:
    """Where links lead, what is loaded by itself, and where forms and buttons post to."""
    for name, value in re.findall(r'\s(href|hx-get|hx-post|action|formaction)="([^"]*)"', html):
        if name != "href" or not value.startswith(("#", "mailto:")):
            yield unescape(value)


def kind_of(address: str) -> tuple[str, tuple[str, ...]] | None:
    """The name of the page and what is asked of it, None for what is no page of the admin."""
    target = urlsplit(address)
    if target.netloc or not target.path.startswith("/admin/"):
        return None
    try:
        name = resolve(target.path).view_name
    except Resolver404:
        return None
    asked = tuple(sorted({key for key, _ in parse_qsl(target.query)}))
    return None if name == "admin:logout" else (name, asked)


@pytest.mark.parametrize("group", [None, "viewer"])
def test_no_page_of_the_admin_changes_anything(
    group: str | None, lived_in: World, collections: Collections, client: Client
) -> None:
    client.force_login(staff(group))
    watch, node = Watch(), on_the_node(collections)
    seen, opened, waiting = Counter[Any](), set[str](), deque(["/admin/"])
    while waiting:
        address = waiting.popleft()
        if address in opened:
            continue
        opened.add(address)
        with connection.execute_wrapper(watch):
            answer = client.get(address)
        assert answer.status_code < 500, address
        watch.assert_same(address)
        if answer.status_code in (301, 302):
            waiting.append(urljoin(address, answer["Location"]))
        if "html" not in answer.get("Content-Type", "") or answer.streaming:
            continue
        for link in links_of(answer.content.decode()):
            following = urljoin(address, link)
            kind = kind_of(following)
            if kind is not None and following not in opened and seen[kind] < OF_A_KIND:
                seen[kind] += 1
                waiting.append(following)
    watch.assert_same("all pages", anyway=True)
    kinds = {name for name, _ in seen}
    assert on_the_node(collections) == node
    if group is None:
        assert len(kinds) >= FEWEST_KINDS, sorted(kinds)
        assert {"admin:protection_coverage", "admin:schedules_month", "admin:schedules_schedule_run"} <= kinds


def test_no_get_of_the_api_changes_anything(lived_in: World, collections: Collections, client: Client) -> None:
    client.force_login(make_user(superuser=True))
    watch, node = Watch(), on_the_node(collections)
    statuses: dict[str, int] = {}
    for path, item in sorted(generated_schema()["paths"].items()):
        if "get" not in item:
            continue
        where = path
        for name in re.findall(r"\{(\w+)\}", path):
            known = {
                **lived_in.paths,
                "snapshotName": lived_in.snapshots["{shardId}" in path],
                "id": lived_in.ids.get(path.removeprefix("/api/v1").strip("/").partition("/")[0], ["0"]),
                "tag": ["gold"],
            }
            where = where.replace("{" + name + "}", quote(str(known.get(name, ["films"])[0])))
        address = where if where.startswith("/api/") else f"/api/v1{where}"
        with connection.execute_wrapper(watch):
            answer = client.get(address)
            if answer.streaming:
                b"".join(answer.streaming_content)  # type: ignore[arg-type]
        statuses[item["get"]["operationId"]] = answer.status_code
        watch.assert_same(address)
    watch.assert_same("all operations", anyway=True)
    assert on_the_node(collections) == node
    bad = {name: status for name, status in statuses.items() if status >= 400}
    assert len(statuses) > 50
    assert bad == {}


def test_the_watch_notices_what_is_written(lived_in: World) -> None:
    watch = Watch()
    with connection.execute_wrapper(watch):
        Cluster.objects.filter(name="main").update(max_jobs=7)

    with pytest.raises(AssertionError, match="GET /x changed clusters.Cluster"):
        watch.assert_same("/x")


def test_previews_that_are_posted_save_nothing(lived_in: World, collections: Collections, client: Client) -> None:
    client.force_login(staff(None))
    cluster, storage = lived_in.ids["clusters"][0], lived_in.ids["storage"][0]
    schedule, policy = lived_in.ids["schedules"][0], lived_in.ids["policies"][1]
    body = {"name": "x", "cluster": "main", "storages": ["folder"], "kind": "cron", "cron": "H 2 * * *", "tz": "UTC"}
    fields = {
        "name": "x", "cluster": cluster, "include": "*", "storages": [storage], "kind": "daily", "at": "02:30",
        "tz": "UTC", "overlap": "skip", "catchup": "latest", "nothing_matched": "fail", "max_runtime_hours": "24",
        "priority": "5", "enabled": "on",
    }  # fmt: skip
    rules = {"keep_last": 1, "min_redundancy": 1}
    # That somebody asked stands in the audit trail, as every POST does.
    watch, node = Watch(beside=["audit.AuditEntry"]), on_the_node(collections)

    for address, data, is_json, shows in (
        ("/api/v1/schedules/preview", body, True, "sentence"),
        (f"/api/v1/policies/{policy}/preview", {}, True, "digest"),
        (f"/api/v1/policies/{policy}/preview", rules, True, "digest"),
        ("/api/v1/jobs?dry_run=true", {"type": "backup", "collection_name": "films"}, True, "plan"),
        ("/admin/schedules/schedule/preview/", fields, False, "preview-sentence"),
        (f"/admin/schedules/schedule/preview/?schedule={schedule}", fields, False, "preview-sentence"),
        ("/admin/schedules/schedule/add/", fields | {"step": "preview"}, False, "preview-sentence"),
        (f"/admin/schedules/schedule/{schedule}/edit/", fields | {"step": "preview"}, False, "preview-sentence"),
    ):
        with connection.execute_wrapper(watch):
            answer = (
                client.post(address, data, content_type="application/json") if is_json else client.post(address, data)
            )
        assert answer.status_code == 200, (address, answer.content[:500])
        assert shows in answer.content.decode(), address
        watch.assert_same(address, anyway=True)
    assert on_the_node(collections) == node
