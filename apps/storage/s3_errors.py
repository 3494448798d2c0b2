"""What the refusals of S3 endpoints and of the way to them mean, in our words.

The messages name endpoint and bucket. What the server wrote is left out but for its error code: a message about a
signature holds the access key and the signed text.
"""

from __future__ import annotations

import re
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    IncompleteReadError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectionFailed
from botocore.exceptions import HTTPClientError as TransportFailed
from urllib3.exceptions import HTTPError as Urllib3Error

from apps.core.causes import is_refused_certificate
from apps.core.retry_after import parse_retry_after
from apps.storage.errors import (
    BucketMissing,
    StorageDenied,
    StorageError,
    StorageFault,
    StorageFull,
    StorageRefused,
    StorageUnreachable,
    StorageUntrusted,
)

#: Everything that botocore and what lies below it raise when a call fails. ValueError: an endpoint that is none.
FAILURES = (ClientError, BotoCoreError, Urllib3Error, OSError, ValueError)

_KEY_UNKNOWN = {"InvalidAccessKeyId", "InvalidAccessKey", "InvalidClientTokenId"}
_SIGNATURE = {"SignatureDoesNotMatch"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401", "NotSignedUp"}
_TOKEN = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "301"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507", "EntityTooLarge", "InsufficientCapacity"}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "429", "503"}
_BUSY |= {"ServiceUnavailable", "RequestTimeout", "XMinioServerNotInitialized"}
#: A server that does not know an option answers one of these; some ignore it instead.
_REFUSED = {"NotImplemented", "XNotImplemented", "InvalidRequest", "InvalidArgument", "UnsupportedHeader", "501"}
_REFUSED |= {"MalformedXML", "UnsupportedOperation"}

_NEEDED = "s3:ListBucket, GetObject, PutObject, DeleteObject, AbortMultipartUpload and the listing of uploads and parts"


def code_of(error: BaseException) -> str:
    """Return the error code of an S3 answer; the HTTP status when it has none; '' when there was no answer."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code") or _status(error))


def is_missing(error: BaseException) -> bool:
    """Tell whether an object is not there (an answer to HEAD has no body, and so no code)."""
    return code_of(error) in {"NoSuchKey", "NotFound", "404"}


def is_taken(error: BaseException) -> bool:
    """Tell whether If-None-Match found something under the key."""
    return code_of(error) in {"PreconditionFailed", "412"}


def is_denied(error: BaseException) -> bool:
    """Tell whether the server knows who asks, and does not allow it."""
    return code_of(error) in {"AccessDenied", "Forbidden", "403"}


def is_refused_option(error: BaseException) -> bool:
    """Tell whether the server may have refused one of the request's options (checksum, condition)."""
    return code_of(error) in _REFUSED


def storage_error(place: str, error: BaseException) -> StorageError:
    """Return the StorageError that `error` means; `place` names endpoint and bucket, without credentials."""
    if isinstance(error, ClientError):
        meaning = _answered(place, code_of(error), _status(error))
        meaning.retry_after_seconds = parse_retry_after(_header(error, "retry-after"))
        return meaning
    # botocore keeps the reason as text when it comes from a proxy.
    if is_refused_certificate(error) or (isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)):
        return StorageUntrusted(
            f"No trusted TLS connection to {place}: check its certificate, or enter the CA that signed it."
        )
    if isinstance(error, SSLError):
        return StorageUnreachable(
            f"The TLS connection to {place} broke or was refused: does it speak TLS there, with a certificate?"
        )
    if isinstance(error, ConnectTimeoutError):
        return StorageUnreachable(f"No connection to {place} in time: check the endpoint, firewall and proxy.")
    if isinstance(error, ReadTimeoutError):
        return StorageUnreachable(f"No answer from {place} in time: it is overloaded or hangs; try again later.")
    if isinstance(error, ParamValidationError | ValueError) and not isinstance(error, OSError):
        return StorageDenied(f"The settings of {place} cannot be used: check endpoint, bucket, region and prefix.")
    if isinstance(error, ConnectionFailed):
        return StorageUnreachable(f"No connection to {place}: check the endpoint, and that the service runs.")
    if isinstance(error, IncompleteReadError | TransportFailed | Urllib3Error | OSError):
        return StorageUnreachable(f"The connection to {place} broke: try again, and check the network if it stays so.")
    return StorageRefused(f"{place} could not be used ({type(error).__name__}): check the settings of the storage.")


def _answered(place: str, code: str, status: int) -> StorageError:
    if code == "NoSuchBucket":
        return BucketMissing(f"The bucket of {place} does not exist: create it, or correct its name.")
    if code in _KEY_UNKNOWN:
        return StorageDenied(f"{place} does not know the access key: correct it in the storage's settings.")
    if code in _SIGNATURE:
        return StorageDenied(f"{place} refused the signature: correct the secret key (and the region).")
    if code in _TOKEN:
        return StorageDenied(f"{place} refused the credentials as expired or invalid: enter a lasting pair of keys.")
    if code in _CLOCK:
        return StorageDenied(f"{place} refused the request's time: set this host's clock.")
    if code in _REGION or status == 301:
        return StorageDenied(f"{place} belongs to another region: correct region and endpoint.")
    if code in _FULL or status == 507:
        return StorageFull(f"{place} has no room left (or a quota is used up): free space or raise the quota.")
    if code in _DENIED or status in (401, 403):
        return StorageDenied(f"{place} denied access: check both keys, and that they are allowed {_NEEDED}.")
    if code in _BUSY or status in (429, 503):
        return StorageFault(f"{place} is overloaded or out of service right now ({_clean(code)}): try again later.")
    if code in {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}:
        return StorageFault(f"{place} received other bytes than were sent (checksum): check network and memory.")
    if code == "NoSuchUpload":
        return StorageFault(f"{place} lost an unfinished upload: check its rules for cleaning up, and try again.")
    kind = StorageRefused if 400 <= status < 500 else StorageFault
    return kind(f"{place} answered with an error ({_clean(code)}, HTTP {status}): look into its log.")


def _status(error: ClientError) -> int:
    metadata: Any = error.response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode") or 0)


def _header(error: ClientError, name: str) -> str | None:
    metadata: Any = error.response.get("ResponseMetadata", {})
    value = (metadata.get("HTTPHeaders") or {}).get(name)
    return None if value is None else str(value)


def _clean(code: str) -> str:
    """Keep an error code that looks like one; it comes from the other side."""
    return code if re.fullmatch(r"[A-Za-z0-9._-]{1,60}", code) else "unknown code"
