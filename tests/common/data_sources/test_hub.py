"""The hub: unreachable is one quick line; alternatives are tried in order; archives and tables are really read."""

import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import huggingface_hub.constants
import pytest

from common.data import hub
from common.data.hub import HubTable, open_table
from common.data.sources import DATASETS, DataSpec, load_items
from common.errors import DataUnavailable

REFUSES = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture
def reachable(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "unreachable", lambda endpoint: "")


@pytest.fixture
def server():
    """A web server that answers everything with status 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_probe(server):
    assert hub.unreachable(server) == ""  # an error status is an answer
    assert "refused" in hub.unreachable(REFUSES)
    assert hub.unreachable("no url at all")


def test_probe_does_not_wait_for_a_silent_network(monkeypatch):
    waiting = threading.Event()

    def hang(*args, **kwargs):
        waiting.wait(timeout=5)  # not for ever, so that a probe that does wait fails instead of hanging
        raise OSError("too late")

    monkeypatch.setattr(hub.urllib.request, "urlopen", hang)
    assert hub.unreachable("http://silent", timeout_s=0.05) == "no answer within 0.05 s"
    waiting.set()


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS.get(name).hub])
def test_an_unreachable_hub_is_one_line_and_nothing_is_retried(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", REFUSES)
    for reader in ("_read_table", "_read_archive"):
        monkeypatch.setattr(hub, reader, lambda table: pytest.fail("the hub was asked although it cannot be reached"))
    with pytest.raises(DataUnavailable) as caught:
        load_items(DataSpec("hf", name))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"dataset {name!r} (source=hf): {REFUSES} cannot be reached (")
    assert DATASETS.get(name).hub[0].repo in message
    assert "source=local" in message
    assert "HF_HUB_OFFLINE=1" in message


def test_a_dataset_that_is_not_on_the_hub():
    with pytest.raises(DataUnavailable, match=r"dataset 'finsec' is not on the hub\. Or use source=local"):
        load_items(DataSpec("hf", "finsec"))


def test_offline_mode_goes_to_the_cache_without_a_probe(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "unreachable", lambda endpoint: pytest.fail("probed in offline mode"))
    monkeypatch.setattr(hub, "_read_table", lambda table: iter([{"a": 1}]))
    rows, table = open_table("x", [HubTable("o/r", "plain")], "")
    assert [(row["a"].integer(), row.file, row.place) for row in rows] == [(1, "o/r (test)", "row 0")]
    assert table.layout == "plain"


def test_alternatives_are_tried_in_order_and_named(monkeypatch, reachable):
    def fails_at_the_first_row():
        raise ValueError("bad row")
        yield

    def read(table):
        if table.repo == "a/gone":
            raise FileNotFoundError("a/gone does not exist\nor is private")
        if table.repo == "b/script":
            raise RuntimeError("Dataset scripts are no longer supported, but found b.py")
        if table.repo == "c/late":
            return fails_at_the_first_row()
        return iter([{"n": 1}, {"n": 2}])

    monkeypatch.setattr(hub, "_read_table", read)
    tables = [HubTable(repo, "plain") for repo in ("a/gone", "b/script", "c/late", "d/good")]
    rows, table = open_table("x", tables, "Or else.")
    assert [row["n"].integer() for row in rows] == [1, 2]
    assert table.repo == "d/good"
    with pytest.raises(DataUnavailable) as caught:
        open_table("x", tables[:3], "Or else.")
    assert str(caught.value) == (
        "dataset 'x' (source=hf): nothing could be read. Tried a/gone (test): a/gone does not exist; "
        "b/script (test): Dataset scripts are no longer supported, but found b.py; c/late (test): bad row. Or else."
    )


def test_a_network_that_goes_away_ends_the_attempts(monkeypatch, reachable):
    def drop(table):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(hub, "_read_table", drop)
    with pytest.raises(DataUnavailable) as caught:
        open_table("x", [HubTable("a/one", "plain"), HubTable("b/two", "plain")], "Or else.")
    assert "a/one (test): Couldn't reach it" in str(caught.value)
    assert "b/two" not in str(caught.value)


def test_a_programming_error_is_not_taken_for_a_missing_dataset(monkeypatch, reachable):
    monkeypatch.setattr(hub, "_read_table", lambda table: None.rows)
    with pytest.raises(AttributeError):
        open_table("x", [HubTable("o/r", "plain")], "")


def test_longbench_is_read_out_of_its_zip_file(monkeypatch, reachable, tmp_path):
    row = {
        "_id": "7",
        "input": "Where?",
        "context": "Passage 1:\nOxford\nA town.\n\nPassage 2:\nExeter\nA college.\n\n",
        "answers": ["Exeter College", "Exeter College"],
        "all_classes": None,
        "length": 9,
    }
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/2wikimqa_e.jsonl", "not this one")
        archive.writestr("data/2wikimqa.jsonl", json.dumps(row) + "\n")
    asked = []

    def download(repo, filename, repo_type, revision):
        asked.append((repo, filename, repo_type))
        if repo == "THUDM/LongBench":
            raise FileNotFoundError("moved")
        return str(tmp_path / "data.zip")

    def no_table(table):
        raise FileNotFoundError("no such table")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "_read_table", no_table)
    (item,) = load_items(DataSpec("hf", "2wikimqa"))
    assert asked == [("THUDM/LongBench", "data.zip", "dataset"), ("zai-org/LongBench", "data.zip", "dataset")]
    assert item.item_id == "2wikimqa-7"
    assert item.chunks == ("Oxford\nA town.", "Exeter\nA college.")
    assert (item.question, item.answers, item.metric) == ("Where?", ("Exeter College",), "f1")

    with pytest.raises(DataUnavailable, match=r"data\.zip holds no file ending in /musique\.jsonl"):
        load_items(DataSpec("hf", "musique", options={"file": "x"}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_is_read_by_the_real_library(reachable, tmp_path, streaming, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    rows = [{"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, {"question": "3?", "answer": "#### 3"}]
    (tmp_path / "repo" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = HubTable(str(tmp_path / "repo"), "gsm8k", streaming=streaming)
    found, _ = open_table("gsm8k", [table], "")
    items = list(DATASETS.create("gsm8k").from_hub(found, "gsm8k"))
    assert [(item.question, item.answers) for item in items] == [("2+2?", ("4",)), ("3?", ("3",))]
    with pytest.raises(DataUnavailable, match=r"nothing could be read\. Tried .*train"):
        open_table("x", [HubTable(str(tmp_path / "repo"), "gsm8k", split="train")], "")
