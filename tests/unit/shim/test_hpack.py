"""Header compression against the vectors of RFC 7541, appendix C, and against itself."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import hpack, huffman
from tests.support import huffman as coding

Headers = list[tuple[bytes, bytes]]

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
THIRD = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
         (b"custom-key", b"custom-value")]
REQUESTS = [GET, [*GET, (b"cache-control", b"no-cache")], THIRD]
DATE, LATER = b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"
LOCATION = (b"location", b"https://www.example.com")
RESPONSES = [
    [(b":status", b"302"), (b"cache-control", b"private"), (b"date", DATE), LOCATION],
    [(b":status", b"307"), (b"cache-control", b"private"), (b"date", DATE), LOCATION],
    [(b":status", b"200"), (b"cache-control", b"private"), (b"date", LATER), LOCATION, (b"content-encoding", b"gzip"),
     (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")],
]
TABLE_OF_256 = "3fe101"  # the size that the responses of appendix C assume, announced as the format has it


EXAMPLES = {  # by section: the blocks in order, and what they say
    "C.2.1": (["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], [[(b"custom-key", b"custom-header")]]),
    "C.2.2": (["040c2f73616d706c652f70617468"], [[(b":path", b"/sample/path")]]),
    "C.2.3": (["100870617373776f726406736563726574"], [[(b"password", b"secret")]]),
    "C.2.4": (["82"], [[(b":method", b"GET")]]),
    "C.3": ([
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ], REQUESTS),
    "C.4": ([
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ], REQUESTS),
    "C.5": ([
        TABLE_OF_256 + """4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54
            6e1768747470733a2f2f7777772e6578616d706c652e636f6d""",
        "4803333037c1c0bf",
        """88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b42
            5a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31""",
    ], RESPONSES),
    "C.6": ([
        TABLE_OF_256 + """488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b
            97c8e9ae82ae43d3""",
        "4883640effc1c0bf",
        """88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f
            3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007""",
    ], RESPONSES),
}


@pytest.mark.parametrize("section", EXAMPLES)
def test_the_rfcs_own_examples(section: str) -> None:
    """In order through one decoder: later blocks refer to earlier ones, and entries are evicted in between."""
    blocks, expected = EXAMPLES[section]
    decoder = hpack.Decoder()
    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == expected


@given(st.lists(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=8), max_size=4))
def test_what_is_encoded_is_decoded(lists: list[Headers]) -> None:
    decoder = hpack.Decoder()
    assert [decoder.decode(hpack.encode(headers)) for headers in lists] == lists


@given(st.lists(st.tuples(st.sampled_from(sorted(hpack._NAMES)), st.sampled_from([b"", b"GET", b"200", b"other"]))))
def test_names_of_the_static_table(headers: Headers) -> None:
    assert hpack.Decoder().decode(hpack.encode(headers)) == headers


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=60), st.binary(max_size=60)), min_size=1, max_size=200))
def test_the_table_keeps_the_newest_that_fit(headers: Headers) -> None:
    """Entries inserted one by one, then all read back by index: those of the last 4096 bytes by the RFC's measure."""
    decoder = hpack.Decoder()
    for name, value in headers:
        decoder.decode(b"\x40" + hpack._string(name) + hpack._string(value))
    kept, size = [], 0
    for name, value in reversed(headers):
        size += len(name) + len(value) + 32
        if size > 4096:
            break
        kept.append((name, value))
    indices = range(62, 62 + len(kept))
    assert decoder.decode(b"".join(hpack._integer(index, 7, 0x80) for index in indices)) == kept
    with pytest.raises(hpack.BadHeaders, match="no entry"):
        decoder.decode(hpack._integer(62 + len(kept), 7, 0x80))


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = hpack.Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\x40\x01a" + hpack._string(bytes(4096))) == [(b"a", bytes(4096))]
    with pytest.raises(hpack.BadHeaders, match="no entry 62"):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize(("block", "why"), [
    ("80", "no entry 0"), ("be", "no entry 62"), ("ff", "ends too early"), ("00", "ends too early"),
    ("000361", "a string that ends too early"), ("0001610361", "a string that ends too early"),
    ("ffffffffff0f", "out of range"), ("8220", "table size update after a header"), ("3fe21f", "a table of 4097 bytes"),
    ("00018aff", "a block that ends too early"), ("000161840000ffff", "padding"), ("00016184ffffffff", "end-of-string"),
])
def test_blocks_that_break_the_format(block: str, why: str) -> None:
    with pytest.raises(hpack.BadHeaders, match=why):
        hpack.Decoder().decode(bytes.fromhex(block))


def test_a_small_block_can_not_fill_the_memory() -> None:
    """One entry of 4 KB in the table, then a block of a thousand references to it."""
    decoder = hpack.Decoder()
    decoder.decode(b"\x40\x01a" + hpack._string(bytes(4000)))
    with pytest.raises(hpack.BadHeaders, match="more than 65536 bytes"):
        decoder.decode(b"\xbe" * 1000)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(block: bytes) -> None:
    try:
        headers = hpack.Decoder().decode(block)
    except hpack.BadHeaders:
        return
    assert all(isinstance(part, bytes) for header in headers for part in header)


@given(st.binary(max_size=200))
def test_huffman_there_and_back(text: bytes) -> None:
    assert huffman.decode(coding.encode(text)) == text


def test_the_huffman_code_is_complete() -> None:
    """Kraft's sum is one: 257 symbols, no code unused, none the beginning of another."""
    assert len(huffman._table()) == 257
    assert sum(Fraction(1, 2 ** length) for length, _ in huffman._table()) == 1


@pytest.mark.parametrize("code", [b"\xff", b"\xff\xff\xff\xfc", b"\x00", b"\x1f\xff", b"\x1e"])
def test_bad_huffman_codes(code: bytes) -> None:
    """Eight bits of padding, the end-of-string symbol, padding that is not ones."""
    with pytest.raises(huffman.BadCode):
        huffman.decode(code)
