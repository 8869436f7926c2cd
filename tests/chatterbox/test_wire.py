import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox import wire
from chatterbox.core import Receiver, Sender
from chatterbox.framing import Deframer, frame
from chatterbox.selective_repeat import SelectiveRepeatReceiver, SelectiveRepeatSender
from chatterbox.wire import ACK_BYTES, DATA_HEADER_BYTES, Ack, BadDatagram, Data, Hello

U32 = st.integers(0, 2**32 - 1)


@given(
    U32, st.integers(0, 1000), st.integers(0, 1000), U32, st.lists(st.binary(max_size=300), max_size=20), st.booleans()
)
def test_data_round_trip(stream, base, ahead, packet, tokens, is_fin):
    data = Data(stream, base, base + ahead, packet, tuple(tokens), is_fin)
    encoded = wire.encode_data(data)
    assert wire.decode_data(encoded) == data
    assert len(encoded) == DATA_HEADER_BYTES + sum(map(wire.token_size, tokens))


@given(U32, U32, U32, U32, st.booleans())
def test_ack_round_trip(stream, next_index, echo, rx_bytes, has_fin):
    ack = Ack(stream, next_index, echo, rx_bytes, has_fin)
    assert wire.decode_ack(wire.encode_ack(ack)) == ack
    assert len(wire.encode_ack(ack)) == ACK_BYTES


@given(U32, st.binary(min_size=16, max_size=16), st.binary(max_size=500))
def test_hello_round_trip(stream, cookie, request):
    hello = Hello(stream, cookie, request)
    encoded = wire.encode_hello(hello)
    assert wire.decode_hello(encoded) == hello
    assert len(encoded) >= wire.MIN_HELLO_BYTES > len(wire.encode_cookie(cookie))


def test_cookie_and_reset_round_trip():
    assert wire.decode_cookie(wire.encode_cookie(bytes(range(16)))) == bytes(range(16))
    assert wire.decode_reset(wire.encode_reset(5, 2)) == (5, 2)


def test_bytes_by_hand():
    data = Data(0x01020304, 5, 6, 7, (b"hi", b""), is_fin=True)
    assert wire.encode_data(data).hex(" ") == "11 01 02 03 04 00 00 00 05 00 00 00 06 00 02 01 00 00 00 07 02 68 69 00"
    assert wire.encode_ack(Ack(1, 2, 3, 4, True)).hex(" ") == "12 00 00 00 01 00 00 00 02 00 00 00 03 00 00 00 04 01"
    assert wire.encode_data(Data(0, 0, 0, 0, (b"x" * 200,)))[DATA_HEADER_BYTES : DATA_HEADER_BYTES + 2] == b"\xc8\x01"


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_every_truncation_and_extension_is_refused(tokens):
    encoded = wire.encode_data(Data(1, 0, 0, 1, tuple(tokens)))
    for size in range(len(encoded)):
        with pytest.raises(BadDatagram):
            wire.decode_data(encoded[:size])
    with pytest.raises(BadDatagram, match="after its last"):
        wire.decode_data(encoded + b"!")


@pytest.mark.parametrize(
    ("datagram", "message"),
    [
        (b"", "empty"),
        (b"\x21" + bytes(19), "version 2"),
        (b"\x1f" + bytes(19), "unknown"),
        (wire.encode_ack(Ack(0, 0, 0, 0)), "expected"),
        (b"\x11" + bytes(14) + b"\x80" + bytes(4), "flags"),
        (b"\x11" + bytes(4) + b"\0\0\0\x09" + bytes(11), "inconsistent"),
        (b"\x11" + bytes(8) + b"\xff\xff\xff\xff\0\x01" + bytes(5) + b"\0", "inconsistent"),
        (b"\x11" + bytes(12) + b"\0\x01" + bytes(5) + b"\x80\x00", "varint"),
    ],
)
def test_bad_data_is_refused(datagram, message):
    with pytest.raises(BadDatagram, match=message):
        wire.decode_data(datagram)


def mutated(rng, seeds):
    """A random datagram: noise, or a real one with bytes changed, cut or doubled."""
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(rng.randrange(80))
    datagram = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 5)):
        if datagram:
            datagram[rng.randrange(len(datagram))] = rng.randrange(256)
    if kind < 0.5:
        del datagram[rng.randrange(len(datagram) + 1) :]
    if kind > 0.9:
        datagram = datagram * 2
    return bytes(datagram)


def test_a_hundred_thousand_random_datagrams_deliver_nothing_and_raise_one_error_only():
    """A stranger does not know the stream's number: whatever he sends, nothing is delivered and memory stays small."""
    rng = random.Random(0)
    sender, receiver = Sender(stream=0x5EC12E7), Receiver(stream=0x5EC12E7)
    sender.on_token(b"secret", 0.0)
    sender.packets(0.0)
    seeds = [wire.encode_data(Data(1, 0, i, i, (b"abc", b"d"), i == 3)) for i in range(4)]
    seeds += [wire.encode_ack(Ack(1, i, i, 9)) for i in range(3)] + [wire.encode_hello(Hello(1, bytes(16), b"q"))]
    seeds += [wire.encode_cookie(bytes(16)), wire.encode_reset(1, 1)]
    arq = (SelectiveRepeatSender(), SelectiveRepeatReceiver())
    decoders = (wire.decode_hello, wire.decode_cookie, wire.decode_reset, wire.kind_of)
    refused = 0
    for _ in range(100_000):
        datagram = mutated(rng, seeds)
        for act in (lambda d: sender.on_datagram(d, 1.0), lambda d: arq[0].on_datagram(d, 1.0), *decoders):
            try:
                act(datagram)
            except BadDatagram:
                refused += 1
        try:
            assert receiver.on_datagram(datagram, 1.0) == []
        except BadDatagram:
            refused += 1
    assert refused > 300_000
    assert (receiver.next, receiver.buffered_tokens, sender.base, sender.state) == (0, 0, 0, "open")


@given(st.lists(st.binary(max_size=300), max_size=30), st.lists(st.integers(1, 50), max_size=200))
def test_framing_survives_any_cut(tokens, cuts):
    stream = b"".join(map(frame, tokens))
    deframer, got, at = Deframer(), [], 0
    for cut in [*cuts, len(stream)]:
        got += deframer.feed(stream[at : at + cut])
        at += cut
    assert got == tokens
