"""HTTP to receivers: short time-outs, no redirects, and only to where connections may lead."""

from __future__ import annotations

from typing import Any

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter

from apps.alerts.senders.errors import NotDelivered
from apps.core.outbound import Guard, current_guard

#: What a receiver says about a refusal; more is of no use.
_ANSWER_BYTES = 200


class _GuardedAdapter(HTTPAdapter):
    """Checks the peer of every connection once it stands."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager = self.poolmanager
        manager.pool_classes_by_scheme = self._guard.pools(manager.pool_classes_by_scheme)


def call(method: str, url: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    """Send one request; return the status, which is 2xx. Raises: NotDelivered, AddressRefused."""
    guard = current_guard(url)
    timeout = settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS
    with requests.Session() as session:
        session.trust_env = False
        session.mount(url.partition("://")[0] + "://", _GuardedAdapter(guard))
        try:
            answer = session.request(
                method,
                url,
                data=body,
                headers={"User-Agent": "backupmgr", **(headers or {})},
                timeout=(timeout, timeout),
                allow_redirects=False,
                stream=True,
            )
            with answer:
                # Not more than that is read: a receiver must not be able to keep us with an endless answer.
                said = answer.raw.read(_ANSWER_BYTES, decode_content=False) or b""
        except requests.Timeout as error:
            raise NotDelivered(f"The receiver did not answer within {timeout:g} s.") from error
        except requests.exceptions.SSLError as error:
            raise NotDelivered("The receiver's certificate is not valid.") from error
        except (requests.RequestException, OSError) as error:
            raise NotDelivered(f"The receiver cannot be reached ({type(error).__name__}).") from error
    if 300 <= answer.status_code < 400:
        raise NotDelivered("The receiver redirects to another address: enter that one.")
    if not 200 <= answer.status_code < 300:
        words = said.decode("utf-8", "replace").strip().splitlines()
        clause = (
            f": {words[0][:120]}" if words and answer.headers.get("Content-Type", "").startswith("text/plain") else ""
        )
        raise NotDelivered(f"The receiver answered {answer.status_code}{clause}.")
    return answer.status_code
