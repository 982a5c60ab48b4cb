"""What a runtime may put into the environment, by command."""

from __future__ import annotations

import pytest

from shim import environment
from shim.errors import CniError

ALL = {b"CNI_CONTAINERID": b"c1", b"CNI_NETNS": b"/run/netns/c1", b"CNI_IFNAME": b"eth0", b"CNI_ARGS": b"K=v",
       b"CNI_PATH": b"/opt/cni/bin"}


def problem(environ: dict[bytes, bytes]) -> str:
    with pytest.raises(CniError) as caught:
        environment.read(environ)
    assert caught.value.code == 4
    return caught.value.message


def test_all_variables_are_taken() -> None:
    found = environment.read({b"CNI_COMMAND": b"ADD", b"TRACEPARENT": b"t", **ALL})
    assert {name: getattr(found, name) for name in found.__slots__} == {
        "command": "ADD", "container_id": "c1", "netns": "/run/netns/c1", "ifname": "eth0", "args": "K=v",
        "path": "/opt/cni/bin", "traceparent": "t"}


@pytest.mark.parametrize(("command", "needed"), [
    ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME"]),
    ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ("GC", []), ("STATUS", []), ("VERSION", []),
])
def test_what_a_command_needs_is_named_when_it_is_missing_or_empty(command: str, needed: list[str]) -> None:
    exact = {b"CNI_COMMAND": command.encode()} | {name.encode(): ALL[name.encode()] for name in needed}
    assert environment.read(exact).command == command
    for name in needed:
        for broken in ({**exact, name.encode(): b""}, {k: v for k, v in exact.items() if k != name.encode()}):
            assert problem(broken) == f"{name} must be set for {command}"
    if needed:
        assert problem({b"CNI_COMMAND": command.encode()}).startswith(", ".join(needed))


@pytest.mark.parametrize("command", [b"", b"add", b"UPDATE", b"ADD "])
def test_an_unknown_command_is_named(command: bytes) -> None:
    assert "CNI_COMMAND" in problem({b"CNI_COMMAND": command, **ALL})


@pytest.mark.parametrize("value", [b"-a", b".a", b"_", b"a/b", b"a b", "é".encode(), "aé".encode(), "²".encode()])
def test_container_ids_are_checked(value: bytes) -> None:
    assert "CNI_CONTAINERID" in problem({b"CNI_COMMAND": b"DEL", **ALL, b"CNI_CONTAINERID": value})


@pytest.mark.parametrize("value", [b".", b"..", b"a/b", b"a:b", b"a b", b"a\tb", b"a\nb", b"a" * 16, "é".encode() * 8])
def test_interface_names_are_checked(value: bytes) -> None:
    assert "CNI_IFNAME" in problem({b"CNI_COMMAND": b"ADD", **ALL, b"CNI_IFNAME": value})


@pytest.mark.parametrize("value", [b"a" * 15, b"eth0.1", b"...", "é".encode() * 7])
def test_interface_names_that_linux_allows_pass(value: bytes) -> None:
    assert environment.read({b"CNI_COMMAND": b"ADD", **ALL, b"CNI_IFNAME": value}).ifname == value.decode()


@pytest.mark.parametrize("name", [b"CNI_COMMAND", *ALL])
def test_what_is_not_utf8_is_named(name: bytes) -> None:
    assert problem({b"CNI_COMMAND": b"ADD", **ALL, name: b"\xff"}) == f"{name.decode()} is not UTF-8"


def test_commands_without_an_attachment_ignore_what_is_left_in_the_environment() -> None:
    assert environment.read({b"CNI_COMMAND": b"GC", **ALL, b"CNI_IFNAME": b"no good name/"}).ifname == ""


def test_a_trace_that_is_not_text_is_no_reason_to_fail() -> None:
    assert environment.read({b"CNI_COMMAND": b"ADD", **ALL, b"TRACEPARENT": b"\xff"}).traceparent == ""
