"""The command line answers, explains, and refuses in one line."""

import json

from ragserve.__main__ import main


def test_ask(tmp_path, model_folder, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("Anna lives in Marlow. Adam lives in Kelby. The Aero costs 24 dollars. " * 3)
    common = ["ask", str(path), "--question", "Where does Anna live?", "--chunk-tokens", "12"]
    assert main([*common, "--model", str(model_folder), "--source", "local"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] in found["space"]
    assert found["chunks"]
    assert isinstance(found["answer"], str)


def test_plan_follows_the_memory(capsys):
    def config(free):
        question = "How high was Norvex's profit in the second quarter?"
        metadata = "quarterly financial reports of companies"
        assert main(["plan", "--question", question, "--metadata", metadata, "--free-tokens", str(free)]) == 0
        return json.loads(capsys.readouterr().out)["config"]

    assert config(100_000) == "map_rerank k=3"
    assert config(250) == "map_rerank k=2"
    assert config(10) == "map_rerank k=1"


def test_refusals_are_one_line(tmp_path, capsys):
    assert main(["ask", str(tmp_path / "none.txt"), "--question", "x"]) == 1
    assert "none.txt does not exist" in capsys.readouterr().err
    assert main(["plan", "--question", "x", "--method", "ragserv"]) == 2
    assert "Did you mean 'ragserve'" in capsys.readouterr().err
    assert main(["plan", "--question", "x", "--method", "adaptive_rag"]) == 2
    assert "runs in experiments only" in capsys.readouterr().err
    assert main(["plan", "--question", "x", "--free-tokens", "-1"]) == 2
    capsys.readouterr()


def test_questions_that_cannot_be_asked(model_folder, tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_text("Ada lives in Frome. She sells lamps.")
    common = ["ask", str(text), "--model", str(model_folder), "--source", "local", "--question"]
    assert main([*common, " "]) == 2
    assert "the question is empty" in capsys.readouterr().err
    assert main([*common, "Where does Ada live?", "--max-answer-tokens", "100000"]) == 2
    assert "an answer of 100000 do not fit into the model's" in capsys.readouterr().err
    text.write_bytes(b"caf\xe9")  # once read with the byte replaced, without a word
    assert main([*common, "Where?"]) == 1
    assert "not UTF-8 text" in capsys.readouterr().err
