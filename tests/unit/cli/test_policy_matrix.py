"""`muslin policy matrix -f`: the same pairs as a table, as values and as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from muslin.cli.main import cli
from tests.unit.cli.policy_world import SHOP, muslin, write

EXAMPLE = Path(__file__).parents[3] / "examples/three-tier"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_example_is_as_packets_were_seen_to_go() -> None:
    """The example's README shows a matrix of real packets; without any, the same rows come out."""
    lines = muslin("matrix", "-f", str(EXAMPLE)).splitlines()
    probed = (EXAMPLE / "README.md").read_text().splitlines()
    begin = next(i for i, line in enumerate(probed) if line.startswith("   from"))
    assert lines[:13] == probed[begin:begin + 13]
    assert lines[-1] == "✓ allowed   ✗ denied   198 flows, 43 allowed, 155 denied"


def test_for_programs(tmp_path: Path) -> None:
    found = json.loads(muslin("matrix", "-f", write(tmp_path), "--outside", "10.0.0.1", "-o", "json"))
    assert [item["pod"] for item in found["pods"]] == ["10.0.0.1", "shop/web", "shop/db"]
    assert {(flow["from"], flow["to"], flow["port"], flow["verdict"]) for flow in found["flows"]} == {
        ("10.0.0.1", "shop/web", 80, "allow"), ("10.0.0.1", "shop/db", 5432, "allow"),
        ("10.0.0.1", "shop/db", 53, "deny"), ("shop/db", "shop/web", 80, "allow"),
        ("shop/web", "shop/db", 5432, "allow"), ("shop/web", "shop/db", 53, "deny")}
    assert {(flow["policy"], flow["rule"]) for flow in found["flows"] if flow["from"] == "10.0.0.1"
            and flow["port"] == 5432} == {("knp.default.shop.db", "spec.ingress[1]")}


def test_pods_and_ports_are_selected(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP + "---\n" + SHOP.split("---\n")[1].replace("shop", "default"))
    for selection, pods in ((["-n", "shop"], ["shop/web", "shop/db"]), (["-l", "app == 'web'"], ["shop/web",
                            "default/web"]), (["-n", "shop", "-l", "app == 'db'"], ["shop/db"])):
        found = json.loads(muslin("matrix", "-f", file, *selection, "--port", "7/sctp", "-o", "json"))
        assert [item["pod"] for item in found["pods"]] == pods
        assert all(item["ports"] == [{"protocol": "SCTP", "port": 7}] for item in found["pods"])
    assert "no pod is selected" in muslin("matrix", "-f", file, "-n", "none", code=1)
    assert "selector, column" in muslin("matrix", "-f", file, "-l", "app =", code=1)
    assert "--port '70000'" in muslin("matrix", "-f", file, "--port", "70000", code=2)
    assert "not an IP address" in muslin("matrix", "-f", file, "--outside", "x", code=1)


def test_a_pod_without_known_ports_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP.replace("ports: [{containerPort: 80}]", ""))
    assert "no port is known of shop/web; name some with --port" in muslin("matrix", "-f", file)


def test_the_picture_has_a_stripe_for_each_flow_inside_its_bounds() -> None:
    found = json.loads(muslin("matrix", "-f", str(EXAMPLE), "-o", "json"))
    root = ElementTree.fromstring(muslin("matrix", "-f", str(EXAMPLE), "-o", "svg"))
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    tips = {}
    boxes = []
    for shape in root.iter(f"{SVG}rect"):
        x, y, wide, high = (int(shape.attrib.get(name, "0")) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + wide <= width
        assert 0 <= y < y + high <= height
        if (tip := shape.find(f"{SVG}title")) is not None and tip.text:
            tips[tip.text.partition(":")[0]] = shape.attrib["class"]
            boxes.append((x, y, wide, high))
    expected = {f"{flow['from']} to {flow['to']} {flow['port']}{'/udp' if flow['protocol'] == 'UDP' else ''}":
                flow["verdict"] for flow in found["flows"]}
    assert tips == expected
    by_row: dict[int, list[tuple[int, int]]] = {}
    for x, y, wide, _ in boxes:
        by_row.setdefault(y, []).append((x, wide))
    assert len(by_row) == 12
    for row in by_row.values():
        assert all(x + wide <= after for (x, wide), (after, _) in zip(sorted(row), sorted(row)[1:], strict=False))
    for text in root.iter(f"{SVG}text"):  # monospace letters of 11 pixels are less than 6.7 wide
        length = len(text.text or "") * 6.7
        if match := re.match(r"translate\((\d+),(\d+)\)", text.attrib.get("transform", "")):
            assert int(match[1]) + length * 0.71 <= width
            assert int(match[2]) - length * 0.71 >= 0
        elif text.attrib.get("text-anchor") == "end":
            assert int(text.attrib["x"]) - length >= 0


def test_the_picture_in_the_readme_is_what_the_command_makes() -> None:
    assert (EXAMPLE.parents[1] / "docs/three-tier.svg").read_text() == muslin("matrix", "-f", str(EXAMPLE), "-o", "svg")


def test_names_are_escaped_in_the_picture() -> None:
    """What a name could be is for the reader to refuse; the picture is well-formed whatever it is."""
    from muslin.cli.play.flows import PlayedPort
    from muslin.cli.policy.matrix import Matrix
    from muslin.cli.policy.svg import picture
    assert ElementTree.fromstring(picture(Matrix({"<&>/\"": (PlayedPort("TCP", 1),)}, {}))) is not None


def test_help_names_every_format() -> None:
    assert {"svg", "png"} <= {choice for option in cli.commands["policy"].commands["matrix"].params  # type: ignore[attr-defined]
                     if option.name == "form" for choice in option.type.choices}  # (groups and choices, as declared)
