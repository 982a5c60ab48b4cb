"""`muslin policy test`: expected verdicts, checked by the real engine without anything that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.policy_world import SHOP, muslin, write

EXAMPLE = Path(__file__).parents[3] / "examples/three-tier-checks.yaml"
HEAD = "apiVersion: muslin/v1\nkind: PolicyTest\n"


def suite(folder: Path, *checks: str, head: str = HEAD + "manifests: [shop.yaml]\n") -> str:
    write(folder)
    return write(folder, head + "checks:\n" + "".join(f"  - {check}\n" for check in checks), "checks.yaml")


def test_what_the_example_promises_is_so() -> None:
    assert muslin("test", str(EXAMPLE)) == "13 checks, 13 passed, 0 failed\n"


def test_a_failure_is_shown_with_the_rule_that_decides_and_is_exit_code_3(tmp_path: Path) -> None:
    file = suite(tmp_path, "{from: shop/web, to: shop/db, port: 5432, verdict: deny}",
                 "{from: shop/db, to: shop/web, verdict: allow}")
    lines = muslin("test", file, code=3).splitlines()
    assert lines[0] == f"FAILED {file}, document 1, line 5: expected deny"
    assert lines[1] == "shop/web -> shop/db  TCP 5432: allowed"
    assert lines[4].split() == ["shop/db", "ingress", "default", "knp.default.shop.db", "spec.ingress[0]", "allow",
                                f"{tmp_path}/shop.yaml:24"]
    assert lines[-1] == "2 checks, 1 passed, 1 failed"
    found = json.loads(muslin("test", file, "-o", "json", code=3))
    assert [(check["line"], check["passed"]) for check in found["checks"]] == [(5, False), (6, True)]
    assert found["passed"] is False
    failure, = found["checks"][0]["failures"]
    assert failure["steps"][-1]["line"] == 24


@pytest.mark.parametrize(("check", "code"), [
    ("{from: 10.0.0.0/9, to: shop/db, port: 5432, verdict: allow}", 3),  # but 10.9/16
    ("{from: 10.9.0.0/16, to: shop/db, port: 5432, verdict: deny}", 0),
    ("{from: 10.0.0.0/16, to: shop/db, port: [5432, 5440], verdict: allow}", 0),
    ("{from: 10.0.0.0/16, to: shop/db, port: [5432, 5441], verdict: allow}", 3),
    ("{from: 10.0.0.0/16, to: shop/db, port: 5432, protocol: udp, verdict: deny}", 0),
    ("{from: 10.0.0.0/16, to: shop/db, protocol: udp, verdict: deny}", 0),
    ("{from: 10.0.0.0/16, to: shop/db, verdict: deny}", 3),
    ("{from: 'shop/*', to: 'shop/*', port: 5432, verdict: allow}", 0),
    ("{from: ['*/*', 10.0.0.1], to: shop/db, except: shop/web, port: 1, verdict: deny}", 0),
    ("{from: 192.0.2.1, to: 192.0.2.2, port: 1, verdict: deny}", 3),  # nothing here decides that
])
def test_a_check_is_about_all_flows_that_it_stands_for(check: str, code: int, tmp_path: Path) -> None:
    muslin("test", suite(tmp_path, check), code=code)


def test_objects_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP + "---\n" + HEAD
                 + "checks: [{from: shop/web, to: shop/db, port: 5432, verdict: allow}]\n")
    assert muslin("test", file) == "1 checks, 1 passed, 0 failed\n"


def test_pools_give_the_addresses_that_blocks_are_about(tmp_path: Path) -> None:
    check = "{from: shop/web, to: shop/db, port: 5440, verdict: allow}"
    muslin("test", suite(tmp_path, check), code=3)
    muslin("test", suite(tmp_path, check, head=HEAD + "manifests: shop.yaml\npools: [10.2.0.0/24]\n"))


@pytest.mark.parametrize(("check", "problem"), [
    ("{from: shop/web, to: shop/db, port: 80}", "line 5, column 5: checks[0].verdict: missing; say allow or deny"),
    ("{from: shop/web, to: shop/db, verdict: yes}", "line 5, column 35: checks[0].verdict: must be a string"),
    ("{from: shop/web, to: shop/db, verdict: pass}", "line 5, column 35: checks[0].verdict: 'pass' is not a verdict"),
    ("{from: shop/web, to: shop/db, ports: 80, verdict: deny}", "checks[0].ports: unknown field; did you mean port?"),
    ("{from: shop/web, to: shop/db, port: 0, verdict: deny}", "checks[0].port: 0 is not between 1 and 65535"),
    ("{from: shop/web, to: shop/db, port: [], verdict: deny}", "checks[0].port: must not be empty"),
    ("{from: shop/web, to: shop/db, protocol: icmp, verdict: deny}", "checks[0].protocol: 'ICMP' is not supported"),
    ("{from: shop/w*b?, to: shop/db, verdict: deny}", "checks[0].from: 'shop/w*b?' stands for no pod"),
    ("{from: shop/none, to: shop/db, verdict: deny}", "line 5: checks[0]: FROM: there is no pod 'shop/none'"),
])
def test_what_is_wrong_in_a_check_is_named(check: str, problem: str, tmp_path: Path) -> None:
    file = suite(tmp_path, check)
    message = muslin("test", file, code=1)
    assert message.startswith(f"Error: {file}, document 1, line ")
    assert problem in message


@pytest.mark.parametrize(("head", "problem"), [
    ("apiVersion: muslin/v2\nkind: PolicyTest\n",
     "line 1, column 1: apiVersion: 'muslin/v2' is not supported; say muslin/v1"),
    (HEAD + "manifests: [none/]\n", "manifests[0]: "),
    (HEAD + "pools: [10.0.0.0/33]\n", "pools[0]: not a range of addresses"),
    (HEAD + "pool: x\n", "pool: unknown field; did you mean pools?"),
])
def test_what_is_wrong_in_the_head_is_named(head: str, problem: str, tmp_path: Path) -> None:
    assert problem in muslin("test", suite(tmp_path, "{from: 1.1.1.1, to: shop/db, verdict: deny}", head=head), code=1)


def test_a_file_without_checks_is_no_success(tmp_path: Path) -> None:
    assert "no PolicyTest with checks" in muslin("test", write(tmp_path), code=1)
    assert "no such file" in muslin("test", str(tmp_path / "none"), code=1)
