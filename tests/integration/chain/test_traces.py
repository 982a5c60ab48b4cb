"""An ADD is one trace across the plugin and all services; a collector that is away is nobody's trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chain import invoke
from tests.support.collector import Span, collecting
from tests.support.netns import namespace
from tests.support.stack import SHIM, Pod, running

pytestmark = pytest.mark.root

SERVICES = {"muslin-node", "muslin-ipam", "muslin-policy", "muslin-endpoint"}
RUNTIMES = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
"""Trace and span of the runtime."""


def whole(spans: list[Span], command: str) -> list[Span]:
    """The spans of a command's trace once the plugin's own is there, which comes last of a node's, and all others."""
    traces = {span.trace for span in spans if span.name == f"muslin {command}"}
    found = [span for span in spans if span.trace in traces]
    return found if {span.service for span in found} >= SERVICES else []


async def test_an_add_is_one_trace_of_all_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "otlp.sock"
    monkeypatch.setenv("MUSLIN_TRACES", f"unix:{path}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    async with collecting(path) as collector, running(tmp_path) as stack:
        with namespace("pod") as pod:
            one = Pod("traced", pod)
            assert (await stack.invoke("ADD", one)).status == 0
            spans = await collector.until(lambda all_of_them: "etcd txn" in {
                span.name for span in whole(all_of_them, "ADD") if span.service == "muslin-ipam"})
            made = {span.name: span for span in spans}
            by_id = {span.own: span for span in spans}
            root = made["muslin ADD"]
            assert {span.trace for span in spans} == {root.trace}  # nothing else that services do is traced
            assert (root.service, root.parent) == ("muslin-node", "")
            assert all(span.parent in by_id for span in spans if span is not root)
            for package in ("ipam", "policy", "endpoint"):
                passed, served = sorted((span for span in spans if span.name == f"muslin.{package}.v1.Plugin/Add"),
                                        key=lambda span: span.service != "muslin-node")
                assert (passed.service, served.service) == ("muslin-node", f"muslin-{package}")
                assert (by_id[passed.parent], by_id[served.parent]) == (root, passed)
            assert by_id[made["muslin.node.v1.Plugin/Add"].parent] == root
            assert by_id[made["wiring"].parent] == made["muslin.node.v1.Plugin/Add"]
            assert {by_id[span.parent].name for span in spans if span.name == "etcd txn"} >= {
                "muslin.ipam.v1.Plugin/Add", "muslin.endpoint.v1.Plugin/Add"}
            assert all(root.began <= span.began <= span.ended for span in spans if span is not root)

            done = await invoke(SHIM, "DEL", stack.configuration(),
                                {**one.environment, "TRACEPARENT": f"00-{RUNTIMES[0]}-{RUNTIMES[1]}-01"}, timeout=60)
            assert done.status == 0
            spans = await collector.until(lambda all_of_them: bool(whole(all_of_them, "DEL")))
            root = next(span for span in spans if span.name == "muslin DEL")
            assert (root.trace, root.parent) == RUNTIMES


async def test_a_status_is_not_recorded_and_a_collector_that_is_away_not_missed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "otlp.sock"
    monkeypatch.setenv("MUSLIN_TRACES", f"unix:{path}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    async with running(tmp_path) as stack:
        with namespace("pod") as pod:
            assert (await stack.invoke("ADD", Pod("one", pod))).status == 0
            async with collecting(path) as collector:
                configuration = stack.configuration(cniVersion="1.1.0")
                assert (await stack.invoke("STATUS", Pod("one", pod), configuration)).status == 0
                assert (await stack.invoke("DEL", Pod("one", pod))).status == 0
                spans = await collector.until(lambda all_of_them: bool(whole(all_of_them, "DEL")))
            assert not [span for span in spans if span.name.endswith("/Status") or span.name == "muslin STATUS"]
