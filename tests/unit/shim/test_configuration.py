"""Reading the configuration: defaults, and an error of the right code for everything that can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muslin.cni import versions
from shim import configuration, log
from shim.errors import CniError


def config(**fields: Any) -> bytes:
    return json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "muslin"} | fields).encode()


def failure(raw: bytes, command: str = "ADD") -> tuple[int, str]:
    with pytest.raises(CniError) as caught:
        configuration.parse(raw, command)
    return caught.value.code, caught.value.message


def test_the_shim_serves_the_versions_that_the_services_serve() -> None:
    assert configuration.SUPPORTED == versions.SUPPORTED
    assert (configuration.CURRENT, configuration.DEFAULT_VERSION) == (versions.CURRENT, versions.DEFAULT)


def test_defaults() -> None:
    found = configuration.parse(b'{"name": "net", "type": "calico"}', "ADD")
    assert (found.version, found.timeout) == ("0.1.0", 30.0)
    assert found.targets == dict.fromkeys(("ipam", "policy", "endpoint", "node"), "/run/muslin/muslin.sock")


def test_own_settings() -> None:
    raw = config(muslin={"socket": "unix:/s", "timeout": 2.5, "targets": {"ipam": "unix:///i", "node": "/n"}})
    found = configuration.parse(raw, "ADD")
    assert (found.name, found.state, found.timeout) == ("net", "/var/lib/muslin", 2.5)
    assert found.targets == {"ipam": "/i", "policy": "/s", "endpoint": "/s", "node": "/n"}


def test_the_log_is_set_with_calicos_names() -> None:
    defaults = configuration.parse(config(), "ADD").log
    assert (defaults.level, defaults.path, defaults.size, defaults.count) == (
        log.INFO, "/var/log/muslin/shim.log", 10 << 20, 3)
    own = configuration.parse(config(log_file_path="/l", log_file_max_size=1, log_file_max_count=2), "ADD").log
    assert (own.path, own.size, own.count) == ("/l", 1 << 20, 2)


@pytest.mark.parametrize(("name", "level"), [
    ("DEBUG", log.DEBUG), ("debug", log.DEBUG), ("INFO", log.INFO), ("Warning", log.WARNING), ("warn", log.WARNING),
    ("ERROR", log.ERROR), ("fatal", log.FATAL), ("panic", log.FATAL), ("", log.INFO), ("chatty", log.INFO)])
def test_levels_have_calicos_names(name: str, level: int) -> None:
    assert configuration.parse(config(log_level=name), "ADD").log.level == level


def test_null_is_as_good_as_nothing() -> None:
    raw = config(cniVersion=None, prevResult=None, muslin={"socket": None, "timeout": None, "targets": None})
    found = configuration.parse(raw, "ADD")
    assert (found.version, found.timeout, found.targets["ipam"]) == ("0.1.0", 30.0, "/run/muslin/muslin.sock")


@pytest.mark.parametrize("raw", [
    b"", b" \n", b"garbage", b"{", b"[]", b'"text"', b"null", b"{}x", b"\xff", b'{"a": "\xff"}'])
def test_what_is_not_a_json_object_is_a_decoding_failure(raw: bytes) -> None:
    code, message = failure(raw)
    assert code == 6
    assert "configuration on stdin" in message


@pytest.mark.parametrize("version", ["0.0.1", "1.2.0", "2.0.0", "1.1", "x"])
def test_an_unsupported_version_lists_the_supported_ones(version: str) -> None:
    code, message = failure(config(cniVersion=version))
    assert code == 1
    assert repr(version) in message
    assert ", ".join(versions.SUPPORTED) in message


@pytest.mark.parametrize(("fields", "named"), [
    ({"log_level": 1}, "log_level must be a string, not a number"),
    ({"log_file_path": "shim.log"}, "log_file_path 'shim.log' must be an absolute path"),
    ({"log_file_max_size": 0}, "log_file_max_size must be a number, more than 0 and at most 1000000, not 0"),
    ({"log_file_max_count": "x"}, "log_file_max_count must be a number, more than 0 and at most 1000000, not a string"),
    ({"muslin": {"state_dir": "state"}}, "muslin.state_dir 'state' must be an absolute path"),
    ({"ipam": {"type": "a/b"}}, "ipam.type 'a/b' is not the name of a plugin for addresses"),
    ({"cniVersion": 1}, "cniVersion must be a string, not a number"),
    ({"name": ["x"]}, "name must be a string, not a list"),
    ({"name": ""}, "name is missing"),
    ({"type": {}}, "type must be a string, not an object"),
    ({"type": None}, "type is missing"),
    ({"prevResult": "x"}, "prevResult must be an object, not a string"),
    ({"muslin": []}, "muslin must be an object, not a list"),
    ({"muslin": {"socket": 1}}, "muslin.socket must be a string, not a number"),
    ({"muslin": {"socket": "run/x"}}, "muslin.socket 'run/x' must be a unix socket"),
    ({"muslin": {"socket": "127.0.0.1:1"}}, "muslin.socket '127.0.0.1:1' must be a unix socket"),
    ({"muslin": {"socket": "unix://host/x"}}, "muslin.socket 'unix://host/x' must be a unix socket"),
    ({"muslin": {"socket": "/a\0b"}}, "muslin.socket"),
    ({"muslin": {"socket": "/\ud800"}}, "muslin.socket"),
    ({"muslin": {"socket": "/" + "x" * 107}}, "muslin.socket is longer than the 107 bytes"),
    ({"muslin": {"timeout": "30"}}, "muslin.timeout must be a number of seconds, not a string"),
    ({"muslin": {"timeout": True}}, "muslin.timeout must be a number of seconds, not a boolean"),
    ({"muslin": {"timeout": 0}}, "muslin.timeout must be more than 0"),
    ({"muslin": {"timeout": -1}}, "muslin.timeout must be more than 0"),
    ({"muslin": {"timeout": 601}}, "muslin.timeout must be more than 0 and at most 600"),
    ({"muslin": {"targets": "x"}}, "muslin.targets must be an object, not a string"),
    ({"muslin": {"targets": {"ipam": 1}}}, "muslin.targets.ipam must be a string, not a number"),
    ({"muslin": {"targets": {"ipam": "host:1"}}}, "muslin.targets.ipam 'host:1' must be a unix socket"),
    ({"muslin": {"targets": {"dns": "/x"}}},
     "muslin.targets.dns is not a service; those are ipam, policy, endpoint, node"),
])
def test_a_wrong_value_is_named_by_its_field(fields: dict[str, Any], named: str) -> None:
    code, message = failure(config(**fields))
    assert code == 7
    assert message.startswith(named)


@pytest.mark.parametrize(("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_commands_need_the_version_that_brought_them(command: str, since: str, version: str) -> None:
    raw = config(cniVersion=version)
    if versions.SUPPORTED.index(version) >= versions.SUPPORTED.index(since):
        assert configuration.parse(raw, command).version == version
    else:
        assert failure(raw, command) == (1, f"cniVersion {version} has no {command}; it needs {since} or later")


@pytest.mark.parametrize("version", versions.SUPPORTED)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_every_version_has_add_and_del(command: str, version: str) -> None:
    assert configuration.parse(config(cniVersion=version), command).version == version


@pytest.mark.parametrize(("raw", "version"), [
    (b"", "1.1.0"), (b"{}", "0.1.0"), (b'{"cniVersion": "0.4.0"}', "0.4.0"), (b'{"cniVersion": "9.9"}', "9.9")])
def test_version_is_asked_in_any_version(raw: bytes, version: str) -> None:
    assert configuration.requested_version(raw) == version


@pytest.mark.parametrize(("raw", "version"), [
    (config(cniVersion="0.3.1"), "0.3.1"), (b'{"cniVersion": "9.9"}', "1.1.0"), (b"garbage", "1.1.0"), (b"", "1.1.0"),
    (b'{"cniVersion": 3}', "1.1.0"), (b"{}", "0.1.0")])
def test_errors_are_written_in_the_version_of_the_configuration_if_it_has_one(raw: bytes, version: str) -> None:
    assert configuration.version_for_error(raw) == version
