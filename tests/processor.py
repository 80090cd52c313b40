"""What this machine's processor can do."""

from pathlib import Path

import pytest

_CPU = Path("/proc/cpuinfo")

needs_vnni = pytest.mark.skipif(
    _CPU.exists() and "vnni" not in _CPU.read_text(),
    reason="INT8 here is that of a processor with VNNI; recipes/README.md says what one without it gives",
)
