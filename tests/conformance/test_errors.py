"""What a runtime may get wrong: the environment and the configuration on stdin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.conformance import kernel
from tests.conformance.runtime import Runtime, error_of
from tests.conformance.subject import Attachment
from tests.conformance.table import must
from tests.support.netns import namespace

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

ENVIRONMENT, DECODING, CONFIGURATION = 4, 6, 7


@pytest.fixture(scope="module")
def spare() -> Iterator[Attachment]:
    """A sandbox that stays empty: everything here is refused."""
    with namespace("spare") as path:
        yield Attachment("spare", path)


Refusal = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def refused(runtime: Runtime, spare: Attachment) -> Refusal:
    """Make a call that differs from one that would succeed only in what it is given; nothing is done for it.

    Without a configuration it has the network's. Gives the error, which has one of the codes.
    """
    async def refused(verb: str, *codes: int, config: dict[str, Any] | bytes | None = None,
                      **environment: str | None) -> dict[str, Any]:
        given = {name: value for name, value in {**spare.environment, **environment}.items() if value is not None}
        before = kernel.glance(runtime.plugin.node), runtime.plugin.held()
        done = await runtime.plugin.call(verb, runtime.config() if config is None else config, given)
        error = error_of(done, *codes)
        assert (kernel.glance(runtime.plugin.node), runtime.plugin.held()) == before
        assert kernel.glance(spare.netns)[0] == {"lo"}
        return error
    return refused


async def _names_the_variable(refused: Refusal, verb: str, variable: str) -> None:
    error = await refused(verb, ENVIRONMENT, **{variable: None})
    assert variable in error["msg"] + error.get("details", ""), error


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@must("ADD", "a required variable is missing: code 4, and the message names it", "2, ADD; 5, Error", each=False)
async def test_add_without(refused: Refusal, variable: str) -> None:
    await _names_the_variable(refused, "ADD", variable)


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
@must("DEL", "a required variable is missing: code 4, and the message names it", "2, DEL; 5, Error", each=False)
async def test_del_without(refused: Refusal, variable: str) -> None:
    await _names_the_variable(refused, "DEL", variable)


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@must("CHECK", "a required variable is missing: code 4, and the message names it", "2, CHECK; 5, Error",
      since="0.4.0", each=False)
async def test_check_without(refused: Refusal, variable: str) -> None:
    await _names_the_variable(refused, "CHECK", variable)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("container", ["", "-c", ".c", "_c", "a/b", "a b", "a:b", "ä", "a\n"])
@must("ADD", "a container id begins with a letter or digit; then those, '_', '.' and '-': else code 4",
      "2, Parameters", since="0.4.0", each=False)
async def test_container_id(refused: Refusal, container: str, verb: str) -> None:
    await refused(verb, ENVIRONMENT, CNI_CONTAINERID=container)


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("ifname", ["", "e" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb", "a\n"])
@must("ADD", "an interface's name is one that Linux takes: else code 4", "2, Parameters", since="0.4.0", each=False)
async def test_ifname(refused: Refusal, ifname: str, verb: str) -> None:
    await refused(verb, ENVIRONMENT, CNI_IFNAME=ifname)


@pytest.mark.parametrize(("container", "ifname"), [
    ("0", "e"), ("A-b_c.d", "e" * 15), ("f" * 64, "eth0.1-x_y"), ("9" * 128, "ä@€")])
@must("ADD", "every container id and name of an interface that the rules allow is taken", "2, Parameters", each=False)
async def test_names_at_the_edge(runtime: Runtime, container: str, ifname: str) -> None:
    attachment = runtime.sandbox(container, ifname)
    before = runtime.plugin.traces()
    await runtime.add(attachment)
    await runtime.delete(attachment)
    assert runtime.plugin.traces() == before


@pytest.mark.parametrize("command", ["", "NOTHING", "add", "ADD ", None])
@must("ADD", "a CNI_COMMAND that there is not: code 4, and the message names it", "2, Parameters; 5, Error",
      each=False)
async def test_command(refused: Refusal, command: str | None) -> None:
    error = await refused("", ENVIRONMENT, CNI_COMMAND=command)
    assert "CNI_COMMAND" in error["msg"] + error.get("details", ""), error


_NOT_JSON = [b"", b" \n", b"nothing", b'{"cniVersion": "1.0.0"', b"[]", b'"text"', b"\xff\xfe", b"{} {}"]


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("raw", _NOT_JSON, ids=repr)
@must("ADD", "an input that does not decode: code 6", "5, Error", each=False)
async def test_input_that_does_not_decode(refused: Refusal, raw: bytes, verb: str) -> None:
    await refused(verb, DECODING, config=raw)


@pytest.mark.parametrize("raw", _NOT_JSON, ids=repr)
@must("CHECK", "an input that does not decode: code 6", "5, Error", since="0.4.0", each=False)
async def test_input_of_check_that_does_not_decode(refused: Refusal, raw: bytes) -> None:
    await refused("CHECK", DECODING, config=raw)


@pytest.mark.parametrize("field", [{"cniVersion": 1}, {"name": 5}, {"type": ["a"]}, {"ipam": "here"}], ids=repr)
@must("ADD", "a field of the wrong type is an error", "1, Plugin configuration objects", each=False)
async def test_field_of_the_wrong_type(runtime: Runtime, refused: Refusal, field: dict[str, Any]) -> None:
    await refused("ADD", config=runtime.config(**field))


@pytest.mark.parametrize("name", [None, "", "-net", "a/b", "a b", "a\nb", "ä"])
@must("ADD", "a network's name is there, begins with a letter or digit; then those, '_', '.' and '-': else code 7",
      "1; 5, Error", since="0.4.0", each=False)
async def test_name_of_the_network(runtime: Runtime, refused: Refusal, name: str | None) -> None:
    config = runtime.config(name=name)
    if name is None:
        del config["name"]
    await refused("ADD", CONFIGURATION, config=config)


@must("ADD", "an error has a cniVersion that the plugin supports", "5, Error")
async def test_error_has_a_version(runtime: Runtime, refused: Refusal) -> None:
    error = await refused("ADD", CNI_CONTAINERID="-")
    assert error.get("cniVersion") in runtime.plugin.versions


@must("ADD", "where the configuration was read, cniVersion of an error is that of the configuration", "5, Error")
async def test_error_has_the_version(runtime: Runtime, refused: Refusal) -> None:
    error = await refused("ADD", CNI_NETNS="/nowhere")
    assert error.get("cniVersion") == runtime.version


@must("ADD", "whatever goes wrong, stdout has the error and nothing else, and the exit is not 0", "5, Error")
async def test_error_alone(refused: Refusal) -> None:
    await refused("ADD", CNI_NETNS="/nowhere")
