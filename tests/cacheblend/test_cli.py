"""The command line with real files and a real (tiny, untrained) model."""

import importlib.resources
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cacheblend.__main__ import Passage, main, retrieve

TEXTS = {
    "cities.txt": "Ardena was founded by Mila Orvath. The river Tessel runs through Ardena. Its bridge was built in 1904. "
    * 3,
    "sub/people.md": "Mila Orvath was born in Kessel. She studied law and liked chess. Her brother Jon was a painter. "
    * 3,
    "ignored.csv": "a,b,c",
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    """A model folder as a user would have it: the bundled tokenizer, random weights."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(str(importlib.resources.files("common.models") / "bundled" / "small"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(3)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    """`run(*arguments)`: exit status, standard output, standard error."""

    def call(*arguments: object, model: str = model_folder) -> tuple[int, str, str]:
        status = main([str(a) for a in arguments] + ["--model", model, "--store", str(tmp_path / "store")])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def ask_json(run, *arguments: object, **options: str) -> dict:
    status, out, err = run("ask", "Who founded Ardena?", "--json", "--max-tokens", 4, *arguments, **options)
    assert status == 0, err
    return json.loads(out) | {"stderr": err}


def test_precompute_then_ask(run, corpus, tmp_path):
    status, out, err = run("precompute", corpus, "--chunk-tokens", 40)
    assert (status, err) == (0, "")
    assert "of 2 files" in out
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    assert {entry["file"] for entry in index["chunks"]} == {"texts/cities.txt", "texts/sub/people.md"}
    assert all(0 < len(entry["ids"]) <= 40 for entry in index["chunks"])
    assert len(index["chunks"]) >= 4

    report = ask_json(run, "--top", 3, "--compare")
    assert report["stderr"] == ""
    assert (report["num_chunks"], report["missed_chunks"], report["damaged_chunks"]) == (3, 0, 0)
    assert report["loaded_bytes"] > 0
    assert 0 < report["recomputed_share"] < 1
    assert report["reused_tokens"] < report["prompt_tokens"]
    assert sum(report["phases_s"].values()) <= report["ttft_s"]
    assert {"open", "select", "recompute", "head"} <= set(report["phases_s"])
    assert report["loader_s"] > 0
    assert report["full_recompute"]["ttft_s"] > 0

    # Everything recomputed is full recompute.
    report = ask_json(run, "--top", 3, "--compare", "--ratio", 1)
    assert report["answer"] == report["full_recompute"]["answer"]
    assert ask_json(run, "--top", 3, "--depth", 0)["loader_s"] == 0

    status, out, _ = run("precompute", corpus, "--chunk-tokens", 40)
    assert ": 0 computed" in out
    status, out, err = run("ask", "Who founded Ardena?", "--file", "people", "--max-tokens", 3)
    assert status == 0
    assert "cities" not in out
    assert "from the store" in out
    assert "ttft" in out


def test_zero_reuse_is_loud_and_says_why(run, corpus, tmp_path, model_folder):
    run("precompute", corpus, "--chunk-tokens", 40)
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    settings = json.loads((other / "config.json").read_text())
    settings["rms_norm_eps"] = 1e-4
    (other / "config.json").write_text(json.dumps(settings))
    report = ask_json(run, "--top", 2, model=str(other))
    assert "NOTHING WAS REUSED" in report["stderr"]
    assert "stored, but for another model" in report["stderr"]
    assert report["missed_chunks"] == 2
    again = ask_json(run, "--top", 2, model=str(other))  # what was computed has been stored
    assert (again["missed_chunks"], again["stderr"]) == (0, "")
    assert again["answer"] == report["answer"]


def test_damage_is_a_warning_not_another_answer(run, corpus, tmp_path):
    run("precompute", corpus, "--chunk-tokens", 40)
    before = ask_json(run, "--top", 2)
    for path in (tmp_path / "store").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(bytes(data))
    after = ask_json(run, "--top", 2)
    assert after["answer"] == before["answer"]
    assert after["damaged_chunks"] > 0
    assert "checksum" in after["stderr"]
    assert "NOTHING WAS REUSED" in after["stderr"]
    assert ask_json(run, "--top", 2)["stderr"] == ""


def test_the_controller_picks_a_ratio_from_a_profile_measured_once(run, corpus, tmp_path):
    run("precompute", corpus, "--chunk-tokens", 40)
    first = ask_json(run, "--ratio", "auto", "--top", 3)
    assert "measuring this machine once" in first["stderr"]
    assert 0.15 <= first["ratio"] <= 1
    second = ask_json(run, "--ratio", "auto", "--top", 3)
    assert second["stderr"] == ""
    assert second["ratio"] == pytest.approx(first["ratio"])
    assert "loading takes" in second["ratio_reason"]


def test_a_limited_store_stays_within_it_and_says_so(run, corpus, tmp_path):
    status, _, err = run("precompute", corpus, "--chunk-tokens", 40, "--limit-gb", 0.00006)
    assert status == 0
    assert "evicted to stay within" in err
    assert sum(path.stat().st_size for path in (tmp_path / "store").glob("*.safetensors")) <= 60_000
    report = ask_json(run, "--top", 6, "--limit-gb", 0.00006)
    assert report["missed_chunks"] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["precompute", "{tmp}/nowhere"], 2, "is not a folder"),
        (["precompute", "{tmp}/texts", "--pattern", "*.pdf"], 2, "no file that matches"),
        (["precompute", "{tmp}/texts", "--chunk-tokens", "3"], 2, "too short"),
        (["precompute", "{tmp}/texts", "--chunk-tokens", "5000"], 0, ""),
        (["precompute", "{tmp}/texts", "--limit-gb", "0"], 2, "must be > 0"),
        (["precompute", "{tmp}/binary"], 1, "not UTF-8"),
        (["ask", "x"], 2, "run `python -m cacheblend precompute"),
        (["ask", "x", "--ratio", "1.5"], 2, "--ratio 1.5"),
        (["ask", "x", "--ratio", "much"], 2, "nor 'auto'"),
        (["ask", "x", "--top", "0"], 2, "at least 1"),
    ],
)
def test_errors_are_one_clear_line(run, corpus, tmp_path, arguments, status, message):
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "a.txt").write_bytes(b"\xff\xfe\x00")
    got, _, err = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert got == status
    assert message in err
    assert err.count("\n") == (1 if message else 0)


def test_questions_that_cannot_be_asked(run, corpus, tmp_path):
    run("precompute", corpus, "--chunk-tokens", 40)
    assert run("ask", "x", "--file", "nowhere")[0] == 2
    assert "context" in run("ask", "word " * 600)[2] or "positions" in run("ask", "word " * 600)[2]
    status, _, err = run("ask", "x", model=str(corpus))
    assert (status, "config.json is missing" in err) == (1, True)
    (tmp_path / "store" / "index.json").write_text("{")
    status, _, err = run("ask", "x")
    assert (status, "damaged" in err) == (1, True)


@pytest.mark.parametrize(
    "change", [{"chunks": [{"file": "a"}]}, {"chunks": [7]}, {"tokenizer": None}, {"format": 2}, {"model_name": 1}]
)
def test_a_damaged_index_is_one_clear_line(tmp_path, capsys, change):
    whole = {"format": 1, "model_name": "m", "tokenizer": "t", "chunks": []}
    (tmp_path / "index.json").write_text(json.dumps(whole | change))
    assert main(["ask", "x", "--store", str(tmp_path)]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_an_endless_limit_is_refused(tmp_path, capsys):
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "model_name": "m", "tokenizer": "t", "chunks": []}))
    assert main(["ask", "x", "--store", str(tmp_path), "--limit-gb", "inf"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_retrieval_prefers_rare_shared_words_and_keeps_the_order_of_the_corpus():
    texts = ["the cat sat", "the dog ran", "the zebra and the dog", "nothing here"]
    passages = [Passage("f", i, text, (1,)) for i, text in enumerate(texts)]
    assert [p.start for p in retrieve(passages, "Where is the zebra?", 1)] == [2]
    assert [p.start for p in retrieve(passages, "zebra cat", 2)] == [0, 2]
    assert len(retrieve(passages, "unrelated", 9)) == 4


def test_help_needs_no_torch():
    code = (
        "import sys, contextlib\nfrom cacheblend.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "precompute" in done.stdout
    assert done.stdout.strip().endswith("False")
