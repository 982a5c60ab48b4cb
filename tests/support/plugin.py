"""Building the CNI plugin for tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "scripts/build_shim.py"


def build(mode: str, output: Path, *, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the build script, with another PATH if one is given."""
    environment = {**os.environ, "PATH": os.environ["PATH"] if path is None else path}
    return subprocess.run([sys.executable, BUILD, f"--{mode}", "--output", output], capture_output=True, text=True,
                          check=False, env=environment)


def has_toolchain() -> bool:
    """Whether the static build is possible here, as the build script itself sees it."""
    spec = importlib.util.spec_from_file_location("build_shim", BUILD)
    assert spec
    assert spec.loader
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    try:
        builder.toolchain()
    except builder.CanNotBuild:
        return False
    return True
