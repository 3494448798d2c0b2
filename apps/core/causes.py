"""Why an error came about, in words: the chain of its causes, without secrets, addresses' signatures or code."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException

from apps.core.errors import BackupmgrError

#: Longer chains are loops, or libraries that wrap what they wrapped.
_LONGEST = 20
#: Libraries whose exceptions only wrap what happened below; their own texts hold whole addresses.
_WRAPPERS = ("requests", "urllib3", "botocore", "boto3", "http.client")
_SECRETS = (
    (re.compile(r"(X-Amz-[A-Za-z0-9-]+|Signature|AWSAccessKeyId)=[^&\s\"']+", re.IGNORECASE), r"\1=***"),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://***@"),
    (
        re.compile(r"((?:api[-_]key|authorization|password|token)[\"']?\s*[:=]\s*[\"']?)(?:bearer\s+)?\S+", re.I),
        r"\1***",
    ),
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its cause, the cause of that, and so on; what was raised `from None` has none."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen and len(seen) < _LONGEST:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def is_refused_certificate(error: BaseException) -> bool:
    """Tell whether the other side's TLS certificate was not accepted: that does not pass by itself."""
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in chain(error))


def causes_of(error: BaseException) -> list[str]:
    """Return what lies behind `error`, nearest first, in words for people; empty when nothing more is known.

    The error itself is not among them: its sentence is told anyway. Texts of libraries are left out, since they hold
    addresses with signatures; of an error that nobody foresaw only the kind is named.
    """
    words: list[str] = []
    for each in list(chain(error))[1:]:
        said = _words(each)
        if said and said != str(error) and said not in words:
            words.append(said)
    return words


def mask(text: str) -> str:
    """Return `text` without what looks like a key, a password or a signature. For texts that are not ours."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _words(error: BaseException) -> str:
    if isinstance(error, BackupmgrError):
        return mask(str(error))
    if type(error).__module__.startswith("django.db"):  # by name: the client of Qdrant uses this without Django
        # Its first line says what failed; the others may quote the statement.
        return mask(f"the database: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")
    if isinstance(error, OSError):
        return _words_of_system(error)
    answered = getattr(error, "response", None)
    if isinstance(answered, dict) and isinstance(answered.get("Error"), dict):
        status = answered.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        return mask(f"the storage answered {answered['Error'].get('Code') or 'without a code'} ({status})")
    if isinstance(error, HTTPException) or type(error).__module__.partition(".")[0] in _WRAPPERS:
        return _kind(error)
    return f"an internal error ({type(error).__name__})"


def _words_of_system(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name could not be looked up"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {mask(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'the connection ended'})"
    if isinstance(error, TimeoutError):
        return "it timed out"
    if error.errno:
        words = os.strerror(error.errno)
        return words[0].lower() + words[1:]
    return _kind(error)


def _kind(error: BaseException) -> str:
    """'RemoteDisconnected' -> 'remote disconnected'"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
