"""What the documents say must be so: names of settings, links, and the way to restore without us."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from apps.sandbox import SandboxNode
    from tests.conftest import Collections

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
SETTINGS = (REPOSITORY / "backupmgr" / "settings.py").read_text()


def names_read() -> set[str]:
    """The names that settings.py reads from the environment."""
    return set(re.findall(r"\benv(?:\.\w+)?\(\s*\"(\w+)\"", SETTINGS))


def test_the_search_finds_every_read_of_the_environment() -> None:
    reads = re.findall(r"\benv(?:\.(?!Env\b|read_env\b)\w+)?\(", SETTINGS)

    assert len(names_read()) > 10
    assert len(reads) == len(re.findall(r"\benv(?:\.\w+)?\(\s*\"\w+\"", SETTINGS))


def test_env_example_holds_exactly_the_names_that_settings_read() -> None:
    example = (REPOSITORY / ".env.example").read_text()

    assert set(re.findall(r"^#?([A-Z][A-Z_]+)=", example, re.MULTILINE)) == names_read()


def test_the_table_of_operations_holds_exactly_the_names_that_settings_read() -> None:
    table = OPERATIONS.partition("## Settings")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)) == names_read()


def test_no_document_names_a_setting_that_does_not_exist() -> None:
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        named = set(re.findall(r"\bBACKUPMGR_[A-Z_]+\b", path.read_text()))
        assert named <= names_read(), path.name


@pytest.mark.parametrize(
    "path", [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_shows_pictures_that_exist_and_says_what_is_on_them() -> None:
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text())

    assert len(shown) == 4
    for words, path in shown:
        assert len(words.split()) > 5, path
        assert (REPOSITORY / path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), path


def test_pictures_are_those_that_scripts_screenshots_takes_and_stay_small() -> None:
    from scripts.demolib.pictures import Shown, pages

    found = {path.stem: path.stat().st_size for path in (REPOSITORY / "docs" / "screenshots").iterdir()}

    assert set(found) == {*pages(Shown("", "", "", "")), "overview-dark", "overview-phone"}
    assert sum(found.values()) < 3_000_000


def test_readme_starts_with_the_two_commands() -> None:
    code = [line.split()[0] for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith("    ")]

    assert code[:2] == ["scripts/demo", "scripts/test"]


@pytest.mark.django_db(transaction=True)
def test_a_backup_is_restored_with_curl_alone(
    node: SandboxNode, collections: Collections, cluster: Any, storage: Any, folder: Path
) -> None:
    missing = [tool for tool in ("bash", "curl", "jq", "sha256sum") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    backup = make_backup_folder(collections, cluster, storage, folder)
    before = collections.points("films")
    collections.delete("films")
    recipe = OPERATIONS.partition("runs this block -->\n```sh\n")[2].partition("```")[0]
    assert "sha256sum --check" in recipe

    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", recipe],
        cwd=backup,
        env={**os.environ, "QDRANT": node.url, "NAME": "again", "KEY": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 0, run.stderr
    assert collections.points("again") == before
    info = collections.call("GET", "/collections/again")["result"]
    manifest = json.loads((backup / "manifest.json").read_text())
    assert info["config"] == manifest["collection"]["config"]
    assert info["payload_schema"].keys() == manifest["collection"]["payload_schema"].keys()
    aliases = collections.call("GET", "/collections/again/aliases")["result"]["aliases"]
    assert [alias["alias_name"] for alias in aliases] == ["movies"]


def make_backup_folder(collections: Collections, cluster: Any, storage: Any, folder: Path) -> Path:
    """Back up a collection `films` with an alias; return the folder that holds manifest and parts."""
    from django.utils import timezone

    from apps.jobs.models import Job
    from apps.jobs.runner import run_job
    from apps.jobs.services import JobRequest, create_job

    collections.create("films", points=300)
    alias = {"create_alias": {"collection_name": "films", "alias_name": "movies"}}
    collections.call("POST", "/collections/aliases", {"actions": [alias]})
    request = JobRequest(type="backup", collection_name="films", cluster=cluster, storage=storage)
    job = create_job(request=request, now=timezone.now())
    run_job(str(job.pk))
    job = Job.objects.get(pk=job.pk)
    assert job.status == "completed", job.error
    return next(folder.rglob("manifest.json")).parent
