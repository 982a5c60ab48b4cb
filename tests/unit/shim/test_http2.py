"""The HTTP/2 state machine, fed with frames as servers of all manners might send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import frames, hpack
from shim.frames import ConnectionFault, frame
from shim.http2 import WINDOW, Http2, Response

REQUEST = [(b":method", b"POST"), (b":path", b"/x")]
OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]


def opened(body: bytes = b"body", limit: int = 1 << 20) -> tuple[Http2, Response]:
    """A connection with one request on its way."""
    http2 = Http2(limit)
    response = http2.open(REQUEST, body)
    return http2, response


def sent(http2: Http2) -> list[tuple[int, int, int, bytes]]:
    """The frames in the outbox, which is emptied."""
    outbox = bytes(http2.outbox).removeprefix(frames.PREFACE)
    http2.outbox.clear()
    out = []
    while outbox:
        size = int.from_bytes(outbox[:3], "big")
        out.append((outbox[3], outbox[4], int.from_bytes(outbox[5:9], "big"), outbox[9:9 + size]))
        outbox = outbox[9 + size:]
    return out


def headers(fields: list[tuple[bytes, bytes]], flags: int = frames.END_HEADERS, stream: int = 1) -> bytes:
    return frame(frames.HEADERS, flags, stream, hpack.encode(fields))


def answer(body: bytes = b"answer", stream: int = 1) -> bytes:
    return (headers(OK, stream=stream) + frame(frames.DATA, 0, stream, body)
            + headers(TRAILERS, frames.END_HEADERS | frames.END_STREAM, stream))


def test_a_connection_begins_with_preface_settings_and_window() -> None:
    http2 = Http2(1)
    assert bytes(http2.outbox).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    first, second = sent(http2)
    assert (first[:3], dict(frames.read_settings(first[3]))) == ((frames.SETTINGS, 0, 0), {2: 0, 4: WINDOW})
    assert second == (frames.WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))


def test_a_request_is_headers_and_data_on_odd_streams() -> None:
    http2, _ = opened()
    *_, head, data = sent(http2)
    assert head[:3] == (frames.HEADERS, frames.END_HEADERS, 1)
    assert hpack.Decoder().decode(head[3]) == REQUEST
    assert data == (frames.DATA, frames.END_STREAM, 1, b"body")
    http2.feed(answer())
    http2.open(REQUEST, b"2")
    assert [(kind, stream) for kind, _, stream, _ in sent(http2)] == [(frames.HEADERS, 3), (frames.DATA, 3)]


def test_request_headers_larger_than_a_frame_are_continued() -> None:
    http2 = Http2(1)
    large = [(b"a", bytes(40_000))]
    http2.open(large, b"")
    parts = [f for f in sent(http2) if f[0] in (frames.HEADERS, frames.CONTINUATION)]
    assert [(kind, flags) for kind, flags, _, _ in parts] == [
        (frames.HEADERS, 0), (frames.CONTINUATION, 0), (frames.CONTINUATION, frames.END_HEADERS)]
    assert hpack.Decoder().decode(b"".join(part[3] for part in parts)) == large


@given(st.integers(1, 50), st.binary(max_size=3000), st.integers(0, 255))
def test_an_answer_in_any_pieces(piece: int, body: bytes, padding: int) -> None:
    """Split at any byte, padded, with a priority, continued, with strange frames in between."""
    http2, response = opened()
    block = hpack.encode(OK)
    pad = bytes((padding,)), bytes(padding)
    wire = b"".join([
        frames.settings((0x3, 100), (0xAAAA, 1)),
        frame(frames.HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, pad[0] + bytes(5) + block[:3] + pad[1]),
        frame(frames.CONTINUATION, 0, 1, block[3:5]),
        frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[5:]),
        frame(0xBB, 0xFF, 1, b"unknown"),
        frame(frames.PRIORITY, 0, 1, bytes(5)),
        frame(frames.DATA, frames.PADDED, 1, pad[0] + body + pad[1]),
        frame(frames.PING, 0, 0, b"12345678"),
        frame(frames.DATA, 0, 1, b""),
        headers(TRAILERS, frames.END_HEADERS | frames.END_STREAM),
    ])
    for at in range(0, len(wire), piece):
        assert not response.done
        http2.feed(wire[at:at + piece])
    assert response.done
    assert (response.headers, response.trailers, bytes(response.body)) == (OK, TRAILERS, body)
    assert sent(http2)[-2:] == [(frames.SETTINGS, frames.ACK, 0, b""), (frames.PING, frames.ACK, 0, b"12345678")]


def test_trailers_alone_are_headers_too() -> None:
    http2, response = opened()
    http2.feed(headers(OK + TRAILERS, frames.END_HEADERS | frames.END_STREAM))
    assert response.done
    assert response.headers == response.trailers == OK + TRAILERS


def test_informational_headers_are_not_the_answer() -> None:
    http2, response = opened()
    http2.feed(headers([(b":status", b"100")]) + answer())
    assert (response.headers, response.done) == (OK, True)


def test_a_body_can_end_the_stream() -> None:
    http2, response = opened()
    http2.feed(headers(OK) + frame(frames.DATA, frames.END_STREAM, 1, b"x"))
    assert (response.done, response.trailers, bytes(response.body)) == (True, [], b"x")


def data(http2: Http2) -> list[int]:
    return [len(payload) for kind, _, _, payload in sent(http2) if kind == frames.DATA]


def test_sending_keeps_to_the_windows_of_stream_and_connection() -> None:
    http2, _ = opened(bytes(200_000))
    assert sum(data(http2)) == 65535
    http2.feed(frames.window_update(1, 100_000))
    assert data(http2) == []
    http2.feed(frames.window_update(0, 50_000))
    assert sum(data(http2)) == 50_000
    http2.feed(frames.window_update(0, 1_000_000))
    assert sum(data(http2)) == 50_000
    http2.feed(frames.window_update(1, 1_000_000))
    last = [f for f in sent(http2) if f[0] == frames.DATA]
    assert sum(len(f[3]) for f in last) == 200_000 - 65535 - 100_000
    assert last[-1][1] == frames.END_STREAM


def test_settings_change_the_window_of_the_running_stream_even_below_zero() -> None:
    http2, _ = opened(bytes(100_000))
    http2.feed(frames.window_update(0, 1_000_000))
    assert sum(data(http2)) == 65535
    http2.feed(frames.settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 1000)))
    http2.feed(frames.window_update(1, 64535))
    assert data(http2) == []
    http2.feed(frames.window_update(1, 10))
    assert data(http2) == [10]
    http2.feed(frames.settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 1_000_000)))
    assert sum(data(http2)) == 100_000 - 65535 - 10


def test_settings_before_a_request_hold_for_it() -> None:
    http2, _ = opened()
    http2.feed(frames.settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 3), (frames.SETTINGS_MAX_FRAME_SIZE, 20_000)))
    http2.feed(answer())
    sent(http2)
    http2.open(REQUEST, bytes(30_000))
    assert data(http2) == [3]
    http2.feed(frames.window_update(3, 30_000))
    assert data(http2) == [20_000, 9_997]


def test_receiving_gives_the_peer_new_window_before_it_runs_out() -> None:
    http2, response = opened(limit=100 << 20)
    http2.feed(headers(OK))
    sent(http2)
    left = {0: WINDOW, 1: WINDOW}
    for _ in range(1000):
        http2.feed(frame(frames.DATA, frames.PADDED, 1, b"\x05" + bytes(16_000)))
        for stream in left:
            left[stream] -= 16_001
        for kind, _, stream, payload in sent(http2):
            assert kind == frames.WINDOW_UPDATE
            left[stream] += int.from_bytes(payload, "big")
        assert min(left.values()) > WINDOW // 4
        assert max(left.values()) <= WINDOW
    assert len(response.body) == 1000 * (16_000 - 5)


def test_too_large_a_body_is_given_up() -> None:
    http2, response = opened(limit=10)
    http2.feed(headers(OK) + frame(frames.DATA, 0, 1, bytes(11)))
    assert (response.done, response.overflow) == (True, True)
    assert sent(http2)[-1] == (frames.RST_STREAM, 0, 1, frames.CANCEL.to_bytes(4, "big"))


def test_an_answer_before_all_was_sent_ends_the_sending() -> None:
    http2, response = opened(bytes(100_000))
    sent(http2)
    http2.feed(answer())
    assert response.done
    assert sent(http2) == [(frames.RST_STREAM, 0, 1, frames.CANCEL.to_bytes(4, "big"))]
    http2.feed(frames.window_update(0, 100_000))
    assert data(http2) == []


def test_what_comes_for_a_cancelled_stream_is_ignored_but_kept_account_of() -> None:
    """Its headers change the compression state, and its bytes use up the connection's window."""
    http2, first = opened()
    http2.cancel(first)
    second = http2.open(REQUEST, b"")
    sent(http2)
    indexed = b"\x20\x3f\xe1\x1f\x88" + b"\x40" + hpack._string(b"grpc-status") + hpack._string(b"0")
    http2.feed(frame(frames.HEADERS, frames.END_HEADERS, 1, indexed))
    for _ in range(33):
        http2.feed(frame(frames.DATA, 0, 1, bytes(16_000)))
    assert sent(http2) == [(frames.WINDOW_UPDATE, 0, 0, (33 * 16_000).to_bytes(4, "big"))]
    http2.feed(headers(TRAILERS, frames.END_HEADERS | frames.END_STREAM, 1))
    http2.feed(frame(frames.RST_STREAM, 0, 1, bytes(4)))
    http2.feed(frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
    assert not second.done
    http2.feed(answer(stream=3))
    assert (second.done, bytes(second.body), second.reset) == (True, b"answer", None)
    assert (first.headers, first.reset) == ([], frames.CANCEL)


def test_answers_to_two_requests_at_once_may_be_mixed_in_any_way() -> None:
    http2, first = opened()
    second = http2.open(REQUEST, b"2")
    assert [stream for kind, _, stream, _ in sent(http2) if kind == frames.DATA] == [1, 3]
    http2.feed(headers(OK, stream=3) + headers(OK) + frame(frames.DATA, 0, 1, b"on") + frame(frames.DATA, 0, 3, b"tw"))
    http2.feed(frame(frames.DATA, 0, 3, b"o") + headers(TRAILERS, frames.END_HEADERS | frames.END_STREAM, 3))
    assert (first.done, second.done, bytes(second.body)) == (False, True, b"two")
    http2.feed(frame(frames.DATA, 0, 1, b"e") + headers(TRAILERS, frames.END_HEADERS | frames.END_STREAM))
    assert (first.done, bytes(first.body)) == (True, b"one")


def test_one_of_two_requests_is_reset_or_given_up_and_the_other_goes_on() -> None:
    for ended in ("reset", "cancelled"):
        http2, first = opened()
        second = http2.open(REQUEST, b"2")
        if ended == "reset":
            http2.feed(frame(frames.RST_STREAM, 0, 1, bytes(4)))
        else:
            http2.cancel(first)
            assert sent(http2)[-1] == (frames.RST_STREAM, 0, 1, frames.CANCEL.to_bytes(4, "big"))
        http2.feed(answer(stream=3))
        assert (first.done, first.trailers, second.done, bytes(second.body)) == (True, [], True, b"answer")


def test_two_requests_share_the_connections_window_and_have_their_own() -> None:
    http2, _ = opened(bytes(60_000))
    http2.open(REQUEST, bytes(60_000))

    def data_of() -> dict[int, int]:
        sizes: dict[int, int] = {}
        for kind, _, stream, payload in sent(http2):
            if kind == frames.DATA:
                sizes[stream] = sizes.get(stream, 0) + len(payload)
        return sizes

    assert data_of() == {1: 60_000, 3: 5_535}
    http2.feed(frames.window_update(0, 10_000))
    assert data_of() == {3: 10_000}
    http2.feed(frames.settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 16_000)))
    http2.feed(frames.window_update(0, 100_000))
    assert data_of() == {3: 465}
    http2.feed(frames.window_update(3, 100_000))
    assert data_of() == {3: 44_000}


