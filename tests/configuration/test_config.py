"""manage.py config: what is exported imports without a change, anywhere; what is shown happens; nothing by halves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from apps.alerts.models import Channel
from apps.audit.models import AuditEntry
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.configuration.document import DocumentInvalid
from apps.configuration.importing import ImportRefused, Outcome, export_configuration, import_configuration
from apps.schedules.models import Blackout, CollectionTag, MaximumAge, Schedule
from apps.storage.models import StorageConfig
from tests.support import REPOSITORY

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY, S3_KEY, HOOK = "the-canary-key", "the-canary-secret", "https://hooks.example.com/the-canary-path"


@pytest.fixture
def document(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything that can be said, with secrets in the environment and in a file."""
    monkeypatch.setenv("QDRANT_KEY", KEY)
    monkeypatch.setenv("ACCESS_KEY", "AKIACANARY0123456789")
    monkeypatch.setenv("HOOK", HOOK)
    secret = tmp_path / "s3.key"
    secret.write_text(f"{S3_KEY}\n")
    return f"""
version: 1
clusters:
  - name: main
    urls: [http://127.0.0.1:9/, http://127.0.0.1:10]
    api_key: env:QDRANT_KEY
    max_jobs: 3
    blackouts: ["sun 01:00-03:00", "fri 23:00-05:00 skip"]
    tags:
      films: [gold]
    collection_max_age_hours: {{films: 12}}
    tag_max_age_hours: {{gold: 36}}
  - name: spare
    urls: [http://127.0.0.1:11]
storages:
  - name: disk
    type: local
    path: {folder}/disk
  - name: bucket
    type: s3
    is_default: true
    s3_endpoint: http://127.0.0.1:12
    s3_bucket: backups
    s3_region: us-east-1
    s3_access_key: env:ACCESS_KEY
    s3_secret_key: file:{secret}
policies:
  - name: daily
    keep_last: 3
    keep_daily: 7
    keep_within: 14d
schedules:
  - name: nightly
    cluster: main
    storages: [disk, bucket]
    cron: "30 2 * * *"
    tz: Europe/Berlin
    policy: daily
    tags: [gold]
    blackouts: ["fri 22:00-06:00 skip"]
  - name: no
    cluster: spare
    storages: [disk]
    kind: interval
    interval_seconds: 3600
channels:
  - name: ops
    kind: webhook
    address: env:HOOK
    min_severity: critical
    rules: [overdue]
"""


def bring(text: str, *, apply: bool = True, **options: Any) -> Outcome:
    return import_configuration(text, now=NOW, apply=apply, **options)


def edited(change: Callable[[dict[str, Any]], None]) -> str:
    """The export of what there is, after an edit."""
    content = {"version": 1, **export_configuration()}
    change(content)
    return yaml.safe_dump(content)


def refused(text: str, **options: Any) -> str:
    with pytest.raises((DocumentInvalid, ImportRefused)) as caught:
        bring(text, **options)
    return "\n".join(map(str, caught.value.problems))


def counts() -> list[int]:
    models = (Cluster, StorageConfig, RetentionPolicy, Schedule, Channel, CollectionTag, AuditEntry)
    return [model.objects.count() for model in models]


def test_a_plan_says_what_would_be_and_changes_nothing(document: str, folder: Path) -> None:
    outcome = bring(document, apply=False)

    assert outcome.words == "8 to make, 0 to change, 0 to delete"
    assert counts() == [0] * 7
    assert not (folder / "disk").exists()


def test_an_import_makes_everything_and_a_second_one_changes_nothing(document: str, folder: Path) -> None:
    planned = bring(document, apply=False)
    done = bring(document)

    assert done.changes == planned.changes
    schedule = Schedule.objects.get(name="nightly")
    assert (schedule.cluster.name, schedule.policy and schedule.policy.name) == ("main", "daily")
    assert schedule.next_run_at is not None
    assert {storage.name for storage in schedule.storages.all()} == {"disk", "bucket"}
    assert schedule.blackouts.get().window.sentence.startswith("Fridays 22:00 to 06:00")
    assert Schedule.objects.get(name="no").interval_seconds == 3600
    assert Cluster.objects.get(name="main").api_key.reveal() == KEY
    bucket = StorageConfig.objects.get(name="bucket")
    assert (bucket.s3_secret_key.reveal(), bucket.is_default) == (S3_KEY, True)
    assert Channel.objects.get().address.reveal() == HOOK
    assert (folder / "disk").is_dir()

    before = (counts(), list(Schedule.objects.order_by("pk").values()), list(Cluster.objects.order_by("pk").values()))
    again = bring(document)

    assert (again.changes, again.unchanged) == ([], 8)
    after = (counts(), list(Schedule.objects.order_by("pk").values()), list(Cluster.objects.order_by("pk").values()))
    assert after == before


