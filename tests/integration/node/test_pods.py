"""Pods as a runtime makes them, through the shim and all services: dual stack, and what a pod may ask for."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muslin import netns
from services.node.netlink import links
from services.node.netlink.connection import Connection
from services.node.netlink.shaping import rate_of
from tests.integration.node.world import listening, reaches
from tests.support.netns import command, namespace, namespaces
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root

MAC = "02:aa:bb:cc:dd:ee"
OBJECTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: default}}
---
apiVersion: v1
kind: Pod
metadata:
  name: asking
  namespace: default
  annotations:
    cni.projectcalico.org/hwAddr: "{MAC}"
    kubernetes.io/ingress-bandwidth: 80M
    kubernetes.io/egress-bandwidth: 8M
spec: {{containers: [{{name: main, image: none}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: wrong, namespace: default, annotations: {{muslin.dev/hwAddr: "01:00:5e:00:00:01"}}}}
spec: {{containers: [{{name: main, image: none}}]}}
"""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        for address in ("10.1.0.1", "fd00:1::1"):
            command(made.node, "ip", "address", "add", address, "dev", "lo")
        (tmp_path / "objects.yaml").write_text(OBJECTS)
        await asyncio.to_thread(muslin, made, "ipam", "pool", "create", "six", "fd00:10::/64")
        await asyncio.to_thread(muslin, made, "apply", "-f", str(tmp_path / "objects.yaml"))
        yield made


def muslin(stack: Stack, *line: str) -> None:
    done = subprocess.run([sys.executable, "-m", "muslin.cli.main", *line, "--run-dir", str(stack.run)],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


def dual(stack: Stack, **more: Any) -> dict[str, Any]:
    return stack.configuration(cniVersion="1.1.0", ipam={"type": "muslin-ipam", "assign_ipv6": "true"}) | more


async def added(stack: Stack, pod: Pod, config: dict[str, Any]) -> dict[str, Any]:
    done = await stack.invoke("ADD", pod, config)
    assert done.status == 0, done
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def addresses(answer: dict[str, Any]) -> list[str]:
    return [ip["address"].partition("/")[0] for ip in answer["ips"]]


async def test_pods_of_both_families_reach_each_other_and_check_finds_them_well(stack: Stack) -> None:
    config = dual(stack)
    with namespaces(2, "pod") as (first, second):
        pods = [Pod("one", first), Pod("two", second)]
        answers = [await added(stack, pod, config) for pod in pods]
        assert [len(addresses(answer)) for answer in answers] == [2, 2]
        assert all(answer["interfaces"][ip["interface"]]["sandbox"] == str(pod.netns)
                   for pod, answer in zip(pods, answers, strict=True) for ip in answer["ips"])
        assert [route["dst"] for route in answers[0]["routes"]] == ["0.0.0.0/0", "::/0"]
        with listening(second, 80, ipv6=True):
            for address in addresses(answers[1]):
                assert await asyncio.to_thread(reaches, first, address, 80, timeout=10)
                assert await asyncio.to_thread(reaches, stack.node, address, 80, timeout=10)
        done = await stack.invoke("CHECK", pods[0], config | {"prevResult": answers[0]})
        assert done.status == 0, done
        command(second, "ip", "-6", "route", "del", "default")
        done = await stack.invoke("CHECK", pods[1], config | {"prevResult": answers[1]})
        assert "route ::/0 via fe80::ecee:eeff:feee:eeee of eth0 is missing" in done.error["msg"], done
        for pod in pods:
            assert (await stack.invoke("DEL", pod, config)).status == 0
    assert stack.leftovers() == {}


async def test_a_pod_gets_the_mac_address_and_the_rates_that_it_asks_for(stack: Stack) -> None:
    """By annotation; the runtime's own wish comes first."""
    with namespaces(2, "pod") as (one, two), Connection(stack.node) as host:
        answer = await added(stack, Pod("one", one, name="asking"), dual(stack))
        assert [i["mac"] for i in answer["interfaces"]] == ["ee:ee:ee:ee:ee:ee", MAC]
        outer = links.get(host, answer["interfaces"][0]["name"])
        assert outer
        assert rate_of(host, outer.index) == 10_000_000
        with Connection(one) as inside:
            assert rate_of(inside, netns.run(one, lambda: socket.if_nametoindex("eth0"))) == 1_000_000
            command(one, "tc", "qdisc", "del", "dev", "eth0", "root")
        done = await stack.invoke("CHECK", Pod("one", one, name="asking"), dual(stack, prevResult=answer))
        assert "eth0 is held to no bytes a second, not 1000000" in done.error["msg"], done
        theirs = {"mac": "02:00:00:00:00:77", "bandwidth": {"ingressRate": 16_000_000}}
        config = dual(stack, runtimeConfig=theirs, capabilities={"mac": True, "bandwidth": True})
        answer = await added(stack, Pod("two", two, name="other"), config)
        assert answer["interfaces"][1]["mac"] == "02:00:00:00:00:77"
        outer = links.get(host, answer["interfaces"][0]["name"])
        assert outer
        assert rate_of(host, outer.index) == 2_000_000


async def test_a_mac_address_that_no_interface_can_have_is_refused_and_nothing_is_left(stack: Stack) -> None:
    with namespace("pod") as pod:
        done = await stack.invoke("ADD", Pod("one", pod, name="wrong"), dual(stack))
        assert done.status != 0
        assert "annotation muslin.dev/hwAddr 01:00:5e:00:00:01" in done.error["msg"]
    assert stack.leftovers() == {}


async def test_an_attachment_that_is_added_again_after_a_reboot_keeps_its_addresses(stack: Stack) -> None:
    """The namespace and the veth went without a DEL; the runtime repeats its ADD for a new namespace."""
    with namespaces(2, "pod") as (before, after):
        first = await added(stack, Pod("one", before), dual(stack))
        netns.delete(before.name)
        again = await added(stack, Pod("one", after), dual(stack))
        assert addresses(again) == addresses(first)
        with listening(after, 80, ipv6=True):
            for address in addresses(again):
                assert await asyncio.to_thread(reaches, stack.node, address, 80, timeout=10)