def test_the_table_is_shared_by_all_streams() -> None:
    http2, first = opened()
    http2.cancel(first)
    second = http2.open(REQUEST, b"")
    insert = b"\x88\x40" + hpack._string(b"grpc-status") + hpack._string(b"0")
    http2.feed(frame(frames.HEADERS, frames.END_HEADERS, 1, insert))
    http2.feed(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 3, b"\x88\xbe"))
    assert second.trailers == [(b":status", b"200"), (b"grpc-status", b"0")]


def test_a_reset_is_the_end() -> None:
    http2, response = opened()
    http2.feed(frame(frames.RST_STREAM, 0, 1, frames.REFUSED_STREAM.to_bytes(4, "big")))
    assert (response.done, response.reset) == (True, frames.REFUSED_STREAM)


def test_goaway_says_what_will_not_be_done() -> None:
    http2, response = opened()
    assert http2.refused_above is None
    http2.feed(frame(frames.GOAWAY, 0, 0, frames.LARGEST_WINDOW.to_bytes(4, "big") + bytes(4) + b"soon"))
    assert http2.refused_above == frames.LARGEST_WINDOW
    http2.feed(frame(frames.GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4) + b"now"))
    assert (http2.refused_above, http2.farewell) == (1, "error 0 now")
    http2.feed(answer())
    assert response.done


