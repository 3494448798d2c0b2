"""The contestants: each takes a snapshot that lies on the node to its place, and says how long that took.

A whole backup is the making of the snapshot, its transfer and its deletion; a script does these three as our job does.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .bed import Bed, Snapshot
from .processes import BenchError, clean_environment, run, run_python

_CURL = 'curl --silent --show-error --fail --noproxy "*"'


@dataclass(frozen=True)
class Lap:
    """What one contestant did once.

    `cpu_seconds` of the client's processes, for the transfer (ours: the whole job). `memory_bytes` above idle, known of
    our jobs only.
    """

    size_bytes: int
    transfer_seconds: float
    whole_seconds: float
    cpu_seconds: float
    memory_bytes: int = 0
    idle_bytes: int = 0


@dataclass(frozen=True)
class Contestant:
    name: str
    group: str
    run: Callable[[Bed, str], Lap]
    #: A program that not every machine has; without it the contestant does not start.
    needs: str = "sh"


def our_backup(bed: Bed, collection: str, storage: str) -> Lap:
    """A job from claim to completed; its transfer as the job's own events tell it, fsync and checksum included."""
    output = run_python("job_process", ["backup", collection, storage], bed.environment, bed.step_seconds)
    facts = json.loads(output.splitlines()[-1])
    return Lap(
        size_bytes=facts["size_bytes"],
        transfer_seconds=facts["transfer_seconds"],
        whole_seconds=facts["job_seconds"],
        cpu_seconds=facts["cpu_seconds"],
        memory_bytes=facts["peak_bytes"] - facts["idle_bytes"],
        idle_bytes=facts["idle_bytes"],
    )


@dataclass(frozen=True)
class _Used:
    """What a transfer took."""

    seconds: float
    cpu_seconds: float


def _by_script(transfer: Callable[[Bed, Snapshot], _Used]) -> Callable[[Bed, str], Lap]:
    def lap(bed: Bed, collection: str) -> Lap:
        started = time.monotonic()
        with bed.snapshot(collection) as snapshot:
            made = time.monotonic() - started
            used = transfer(bed, snapshot)
            started = time.monotonic()
        whole = made + used.seconds + time.monotonic() - started
        return Lap(snapshot.size_bytes, used.seconds, whole, used.cpu_seconds)

    return lap


def _shell(bed: Bed, script: str, arguments: list[str], environment: dict[str, str]) -> tuple[_Used, str]:
    started, busy = time.monotonic(), _children_cpu()
    output = run(["/bin/sh", "-euc", script, "sh", *arguments], environment, bed.step_seconds)
    return _Used(time.monotonic() - started, _children_cpu() - busy), output


def _children_cpu() -> float:
    """Seconds of CPU of all our children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _to_file(script: str) -> Callable[[Bed, Snapshot], _Used]:
    """`script` gets the address and the file, and prints the file's SHA-256."""

    def transfer(bed: Bed, snapshot: Snapshot) -> _Used:
        file = bed.plain / snapshot.name
        used, output = _shell(bed, script, [snapshot.url, str(file)], clean_environment())
        if output.split()[:1] != [snapshot.sha256] or file.stat().st_size != snapshot.size_bytes:
            raise BenchError("A script stored something else than the snapshot.")
        return used

    return transfer


def _aws(bed: Bed, snapshot: Snapshot) -> _Used:
    # The program beside this interpreter: a shim of the same name costs a second.
    script = f'{_CURL} "$1" | "$2" s3 cp - "$3" --endpoint-url "$4" --only-show-errors'
    arguments = [snapshot.url, str(Path(sys.executable).parent / "aws"), f"s3://{bed.s3.bucket}/aws", bed.s3.endpoint]
    used, _ = _shell(bed, script, arguments, _credentials(bed))
    _check_stored(bed, "aws", snapshot)
    return used


def _naive(bed: Bed, snapshot: Snapshot) -> _Used:
    arguments = [snapshot.url, bed.s3.endpoint, bed.s3.bucket, "naive"]
    output = run_python("naive_upload", arguments, _credentials(bed), bed.step_seconds)
    _check_stored(bed, "naive", snapshot)
    return _Used(*map(float, output.split()))


def _check_stored(bed: Bed, key: str, snapshot: Snapshot) -> None:
    if (found := bed.stored_size(key)) != snapshot.size_bytes:
        raise BenchError(f"{key} stored {found} bytes of {snapshot.size_bytes}.")


def _credentials(bed: Bed) -> dict[str, str]:
    return {
        **clean_environment(),
        "AWS_ACCESS_KEY_ID": bed.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": bed.s3.secret_key,
        "AWS_DEFAULT_REGION": bed.s3.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


OUR_FOLDER = "backupmgr → folder"
SCRIPT_FOLDER = "curl → file; sha256sum"
OUR_S3 = "backupmgr → S3"
AWS = "curl | aws s3 cp -"
NAIVE = "requests → upload_fileobj"

CONTESTANTS = (
    Contestant(OUR_FOLDER, "folder", lambda bed, collection: our_backup(bed, collection, "folder")),
    Contestant(
        SCRIPT_FOLDER,
        "folder",
        _by_script(_to_file(f'{_CURL} --output "$2" "$1"; sha256sum "$2"')),
    ),
    Contestant(
        "curl → file; sha256sum; sync",
        "folder",
        _by_script(_to_file(f'{_CURL} --output "$2" "$1"; sha256sum "$2"; sync "$2"')),
    ),
    Contestant(
        "curl | tee file | sha256sum",
        "folder",
        _by_script(_to_file(f'{_CURL} "$1" | tee "$2" | sha256sum')),
    ),
    # For information: the sha256sum of most distributions does without the processor's instructions for it.
    Contestant(
        "curl → file; openssl sha256",
        "folder",
        _by_script(_to_file(f'{_CURL} --output "$2" "$1"; openssl dgst -sha256 -r "$2"')),
        needs="openssl",
    ),
    Contestant(OUR_S3, "s3", lambda bed, collection: our_backup(bed, collection, "s3")),
    Contestant(AWS, "s3", _by_script(_aws)),
    Contestant(NAIVE, "s3", _by_script(_naive)),
)
