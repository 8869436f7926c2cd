"""Packets: any subset, any order, nothing decoded from damaged bytes."""

import itertools
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, CorruptBitstream
from grace.neural import keep_of_mask
from grace.packets import breakdown, read_head, read_packets, write_packets

NUM = 5


@pytest.fixture(scope="module")
def coded(codec, clip):
    return codec.encode(clip[1], clip[0], 9, 70_001)


@pytest.fixture(scope="module")
def packets(codec, coded):
    return codec.packets(coded.latents, NUM)


def test_every_subset_is_the_mask_that_the_map_says(codec, clip, coded, packets):
    for subset in range(1, 1 << NUM):
        chosen = [packet for index, packet in enumerate(packets) if subset >> index & 1]
        received = codec.read(chosen)
        masked = coded.latents.masked(keep_of_mask(coded.latents, NUM, subset))
        assert np.array_equal(received.latents.motion, masked.motion)
        assert np.array_equal(received.latents.residual, masked.residual)
        assert received.received == {index for index in range(NUM) if subset >> index & 1}
    for subset in (1, 6, 30):
        chosen = [packet for index, packet in enumerate(packets) if subset >> index & 1]
        image = codec.decode(codec.read(chosen).latents, clip[0])
        assert image.shape == clip[0].shape
        assert image.dtype == np.uint8


def test_all_packets_give_the_senders_picture_bit_for_bit(codec, clip, coded, packets):
    assert np.array_equal(codec.decode(codec.read(packets).latents, clip[0]), coded.reconstruction)


def test_order_and_duplicates_do_not_matter(codec, packets):
    whole = codec.read(packets)
    for order in itertools.islice(itertools.permutations(packets), 0, 120, 37):
        again = codec.read([*order, order[0], order[2]])
        assert np.array_equal(again.latents.residual, whole.latents.residual)
        assert np.array_equal(again.latents.global_motion, whole.latents.global_motion)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_noticed_and_dropped(codec, packets, data):
    victim = bytearray(packets[1])
    kind = data.draw(st.sampled_from(["flip", "cut", "extend", "replace"]))
    if kind == "flip":
        for place in data.draw(st.lists(st.integers(0, len(victim) - 1), min_size=1, max_size=6, unique=True)):
            victim[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del victim[data.draw(st.integers(0, len(victim) - 1)) :]
    elif kind == "extend":
        victim += data.draw(st.binary(min_size=1, max_size=20))
    else:
        victim = bytearray(data.draw(st.binary(max_size=80)))
    received = codec.read([packets[0], bytes(victim)])
    assert received.received == {0}
    assert received.rejected == 1
    with pytest.raises(CorruptBitstream):
        codec.read([bytes(victim)])


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=120), place=st.integers(2, 11), value=st.integers(0, 255))
def test_forged_packets_with_a_right_checksum_never_crash(codec, packets, body, place, value):
    head = bytearray(packets[0][:12])
    head[place] = value
    if head[8] > 30 or head[9] > 30:  # nobody's memory has to suffer for this test
        head[8] = head[9] = 9
    forged = bytes(head) + zlib.crc32(body, zlib.crc32(bytes(head))).to_bytes(4, "little") + body
    try:
        found = codec.read([forged])
    except (CorruptBitstream, ConfigError):
        return
    assert np.abs(found.latents.residual.astype(int)).max() <= 60 + 4096


@pytest.mark.parametrize("level", [-8, -1, 0, 16])
def test_every_level_survives_the_wire(codec, clip, level):
    coded = codec.encode(clip[1], clip[0], level, 3)
    packets = codec.packets(coded.latents, 2, has_patch=level < 0)
    assert [read_head(packet).has_patch for packet in packets] == [level < 0] * 2
    received = codec.read(packets).latents
    assert (received.level, received.motion_level) == (level, level)
    assert np.array_equal(codec.decode(received, clip[0]), coded.reconstruction)


def test_levels_that_do_not_exist_are_refused(codec, clip, packets):
    for level in (-9, 17):
        with pytest.raises(ConfigError, match=f"level={level} is not a quality level"):
            codec.encode(clip[1], clip[0], level)
    head = bytearray(packets[0][:12])
    head[5] = 0xF7  # -9
    body = packets[0][16:]
    forged = bytes(head) + zlib.crc32(body, zlib.crc32(bytes(head))).to_bytes(4, "little") + body
    with pytest.raises(CorruptBitstream, match="level -9"):
        codec.read([forged])


def test_packets_of_other_frames_are_dropped(codec, clip, packets):
    other = codec.packets(codec.encode(clip[2], clip[1], 9, 70_002).latents, NUM)
    received = codec.read([packets[0], other[1], packets[2]])
    assert received.received == {0, 2}
    assert received.rejected == 1
    assert read_head(packets[3]).frame == 70_001 & 0xFFFF
    with pytest.raises(CorruptBitstream, match="no packet of the frame"):
        codec.read([])


def test_other_weights_are_refused(codec, packets):
    from conftest import make_codec

    with pytest.raises(ConfigError, match="coded with weights"):
        read_packets(packets, make_codec(1))


def test_breakdown_adds_up(codec, coded, packets):
    parts = breakdown(coded.latents, NUM, codec)
    total = parts.pop("total")
    assert total == sum(map(len, packets))
    assert sum(parts.values()) == pytest.approx(total)
    assert 0 <= parts["coder"] <= 12 * NUM


def test_limits(codec, coded):
    with pytest.raises(ConfigError, match="num_packets=0"):
        write_packets(coded.latents, 0, codec)
    assert len(write_packets(coded.latents, 64, codec)) == 64


def test_two_processes_agree_bit_for_bit(codec, clip, coded, packets, tmp_path):
    np.save(tmp_path / "reference.npy", clip[0])
    for index, packet in enumerate(packets):
        (tmp_path / f"{index}.bin").write_bytes(packet)
    program = (
        "import sys, zlib, numpy as np, torch, pathlib\n"
        "torch.set_num_threads(1)\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from conftest import make_codec\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "codec = make_codec()\n"
        "packets = [(folder / f'{i}.bin').read_bytes() for i in (3, 0, 4)]\n"
        "image = codec.decode(codec.read(packets).latents, np.load(folder / 'reference.npy'))\n"
        "print(zlib.crc32(image.tobytes()))\n"
    )
    folder = str(__import__("pathlib").Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), folder], capture_output=True, text=True, check=True
    )
    masked = coded.latents.masked(keep_of_mask(coded.latents, NUM, 0b11001))
    assert int(done.stdout) == zlib.crc32(codec.decode(masked, clip[0]).tobytes())
