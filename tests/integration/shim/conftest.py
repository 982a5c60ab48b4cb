"""The plugin as it is shipped: both builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plugin import build, has_toolchain


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script launcher."""
    output = tmp_path_factory.mktemp("shim") / "muslin"
    build("script", output).check_returncode()
    return output


@pytest.fixture(scope="session", params=["script", "static"])
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each build of the plugin, installed under the name that Calico's configuration calls."""
    if request.param == "static" and not has_toolchain():
        pytest.skip("no gcc or no static library of Python here: apt-get install gcc libpython3-dev")
    output = tmp_path_factory.mktemp(request.param) / "calico"
    build(request.param, output).check_returncode()
    return output
