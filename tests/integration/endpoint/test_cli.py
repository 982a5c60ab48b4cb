"""`muslin endpoint` on a real service."""

from __future__ import annotations

import asyncio
import json
import sys

import yaml

from tests.integration.endpoint.clients import Client, call, pod
from tests.support.service import Service


async def muslin(service: Service, *arguments: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "endpoint", *arguments, "--endpoint", service.target,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == code, errors.decode()
    return (output or errors).decode()


async def test_lists(service: Service, client: Client) -> None:
    """In all formats, and what is asked for only."""
    await client.apply(pod(labels={"app": "web"}))
    await client.add(call(1), "n1")
    await client.add(call(2, pod="db"), "n2")
    head, first, second = (await muslin(service, "list")).splitlines()
    assert head.split()[:3] == ["ENDPOINT", "NODE", "ADDRESSES"]
    assert (first.split()[:3], second.split()[:3]) == (["prod/web", "n1", "10.0.0.1"], ["prod/db", "n2", "10.0.0.2"])
    listed = json.loads(await muslin(service, "list", "-l", "app == 'web'", "-o", "json"))
    assert [e["attachment"]["container_id"] for e in listed["endpoints"]] == ["c1"]
    assert listed["endpoints"][0]["labels"] == {"app": "web", "calico/k8s_ns": "prod"}
    assert listed["revision"] >= (await client.get(1)).revision
    listed = yaml.safe_load(await muslin(service, "list", "--node", "n2", "-n", "prod", "-o", "yaml"))
    assert [e["pod"] for e in listed["endpoints"]] == ["db"]
    assert "selector, column" in await muslin(service, "list", "-l", "app =", code=1)


async def test_shows_by_every_name(service: Service, client: Client) -> None:
    await client.add(call(1))
    await client.add(call(2, pod="db"))
    for name in ("prod/web", "10.0.0.1", "c1", "net/c1/eth0"):
        shown = json.loads(await muslin(service, "show", name, "-o", "json"))
        assert [e["attachment"]["container_id"] for e in shown["endpoints"]] == ["c1"], name
    assert "10.0.0.2" in await muslin(service, "show", "prod/db")
    for name in ("prod/none", "10.0.0.9", "c9", "net/c9/eth0"):
        assert "Error: " in await muslin(service, "show", name, code=1)


async def test_changes_labels(service: Service, client: Client) -> None:
    await client.add(call(1, config={"name": "net", "type": "muslin"}, args=""))
    await muslin(service, "label", "net/c1/eth0", "a=1", "b=2=3")
    assert dict((await client.get(1)).labels) == {"a": "1", "b": "2=3"}
    shown = json.loads(await muslin(service, "label", "net/c1/eth0", "a-", "-o", "json"))
    assert shown["endpoints"][0]["labels"] == {"b": "2=3"}
    await client.add(call(2))
    assert "prod/web" in await muslin(service, "label", "net/c2/eth0", "a=1", code=1)
