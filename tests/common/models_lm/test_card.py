"""The card's tables are what the stored files say, and the one-chunk readers are asked what their chunk can tell."""

import pytest

from common.errors import ConfigError
from common.models import card, gates, gates_scoring, prompt_format


def test_the_card_says_what_is_stored():
    assert card.render(card.CARD.read_text(), card.shipped()) == card.CARD.read_text(), "python -m common.models.card"


def test_a_table_without_a_place_is_named():
    with pytest.raises(ConfigError, match="'sizes'"):
        card.render("nothing here", card.shipped())


def test_tables_are_rectangular():
    assert card._table(["", "a"], [["b", "1"], ["c", "2"]]).splitlines() == [
        "|  | a |",
        "| --- | --- |",
        "| b | 1 |",
        "| c | 2 |",
    ]
    for size in card.shipped():
        for table in (card.scores_table(size), card.kv_table(size), card.parts_table([size]), card.gates_table([size])):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_sizes_are_compared_on_the_same_cells():
    assert "nothing to compare" in card.compared_table(["small"])
    lines = card.compared_table(["small", "small"]).splitlines()
    stored = card._stored("small", "gates.json")["scores"]["families"]
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    accuracies = [f"{stored[cells[0]][f'test_{length}_chunks']['accuracy']:.2f}" for length in card._LENGTHS]
    assert cells[1::2] == cells[2::2] == accuracies
    # The last line is the mean of the columns above it.
    column = [float(line.split("|")[2]) for line in lines[2:]]
    assert column[-1] == pytest.approx(sum(column[:-1]) / len(column[:-1]), abs=0.01)


def test_readers_of_one_chunk_are_asked_what_it_can_tell(monkeypatch):
    _, tokenizer = gates.load_bundled("small")
    seen = []

    def record(model, prompts):
        seen.append(prompts)
        return [True] * len(prompts)

    monkeypatch.setattr(gates_scoring, "answered_right", record)
    table = gates.parts(None, tokenizer, 12, 5)["families"]
    # One prompt list per family and kind, in the table's order; single_fact is the first family.
    stated, unknown = seen[0], seen[1]
    assert table["single_fact"]["stated"]["items"] == len(stated) > 0
    assert table["single_fact"]["unknown"]["items"] == len(unknown) > 0
    for prompt in stated:
        assert len(prompt.chunks) == 1
        assert prompt_format.decode_answer(tokenizer, prompt.answer) in tokenizer.decode(prompt.chunks[0])
    assert {prompt_format.decode_answer(tokenizer, prompt.answer) for prompt in unknown} == {"unknown"}
    # Two hops that one chunk does not hold cannot be answered from it.
    assert table["multi_hop"]["unknown"]["items"] > table["multi_hop"]["stated"]["items"]
