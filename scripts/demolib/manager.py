"""backupmgr over its own REST API, with nothing but `requests`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

from .errors import DemoError

_POLL_SECONDS = 0.2
#: A job in which nothing at all changes for so long is given up.
_PATIENCE_SECONDS = 300.0
_ENDED = ("completed", "failed", "cancelled")


class Manager:
    """The API at `url`. Every method raises DemoError with the API's own sentence when it refuses."""

    def __init__(self, url: str, token: str, alive: Callable[[], None]) -> None:
        """`alive` raises DemoError when a process that is needed has ended."""
        self.url = url
        self._alive = alive
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["api-key"] = token

    def add_cluster(self, *, name: str, urls: list[str], api_key: str) -> str:
        """Register a cluster and return its id; of many nodes each has its address."""
        answer = self._post("/clusters", {"name": name, "urls": urls, "api_key": api_key})
        return str(answer["id"])

    def add_storage(self, config: dict[str, Any]) -> tuple[str, str]:
        """Test a storage, then create it; return its id and what the test said."""
        test = self._post("/storage/test", config)
        if not test["success"]:
            raise DemoError(f"The storage {config['name']!r} does not work: {test['message']}")
        return str(self._post("/storage/config", config)["id"]), str(test["message"])

    def start_job(self, request: dict[str, Any]) -> dict[str, Any]:
        return dict(self._post("/jobs", request))

    def wait(self, job_id: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Poll a job until it has completed, telling `show` each time. Raises: DemoError when it ends otherwise."""
        job = self.end_of(job_id, show)
        if job["status"] == "completed":
            return job
        raise DemoError(f"The {job['type']} of {job['collection_name']!r} {job['status']}: {job['error']}")

    def end_of(self, job_id: str, show: Callable[[dict[str, Any]], None] = lambda job: None) -> dict[str, Any]:
        """Poll a job until it has ended, however that is. Raises: DemoError when nothing moves any more."""
        seen, since = "", time.monotonic()
        while True:
            job = dict(self._call("GET", f"/jobs/{job_id}"))
            show(job)
            if job["status"] in _ENDED:
                return job
            self._alive()
            state = f"{job['status']} {job['phase']} {job['bytes_done']} {job['attempt']}"
            if state != seen:
                seen, since = state, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                raise DemoError(
                    f"The {job['type']} of {job['collection_name']!r} has not moved for "
                    f"{_PATIENCE_SECONDS / 60:.0f} minutes (it is {job['status']}, {job['phase'] or 'no phase yet'})."
                )
            time.sleep(_POLL_SECONDS)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._call("GET", f"/jobs/{job_id}/events"))

    def backup(self, backup_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/backups/{backup_id}"))

    def add_policy(self, rules: dict[str, Any]) -> None:
        self._post("/policies", rules)

    def add_schedule(self, schedule: dict[str, Any]) -> None:
        self._post("/schedules", schedule)

    def verify(self, backup_id: str) -> dict[str, Any]:
        """Start a verification that opens every part in Qdrant's engine; return its job."""
        return dict(self._post(f"/backups/{backup_id}/verify", {}))

    def newest_job(self, kind: str) -> str:
        """Return the id of the newest job of a type."""
        return str(self._call("GET", f"/jobs?type={kind}&limit=1")["items"][0]["id"])

    def protected_collections(self) -> int:
        """How many collections the overview judges, the unprotected ones among them."""
        return int(self._call("GET", "/protection?limit=1")["total"])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._session.request(method, f"{self.url}/api/v1{path}", json=body, timeout=(5, 60))
        except requests.RequestException as error:
            self._alive()
            raise DemoError(f"The web server at {self.url} does not answer: see its log.") from error
        try:
            document = answer.json()
        except ValueError as error:
            raise DemoError(f"{method} {path} was answered with HTTP {answer.status_code} and no JSON.") from error
        if answer.status_code not in (200, 202):
            status = document.get("status") if isinstance(document, dict) else None
            reason = status.get("error") if isinstance(status, dict) else "no reason given"
            raise DemoError(f"backupmgr refused {method} {path} (HTTP {answer.status_code}): {reason}")
        return document.get("result", document)  # the list of jobs comes without the envelope
