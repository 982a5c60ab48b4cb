"""Our encoding against the real protobuf library."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.rpc.v1 import tunnel_pb2
from shim import messages

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)
BYTES = st.binary(max_size=300)


def test_the_messages_have_the_fields_that_we_write() -> None:
    fields = [(f.number, f.name) for f in cni_pb2.Call.DESCRIPTOR.fields]
    assert fields == list(enumerate(
        ("container_id", "netns", "ifname", "args", "path", "config", "result", "context"), 1))
    for name in ("Add", "Del", "Check", "GC", "Status"):
        request = getattr(cni_pb2, f"{name}Request").DESCRIPTOR
        assert [(f.number, f.name, f.message_type.name) for f in request.fields] == [(1, "call", "Call")]
    assert [(f.number, f.name) for f in cni_pb2.AddResponse.DESCRIPTOR.fields] == [(1, "result"), (2, "context")]


@given(TEXT, TEXT, TEXT, TEXT, TEXT, BYTES, BYTES, BYTES)
def test_requests_are_written_as_the_library_writes_them(
        container_id: str, netns: str, ifname: str, args: str, path: str, config: bytes, result: bytes, context: bytes,
) -> None:
    call = cni_pb2.Call(container_id=container_id, netns=netns, ifname=ifname, args=args, path=path, config=config,
                        result=result, context=context)
    ours = messages.request(messages.call(container_id, netns, ifname, args, path, config, result, context))
    assert ours == cni_pb2.AddRequest(call=call).SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1 << 21])
def test_lengths_at_the_edges_of_a_varint(size: int) -> None:
    ours = messages.request(messages.call("", "", "", "", "", bytes(size), b"", b""))
    assert cni_pb2.AddRequest.FromString(ours).call.config == bytes(size)


@given(BYTES, BYTES)
def test_responses_are_read_back(result: bytes, context: bytes) -> None:
    message = cni_pb2.AddResponse(result=result, context=context).SerializeToString()
    assert messages.add_response(message) == (result, context)


def test_unknown_fields_of_every_kind_are_skipped() -> None:
    """A newer service may say more: the shim must not mind."""
    more = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x32\x03abc" + b"\x82\x06\x01x"
    known = cni_pb2.AddResponse(result=b"r", context=b"c").SerializeToString()
    for message in (more + known, known + more, known[:3] + more + known[3:]):
        assert messages.add_response(message) == (b"r", b"c")
        assert cni_pb2.AddResponse.FromString(message).result == b"r"


@given(st.binary(max_size=40))
def test_what_does_not_decode_is_refused_as_the_library_does(message: bytes) -> None:
    """We refuse groups, which proto3 has not; else what we take is what the library takes."""
    try:
        ours = messages.add_response(message)
    except messages.BadMessage:
        return
    try:
        theirs = cni_pb2.AddResponse.FromString(message)
    except DecodeError:  # a field number of zero or too large, which we need not care about
        return
    assert ours == (theirs.result, theirs.context)


@given(st.builds(cni_pb2.AddResponse, result=BYTES, context=BYTES), st.data())
def test_a_message_cut_short_is_never_taken_for_more_than_it_is(
        message: cni_pb2.AddResponse, data: st.DataObject) -> None:
    whole = message.SerializeToString()
    cut = whole[:data.draw(st.integers(0, len(whole)))]
    try:
        theirs = cni_pb2.AddResponse.FromString(cut)
    except DecodeError:
        with pytest.raises(messages.BadMessage):
            messages.add_response(cut)
    else:
        assert messages.add_response(cut) == (theirs.result, theirs.context)


def test_another_message_is_refused_or_skipped() -> None:
    other = endpoint_pb2.WorkloadEndpoint(node="n", ports=[endpoint_pb2.NamedPort(port=80)]).SerializeToString()
    assert messages.add_response(other) == (b"", b"n")


PAIR = messages.metadata(b"k", b"v")


@given(st.lists(st.tuples(st.integers(1, 1 << 40), TEXT, BYTES, st.integers(1, 1 << 31), st.text("abc-", min_size=1),
                          BYTES.filter(bool)), max_size=3))
def test_tunnelled_calls_are_what_the_library_reads(
        calls: list[tuple[int, str, bytes, int, str, bytes]]) -> None:
    ours = b"".join(messages.tunnelled(number, method, request, timeout, [messages.metadata(key.encode(), value), PAIR])
                    for number, method, request, timeout, key, value in calls)
    assert tunnel_pb2.CallsRequest.FromString(ours) == tunnel_pb2.CallsRequest(calls=[
        tunnel_pb2.Call(id=number, method=method, request=request, timeout_ms=timeout,
                        metadata=[tunnel_pb2.Metadata(key=key, value=value), tunnel_pb2.Metadata(key="k", value=b"v")])
        for number, method, request, timeout, key, value in calls])


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 16), TEXT, BYTES), max_size=3))
def test_answers_are_read_back(answers: list[tuple[int, int, str, bytes]]) -> None:
    message = tunnel_pb2.CallsResponse(answers=[
        tunnel_pb2.Answer(id=number, status=status, message=text, response=response,
                          trailing=[tunnel_pb2.Metadata(key="k", value=b"v")])
        for number, status, text, response in answers]).SerializeToString()
    assert messages.answers(message) == answers


def test_a_request_for_a_record() -> None:
    request = endpoint_pb2.GetRequest.FromString(messages.get_request("nét", "c1", "eth0"))
    assert request.attachment == cni_pb2.Attachment(network="nét", container_id="c1", ifname="eth0")


@given(st.lists(st.text()))
def test_pod_cidrs_of_a_node(cidrs: list[str]) -> None:
    node = endpoint_pb2.Node(name="n1", labels={"a": "b"}, pod_cidrs=cidrs)
    assert messages.pod_cidrs(endpoint_pb2.GetNodeResponse(node=node).SerializeToString()) == cidrs


@pytest.mark.parametrize("answer", [b"", b"\xff", b"\x0a\x01\xff", b"\x0a\x03\x1a\x01\xff"])
def test_an_answer_without_pod_cidrs(answer: bytes) -> None:
    assert messages.pod_cidrs(answer) == []


@given(st.binary(), st.text(), st.text())
def test_whose_call_it_is(config: bytes, container: str, ifname: str) -> None:
    call = cni_pb2.Call(container_id=container, ifname=ifname, netns="/n", config=config)
    assert messages.attachment(call.SerializeToString()) == (container, ifname)
