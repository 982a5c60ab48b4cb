"""Netlink messages: what is written is what is read, and answers mean what the kernel means."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node.errors import KernelError
from services.node.netlink import links
from services.node.netlink.attributes import attribute, be32, nested, pairs, parse, text, u32
from services.node.netlink.connection import NLM_F_ACK_TLVS, NLM_F_CAPPED, Reply, describe_error, messages_in


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_come_back(listed: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in listed)
    assert len(data) % 4 == 0
    assert [(kind, bytes(value)) for kind, value in pairs(data)] == listed


@given(st.binary(max_size=60))
def test_damaged_attributes_end_the_walk(data: bytes) -> None:
    """Nothing is read past the end, and the walk ends."""
    assert sum(4 + len(value) for _, value in pairs(data)) <= len(data)


def test_an_attribute_too_long_is_refused() -> None:
    """Its length has 16 bits; a truncated one would be read as something else."""
    with pytest.raises(struct.error):
        attribute(1, bytes(65_532))


def test_the_veth_message_has_both_ends() -> None:
    """Checked against the layout in linux/if_link.h and linux/veth.h, not against the code's own constants."""
    request = links.create_veth("mus1", "ee:ee:ee:ee:ee:ee", "eth0", "02:00:00:00:00:01", 1400, 7)
    assert (request.kind, request.flags) == (16, 0x608)  # RTM_NEWLINK; CREATE | EXCL | ECHO
    assert request.body[:16] == bytes(16)
    outer = parse(request.body[16:])
    assert bytes(outer[3]) == b"mus1\0"
    assert bytes(outer[1]) == b"\xee" * 6
    assert bytes(outer[4]) == struct.pack("I", 1400)
    info = parse(outer[18])
    assert bytes(info[1]) == b"veth\0"
    peer = parse(info[2])[1]
    inner = parse(peer[16:])
    assert (bytes(inner[3]), bytes(inner[1])) == (b"eth0\0", b"\x02\0\0\0\0\x01")
    assert (bytes(inner[4]), bytes(inner[28])) == (struct.pack("I", 1400), struct.pack("I", 7))


def test_an_mtu_of_zero_is_left_to_the_kernel() -> None:
    request = links.create_veth("mus1", "ee:ee:ee:ee:ee:ee", "eth0", "02:00:00:00:00:01", 0, 7)
    outer = parse(request.body[16:])
    assert 4 not in outer
    assert 4 not in parse(parse(parse(outer[18])[2])[1][16:])


def test_a_link_is_read() -> None:
    body = struct.pack("BxHiII", 0, 1, 12, 0x1043, 0) + text(3, "mus1") + attribute(1, b"\xee" * 6) + u32(4, 1500) \
        + attribute(20, b"muslin:net/c/eth0\0") + u32(5, 2) + u32(27, 9) + attribute(16, b"\6") \
        + nested(18, text(1, "veth"))
    assert links.parse_link(Reply(16, 0, 1, memoryview(body))) == links.Link(
        12, "mus1", "veth", "muslin:net/c/eth0", "ee:ee:ee:ee:ee:ee", 1500, True, 9, 2, True)


def error_message(number: int, flags: int, *extra: bytes, quoted: bytes = b"") -> Reply:
    header = struct.pack("IHHII", 16 + len(quoted), 16, 5, 1, 0)
    body = struct.pack("i", -number) + header + quoted + b"".join(extra)
    raw = struct.pack("IHHII", 16 + len(body), 2, flags, 1, 0) + body
    return next(messages_in(raw))


@pytest.mark.parametrize(("flags", "quoted"), [(NLM_F_ACK_TLVS | NLM_F_CAPPED, b""), (NLM_F_ACK_TLVS, b"request.")])
def test_the_kernels_own_words_are_in_the_error(flags: int, quoted: bytes) -> None:
    """Extended acknowledgements, behind a request that is quoted whole or in part."""
    reply = error_message(errno.EINVAL, flags, text(1, "mtu out of range"), quoted=quoted)
    assert describe_error(reply) == (errno.EINVAL, "mtu out of range")


def test_an_offset_says_where() -> None:
    reply = error_message(errno.ENOENT, NLM_F_ACK_TLVS | NLM_F_CAPPED, u32(2, 44))
    assert describe_error(reply) == (errno.ENOENT, "at byte 44 of the message")


def test_an_acknowledgement_is_no_error() -> None:
    assert describe_error(error_message(0, NLM_F_CAPPED)) == (0, "")


def test_a_kernel_error_says_what_and_why() -> None:
    error = KernelError(errno.EEXIST, "make veth mus1", "", 3)
    assert (error.errno, error.index, error.message) == (errno.EEXIST, 3, "make veth mus1: File exists")


def test_numbers_of_nf_tables_are_in_network_order() -> None:
    assert be32(1, -3) == b"\x08\0\x01\0\xff\xff\xff\xfd"