def test_an_export_holds_no_secret_and_imports_without_a_change(document: str) -> None:
    bring(document)
    out = StringIO()

    call_command("config", "export", stdout=out)

    assert "canary" not in out.getvalue().lower()
    assert "api_key: stored" in out.getvalue()
    assert (bring(out.getvalue(), apply=False).changes, bring(out.getvalue()).unchanged) == ([], 8)


def test_another_installation_asks_for_the_secrets_that_it_lacks(document: str) -> None:
    bring(document)
    out = StringIO()
    call_command("config", "export", stdout=out)
    Schedule.objects.all().delete()
    for model in (Channel, Cluster, StorageConfig):
        model.objects.all().delete()

    said = refused(out.getvalue())

    for field in ("api_key", "s3_access_key", "s3_secret_key", "address"):
        assert f"{field}: None is stored here: give env:NAME or file:/path." in said


def test_changes_are_named_field_by_field_and_secrets_are_not_shown(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(document)
    monkeypatch.setenv("QDRANT_KEY", "another-canary-key")
    text = document.replace('"30 2 * * *"', '"0 3 * * *"').replace("policy: daily", "policy: null")

    planned = bring(text, apply=False)

    cluster, schedule = planned.changes
    assert [(one.field, one.before, one.after) for one in cluster.differences] == [
        ("api_key", "set", "another one, from env:QDRANT_KEY")
    ]
    assert {one.field: (one.before, one.after) for one in schedule.differences} == {
        "cron": ("30 2 * * *", "0 3 * * *"),
        "policy": ("daily", None),
    }
    assert "canary" not in repr(planned)
    bring(text)
    assert Cluster.objects.get(name="main").api_key.reveal() == "another-canary-key"
    assert Schedule.objects.get(name="nightly").policy is None


def test_a_secret_is_removed_where_there_may_be_none_and_only_there(document: str) -> None:
    bring(document)

    bring("version: 1\nclusters:\n  - name: main\n    api_key: null\n")
    assert not Cluster.objects.get(name="main").api_key

    said = refused("version: 1\nchannels:\n  - name: ops\n    address: null\n")
    assert said == "Line 4: address: It can be replaced, not removed: leave the field out, or give another one."


def test_one_mistake_leaves_everything_as_it_was_and_every_mistake_is_named_with_its_line(document: str) -> None:
    text = document.replace("max_jobs: 3", "max_jobs: 0").replace("keep_within: 14d", "keep_within: soon")
    text = text.replace("tz: Europe/Berlin", "tz: Atlantis").replace("rules: [overdue]", "rules: [doom]")

    said = refused(text)

    lines = text.splitlines()
    for words, sentence in (
        ("max_jobs: 0", "max_jobs: "),
        ("keep_within: soon", "keep_within: Give a number and one of h, d, w, m, y"),
        ("rules: [doom]", "rules: rules lists some of"),
    ):
        line = next(n for n, content in enumerate(lines, 1) if words in content)
        assert f"Line {line}: {sentence}" in said
    assert counts() == [0] * 7


_MAIN = "version: 1\nclusters:\n  - name: main\n"
_CLUSTER = "version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with version: 1"),
        ("- 1", "begins with version: 1"),
        ("version: 2", "Line 1: Write version: 1"),
        ("version: 1\nclutsers: []", "Line 2: There is no section 'clutsers'; there are clusters, storages"),
        ("version: 1\nclusters: {}", "Line 2: clusters is a list"),
        ("version: 1\nclusters:\n  - x", "Line 3: Each entry of clusters has fields"),
        ("version: 1\nclusters:\n  - urls: [http://a]", "Line 3: A cluster needs a name."),
        ("version: 1\nclusters:\n  - name: a\n    name: b", "Line 4: name is there twice"),
        ("version: 1\nclusters:\n  - name: a\n    ulr: b", "Line 4: Clusters have no field 'ulr'; they have name,"),
        ("version: 1\nclusters:\n  - name: a", "Line 3: urls: A cluster needs the address"),
        ("version: 1\nclusters:\n  - {name: a, urls: [http://a]}\n  - {name: a, urls: [http://b]}", "first in line 3"),
        ("version: 1\nclusters:\n  - {name: a, urls: [gopher://a]}", "Line 3: Write the node's REST address"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    verify_tls: yes", "Write true or false"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    max_jobs: many", "Give a whole number"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    max_jobs: 99999999999", "too large"),
        ("version: 1\nclusters:\n  - name: a\n    urls: http://a", "Give a list"),
        (f"{_CLUSTER}    blackouts:\n      - fri 22:00-06:00\n      - never\n", "Line 7: blackouts: “never” cannot be"),
        (f"{_CLUSTER}    blackouts: [2026-01-02 10:00 - 2026-01-01 10:00]\n", "Line 5: blackouts: A blackout ends"),
        (f"{_CLUSTER}    blackouts: fri\n", "Line 5: blackouts: Give a list"),
        (f"{_CLUSTER}    tag_max_age_hours: 12\n", "Line 5: tag_max_age_hours: Give names, each with a number."),
        (f"{_CLUSTER}    tag_max_age_hours:\n      a: 5\n      b: soon\n", "Line 7: tag_max_age_hours: b: Give a"),
        (f"{_CLUSTER}    collection_max_age_hours:\n      a: 0\n", "Line 6: collection_max_age_hours: a: Give a"),
        (f"{_CLUSTER}    collection_max_age_hours:\n      a/b: 5\n", "Line 5: collection_max_age_hours: a/b: "),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    api_key: hunter2", "env:NAME, file:/path"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    api_key: env:NOT_SET_1", "NOT_SET_1 is not"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    api_key: file:/no/where", "cannot be read"),
        ("version: 1\nclusters:\n  - name: a\n    urls: [http://a]\n    is_default: false", "One of them is the"),
        (
            "version: 1\nchannels:\n  - {name: a, kind: email, address: env:X, is_default: true}\n"
            "  - {name: b, kind: email, address: env:X, is_default: true}\n",
            "Line 4: is_default: One channel is the default, and the document says so of one in line 3.",
        ),
        ("version: 1\nschedules:\n  - {name: a, cluster: b, storages: [c]}", "There is no cluster named 'b'"),
        ("version: 1\nschedules:\n  - name: a\n    include: [*]\n", "Put quotes around"),
        ("version: 1\nschedules:\n  - name: a\n    cron: *hidden\n", "Put quotes around"),
        ("version: 1\nclusters: &x []\nstorages: []", "Line 2: Put quotes"),
        ("version: 1\nclusters: !!python/object:os.system []", "Line 2: Leave the tag"),
        ("version: 1\nclusters:\n  - name: !secret x", "Leave the tag"),
        ("version: 1\nclusters: [", "This is no YAML"),
        ("version: 1\nclusters: " + "[" * 5000, "nested too deeply"),
        ("version: 1\nclusters: " + "[" * 30 + "]" * 30, "nested too deeply"),
        ("version: 1\nclusters:\n  - name: \"a\\u0007\"", "without control characters"),
        ("version: 1\nclusters:\n  - name: a\x00", "no YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_meant_is_said_with_its_line(text: str, said: str) -> None:
    found = refused(text)

    assert said in found
    assert "hunter2" not in found and "hidden" not in found
    assert Cluster.objects.count() == 0


def test_blackouts_and_maximum_ages_of_a_cluster_are_as_the_document_says(document: str) -> None:
    bring(document)
    main = Cluster.objects.get(name="main")
    ages = {(age.collection_name, age.tag): age.hours for age in MaximumAge.objects.filter(cluster=main)}
    assert ages == {("films", ""): 12, ("", "gold"): 36}
    shown = export_configuration()["clusters"][0]
    assert shown["blackouts"] == ["fri 23:00-05:00 skip", "sun 01:00-03:00"]
    assert (shown["collection_max_age_hours"], shown["tag_max_age_hours"]) == ({"films": 12}, {"gold": 36})

    def change(content: dict[str, Any]) -> None:
        content["clusters"][0] |= {
            "blackouts": ["2026-12-24 18:00 - 2026-12-26 08:00 cancel", "fri 23:00-05:00 skip"],
            "collection_max_age_hours": {"songs": 5},
        }

    text = edited(change)
    before = (MaximumAge.objects.count(), Blackout.objects.count(), AuditEntry.objects.count())
    planned = bring(text, apply=False)

    assert {one.field: (one.before, one.after) for one in planned.changes[0].differences} == {
        "blackouts": (
            ["fri 23:00-05:00 skip", "sun 01:00-03:00"],
            ["fri 23:00-05:00 skip", "2026-12-24 18:00 - 2026-12-26 08:00 cancel"],
        ),
        "collection_max_age_hours": ({"films": 12}, {"songs": 5}),
    }
    assert (MaximumAge.objects.count(), Blackout.objects.count(), AuditEntry.objects.count()) == before
    assert bring(text).changes == planned.changes
    assert sorted(MaximumAge.objects.values_list("collection_name", "tag", "hours")) == [
        ("", "gold", 36), ("songs", "", 5),
    ]  # fmt: skip
    assert bring(text).changes == []
    told = list(AuditEntry.objects.filter(action="age.change").values_list("summary", flat=True))
    assert sum("songs" in summary for summary in told) == 1
    assert AuditEntry.objects.filter(action="cluster.blackouts").count() == 2

    bring(_MAIN)  # what is left out stays
    assert MaximumAge.objects.count() == 2
    bring(f"{_MAIN}    blackouts: []\n    tag_max_age_hours: {{}}\n    collection_max_age_hours: null\n")
    assert not MaximumAge.objects.exists()
    assert not Blackout.objects.filter(cluster=main).exists()


def test_the_blackouts_of_a_cluster_move_the_runs_of_its_schedules(document: str) -> None:
    bring(document)
    nightly = Schedule.objects.get(name="nightly")
    assert nightly.next_run_at == datetime(2026, 1, 2, 1, 30, tzinfo=UTC)

    bring(f'{_MAIN}    blackouts: ["fri 02:00-04:00"]\n')

    nightly.refresh_from_db()
    assert nightly.next_run_at == datetime(2026, 1, 2, 3, 0, tzinfo=UTC)  # 04:00 in Berlin


def test_prune_deletes_what_is_not_named_but_only_in_sections_that_are_there(document: str) -> None:
    bring(document)
    text = edited(lambda content: (content.pop("channels"), content["schedules"].pop(0)))

    assert bring(text).changes == []
    outcome = bring(text, prune=True)

    assert [(change.what, change.name) for change in outcome.changes] == [("delete", "main/nightly")]
    assert Channel.objects.count() == 1
    assert not Schedule.objects.live().filter(name="nightly").exists()


def test_prune_has_brakes(document: str) -> None:
    bring(document)
    nothing = "version: 1\nclusters: []\nstorages: []\npolicies: []\nschedules: []\nchannels: []\n"

    said = refused(nothing, prune=True)
    assert "This would delete 8 things, more than 3" in said
    assert "is the default" in said

    said = refused(edited(lambda content: content.update(policies=[])), prune=True)
    assert "Schedules go by the policy 'daily'" in said
    assert counts()[:5] == [2, 2, 1, 2, 1]


def test_the_default_moves_and_a_schedule_changes_its_kind(document: str) -> None:
    bring(document)

    def change(content: dict[str, Any]) -> None:
        for storage in content["storages"]:
            storage["is_default"] = storage["name"] == "disk"
        nightly = next(one for one in content["schedules"] if one["name"] == "nightly")
        del nightly["cron"]
        nightly |= {"kind": "interval", "interval_seconds": 7200}

    text = edited(change)
    bring(text)

    assert StorageConfig.objects.default() == StorageConfig.objects.get(name="disk")
    assert Schedule.objects.get(name="nightly").interval_seconds == 7200
    assert bring(text).changes == []


def test_what_an_import_does_is_in_the_audit_trail(document: str) -> None:
    bring(document)

    told = list(AuditEntry.objects.order_by("id"))

    assert {entry.action for entry in told} == {
        "age.change", "cluster.add", "cluster.blackouts", "storageconfig.add", "retentionpolicy.create",
        "schedule.create", "channel.create",
        "configuration.import",
    }  # fmt: skip
    assert told[-1].summary == "Imported a configuration: 8 made, 0 changed, 0 deleted."
    assert "canary" not in str([entry.summary for entry in told])


def test_the_command_answers_by_its_exit_code(document: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(document)

    def call(*options: str) -> tuple[int, str]:
        out = StringIO()
        try:
            call_command("config", "import", str(path), *options, stdout=out)
        except SystemExit as done:
            return int(done.code or 0), out.getvalue()
        return 0, out.getvalue()

    code, said = call()
    assert code == 3
    assert "+ cluster main\n" in said and "    api_key: another one, from env:QDRANT_KEY\n" in said
    assert said.endswith("8 to make, 0 to change, 0 to delete. Nothing was changed: repeat it with --apply.\n")
    assert call("--apply")[1].endswith("8 made, 0 changed, 0 deleted.\n")
    assert call() == call("--apply") == (0, "Nothing to change.\n")
    path.write_text(document.replace('"30 2 * * *"', '"61 2 * * *"'))
    code, said = call("--json")
    assert code == 1 and json.loads(said)["problems"][0]["message"].startswith("cron: ")
    with pytest.raises(CommandError, match="Line 36: cron: .*\nNothing was changed"):
        call()
    path.write_text(document.replace('"30 2 * * *"', '"0 2 * * *"'))
    code, said = call("--json")
    assert code == 3
    assert json.loads(said)["changes"][0]["fields"] == {"cron": {"before": "30 2 * * *", "after": "0 2 * * *"}}
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("config", "import", str(tmp_path / "nothing"))


def test_the_example_of_the_manual_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manual = (REPOSITORY / "docs" / "operations.md").read_text()
    text = manual.split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "s3").write_text(S3_KEY)
    for name in ("QDRANT_API_KEY", "S3_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPS_WEBHOOK", HOOK)

    outcome = bring(text.replace("/run/secrets/s3", str(tmp_path / "s3")), apply=False)

    assert outcome.words == "5 to make, 0 to change, 0 to delete"
