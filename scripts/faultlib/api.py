"""backupmgr over its own REST API. Unlike the demo's client it forgives a web server that is away for a moment."""

from __future__ import annotations

import time
from typing import Any

import requests

from .errors import FaultsError

ENDED = ("completed", "failed", "cancelled")
_AWAY_SECONDS = 30.0


class Refused(Exception):
    """The API said no; `status` is the HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Api:
    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/jobs/{job_id}"))

    def create_job(self, **request: Any) -> str:
        return str(self.call("POST", "/jobs", request)["id"])

    def cancel_job(self, job_id: str) -> None:
        self.call("POST", f"/jobs/{job_id}/cancel")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/jobs/{job_id}/events"))

    def backups(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/backups?limit=100")["items"])

    def wait(self, job_id: str, seconds: float, *statuses: str) -> dict[str, Any]:
        """Poll until the job has one of these statuses (by default: has ended) or the time is over; return it."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if job["status"] in (statuses or ENDED) or time.monotonic() > deadline:
                return job
            time.sleep(0.05)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return `result` (a page as it is). Raises: Refused, FaultsError when nobody answers for long."""
        deadline = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                answer = requests.request(
                    method, f"{self.url}/api/v1{path}", json=body, headers={"api-key": self._token}, timeout=(5, 60)
                )
            except requests.RequestException as error:
                # Only a request that was never taken is sent again.
                never_taken = isinstance(error, requests.ConnectTimeout) or "refused" in str(error)
                if (method != "GET" and not never_taken) or time.monotonic() > deadline:
                    raise FaultsError(
                        f"The web server does not answer {method} {path}: {type(error).__name__}"
                    ) from error
                time.sleep(0.1)
                continue
            if answer.status_code >= 500 and method == "GET" and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            break
        try:
            document = answer.json()
        except ValueError as error:
            raise FaultsError(f"{method} {path} was answered with HTTP {answer.status_code} and no JSON.") from error
        if answer.status_code >= 400:
            raise Refused(answer.status_code, str(document["status"]["error"]))
        return document.get("result", document)
