"""docs/data.md: its commands run, and it covers every data set, file, option and metric."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from common.data.__main__ import main
from common.data.sources import DATASETS, DataSpec, TextDataset, load_items
from common.metrics import METRICS, metric, versioned

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def rows(heading):
    table = TEXT.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return cells[2:]


COMMANDS = [line for block in blocks("console") for line in block.splitlines()]


def arguments(command, own_file="", root=""):
    words = shlex.split(command, comments=True)
    words = words[words.index("common.data") + 1 :]
    return [word.replace("OWN_FILE", own_file).replace("DATA_ROOT", root) for word in words]


@pytest.fixture
def own_file(tmp_path):
    (line,) = blocks("json")
    path = tmp_path / "own.jsonl"
    path.write_text(line)
    return str(path)


def test_there_are_commands():
    assert len(COMMANDS) >= 7
    assert all("python -m common.data " in command for command in COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "DATA_ROOT" not in c and "HF_HUB" not in c])
def test_command_without_data(command, own_file, capsys):
    assert main(arguments(command, own_file)) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if "DATA_ROOT" in c])
def test_command_with_data(command, text_root, capsys):
    assert main(arguments(command, root=str(text_root.parent))) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if "HF_HUB" in c])
def test_offline_command(command, monkeypatch, capsys):
    import huggingface_hub.constants

    from common.data import hub

    def not_cached(table):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_read_table", not_cached)
    assert main(arguments(command)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_shown_item_is_what_the_command_prints(text_root, capsys):
    (command,) = [c for c in COMMANDS if "context=paragraph" in c]
    main(arguments(command, root=str(text_root.parent)))
    assert capsys.readouterr().out in blocks("text")


def test_own_items_are_read_as_documented(own_file):
    (item,) = load_items(DataSpec("local", "jsonl", options={"file": own_file}))
    assert (item.item_id, item.answers, item.evidence, item.metric) == ("1", ("Ann Lee",), (0,), "f1")


def test_every_data_set_has_its_row():
    named = [row[0].strip("`") for row in rows("## The data sets")]
    assert len(named) == len(set(named))
    assert set(named) == set(DATASETS)


def test_the_metrics_named_in_the_table_exist_and_are_those_of_the_items(text_root):
    for name, _, _, score, _ in rows("## The data sets"):
        if score in ("-", "yours"):
            continue
        metrics, _, tokens = score.partition(", ")
        for one in metrics.split(" or "):
            versioned(one)
        dataset = DATASETS.create(name.strip("`"))
        if not all((text_root / path).is_file() for path in dataset.paths()):
            continue
        item = next(load_items(DataSpec("local", name.strip("`"), text_root.parent)))
        assert item.metric in metrics.split(" or ")
        assert item.max_answer_tokens == int(tokens)


def test_every_metric_is_documented():
    named = {name for row in rows("## Metrics") for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {name.partition("@")[0] for name in METRICS}
    for name in named - {"token_id_f1"}:
        assert metric(name)


def test_the_download_script_is_valid_and_makes_every_default_file(tmp_path):
    """Run with the programs that would fetch replaced by ones that only make the file they are told to make."""
    (script,) = blocks("bash")
    fetch = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done; : > "${out:-/dev/stdout}"'
    for program, body in (("curl", fetch), ("gunzip", "cat"), ("pdftotext", ': > "$2"'), ("unzip", ":")):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", "-eu"],
        input=script.replace("DATA_ROOT", str(tmp_path / "root")),
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = {
        str(path.relative_to(tmp_path / "root" / "text")) for path in (tmp_path / "root").rglob("*") if path.is_file()
    }
    wanted = {
        path
        for name in DATASETS
        if name != "jsonl" and DATASETS.get(name).paths is not TextDataset.paths
        for path in DATASETS.create(name).paths()
    }
    assert wanted <= made
    assert "kg_rag_finsec/2022 Q3 AAPL.txt" in made


def test_wrong_use_is_one_line_and_exit_code_2(capsys, tmp_path):
    for words in (["show", "sqad", "--root", str(tmp_path)], ["show", "squad"], ["check", "--root", "/nowhere"]):
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["show", "squad", "--option", "context"]) == 2
    assert "write NAME=VALUE" in capsys.readouterr().err
    assert main(["check", "--root", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().out
