"""The plugin as it is shipped: both builds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "scripts/build_shim.py"


def build(mode: str, output: Path) -> Path:
    subprocess.run([sys.executable, BUILD, f"--{mode}", "--output", output], check=True, capture_output=True)
    return output


def has_toolchain() -> bool:
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


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script launcher."""
    return build("script", tmp_path_factory.mktemp("shim") / "muslin")


@pytest.fixture(scope="session", params=["script", "static"])
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each build of the plugin, installed under the name that Calico's configuration calls."""
    if request.param == "static" and not has_toolchain():
        pytest.skip("no gcc or no static library of Python here: apt-get install gcc libpython3-dev")
    return build(request.param, tmp_path_factory.mktemp(request.param) / "calico")
