"""Configurations as libcni reads them, and the environment it calls plugins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muslin.cli.play import cni
from muslin.cli.play.sandbox import LONGEST_NAME, name_of
from muslin.errors import Corrupt, InvalidArgument, IOFailure, NotFound

RECORDER = """#!/bin/sh
cat > "$PLUGIN_OUT/$CNI_COMMAND-$(basename "$0").in"
env > "$PLUGIN_OUT/$CNI_COMMAND-$(basename "$0").env"
echo "$CNI_COMMAND-$(basename "$0")" >> "$PLUGIN_OUT/order"
[ "$CNI_COMMAND" = DEL ] && exit
printf '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.%s/32"}]}' "$(wc -l < "$PLUGIN_OUT/order")"
"""
FAILURE = """#!/bin/sh
cat > /dev/null
echo '{"cniVersion": "1.0.0", "code": 11, "msg": "try again later", "details": "ipam"}'
exit 1
"""
BOX = cni.Sandbox("shop", "web", "u-1", "c" * 64, "/run/netns/x")


def plugin(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(script)
    (directory / name).chmod(0o755)


def test_a_single_configuration_reaches_its_plugin_as_it_was_written() -> None:
    raw = b'{ "name": "n",\n\t"type": "t", "odd":  1.0 }\n'
    network = cni.parse(raw, "x.conf")
    assert (network.name, network.chained, network.plugins) == ("n", False, [cni.Plugin("t", raw)])


def test_the_state_directory_is_set_too() -> None:
    """Where the plugin puts deletions off, and the node daemon looks for them."""
    entry, = cni.parse(b'{"name": "n", "type": "t"}', "x", "/s", "/state").plugins
    assert json.loads(entry.config)["muslin"] == {"socket": "/s", "state_dir": "/state"}


def test_the_socket_is_set_where_the_configuration_has_none() -> None:
    for raw, socket in ((b'{"name": "n", "type": "t"}', "/s"),
                        (b'{"name": "n", "type": "t", "muslin": {"socket": "/own"}}', "/own")):
        [entry] = cni.parse(raw, "x.conf", "/s").plugins
        assert json.loads(entry.config)["muslin"] == {"socket": socket}


@pytest.mark.parametrize(("raw", "kind", "message"), [
    (b"garbage", Corrupt, "x.conf is not JSON"),
    (b"[]", Corrupt, "not a JSON object"),
    (b'{"type": "t"}', InvalidArgument, "x.conf: name must be"),
    (b'{"name": "n"}', InvalidArgument, "x.conf: type must be"),
    (b'{"name": "n", "type": "../t"}', InvalidArgument, "without a path"),
    (b'{"name": "n", "plugins": []}', InvalidArgument, "plugins must be"),
    (b'{"name": "n", "plugins": [{}]}', InvalidArgument, "x.conf: plugins[0]: type must be"),
])
def test_bad_configurations(raw: bytes, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        cni.parse(raw, "x.conf")
    assert message in str(caught.value)


async def test_a_plugin_sees_what_libcni_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGIN_OUT", str(tmp_path))
    plugin(tmp_path, "t", RECORDER)
    raw = b'{"name": "n",  "type": "t"}'
    await cni.add(cni.parse(raw, "x.conf"), BOX, ["/nowhere", str(tmp_path)])
    assert (tmp_path / "ADD-t.in").read_bytes() == raw
    environment = dict(line.split("=", 1) for line in (tmp_path / "ADD-t.env").read_text().splitlines())
    assert environment["CNI_CONTAINERID"] == "c" * 64
    assert environment["CNI_NETNS"] == "/run/netns/x"
    assert environment["CNI_IFNAME"] == "eth0"
    assert environment["CNI_PATH"] == f"/nowhere:{tmp_path}"
    assert environment["CNI_ARGS"] == ("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;"
                                       f"K8S_POD_INFRA_CONTAINER_ID={'c' * 64};K8S_POD_UID=u-1")
    assert environment["TRACEPARENT"].startswith("00-")


async def test_a_chain_hands_results_on_and_is_undone_in_reverse(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libcni: every plugin has the list's name and version, and the result before it; DEL has the last result."""
    monkeypatch.setenv("PLUGIN_OUT", str(tmp_path))
    plugin(tmp_path, "one", RECORDER)
    plugin(tmp_path, "two", RECORDER)
    chain = b'{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}, {"type": "two", "x": 1}]}'
    network = cni.parse(chain, "x.conflist")
    result = await cni.add(network, BOX, [str(tmp_path)])
    await cni.delete(network, BOX, [str(tmp_path)], result)
    first, second = (json.loads((tmp_path / f"ADD-{name}.in").read_text()) for name in ("one", "two"))
    assert first == {"type": "one", "name": "n", "cniVersion": "1.0.0"}
    assert second["prevResult"]["ips"] == [{"address": "10.0.0.1/32"}]
    assert second["x"] == 1
    assert json.loads((tmp_path / "DEL-one.in").read_text())["prevResult"] == json.loads(result)
    assert (tmp_path / "order").read_text().split() == ["ADD-one", "ADD-two", "DEL-two", "DEL-one"]


async def test_a_plugins_error_is_shown_with_code_and_details(tmp_path: Path) -> None:
    plugin(tmp_path, "t", FAILURE)
    network = cni.parse(b'{"name": "n", "type": "t"}', "x.conf")
    with pytest.raises(IOFailure, match=r"ADD of shop/web by t failed: code 11: try again later \(ipam\)"):
        await cni.add(network, BOX, [str(tmp_path)])
    plugin(tmp_path, "t", "#!/bin/sh\necho broken >&2; exit 2\n")
    with pytest.raises(IOFailure, match="failed: broken"):
        await cni.add(network, BOX, [str(tmp_path)])
    with pytest.raises(NotFound, match="plugin 't' is not in /nowhere; build it with `make shim`"):
        await cni.add(network, BOX, ["/nowhere"])


def test_names_of_namespaces_are_short_and_never_the_same() -> None:
    assert name_of("shop", "web-1") == "muslin-shop.web-1"
    assert name_of("a-b", "c") != name_of("a", "b-c")
    long = {name_of("n" * 63, "p" * 252 + letter) for letter in "ab"}
    assert len(long) == 2
    assert max(map(len, long)) <= LONGEST_NAME
