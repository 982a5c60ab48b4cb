"""The plugin's process against real gRPC servers: the order of calls, what travels, rollback and time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from muslin import errors
from muslin.api.cni.v1 import cni_pb2
from tests.support.chain import ATTACHMENT, SERVICES, Chain, Relay, configuration, extended, invoke, serving

FORWARD = [{"ipam.Add", "policy.Add"}, {"endpoint.Add"}, {"node.Add"}]
BACKWARD = [{"node.Del", "endpoint.Del"}, {"policy.Del", "ipam.Del"}]
AT_ONCE = {"ipam": 1, "policy": 1, "endpoint": 2, "node": 3}
"""How many stages of ADD have begun when a service is asked."""


def back_from(stage: int) -> list[set[str]]:
    """What is undone of an ADD that came to that stage, counted from 1."""
    came = {step.replace("Add", "Del") for each in FORWARD[:stage] for step in each}
    return [each & came for each in BACKWARD if each & came]


def stages(chain: Chain) -> list[set[str]]:
    """What was asked, in the order of the stages; within a stage there is none."""
    found, steps = [], list(chain.steps)
    for stage in FORWARD + BACKWARD:
        if part := set(steps[:len(stage)]) & stage:
            found.append(part)
            del steps[:len(part)]
    assert steps == []
    return found


STEPS = ["ipam", "endpoint", "node"]
"""Whose results the result is made of."""


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "muslin.sock"


@pytest.fixture
async def chain(socket: Path) -> AsyncIterator[Chain]:
    services = Chain()
    async with serving(services, socket):
        yield services


async def test_add_hands_result_and_context_along_and_prints_the_last_result(
        plugin: Path, chain: Chain, socket: Path) -> None:
    config = json.dumps(configuration(socket, extra={"kept": "as it was"}), indent=3).encode()
    done = await invoke(plugin, "ADD", config)
    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"cniVersion": "1.1.0", "steps": STEPS}
    assert stages(chain) == FORWARD
    before = {"ipam": ([], []), "policy": ([], []), "endpoint": (["ipam"], ["ipam", "policy"]),
              "node": (["ipam", "endpoint"], ["ipam", "policy", "endpoint"])}
    for asked in chain.asked:
        result, context = before[asked.service]
        assert json.loads(asked.call.result or b"{}").get("steps", []) == result
        assert json.loads(asked.call.context or b"{}") == dict.fromkeys(context, True)
        asked.call.ClearField("result")
        asked.call.ClearField("context")
        assert asked.call == cni_pb2.Call(container_id="c1", netns="/run/netns/c1", ifname="eth0", args="A=b;C=d",
                                          path="/opt/cni/bin", config=config)
        assert 15 < asked.remaining < 30


async def test_ipam_and_policy_are_asked_at_once(plugin: Path, chain: Chain, socket: Path) -> None:
    """Neither answers before both were asked."""
    both = asyncio.Barrier(2)
    for service in ("ipam", "policy"):
        async def met(request: cni_pb2.AddRequest, _: object, service: str = service) -> cni_pb2.AddResponse:
            await both.wait()
            return extended(service, request.call)
        chain.behaviours[f"{service}.Add"] = met
    assert (await invoke(plugin, "ADD", configuration(socket))).status == 0


async def test_all_calls_use_one_connection_and_one_request_id(
        plugin: Path, chain: Chain, socket: Path, tmp_path: Path) -> None:
    chain.fails("node.Add", grpc.StatusCode.INTERNAL, "so that there is a rollback too")
    relay = Relay()
    async with relay.between(tmp_path / "relay.sock", socket):
        await invoke(plugin, "ADD", configuration(tmp_path / "relay.sock"))
    assert stages(chain) == FORWARD + BACKWARD
    assert relay.connections == 1
    assert len({asked.metadata["traceparent"] for asked in chain.asked}) == 1


async def test_bytes_may_arrive_in_any_pieces(script: Path, chain: Chain, socket: Path, tmp_path: Path) -> None:
    async with Relay().between(tmp_path / "relay.sock", socket, piece=3):
        done = await invoke(script, "ADD", configuration(tmp_path / "relay.sock", fill="f" * 5000))
    assert json.loads(done.stdout)["steps"] == STEPS


async def test_the_runtimes_trace_goes_on(plugin: Path, chain: Chain, socket: Path) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await invoke(plugin, "ADD", configuration(socket), {**ATTACHMENT, "TRACEPARENT": parent})
    sent, = {asked.metadata["traceparent"] for asked in chain.asked}
    assert (sent[:36], sent[52:]) == (parent[:36], parent[52:])
    assert {asked.metadata["muslin-invocation"].split()[::2] == ["ADD", "00f067aa0ba902b7"]
            for asked in chain.asked} == {True}


async def test_del_goes_backwards_and_prints_nothing(plugin: Path, chain: Chain, socket: Path) -> None:
    environment = {name: value for name, value in ATTACHMENT.items() if name != "CNI_NETNS"}
    done = await invoke(plugin, "DEL", configuration(socket), environment)
    assert (done.status, done.stdout, done.stderr) == (0, b"", "")
    assert stages(chain) == BACKWARD
    assert {asked.call.netns for asked in chain.asked} == {""}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_failed_add_is_rolled_back_from_the_step_that_failed(
        plugin: Path, chain: Chain, socket: Path, service: str) -> None:
    chain.fails(f"{service}.Add", grpc.StatusCode.RESOURCE_EXHAUSTED, "no address left in pool “default” 100%")
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (103, f"{service}: no address left in pool “default” 100%")
    assert stages(chain) == FORWARD[:AT_ONCE[service]] + back_from(AT_ONCE[service])
    undone = chain.asked[-1].call
    assert (undone.container_id, undone.ifname, undone.result, undone.context) == ("c1", "eth0", b"", b"")


async def test_an_attachment_that_exists_already_is_left_alone(plugin: Path, chain: Chain, socket: Path) -> None:
    """Rolling back would take the address and the record from the pod that runs with them."""
    chain.fails("node.Add", grpc.StatusCode.ALREADY_EXISTS, "eth0 exists")
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (101, "node: eth0 exists")
    assert "rolled back nothing" in error["details"]
    assert stages(chain) == FORWARD


async def test_the_first_error_is_reported_when_the_rollback_fails_too(
        plugin: Path, chain: Chain, socket: Path) -> None:
    chain.fails("endpoint.Add", grpc.StatusCode.ABORTED, "lost a race")
    chain.fails("policy.Del", grpc.StatusCode.INTERNAL, "broken")
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (11, "endpoint: lost a race")
    assert "policy failed too: broken (INTERNAL)" in error["details"]
    assert "rolled back endpoint, ipam" in error["details"]
    assert stages(chain) == FORWARD[:2] + back_from(2)


async def test_a_hanging_step_is_cancelled_and_rolled_back_within_the_time(
        plugin: Path, chain: Chain, socket: Path) -> None:
    """Its outcome is unknown, so it is undone with the others; the rollback has time of its own."""
    given_up = chain.hangs("endpoint.Add")
    began = time.monotonic()
    error = (await invoke(plugin, "ADD", configuration(socket, muslin={"timeout": 2}))).error
    assert 1.4 < time.monotonic() - began < 2.5
    assert error["code"] == 11
    assert error["msg"] == f"endpoint: no answer from unix:{socket} within 1.5 s"
    assert stages(chain) == FORWARD[:2] + back_from(2)
    async with asyncio.timeout(5):
        await given_up.wait()


async def test_a_service_that_hangs_in_everything_does_not_keep_others_from_their_rollback(
        plugin: Path, chain: Chain, socket: Path) -> None:
    chain.hangs("node.Add")
    chain.hangs("node.Del")
    began = time.monotonic()
    error = (await invoke(plugin, "ADD", configuration(socket, muslin={"timeout": 2}))).error
    assert time.monotonic() - began < 2.5
    assert error["code"] == 11
    assert error["msg"].startswith("node: no answer from ")
    assert "rolled back endpoint, policy;" in error["details"]
    assert stages(chain) == [*FORWARD, BACKWARD[0], {"policy.Del"}], "the address may be in use by the veth"


async def test_del_goes_on_past_errors_and_reports_the_first(plugin: Path, chain: Chain, socket: Path) -> None:
    chain.hangs("node.Del")
    chain.fails("policy.Del", grpc.StatusCode.INTERNAL, "broken")
    error = (await invoke(plugin, "DEL", configuration(socket, muslin={"timeout": 1}))).error
    assert (error["code"], error["msg"]) == (11, f"node: no answer from unix:{socket} within 0.5 s")
    assert "policy failed too: broken (INTERNAL)" in error["details"]
    assert stages(chain) == [BACKWARD[0], {"policy.Del"}]


@pytest.mark.parametrize(("command", "verb"), [("CHECK", "Check"), ("STATUS", "Status"), ("GC", "GC")])
async def test_the_other_commands_ask_all(plugin: Path, chain: Chain, socket: Path, command: str, verb: str) -> None:
    done = await invoke(plugin, command, configuration(socket))
    assert (done.status, done.stdout) == (0, b"")
    assert sorted(chain.steps) == sorted(f"{service}.{verb}" for service in SERVICES)
    if command == "GC":
        assert chain.steps[:2] == ["node.GC", "endpoint.GC"]


@pytest.mark.parametrize(("command", "verb", "code"), [("CHECK", "Check", 2), ("STATUS", "Status", 2), ("GC", "GC", 2)])
async def test_what_a_service_does_not_serve_is_said(
        plugin: Path, chain: Chain, socket: Path, command: str, verb: str, code: int) -> None:
    chain.fails(f"node.{verb}", grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    assert (await invoke(plugin, command, configuration(socket))).error["code"] == code


async def test_status_that_is_not_ready_is_plugin_not_available(plugin: Path, chain: Chain, socket: Path) -> None:
    """CNI 1.1, "STATUS": 50, not "try again later"."""
    chain.fails("policy.Status", grpc.StatusCode.UNAVAILABLE, "not in sync")
    assert (await invoke(plugin, "STATUS", configuration(socket))).error["code"] == 50
    chain.fails("node.Status", grpc.StatusCode.FAILED_PRECONDITION, "the policy of running pods may be old")
    error = (await invoke(plugin, "STATUS", configuration(socket))).error
    assert (error["code"], error["msg"]) == (51, "node: the policy of running pods may be old")
    assert "policy failed too" in error["details"]


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
async def test_every_status_becomes_its_code(script: Path, chain: Chain, socket: Path, status: grpc.StatusCode) -> None:
    chain.fails("ipam.Add", status, "why")
    error = (await invoke(script, "ADD", configuration(socket))).error
    assert error["code"] == errors.CNI_CODE[status.value[0]]
    assert status.name in error["details"]


@pytest.mark.parametrize("size", [40_000, 4 << 20])
async def test_large_configurations_and_results_pass(plugin: Path, chain: Chain, socket: Path, size: int) -> None:
    """Beyond the flow-control windows of both sides, both ways, several times over one connection."""
    async def large(request: cni_pb2.AddRequest, _: object) -> cni_pb2.AddResponse:
        response = extended("ipam", request.call)
        response.context = json.dumps({"fill": "c" * size}).encode()
        return response

    chain.behaviours["ipam.Add"] = large
    done = await invoke(plugin, "ADD", configuration(socket, fill="f" * size))
    assert json.loads(done.stdout)["steps"] == STEPS
    assert [len(json.loads(asked.call.config)["fill"]) for asked in chain.asked] == [size] * 4
    filled = {asked.service: len(json.loads(asked.call.context or b"{}").get("fill", "")) for asked in chain.asked}
    assert filled == {"ipam": 0, "policy": 0, "endpoint": size, "node": size}


async def test_a_large_result_is_printed_whole(plugin: Path, chain: Chain, socket: Path) -> None:
    result = json.dumps({"cniVersion": "1.1.0", "fill": "é" * (2 << 20)}, ensure_ascii=False).encode()

    async def large(request: object, _: object) -> cni_pb2.AddResponse:
        return cni_pb2.AddResponse(result=result)

    chain.behaviours["node.Add"] = large
    assert (await invoke(plugin, "ADD", configuration(socket))).stdout == result


async def test_an_answer_beyond_all_bounds_is_refused(plugin: Path, chain: Chain, socket: Path) -> None:
    async def huge(request: object, _: object) -> cni_pb2.AddResponse:
        return cni_pb2.AddResponse(result=bytes(17 << 20))

    chain.behaviours["ipam.Add"] = huge
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (103, "ipam: an answer of more than 16777216 bytes")
    assert stages(chain) == [FORWARD[0], *back_from(1)]


async def test_a_result_that_is_missing_is_an_error(plugin: Path, chain: Chain, socket: Path) -> None:
    async def nothing(request: object, _: object) -> cni_pb2.AddResponse:
        return cni_pb2.AddResponse()

    chain.behaviours["node.Add"] = nothing
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (5, "node: no result at the end of the chain")
    assert stages(chain) == FORWARD + BACKWARD


async def test_no_socket_is_said_at_once(plugin: Path, socket: Path) -> None:
    began = time.monotonic()
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert time.monotonic() - began < 5
    assert error["code"] == 11
    assert error["msg"] == f"ipam: can not connect to unix:{socket}: No such file or directory"


async def test_services_may_have_sockets_of_their_own(plugin: Path, chain: Chain, socket: Path, tmp_path: Path) -> None:
    other = Chain()
    async with serving(other, tmp_path / "own.sock", ("policy",)):
        config = configuration(socket, muslin={"targets": {"policy": f"unix:{tmp_path}/own.sock"}})
        done = await invoke(plugin, "ADD", config)
    assert json.loads(done.stdout)["steps"] == STEPS
    assert chain.steps == ["ipam.Add", "endpoint.Add", "node.Add"]
    assert other.steps == ["policy.Add"]


async def test_one_service_down_is_named_with_its_socket_and_the_rest_rolled_back(
        plugin: Path, chain: Chain, socket: Path, tmp_path: Path) -> None:
    config = configuration(socket, muslin={"targets": {"endpoint": f"unix://{tmp_path}/gone.sock"}})
    error = (await invoke(plugin, "ADD", config)).error
    assert (error["code"], error["msg"]) == (
        11, f"endpoint: can not connect to unix:{tmp_path}/gone.sock: No such file or directory")
    assert stages(chain) == [FORWARD[0], *back_from(1)]


PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "dummy0", "mac": "02:00:00:00:00:01"}],
            "dns": {"nameservers": ["10.0.0.1"]}}


async def test_what_plugins_before_us_made_is_handed_on(plugin: Path, chain: Chain, socket: Path) -> None:
    done = await invoke(plugin, "ADD", configuration(socket, prevResult=PREVIOUS))
    assert json.loads(done.stdout) == {**PREVIOUS, "steps": STEPS}


@pytest.mark.parametrize("addresses", [{"ips": [{"address": "10.0.0.2/24"}]}, {"ip4": {"ip": "10.0.0.2/24"}}])
async def test_another_plugin_has_given_the_pod_its_interface_already(
        plugin: Path, chain: Chain, socket: Path, addresses: dict[str, object]) -> None:
    """The services would take its addresses for those of our interface."""
    config = configuration(socket, prevResult={**PREVIOUS, **addresses})
    error = (await invoke(plugin, "ADD", config)).error
    assert error["code"] == 7
    assert error["msg"].startswith("prevResult has addresses: this plugin makes the pod's interface")
    assert chain.steps == []
    assert (await invoke(plugin, "DEL", config)).status == 0


async def test_thirty_at_once(plugin: Path, chain: Chain, socket: Path) -> None:
    """Each invocation gets the answers to its own calls."""
    done = await asyncio.gather(*(
        invoke(plugin, "ADD", configuration(socket), {**ATTACHMENT, "CNI_CONTAINERID": f"c{n}"}) for n in range(30)))
    assert [d.status for d in done] == [0] * 30
    for number in range(30):
        found = [a.step for a in chain.asked if a.call.container_id == f"c{number}"]
        assert [set(found[:2]), set(found[2:3]), set(found[3:])] == FORWARD
