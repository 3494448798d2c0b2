"""The clock of web server and workers, as if somebody set that of their host.

libfaketime will not do: that of Debian 12 (0.9.10) breaks time.sleep of Python 3.11 whatever it is told to leave alone.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .errors import FaultsError

_SOURCE = Path(__file__).resolve().parent / "clock.c"


class Clock:
    """So many seconds before or after the real time, for every process that has `environment`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = folder / "clock.so"
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set it, at once and for all of them."""
        # Written in place: the processes have mapped this very file.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))

    def environment(self) -> dict[str, str]:
        """Return what puts a process under this clock. Raises: FaultsError when that cannot be done here."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise FaultsError("The clock cannot be set without a C compiler: apt-get install gcc libc6-dev")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl"]
        made = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if made.returncode:
            raise FaultsError(f"The clock cannot be set: {made.stderr.decode(errors='replace').strip()[-300:]}")
        return {"LD_PRELOAD": str(self._library), "FAULTS_CLOCK": str(self._file)}
