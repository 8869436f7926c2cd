"""The store, the server and the client: what comes back is what was stored, and what is asked badly gets an answer."""

import json
import shutil
import socket
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.__main__ import main
from cachegen.client import Client
from cachegen.policies import Adaptive, Fixed, TextOnly
from cachegen.server import ShapedLink, StorageServer
from cachegen.store import Manifest, Store, context_id, pack_ids, unpack_ids
from cachegen.streaming import Costs, Curve, Plan, offers_of, simulate
from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.kv import KVCache, from_transformers, to_transformers
from common.net.rate import ConstantRate
from tests.cachegen.tiny_kv import cache_of, codec_of, tiny_model

COSTS = Costs(Curve((100.0,), (0.02,)), (Curve((100.0,), (0.0,)),) * 5, 0.0)
NUM_TOKENS = 90


def recompute(ids, past):
    model = tiny_model("llama")
    with torch.no_grad():
        cache = None if past is None else to_transformers(past)
        whole = from_transformers(model.model(torch.tensor([list(ids)]), past_key_values=cache).past_key_values)
    return KVCache(whole.keys_LHTD, whole.values_LHTD, torch.arange(whole.num_tokens))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    kv = cache_of(tiny_model("llama"), NUM_TOKENS, 14)
    ids = torch.randint(0, 299, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(14))[0].tolist()
    return store, store.store_kv(codec_of("paper"), ids, kv, chunk_tokens=32), kv, ids


@pytest.fixture
def server(stored):
    link = ShapedLink(None, time.monotonic, time.sleep)
    with StorageServer.listen(stored[0], link) as running:
        yield running


def client_of(server):
    return Client(*server.address, clock=time.monotonic, timeout_s=5.0)


def test_store_holds_every_level_and_the_text(stored):
    store, manifest, _, ids = stored
    assert manifest.chunk_tokens == (32, 32, 26)
    assert store.contexts() == [manifest.context_id] == [context_id("ab" * 32, ids)]
    assert store.manifest(manifest.context_id) == manifest
    for chunk in range(3):
        for level in range(5):
            assert (
                len(store.read("contexts", manifest.context_id, f"{chunk}.{level}"))
                == manifest.level_bytes[chunk][level]
            )
        assert unpack_ids(store.read("contexts", manifest.context_id, f"{chunk}.text")) == tuple(
            ids[chunk * 32 : chunk * 32 + 32]
        )
    assert store.profile(manifest.profile_id).digest == codec_of("paper").profile.digest


@pytest.mark.parametrize(
    "parts",
    [
        ("contexts", "..", "manifest.json"),
        ("profiles", "../../etc/passwd"),
        ("contexts", "a" * 64, "../x"),
        ("contexts", "a" * 64),
        (),
        ("contexts", "A" * 64, "0.0"),
        ("contexts", "a" * 64, "0.0"),
    ],
)
def test_nothing_else_can_be_read(stored, parts):
    with pytest.raises(DataUnavailable):
        stored[0].read(*parts)


def test_no_path_leads_out_of_the_folder(stored, tmp_path):
    folder = tmp_path / "store"
    (folder / "contexts").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (tmp_path / "0.0").write_bytes(b"secret")
    for parts in (
        ("contexts", "..", "manifest.json"),
        ("contexts", "../..", "0.0"),
        ("contexts", ".", "../manifest.json"),
    ):
        with pytest.raises(DataUnavailable):
            Store(folder).read(*parts)


@given(ids=st.lists(st.integers(0, 2**31), max_size=40))
@settings(deadline=None)
def test_ids_round_trip(ids):
    data = pack_ids(ids)
    assert unpack_ids(data) == tuple(ids)
    with pytest.raises(CorruptBitstream):
        unpack_ids(data[:-1])


def test_fetched_cache_is_what_was_encoded(stored, server):
    store, manifest, _, _ = stored
    codec = codec_of("paper")
    with client_of(server) as client:
        assert client.contexts() == [manifest.context_id]
        assert client.manifest(manifest.context_id) == manifest
        fetched = client.fetch(manifest, codec, Fixed(3), COSTS, recompute)
    assert fetched.levels == (3, 3, 3)
    expected = codec.decode(store.read("contexts", manifest.context_id, "1.3"))
    assert torch.equal(fetched.kv.keys_LHTD[:, :, 32:64], expected.keys_LHTD)
    assert fetched.kv.num_tokens == NUM_TOKENS


