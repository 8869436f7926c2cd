"""H.264 and H.265 with erasure codes: exactly k of k + m packets, rate control, the streaming code against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CorruptBitstream
from grace.api import FrameStatus, Report, StreamInfo
from grace.classic import (
    AdaptiveRedundancy,
    ClassicSender,
    FixedRedundancy,
    QuantiserModel,
    _num_parity,
    join,
    read_share,
    split,
)
from grace.harness import wire_bytes
from grace.streaming_code import TAU, TamburReceiver, TamburSender, coefficient, covered, make_parity, multiply, solve


@pytest.mark.parametrize(("k", "m"), [(1, 0), (4, 0), (4, 1), (3, 3), (5, 4)])
def test_any_k_packets_give_the_frame_and_fewer_do_not(k, m):
    data = np.random.default_rng(k).bytes(997)
    packets = [read_share(packet) for packet in split(data, 9, k, m)]
    for count in range(1, k + m + 1):
        for chosen in itertools.islice(itertools.combinations(packets, count), 40):
            shares = {head.index: body for head, body in chosen}
            if count >= k:
                assert join(shares, k, m, len(data)) == data
            else:
                with pytest.raises(CorruptBitstream, match=f"of the {k} packets"):
                    join(shares, k, m, len(data))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 120), bit=st.integers(0, 7))
def test_damaged_shares_are_refused(place, bit):
    packet = bytearray(split(bytes(range(200)), 3, 2, 1)[0])
    packet[place % len(packet)] ^= 1 << bit
    with pytest.raises(CorruptBitstream):
        read_share(bytes(packet))


def test_quantiser_model_settles_on_the_target():
    # A codec of which each step of 6 quantisers halves the bytes, 16 kB at quantiser 12, with 10 % of noise.
    rng, model, sizes = np.random.default_rng(0), QuantiserModel(), []
    for _ in range(60):
        qp = model.choose(1000)
        sizes.append(16000 * 2 ** ((12 - qp) / 6) * rng.uniform(0.9, 1.1))
        model.update(qp, int(sizes[-1]), 1000)
    assert np.mean(sizes[20:]) == pytest.approx(1000, rel=0.1)


def test_adaptive_redundancy_follows_reports():
    redundancy = AdaptiveRedundancy()
    assert redundancy.share(1) == 0.0
    redundancy.on_report(Report(tuple(FrameStatus(n, 10, (1 << 10) - 1, is_done=True) for n in range(1, 11))))
    assert redundancy.share(11) == 0.0
    redundancy.on_report(Report((FrameStatus(11, 10, (1 << 5) - 1, is_done=True),)))  # 5 of 110: 4.5 %
    assert redundancy.share(12) == 0.25
    redundancy.on_report(Report(tuple(FrameStatus(n, 10, 1, is_done=True) for n in range(12, 16))))
    assert redundancy.share(16) == 0.5


def test_field_products():
    # x * 0 = 0, x * 1 = x, 2 * 0x80 = 0x100 mod 0x11D = 0x1D; every coefficient has an inverse.
    block = np.array([0, 1, 0x80], np.uint8)
    assert multiply(1, block).tolist() == block.tolist()
    assert multiply(2, block).tolist() == [0, 2, 0x1D]
    assert all(coefficient(5, p, f, i) for p in range(16) for f in range(2, 6) for i in range(16))


def test_parity_covers_v_of_four_frames_and_u_of_two():
    sizes = dict.fromkeys(range(1, 8), 2)  # packet 0 is V, packet 1 is U
    assert covered(7, sizes) == [(4, 0), (4, 1), (5, 0), (6, 0), (7, 0), (7, 1)]


def _world(seed: int, frames: int = 8, num_data: int = 4, num_parity: int = 2):
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(range(1, frames + 1), num_data)
    data = {(f, i): rng.integers(0, 256, 6, dtype=np.uint8) for f in sizes for i in range(num_data)}
    parity = {(f, p): block for f in sizes for p, block in enumerate(make_parity(f, num_parity, data, sizes, 6))}
    return sizes, data, parity


def test_one_lost_frame_is_recovered_within_tau():
    # Frame 4 is lost whole, parity included. Its V (2 packets) comes back with the two parities of frame 5, which hold no U
    # of frame 4; its U with those of frame 4 + tau = 7.
    sizes, data, parity = _world(1)
    known = {key: block for key, block in data.items() if key[0] != 4}
    by_5 = {key: block for key, block in parity.items() if key[0] == 5}
    assert set(solve(known, by_5, sizes)) == {(4, 0), (4, 2)}
    by_7 = {key: block for key, block in parity.items() if key[0] in (5, 6, 7)}
    found = solve(known, by_7, sizes)
    assert set(found) == {(4, index) for index in range(4)}
    assert all(np.array_equal(found[key], data[key]) for key in found)
    assert TAU == 3


def test_isolated_losses_are_recovered_at_once():
    sizes, data, parity = _world(2)
    lost = {(4, 1), (4, 2)}
    found = solve(
        {key: block for key, block in data.items() if key not in lost},
        {key: block for key, block in parity.items() if key[0] == 4},
        sizes,
    )
    assert set(found) == lost


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.6))
def test_solver_recovers_what_is_determined_and_nothing_wrong(seed, share):
    sizes, data, parity = _world(3)
    rng = np.random.default_rng(seed)
    known = {key: block for key, block in data.items() if rng.random() >= share}
    there = {key: block for key, block in parity.items() if rng.random() >= share}
    found = solve(known, there, sizes)
    assert all(np.array_equal(found[key], data[key]) for key in found)
    # Brute force: a packet is determined exactly when no solution of the homogeneous system has it non-zero, that is when its
    # unit vector lies in the row space.
    unknown = sorted(set(data) - set(known))
    rows = [[coefficient(*key, *other) if other in covered(key[0], sizes) else 0 for other in unknown] for key in there]
    for column, key in enumerate(unknown):
        unit = [int(place == column) for place in range(len(unknown))]
        assert (_rank([*rows, unit]) == _rank(rows)) == (key in found)


def _rank(rows: list[list[int]]) -> int:
    """Rank over GF(256), one element at a time, with products by shifting."""
    matrix = [row.copy() for row in rows]
    rank = 0
    for column in range(len(matrix[0]) if matrix else 0):
        pivot = next((r for r in range(rank, len(matrix)) if matrix[r][column]), None)
        if pivot is None:
            continue
        matrix[rank], matrix[pivot] = matrix[pivot], matrix[rank]
        inverse = _power(matrix[rank][column], 254)
        matrix[rank] = [_product(inverse, value) for value in matrix[rank]]
        for r in range(len(matrix)):
            if r != rank and matrix[r][column]:
                factor = matrix[r][column]
                matrix[r] = [a ^ _product(factor, b) for a, b in zip(matrix[r], matrix[rank], strict=True)]
        rank += 1
    return rank


def _product(a: int, b: int) -> int:
    result = 0
    while b:
        if b & 1:
            result ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11D
        b >>= 1
    return result


def _power(a: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = _product(result, a)
    return result


def test_stream_info_counts_packets():
    info = StreamInfo(64, 64, payload_bytes=460, min_packets=3)
    assert info.packets_for(480) == 3  # three of 160 bytes
    assert info.packets_for(479) == 2
    assert info.packets_for(100) == 2
    assert StreamInfo(64, 64, min_packets=1).packets_for(100) == 1
    assert info.packets_for(2000) == 4  # 460 + 40 bytes each
    assert info.packets_for(2001) == 5


def test_a_streaming_code_takes_frames_beyond_its_parity():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 72, 3), np.uint8)
    info = StreamInfo(64, 72, payload_bytes=130)
    sender, receiver = TamburSender(info, "h264", 0.5), TamburReceiver(info, "h264")
    receiver.start(sender.start(noise[0]))
    for number, lost in ((1, 99), (2, 1), (3, 17)):
        packets = sender.encode(number, noise[number], 20_000)
        assert len(packets) > 2 * 16
        shown = [found.frame for i, packet in enumerate(packets) if i != lost for found in receiver.on_packet(packet)]
        # Parity covers the first 16 data packets; the others have to come again.
        assert shown == ([] if lost == 17 else [number])
    assert [found.frame for found in receiver.on_packet(packets[17])] == [3]


def test_parity_gets_its_share_of_few_packets():
    # Rounded to whole packets, at least one of each kind.
    assert [_num_parity(total, 0.2) for total in (2, 3, 4, 5, 8)] == [1, 1, 1, 1, 2]
    assert [_num_parity(total, 0.5) for total in (2, 3, 4, 5)] == [1, 2, 2, 2]
    assert [_num_parity(total, 0.0) for total in (1, 2, 4)] == [0, 0, 0]
    assert _num_parity(1, 0.5) == 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_small_frames_have_few_packets_and_keep_to_their_size(clip, share):
    info = StreamInfo(64, 72, payload_bytes=400)
    sender = ClassicSender(info, "h265", FixedRedundancy(share))
    sender.start(clip[0])
    small = [sender.encode(number, clip[number], 300) for number in range(1, 9)]
    assert {len(packets) for packets in small[4:]} == {2}
    assert np.mean([wire_bytes(packets) for packets in small[4:]]) < 1.3 * 300
