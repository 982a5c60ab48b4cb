"""docker-compose.yml and its companions hold together, and fit the programs that they start. No Docker is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROCESSES = ("ipam", "endpoint", "policy", "node")
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("muslin/")}


def image(service: dict[str, Any]) -> str:
    return str(service["image"]).removeprefix("muslin/").partition(":")[0]


def volumes(service: dict[str, Any]) -> dict[str, str]:
    """Where each named volume of a service is mounted."""
    return dict(volume.split(":")[:2] for volume in service.get("volumes", []) if not volume.startswith("./"))


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert "privileged" not in service
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    allowed = {"node": {"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"},
               "cli": {"CHOWN", "DAC_OVERRIDE", "FOWNER"}}
    assert set(service.get("cap_add", ())) <= allowed.get(image(service), set())


def test_every_key_is_its_owners_alone() -> None:
    made = volumes(SERVICES["certs"])
    for name, service in OURS.items():
        if name in ("certs", "certs-authority"):
            continue
        keys = [volume for volume in volumes(service) if volume.startswith("certs-")]
        assert len(keys) == 1, f"{name} has {keys}"
        assert keys[0] in made
    assert {volume for volume, _ in made.items()} <= set(COMPOSE["volumes"])
    users = {volume: {image(service) for service in OURS.values() if volume in volumes(service)} - {"cli"}
             for volume in made}
    assert all(len(images) <= 1 for images in users.values()), users
    assert users["certs-authority"] == set()


def test_every_volume_and_network_that_is_used_is_declared() -> None:
    for name, service in SERVICES.items():
        assert set(volumes(service)) <= set(COMPOSE["volumes"]), name
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"]), name


def test_one_of_each_answers_to_the_names_of_all_replicas() -> None:
    replicas = {name for name, service in SERVICES.items() if service.get("profiles") == ["ha"]}
    aliases = {alias for service in SERVICES.values() if service.get("profiles") == ["single"]
               for alias in service["networks"]["control"]["aliases"]}
    assert aliases == replicas


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_set_is_an_option_of_the_process(process: str) -> None:
    said = subprocess.run([sys.executable, "-P", "-m", f"services.{process}", "--help"], capture_output=True, text=True,
                          check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout
    options = set(re.findall(r"--[a-z-]+", said))
    for name, service in OURS.items():
        if image(service) == process:
            wanted = {"--" + key.removeprefix("MUSLIN_").lower().replace("_", "-") for key in service["environment"]}
            assert wanted <= options, f"{name} sets what services.{process} does not know: {wanted - options}"


def test_the_dashboard_shows_metrics_that_exist() -> None:
    sources = "\n".join(path.read_text() for folder in ("muslin", "services") for path in (ROOT / folder).rglob("*.py"))
    dashboard = json.loads((ROOT / "docker/observe/muslin.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for name in {found.removesuffix("_bucket") for expr in shown for found in re.findall(r"\bmuslin_\w+", expr)}:
        assert f'"{name}"' in sources, name


def test_everything_that_has_metrics_is_asked_for_them() -> None:
    asked = yaml.safe_load((ROOT / "docker/observe/prometheus.yml").read_text())["scrape_configs"]
    names = {name for job in asked for source in job.get("dns_sd_configs", ()) for name in source["names"]}
    names |= {target.partition(":")[0] for job in asked for source in job.get("static_configs", ())
              for target in source["targets"]}
    assert names == {name for name, service in SERVICES.items() if service.get("profiles", ["ha"]) == ["ha"]
                     and (image(service) in PROCESSES or image(service) == "etcd")}