def test_text_is_prefilled_behind_what_came_before(stored, server):
    _, manifest, kv, ids = stored
    with client_of(server) as client:
        all_text = client.fetch(manifest, codec_of("paper"), TextOnly(), COSTS, recompute)
        mixed = client.fetch(manifest, codec_of("paper"), Plan((4, None, 4)), COSTS, recompute)
    assert torch.allclose(all_text.kv.keys_LHTD, kv.keys_LHTD, atol=1e-3)
    decoded = codec_of("paper").decode(stored[0].read("contexts", manifest.context_id, "0.4"))
    expected = recompute(ids[32:64], decoded)
    assert torch.equal(mixed.kv.values_LHTD[:, :, :64], expected.values_LHTD)
    assert mixed.levels == (4, None, 4)


def test_rate_limited_link_agrees_with_the_simulator(stored):
    _, manifest, _, _ = stored
    total = sum(sizes[4] for sizes in manifest.level_bytes)
    rate = ConstantRate(8 * total / 0.8)  # 0.8 s for the whole context
    offers = offers_of(manifest.level_bytes, manifest.text_bytes, manifest.chunk_tokens, COSTS)
    expected = simulate(offers, Fixed(4), rate, COSTS)
    with (
        StorageServer.listen(stored[0], ShapedLink(rate, time.monotonic, time.sleep)) as server,
        client_of(server) as client,
    ):
        fetched = client.fetch(manifest, codec_of("paper"), Fixed(4), COSTS, recompute)
    # The link can be late on a busy machine, never early.
    assert fetched.chunks[-1].arrived_s >= 0.97 * expected.network_s
    assert fetched.chunks[-1].arrived_s <= 3 * expected.network_s + 1.0


def test_two_clients_share_the_link(stored):
    _, manifest, _, _ = stored
    total = sum(sizes[4] for sizes in manifest.level_bytes)
    rate = ConstantRate(8 * total / 0.4)
    ready = []

    def fetch(server):
        with client_of(server) as client:
            ready.append(client.fetch(manifest, codec_of("paper"), Fixed(4), COSTS, recompute).chunks[-1].arrived_s)

    with StorageServer.listen(stored[0], ShapedLink(rate, time.monotonic, time.sleep)) as server:
        threads = [threading.Thread(target=fetch, args=(server,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(ready) >= 0.97 * 0.8


def test_adaptive_policy_over_a_real_link_comes_down(stored):
    _, manifest, _, _ = stored
    costs = Costs(Curve((100.0,), (1000.0,)), COSTS.decode, 0.0)  # recomputing is out of the question
    smallest = sum(sizes[0] for sizes in manifest.level_bytes)
    rate = ConstantRate(8 * smallest / 0.3)
    with (
        StorageServer.listen(stored[0], ShapedLink(rate, time.monotonic, time.sleep)) as server,
        client_of(server) as client,
    ):
        fetched = client.fetch(manifest, codec_of("paper"), Adaptive(), costs, recompute, deadline_s=0.01)
    assert fetched.levels == (2, 0, 0)  # the middle one while nothing is known, then the smallest


def test_bad_requests_get_an_error(server):
    with client_of(server) as client:
        for path in (
            "/",
            "/contexts/x/y",
            "/contexts/../../etc/passwd",
            "/profiles/0",
            "/%00",
            "/contexts/" + "a" * 5000,
        ):
            with pytest.raises(DataUnavailable, match="refuses"):
                client.get(path)
        assert client.contexts()
    for raw in (
        b"NONSENSE\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"\0\xff" * 50 + b"\r\n\r\n",
    ):
        with socket.create_connection(server.address, timeout=5) as connection:
            connection.sendall(raw)
            reply = connection.recv(4096)
            assert b"400" in reply or b"501" in reply
    with socket.create_connection(server.address, timeout=5) as connection:
        connection.sendall(b"GET /contexts")  # and goes away
    with client_of(server) as client:
        assert client.contexts()


def test_absent_server_is_one_clear_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Client("127.0.0.1", port, time.monotonic) as client, pytest.raises(DataUnavailable, match="does not answer"):
        client.contexts()


def test_damaged_objects_are_noticed(stored, tmp_path):
    store, manifest, _, _ = stored
    shutil.copytree(store.folder, tmp_path / "copy")
    chunk = tmp_path / "copy" / "contexts" / manifest.context_id / "1.2"
    data = bytearray(chunk.read_bytes())
    data[200] ^= 4
    chunk.write_bytes(bytes(data))
    link = ShapedLink(None, time.monotonic, time.sleep)
    with (
        StorageServer.listen(Store(tmp_path / "copy"), link) as server,
        client_of(server) as client,
        pytest.raises(CorruptBitstream),
    ):
        client.fetch(manifest, codec_of("paper"), Fixed(2), COSTS, recompute)
    with pytest.raises(CorruptBitstream):
        Manifest.from_json({**manifest.to_json(), "text_bytes": [1]})
    with pytest.raises(ConfigError):
        store.store_kv(codec_of("paper"), [1, 2], cache_of(tiny_model("llama"), 3, 1))


def test_command_line_inspects_and_decodes(stored, capsys, tmp_path):
    store, manifest, _, _ = stored
    chunk = store.folder / "contexts" / manifest.context_id / "0.2"
    profile = store.folder / "profiles" / f"{manifest.profile_id}.safetensors"
    assert main(["inspect", str(chunk)]) == 0
    assert '"num_tokens": 32' in capsys.readouterr().out
    assert main(["decode", str(profile), str(chunk), str(tmp_path / "kv.safetensors")]) == 0
    assert main(["inspect", str(profile)]) == 1
    assert "CorruptBitstream" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "nowhere")]) == 2
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1


