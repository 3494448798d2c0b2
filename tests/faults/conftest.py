"""scripts/ is a folder of programs; its libraries are found as the programs find them."""

from __future__ import annotations

import sys

from tests.support import REPOSITORY

sys.path.insert(1, str(REPOSITORY / "scripts"))