@pytest.mark.parametrize(("wire", "code", "why"), [
    (frame(frames.DATA, 0, 1, b"x"), 1, "a body before its headers"),
    (frame(frames.DATA, 0, 0, b"x"), 1, "frame 0 on stream 0"),
    (frame(frames.HEADERS, frames.END_HEADERS, 0, b""), 1, "frame 1 on stream 0"),
    (frame(frames.SETTINGS, 0, 1, b""), 1, "frame 4 on stream 1"),
    (frame(frames.PING, 0, 1, bytes(8)), 1, "frame 6 on stream 1"),
    (frame(frames.GOAWAY, 0, 1, bytes(8)), 1, "frame 7 on stream 1"),
    (frame(frames.RST_STREAM, 0, 0, bytes(4)), 1, "frame 3 on stream 0"),
    (headers(OK, stream=2), 1, "stream 2, which was never opened"),
    (headers(OK, stream=3), 1, "stream 3, which was never opened"),
    (frame(frames.WINDOW_UPDATE, 0, 5, b"\0\0\0\1"), 1, "never opened"),
    (frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)), 1, "PUSH_PROMISE"),
    (frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""), 1, "CONTINUATION without HEADERS"),
    (headers(OK, 0) + frame(frames.PING, 0, 0, bytes(8)), 1, "frame 6 inside a header block"),
    (headers(OK, 0) + frame(frames.CONTINUATION, 0, 3, b""), 1, "frame 9 inside a header block"),
    (headers(OK) + headers(TRAILERS), 1, "trailers that do not end"),
    (frame(frames.DATA, frames.PADDED, 1, b"\x05abcd"), 1, "padding longer"),
    (frame(frames.DATA, frames.PADDED, 1, b""), 1, "padding longer"),
    (frame(frames.HEADERS, frames.WITH_PRIORITY, 1, b"1234"), 6, "too short for its priority"),
    (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), 1, "a WINDOW_UPDATE by nothing"),
    (frames.window_update(0, frames.LARGEST_WINDOW), 3, "beyond all bounds"),
    (frames.window_update(1, frames.LARGEST_WINDOW), 3, "beyond all bounds"),
    (frames.settings((4, 1 << 31)), 3, "an initial window of 2147483648"),
    (frames.settings((5, 16383)), 1, "frames of 16383 bytes"),
    (frames.settings((5, 1 << 24)), 1, "frames of 16777216 bytes"),
    (frame(frames.SETTINGS, 0, 0, bytes(5)), 6, "broken length"),
    (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), 6, "SETTINGS acknowledgement"),
    (frame(frames.PING, 0, 0, bytes(7)), 6, "PING frame of 7 bytes"),
    (frame(frames.GOAWAY, 0, 0, bytes(7)), 6, "GOAWAY frame too short"),
    (frame(frames.RST_STREAM, 0, 1, bytes(5)), 6, "RST_STREAM frame of 5 bytes"),
    (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), 6, "WINDOW_UPDATE frame of 3 bytes"),
    (b"\0\x40\x01" + bytes(6), 6, "a frame of 16385 bytes"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 6, "a frame of"),
    (frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x80"), 9, "no entry 0"),
    (headers(OK, 0) + frame(frames.CONTINUATION, 0, 1, bytes(16_384)) * 5, 11, "an endless header block"),
])
def test_a_peer_that_breaks_the_protocol_is_told_so(wire: bytes, code: int, why: str) -> None:
    http2, _ = opened()
    sent(http2)
    with pytest.raises(ConnectionFault, match=why) as caught:
        http2.feed(wire)
    assert caught.value.code == code
    assert sent(http2)[-1] == (frames.GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big"))


@given(st.binary(max_size=400))
def test_any_bytes_are_taken_or_refused(wire: bytes) -> None:
    http2, _ = opened()
    try:
        http2.feed(wire)
    except ConnectionFault:
        assert sent(http2)[-1][0] == frames.GOAWAY
