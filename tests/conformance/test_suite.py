"""The suite itself: it tells what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import schema
from tests.conformance.table import Report

ROOT = Path(__file__).parents[2]

OLD: dict[str, Any] = {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1",
                                                      "routes": [{"dst": "0.0.0.0/0"}]}}
NEW: dict[str, Any] = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01",
                                                              "sandbox": "/run/netns/a"}],
                       "ips": [{"address": "fd00::2/64", "interface": 0}], "routes": [{"dst": "::/0"}], "dns": {}}
MIDDLE: dict[str, Any] = {**NEW, "cniVersion": "0.4.0", "ips": [{"address": "10.0.0.2/24", "version": "4"}]}


def test_right_shapes() -> None:
    for document in (OLD, MIDDLE, NEW):
        assert schema.faults_of_result(document, document["cniVersion"]) == []
    assert schema.faults_of_error({"code": 7, "msg": "why"}) == []
    assert schema.faults_of_versions({"cniVersion": "1.0.0", "supportedVersions": ["0.1.0", "1.0.0"]}) == []


@pytest.mark.parametrize(("document", "version", "fault"), [
    (OLD, "0.1.0", "cniVersion is '0.2.0', not that of the configuration, '0.1.0'"),
    (NEW | {"cniVersion": "0.2.0"}, "0.2.0", "ips came with 0.3.0"),
    ({"cniVersion": "0.2.0"}, "0.2.0", "neither ip4 nor ip6 is there"),
    (OLD | {"ip4": {"ip": "10.0.0.2"}}, "0.2.0", "ip4.ip is an address with its prefix length, not '10.0.0.2'"),
    (OLD | {"ip6": {"ip": "10.0.0.2/24"}}, "0.2.0", "ip6.ip is of IPv6, not '10.0.0.2/24'"),
    (OLD | {"cniVersion": "1.0.0"}, "1.0.0", "ip4 went with 0.3.0"),
    (NEW | {"interfaces": []}, "1.0.0", "ips[0].interface is 0, no index into 0 interfaces"),
    (NEW | {"interfaces": [{"name": ""}]}, "1.0.0", "interfaces[0].name is a text, not ''"),
    (NEW | {"interfaces": [{"name": "a", "mac": "x"}]}, "1.0.0", "interfaces[0].mac is a hardware address, not 'x'"),
    (NEW | {"ips": None}, "1.0.0", "ips is a list, not None"),
    (NEW | {"routes": [{"gw": "10.0.0.1"}]}, "1.0.0", "routes[0].dst is an address with its prefix length, not None"),
    (NEW | {"routes": [{"dst": "::/0", "gw": "1.1.1.1"}]}, "1.0.0",
     "routes[0].gw is an address of IPv6, not '1.1.1.1'"),
    (NEW | {"ips": MIDDLE["ips"]}, "1.0.0", "ips[0].version went with 1.0.0"),
    (MIDDLE | {"ips": NEW["ips"]}, "0.4.0", "ips[0].version is '6', not None"),
    (NEW | {"dns": ["10.0.0.1"]}, "1.0.0", "dns is an object, not ['10.0.0.1']"),
    ([], "1.0.0", "a result is an object, not []"),
])
def test_wrong_results(document: Any, version: str, fault: str) -> None:
    assert fault in schema.faults_of_result(document, version)


@pytest.mark.parametrize("document", [[], {}, {"code": 0, "msg": "why"}, {"code": "7", "msg": "why"}, {"code": 7},
                                      {"code": True, "msg": "why"}, {"code": 7, "msg": "why", "details": []}], ids=str)
def test_wrong_errors(document: Any) -> None:
    assert schema.faults_of_error(document) != []


@pytest.mark.parametrize("document", [
    [], {}, {"cniVersion": "1.0.0", "supportedVersions": []}, {"cniVersion": "1", "supportedVersions": ["1.0.0"]},
    {"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.0.0"]},
    {"cniVersion": "1.0.0", "supportedVersions": [1]}], ids=str)
def test_wrong_versions(document: Any) -> None:
    assert schema.faults_of_versions(document) != []


def test_report() -> None:
    report = Report()
    row = ("DEL", "succeeds", "2, DEL")
    for outcome, case in (("failed", "0.1.0"), ("passed", "0.2.0"), ("failed", "1.0.0"), ("skipped", "1.1.0")):
        report.add(row, outcome, case)
    assert list(report.lines()) == ["verb      passed  failed  skipped", "DEL            1       2        1",
                                    "DEL: succeeds [2, DEL]: not so for 0.1.0, 1.0.0"]


SHAM = f"""#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}}' ;;
ADD) echo '{json.dumps(NEW)}' ;;
esac
"""

CAUGHT = ["test_truth_of_the_result", "test_again", "test_interface_of_somebody_else", "test_no_namespace",
          "test_second_interface", "test_previous_result", "test_previous_result_with_addresses", "test_incompatible",
          "test_command", "test_undoes_add", "test_consults_the_previous_result", "test_bad_list"]


@pytest.mark.root
def test_a_sham_is_caught(tmp_path: Path) -> None:
    """A plugin that does nothing and says that all is well passes no row that looks at what was done."""
    plugin, conf = tmp_path / "sham", tmp_path / "sham.conf"
    plugin.write_text(SHAM)
    plugin.chmod(0o755)
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "sham", "type": "sham"}))
    modules = ("version", "errors", "add", "delete", "check", "collect")
    rows = [f"tests/conformance/test_{module}.py" for module in modules]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *rows, "--plugin", plugin, "--conf", conf, "-k", " or ".join(CAUGHT), "-rfps",
         "--tb=no", "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    failed, passed = (set(re.findall(rf"^{outcome} \S*::(test_\w+)", done.stdout, re.MULTILINE))
                      for outcome in ("FAILED", "PASSED"))
    assert (failed, passed) == (set(CAUGHT), set()), done.stdout
