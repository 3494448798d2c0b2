"""The four categories of anticipated errors; every room subclasses them beside the code that raises them.

    BackupmgrError
      InvalidRequest   what was asked makes no sense, or is not allowed as things stand
      NotFound         what was named does not exist
      Conflict         it clashes with work under way or with what is already there
      Unavailable      another system (Qdrant, a storage) refused, failed or did not answer

A message is one sentence a person can act on: what failed and what to do. It never holds a secret nor an address
with credentials: it is shown in the admin, answered by the API and kept with the job.
"""

from __future__ import annotations


class BackupmgrError(Exception):
    """An anticipated error; `str(error)` is the sentence for the operator."""

    #: HTTP status the API answers with when this error ends a request.
    http_status = 400
    #: Whether the same call may succeed later with nothing changed (a cut connection: yes; a wrong key: no).
    #: A job that ended with such an error is tried again by itself (apps/jobs/retry.py).
    transient = False
    #: What the other side said about when to ask again (Retry-After); None when it said nothing.
    retry_after_seconds: float | None = None


class InvalidRequest(BackupmgrError):
    """What was asked makes no sense, or is not allowed as things stand."""

    http_status = 400


class Unprocessable(InvalidRequest):
    """Well formed, but not acceptable."""

    http_status = 422


class NotFound(BackupmgrError):
    """What was named does not exist."""

    http_status = 404


class Conflict(BackupmgrError):
    """It clashes with work under way or with what is already there."""

    http_status = 409


class Unavailable(BackupmgrError):
    """Another system refused, failed or did not answer."""

    http_status = 503
    transient = True
