"""VERSION."""

from __future__ import annotations

import json

import pytest

from tests.conformance import schema
from tests.conformance.runtime import Runtime, error_of
from tests.conformance.table import must

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


@must("VERSION", "prints its own version and those it supports, and exits with 0", "5, Version", since="0.2.0")
async def test_shape(runtime: Runtime) -> None:
    done = await runtime.call("VERSION", config={"cniVersion": runtime.version})
    assert done.status == 0, done
    answer = json.loads(done.stdout)
    assert schema.faults_of_versions(answer) == []
    assert runtime.version in answer["supportedVersions"]


@must("VERSION", "cniVersion of the answer is that of the input", "2, VERSION", since="1.0.0")
async def test_echo(runtime: Runtime) -> None:
    done = await runtime.call("VERSION", config={"cniVersion": runtime.version})
    assert json.loads(done.stdout)["cniVersion"] == runtime.version


@must("VERSION", "has no parameters: an empty input is no error", "0.4.0, VERSION", since="0.2.0", until="0.4.0",
      each=False)
async def test_without_input(runtime: Runtime) -> None:
    done = await runtime.plugin.call("VERSION", b"", {})
    assert done.status == 0, done
    assert schema.faults_of_versions(json.loads(done.stdout)) == []


@must("VERSION", "a version that is not among the supported ones is answered with those", "2, VERSION", each=False)
async def test_of_another_version(runtime: Runtime) -> None:
    done = await runtime.call("VERSION", config={"cniVersion": "9.9.9"})
    assert done.status == 0, done
    assert json.loads(done.stdout)["supportedVersions"] == list(runtime.plugin.versions)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("wanted", ["9.9.9", "0.9.0", "1.0", "newest"])
@must("VERSION", "a configuration in a version that it does not support: code 1", "5, Error", each=False)
async def test_incompatible(runtime: Runtime, wanted: str, verb: str) -> None:
    attachment = runtime.sandbox()
    error_of(await runtime.call(verb, attachment, runtime.config(cniVersion=wanted)), 1)


@must("VERSION", "every version listed is served: ADD and DEL", "2, VERSION")
async def test_every_version_is_served(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    await runtime.add(attachment)
    await runtime.delete(attachment)
