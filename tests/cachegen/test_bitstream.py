"""Damaged, forged and foreign bytes; and a stream that was written by another process."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachegen import bitstream
from cachegen.codec import Codec
from cachegen.profile import build_profile, from_bytes, load, save, to_bytes
from cachegen.settings import PAPER
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache
from tests.cachegen.tiny_kv import FORMS, cache_of, codec_of, tiny_model

GOLDEN = Path(__file__).parent / "golden"
_CODED: dict[str, bytes] = {}


def coded(form: str) -> bytes:
    if form not in _CODED:
        index = torch.tensor([*range(20), 30, 31])
        kv = cache_of(tiny_model("llama"), 40, 3)
        kept = KVCache(kv.keys_LHTD[:, :, index], kv.values_LHTD[:, :, index], index)
        _CODED[form] = codec_of(form).encode(kept, 0)
    return _CODED[form]


def reseal(data: bytearray) -> bytes:
    """Make both checksums right again: what somebody would do who forges a stream."""
    head = bitstream.HEADER_BYTES
    data[head - 4 : head] = struct.pack("<I", zlib.crc32(data[: head - 4]))
    data[-4:] = struct.pack("<I", zlib.crc32(data[head:-4]))
    return bytes(data)


mutations = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "insert", "swap"]), st.integers(0, 2**31), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, plan) -> bytearray:
    changed = bytearray(data)
    for action, where, value in plan:
        at = where % max(1, len(changed))
        if action == "flip" and changed:
            changed[at] ^= 1 << value % 8
        elif action == "set" and changed:
            changed[at] = value
        elif action == "cut":
            del changed[at:]
        elif action == "insert":
            changed[at:at] = bytes([value])
        elif changed:
            other = (where // 7 + value) % len(changed)
            changed[at], changed[other] = changed[other], changed[at]
    return changed


@pytest.mark.parametrize("form", list(FORMS))
@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=mutations)
def test_every_mutation_is_refused(form, plan):
    data = coded(form)
    damaged = bytes(mutate(data, plan))
    if damaged == data:
        return
    with pytest.raises(CorruptBitstream):
        codec_of(form).decode(damaged)


@pytest.mark.parametrize("form", list(FORMS))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=mutations)
def test_forged_streams_are_refused_or_give_a_cache(form, plan):
    changed = mutate(coded(form), plan)
    if len(changed) < bitstream.HEADER_BYTES + 4:
        return
    try:
        kv = codec_of(form).decode(reseal(changed))
    except CorruptBitstream:
        return
    assert kv.num_layers == 3
    assert kv.num_tokens <= 10000


def test_a_few_bytes_cannot_claim_many_tokens():
    data = bytearray(coded("paper"))
    # The number of tokens stands at 28: magic 4, four bytes, id 8, three shapes and group 8, then u32.
    struct.pack_into("<I", data, 24, 65536)
    assert bitstream.parse_header(reseal(bytearray(data)))[0].num_tokens == 65536
    with pytest.raises(CorruptBitstream):
        codec_of("paper").decode(reseal(data))


@pytest.mark.parametrize("cut", [0, 1, 3, 59, 60, 61, 100, -5, -1])
def test_cut_streams(cut):
    with pytest.raises(CorruptBitstream):
        codec_of("paper").decode(coded("paper")[:cut])


def test_foreign_streams():
    for foreign in (b"", b"hello", b"\0" * 500, os.urandom(500), to_bytes(codec_of("paper").profile), coded("tuned")):
        with pytest.raises(CorruptBitstream):
            codec_of("paper").decode(foreign)


@settings(max_examples=300, deadline=None)
@given(plan=mutations)
def test_damaged_profiles_are_refused(plan):
    data = to_bytes(codec_of("tuned").profile)
    damaged = bytes(mutate(data, plan))
    if damaged == data:
        return
    try:
        profile = from_bytes(damaged)
    except CorruptBitstream:
        return
    # Bytes that carry nothing (padding of the JSON header) may change; the content may not.
    assert profile.digest == codec_of("tuned").profile.digest


def test_profile_file_round_trip(tmp_path):
    profile = codec_of("paper").profile
    save(profile, tmp_path / "p.safetensors")
    again = load(tmp_path / "p.safetensors")
    assert again.digest == profile.digest
    assert again.settings == profile.settings
    kv = cache_of(tiny_model("llama"), 12, 1)
    assert Codec(again).encode(kv, 1) == Codec(profile).encode(kv, 1)
    with pytest.raises(ConfigError, match="no profile"):
        load(tmp_path / "q.safetensors")


def golden_kv() -> KVCache:
    """Numbers that every machine has exactly: multiples of 1/64."""
    rng = np.random.default_rng(2024)
    walk = rng.integers(-9, 10, (2, 2, 2, 33, 4)).cumsum(axis=3) / 64
    keys, values = torch.from_numpy(walk.astype(np.float32))
    return KVCache(keys, values, torch.arange(7, 40))


def test_golden_stream_of_another_process():
    """The files were written once; this machine must read the same integers from them and write the same bytes."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    codec = Codec(load(GOLDEN / "profile.safetensors"))
    for level, (name, digest) in enumerate(expected["integers_sha256"].items()):
        data = (GOLDEN / f"level{level}.kv").read_bytes()
        integers = codec.decode_integers(data)
        text = hashlib.sha256(b"".join(integers[key].astype("<i4").tobytes() for key in sorted(integers)))
        assert text.hexdigest() == digest, name
        assert codec.encode(golden_kv(), level) == data


def test_a_separate_process_decodes_what_this_one_encoded(tmp_path):
    codec = codec_of("paper")
    kv = cache_of(tiny_model("llama"), 33, 8)
    save(codec.profile, tmp_path / "profile")
    (tmp_path / "chunk").write_bytes(codec.encode(kv, 3))
    code = (
        "import sys; from pathlib import Path; from cachegen.codec import Codec; from cachegen.profile import load\n"
        "folder = Path(sys.argv[1]); kv = Codec(load(folder / 'profile')).decode((folder / 'chunk').read_bytes())\n"
        "print(kv.fingerprint())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip() == codec.decode((tmp_path / "chunk").read_bytes()).fingerprint()


def regenerate() -> None:
    """Write the golden files anew: `python tests/cachegen/test_bitstream.py`, after a wanted change of the format."""
    GOLDEN.mkdir(exist_ok=True)
    codec = Codec(build_profile(lambda: [golden_kv()], PAPER, model="00" * 32))
    save(codec.profile, GOLDEN / "profile.safetensors")
    digests = {}
    for level, name in enumerate(codec.levels):
        data = codec.encode(golden_kv(), level)
        (GOLDEN / f"level{level}.kv").write_bytes(data)
        integers = codec.decode_integers(data)
        whole = b"".join(integers[key].astype("<i4").tobytes() for key in sorted(integers))
        digests[name] = hashlib.sha256(whole).hexdigest()
    (GOLDEN / "expected.json").write_text(json.dumps({"integers_sha256": digests}, indent=1) + "\n")


if __name__ == "__main__":
    regenerate()