def test_a_whole_chunk_in_another_chunks_place_is_noticed(stored, tmp_path):
    # Each file is intact, so its checksum is right; only the manifest knows that tokens are missing.
    store, manifest, _, _ = stored
    shutil.copytree(store.folder, tmp_path / "copy")
    folder = tmp_path / "copy" / "contexts" / manifest.context_id
    for kind in ("2", "text"):
        (folder / f"1.{kind}").write_bytes((folder / f"2.{kind}").read_bytes())
    link = ShapedLink(None, time.monotonic, time.sleep)
    with StorageServer.listen(Store(tmp_path / "copy"), link) as server, client_of(server) as client:
        with pytest.raises(CorruptBitstream, match="another chunk"):
            client.fetch(manifest, codec_of("paper"), Fixed(2), COSTS, recompute)
        with pytest.raises(CorruptBitstream, match="32 tokens expected"):
            client.fetch(manifest, codec_of("paper"), TextOnly(), COSTS, recompute)


def test_storing_anew_takes_the_old_manifest_away_first(stored, tmp_path, monkeypatch):
    _, _, kv, ids = stored
    store = Store(tmp_path)
    name = store.store_kv(codec_of("paper"), ids, kv, 32).context_id
    with pytest.raises(ConfigError, match="chunk_tokens=-4 must be 1"):
        store.store_kv(codec_of("paper"), ids, kv, -4)
    assert store.contexts() == [name]  # a refused value costs nothing
    codec = codec_of("paper")
    monkeypatch.setattr(type(codec), "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.store_kv(codec, ids, kv, 16)
    assert store.contexts() == []


@pytest.mark.parametrize("body", [b"hello", b"\xff\xfe", b"{}", b"[1]"])
def test_foreign_servers_are_one_clear_error(body, monkeypatch):
    client = Client("127.0.0.1", 1, time.monotonic)
    monkeypatch.setattr(client, "get", lambda path: body)
    with pytest.raises(CorruptBitstream, match="no list of contexts"):
        client.contexts()
    with pytest.raises(CorruptBitstream):
        client.manifest("ab" * 32)
    for name in ("a b", "../x", "\u00e9"):
        with pytest.raises(ConfigError, match="64 hexadecimal"):
            client.manifest(name)


def test_manifests_without_chunks_or_of_another_context_are_refused(stored, monkeypatch):
    plain = stored[1].to_json()
    with pytest.raises(CorruptBitstream, match="no chunks"):
        Manifest.from_json(plain | {"chunk_tokens": [], "level_bytes": [], "text_bytes": []})
    client = Client("127.0.0.1", 1, time.monotonic)
    monkeypatch.setattr(client, "get", lambda path: json.dumps(plain).encode())
    with pytest.raises(CorruptBitstream, match="is that of"):
        client.manifest("ab" * 32)


def test_addresses_that_cannot_be_had_are_refused(stored, server):
    link = ShapedLink(None, time.monotonic, time.sleep)
    for port in (server.address[1], 99999):
        with pytest.raises(ConfigError, match="cannot listen"):
            StorageServer.listen(stored[0], link, port=port)


def test_command_line_refuses_bad_texts_and_numbers(tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_bytes(b"caf\xe9")
    for arguments in (["encode", "p", str(text), "s", "--chunk-tokens", "0"], ["serve", "s", "--port", "99999"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    assert "'0' is not a whole number" in capsys.readouterr().err
    for wrong in ("nan", "-1"):
        assert main(["fetch", "list", "--deadline-s", wrong]) == 2
        assert f"--deadline-s {float(wrong)} must be 0 or more" in capsys.readouterr().err
