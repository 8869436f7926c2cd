"""Every dataset from small files in its own format, written here; no data root is needed."""

import csv
import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from common.data.items import QAItem
from common.data.records import Record
from common.data.sources import (
    DATASETS,
    DataSpec,
    TextDataset,
    by_context,
    distinct,
    input_hashes,
    load_items,
    sample_items,
)
from common.data.text.own import write_items
from common.errors import ConfigError, DataUnavailable, UnknownName


def put(root, path, content):
    """Write a file below root/text: text as it is, anything else as JSON (a list of rows as JSON lines for .jsonl)."""
    target = root / "text" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        target.write_text(content, encoding="utf-8")
    elif path.endswith(".jsonl"):
        target.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    else:
        target.write_text(json.dumps(content), encoding="utf-8")
    return target


def load(root, dataset, **options):
    return list(load_items(DataSpec("local", dataset, root, options)))


def from_rows(dataset, layout, rows, **knobs):
    return list(
        DATASETS.create(dataset, **knobs).from_hub(
            [Record(row, "table", f"row {i}") for i, row in enumerate(rows)], layout
        )
    )


# --- question answering ------------------------------------------------------------------------------------------------


def squad(
    answers=(
        {"text": "Paris", "answer_start": 0},
        {"text": "paris", "answer_start": 0},
        {"text": "Paris", "answer_start": 9},
    ),
):
    def paragraph(name, gold):
        return {
            "context": f"About {name}.",
            "qas": [{"id": name, "question": f"What of {name}? ", "answers": list(gold)}],
        }

    return {
        "version": "1.1",
        "data": [{"title": "T", "paragraphs": [paragraph("a", answers), paragraph("b", answers)]}],
    }


def test_squad(tmp_path):
    put(tmp_path, "squad/xquad_en.json", squad())
    first, second = load(tmp_path, "squad")
    assert first == QAItem(
        "squad-a", "single_fact", ("About a.", "About b."), "What of a?", ("Paris", "paris"), evidence=(0,), metric="f1"
    )
    assert second.evidence == (1,)
    assert [group[0].chunks for group in by_context([first, second])] == [first.chunks]
    (_, alone) = load(tmp_path, "squad", context="paragraph")
    assert (alone.chunks, alone.evidence) == (("About b.",), (0,))


def test_squad_rows_of_the_hub_are_grouped_to_articles():
    rows = [
        {
            "id": str(i),
            "title": title,
            "context": context,
            "question": "q?",
            "answers": {"text": ["x"], "answer_start": [0]},
        }
        for i, (title, context) in enumerate([("A", "one"), ("A", "one"), ("A", "two"), ("B", "three")])
    ]
    items = from_rows("squad", "squad", rows)
    assert [(item.item_id, item.chunks, item.evidence) for item in items] == [
        ("squad-0", ("one", "two"), (0,)),
        ("squad-1", ("one", "two"), (0,)),
        ("squad-2", ("one", "two"), (1,)),
        ("squad-3", ("three",), (0,)),
    ]


def test_squad_version_2_is_refused(tmp_path):
    path = put(tmp_path, "squad/xquad_en.json", squad(answers=()))
    with pytest.raises(DataUnavailable) as caught:
        load(tmp_path, "squad")
    assert str(caught.value).startswith(
        f"{path}, data[0].paragraphs[0].qas[0].answers: expected at least one answer (SQuAD 1.1; version 2.0 has"
    )


MUSIQUE = {
    "id": "2hop__1_2",
    "paragraphs": [
        {"idx": 0, "title": "A", "paragraph_text": "a text", "is_supporting": False},
        {"idx": 1, "title": "B", "paragraph_text": "b text", "is_supporting": True},
    ],
    "question": "Who?",
    "answer": "Ann",
    "answer_aliases": ["Anna", "Ann"],
    "answerable": True,
}


def test_musique_in_its_three_forms(tmp_path):
    put(
        tmp_path,
        "musique/musique_s.json",
        [{"question": "Who?", "answers": ["Ann"], "ctxs": [{"title": "", "text": "t "}]}],
    )
    (item,) = load(tmp_path, "musique")
    assert (item.item_id, item.chunks, item.answers, item.evidence) == ("musique-0", ("t",), ("Ann",), ())

    put(tmp_path, "musique/own.jsonl", [MUSIQUE, MUSIQUE | {"id": "no", "answerable": False}])
    (item,) = load(tmp_path, "musique", file="musique/own.jsonl")
    assert item == QAItem(
        "musique-2hop__1_2", "multi_hop", ("A\na text", "B\nb text"), "Who?", ("Ann", "Anna"), evidence=(1,)
    )
    assert from_rows("musique", "musique", [MUSIQUE]) == [item]

    row = {"_id": "x", "input": "Who?", "context": "Passage 1:\nA\na\n\nPassage 2:\nB\nb", "answers": ["Ann"]}
    put(tmp_path, "longbench/musique.jsonl", [row])
    (item,) = load(tmp_path, "musique", file="longbench/musique.jsonl")
    assert (item.item_id, item.chunks) == ("musique-x", ("A\na", "B\nb"))


EXAMPLES = """# METADATA: {"qid": "q1"}
Wikipedia Title: A
First.

Second.

Wikipedia Title: B
Third.

Q: Are both U.S.?
A: One is. Other is. So the answer is: U.S..


# METADATA: {"qid": "q2"}
Wikipedia Title: C
Fourth.

Q: When?
A: Then. So the answer is: 19 June 2013.
"""


@pytest.mark.parametrize(
    ("dataset", "path"),
    [
        ("2wikimqa", "multihop_fewshot/2wikimultihopqa_gold_with_3_distractors_cot.txt"),
        ("hotpotqa", "multihop_fewshot/hotpotqa_gold_with_3_distractors_cot.txt"),
    ],
)
def test_worked_examples(tmp_path, dataset, path):
    put(tmp_path, path, EXAMPLES)
    first, second = load(tmp_path, dataset)
    assert (first.item_id, first.question, first.answers) == (f"{dataset}-q1", "Are both U.S.?", ("U.S.",))
    assert first.chunks == ("A\nFirst.\n\nSecond.", "B\nThird.")
    assert (second.item_id, second.answers) == (f"{dataset}-q2", ("19 June 2013",))

    where = put(tmp_path, path, EXAMPLES.replace("So the answer is: 19", "It was 19"))
    with pytest.raises(
        DataUnavailable, match=re.escape(f"{where}, line 14: expected passages, 'Q: ...' and 'A: ... So")
    ):
        load(tmp_path, dataset)
    put(tmp_path, path, "nothing of the kind")
    with pytest.raises(DataUnavailable, match="expected lines '# METADATA"):
        load(tmp_path, dataset)


@pytest.mark.parametrize(
    ("context", "facts"),
    [
        (
            {"title": ["A", "B"], "sentences": [["One.", " Two."], ["Three.", "Four."]]},
            {"title": ["B"], "sent_id": [1]},
        ),
        ([["A", ["One.", " Two."]], ["B", ["Three.", "Four."]]], [["B", 1]]),
        (json.dumps([["A", ["One.", " Two."]], ["B", ["Three.", "Four."]]]), json.dumps([["B", 1]])),
        ({"title": ["A", "B"], "content": [["One.", " Two."], ["Three.", "Four."]]}, {"title": ["B"], "sent_id": [1]}),
    ],
)
def test_hotpot_rows(tmp_path, context, facts):
    row = {"id": "h", "question": "Q?", "answer": "yes", "context": context, "supporting_facts": facts}
    expected = QAItem("hotpotqa-h", "multi_hop", ("A\nOne. Two.", "B\nThree. Four."), "Q?", ("yes",), evidence=(1,))
    assert from_rows("hotpotqa", "hotpot", [row]) == [expected]
    put(tmp_path, "hotpot/dev.json", [row])
    assert load(tmp_path, "hotpotqa", file="hotpot/dev.json") == [expected]


def test_hotpot_rows_of_another_shape():
    with pytest.raises(DataUnavailable, match=r"table, row 0, context\[0\]: expected a pair"):
        from_rows("hotpotqa", "hotpot", [{"id": "h", "context": [["A"]], "supporting_facts": []}])
    with pytest.raises(DataUnavailable, match="context: expected a list, an object, or either as JSON"):
        from_rows("hotpotqa", "hotpot", [{"id": "h", "context": "plain", "supporting_facts": []}])


def test_nq_open(tmp_path):
    passages = [{"title": "D", "text": "d", "isgold": False}, {"title": "G", "text": "g", "isgold": True}]
    put(tmp_path, "nq_open/nq_open_oracle_300.jsonl", [{"question": "q", "answers": ["a", "b", "a"], "ctxs": passages}])
    (item,) = load(tmp_path, "nq_open")
    assert (item.chunks, item.evidence, item.answers) == (("D\nd", "G\ng"), (1,), ("a", "b"))


def test_triviaqa_in_both_forms(tmp_path):
    example = "Passage:\nOld text.\nQuestion:\nOld?\nAnswer:\nold\n"
    row = {
        "_id": "t",
        "context": f"{example}\n{example}",
        "input": "Passage:\nText on it.\nQuestion:\nWhich?\nAnswer:",
        "answers": ["A", "Alias"],
    }
    put(tmp_path, "longbench/triviaqa.jsonl", [row])
    (item,) = load(tmp_path, "triviaqa")
    assert item.chunks == (example.strip(), example.strip(), "Passage:\nText on it.")
    assert (item.question, item.evidence, item.answers, item.metric) == (
        "Which?",
        (2,),
        ("A", "Alias"),
        "first_line_f1",
    )

    reading = {
        "question": "Which?",
        "question_id": "tc_1",
        "entity_pages": {"wiki_context": ["Page.", ""]},
        "search_results": {"search_context": ["Found."]},
        "answer": {"value": "A", "aliases": ["Alias", "A"]},
    }
    empty = reading | {"entity_pages": {"wiki_context": []}, "search_results": {"search_context": []}}
    (item,) = from_rows("triviaqa", "rc", [empty, reading])
    assert (item.item_id, item.chunks, item.answers) == ("triviaqa-tc_1", ("Page.", "Found."), ("A", "Alias"))


def test_narrativeqa_splits_at_blank_lines_or_at_line_ends():
    row = {"_id": "n", "input": "Why?", "context": "One.\nstill one.\n \nTwo.", "answers": ["so"]}
    assert from_rows("narrativeqa", "longbench", [row])[0].chunks == ("One.\nstill one.", "Two.")
    assert from_rows("narrativeqa", "longbench", [row | {"context": "One.\nTwo."}])[0].chunks == ("One.", "Two.")


def test_pubmedqa(tmp_path):
    row = {"QUESTION": "Does it?", "CONTEXTS": ["c1", "c2"], "LABELS": ["AIM", "RESULT"], "final_decision": "maybe"}
    put(tmp_path, "pubmedqa/pqal_300.json", {"77": row})
    (item,) = load(tmp_path, "pubmedqa")
    assert item.chunks == ("AIM: c1", "RESULT: c2")
    assert (item.question, item.answers, item.metric) == (
        "Does it? Answer yes, no or maybe.",
        ("maybe",),
        "exact_match",
    )
    hub_row = {
        "pubid": 77,
        "question": "Does it?",
        "context": {"contexts": ["c1", "c2"], "labels": ["AIM", "RESULT"]},
        "final_decision": "maybe",
    }
    assert from_rows("pubmedqa", "pubmedqa", [hub_row]) == [item]
    put(tmp_path, "pubmedqa/pqal_300.json", {"77": row | {"final_decision": "perhaps"}})
    with pytest.raises(
        DataUnavailable, match=r"77\.final_decision: expected one of yes, no, maybe, found str 'perhaps'"
    ):
        load(tmp_path, "pubmedqa")
    put(tmp_path, "pubmedqa/pqal_300.json", {"77": row | {"LABELS": ["AIM"]}})
    with pytest.raises(DataUnavailable, match=r"77\.LABELS: expected 2 labels, one per section"):
        load(tmp_path, "pubmedqa")


def test_gsm8k(tmp_path):
    rows = [{"question": f"q{i}?", "answer": f"1+1=<<1+1=2>>2\n#### 1,00{i}"} for i in range(3)]
    put(tmp_path, "gsm8k/gsm8k_test_000_299.jsonl", rows)
    items = load(tmp_path, "gsm8k")
    assert [(item.item_id, item.chunks, item.answers) for item in items] == [
        (f"gsm8k-{i}", (), (f"1,00{i}",)) for i in range(3)
    ]
    (last,) = load(tmp_path, "gsm8k", num_shots=2)
    assert last.item_id == "gsm8k-2"
    assert last.chunks[0] == "Question: q0?\nAnswer: 1+1=2\n#### 1,000"
    assert len(last.chunks) == 2
    path = put(tmp_path, "gsm8k/gsm8k_test_000_299.jsonl", [rows[0], {"question": "q", "answer": "5"}])
    items = load_items(DataSpec("local", "gsm8k", tmp_path))
    next(items)
    with pytest.raises(DataUnavailable, match=re.escape(f"{path}, line 2, answer: expected a worked answer")):
        next(items)
    with pytest.raises(ConfigError, match="num_shots=-1 must be at least 0"):
        load(tmp_path, "gsm8k", num_shots=-1)


# --- summaries ---------------------------------------------------------------------------------------------------------


def meeting(span=("1", "2")):
    return {
        "topic_list": [],
        "general_query_list": [{"query": "All?", "answer": "Everything."}],
        "specific_query_list": [{"query": "One?", "answer": "This.", "relevant_text_span": [list(span), ["0", "0"]]}],
        "meeting_transcripts": [
            {"speaker": f"S{i}", "content": f"{{vocalsound}} said {{gap}} {i} ."} for i in range(4)
        ],
    }


def test_qmsum(tmp_path):
    put(tmp_path, "qmsum/qmsum_val.jsonl", [meeting()])
    general, specific = load(tmp_path, "qmsum")
    assert general.chunks == tuple(f"S{i}: said {i} ." for i in range(4))
    assert (general.evidence, general.metric, specific.evidence) == ((), "rouge_l", (0, 1, 2))
    assert specific == load(tmp_path, "qmsum", queries="specific")[0]
    assert load(tmp_path, "qmsum", queries="general", clean=False)[0].chunks[0] == "S0: {vocalsound} said {gap} 0 ."
    with pytest.raises(ConfigError, match="queries='some' is not one of all, specific, general"):
        load(tmp_path, "qmsum", queries="some")
    put(tmp_path, "qmsum/qmsum_val.jsonl", [meeting(span=("1", "4"))])
    with pytest.raises(
        DataUnavailable, match=r"specific_query_list\[0\].relevant_text_span\[0\]: expected the first and last"
    ):
        load(tmp_path, "qmsum")
    put(tmp_path, "longbench/qmsum.jsonl", [{"_id": "m", "input": "Q?", "context": "A: x\nB: y\n", "answers": ["s"]}])
    assert load(tmp_path, "qmsum", file="longbench/qmsum.jsonl")[0].chunks == ("A: x", "B: y")


def test_squality(tmp_path):
    responses = [{"response_text": text} for text in ("\nOne.", "Two.", "One.")]
    story = {
        "metadata": {"passage_id": "9"},
        "document": "Title\n \n\n By X\n \n Text.",
        "questions": [{"question_text": "Plot?", "question_number": 3, "responses": responses}],
    }
    put(tmp_path, "squality/squality_dev.jsonl", [story])
    (item,) = load(tmp_path, "squality")
    assert (item.item_id, item.chunks, item.answers) == ("squality-9-3", ("Title", "By X", "Text."), ("One.", "Two."))


def test_samsum_and_multi_news_in_both_forms(tmp_path):
    row = {
        "_id": "s",
        "context": "Dialogue: A: hi\nB: ho\nSummary: They greet.\nDialogue: C: x\nSummary: X.",
        "input": "Dialogue: D: y\nSummary: ",
        "answers": ["Y."],
    }
    put(tmp_path, "longbench/samsum.jsonl", [row])
    (item,) = load(tmp_path, "samsum")
    assert item.chunks == ("Dialogue: A: hi\nB: ho\nSummary: They greet.", "Dialogue: C: x\nSummary: X.")
    assert (item.question, item.metric) == ("Dialogue: D: y\nSummary:", "first_line_rouge_l")
    (item,) = from_rows("samsum", "samsum", [{"id": "1", "dialogue": "D: y", "summary": "Y."}])
    assert (item.chunks, item.answers, item.metric) == (("D: y",), ("Y.",), "rouge_l")

    row = {"_id": "n", "context": "Passage 1:\nOne.\nPassage 2:\nTwo.", "input": "", "answers": ["Sum."]}
    put(tmp_path, "longbench/multi_news.jsonl", [row])
    (item,) = load(tmp_path, "multi_news")
    assert (item.chunks, item.answers) == (("One.", "Two."), ("Sum.",))
    assert item.question.startswith("Write a summary")
    (item,) = from_rows("multi_news", "multi_news", [{"document": "One. ||||| Two. |||||", "summary": "– Sum."}])
    assert (item.chunks, item.answers) == (("One.", "Two."), ("Sum.",))


# --- finance -----------------------------------------------------------------------------------------------------------


def finsec(root, rows):
    folder = root / "text" / "kg_rag_finsec"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("2022 Q3 AAPL", "2023 Q1 AAPL", "2023 Q1 NVDA"):
        (folder / f"{name}.txt").write_text(f"Text of {name}.\n")
    with (folder / "qna_data.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Source Docs", "Question Type", "Source Chunk Type", "Answer"])
        writer.writerows(rows)
    return folder / "qna_data.csv"


ANSWER = '- It was $1. (SOURCE: 2022 Q3 AAPL.pdf)\n- Appleâ€™s was $2. ("2023 Q1 AAPL.pdf")\n\nSOURCE(S): 2022 Q3 AAPL.pdf, "x"'


def test_finsec(tmp_path):
    finsec(
        tmp_path,
        [
            ["How,\nthen?", "*AAPL*", "Multi-Doc RAG", "Table", ANSWER],
            ["What?", "*2023 Q1 NVDA*", "Single-Doc Single-Chunk RAG", "Text", "That.\n\nSOURCE(S): 2023 Q1 NVDA.pdf"],
        ],
    )
    both, one = load(tmp_path, "finsec")
    assert both.chunks == ("2022 Q3 AAPL\nText of 2022 Q3 AAPL.", "2023 Q1 AAPL\nText of 2023 Q1 AAPL.")
    assert both.answers == ("- It was $1.\n- Apple’s was $2.",)
    assert (both.evidence, both.family, both.question) == ((0, 1), "multi_document", "How,\nthen?")
    assert (one.answers, one.evidence, one.family) == (("That.",), (0,), "single_chunk")
    assert load(tmp_path, "finsec", documents="all")[1].evidence == (2,)
    assert sorted(input_hashes(DataSpec("local", "finsec", tmp_path))) == [
        "text/kg_rag_finsec/2022 Q3 AAPL.txt",
        "text/kg_rag_finsec/2023 Q1 AAPL.txt",
        "text/kg_rag_finsec/2023 Q1 NVDA.txt",
        "text/kg_rag_finsec/qna_data.csv",
    ]


def test_finsec_names_line_and_field(tmp_path):
    good = ["a\nb", "*AAPL*", "Multi-Doc RAG", "Table", "x"]
    path = finsec(tmp_path, [good, ["q", "*MSFT*", "Multi-Doc RAG", "Table", "x"]])
    with pytest.raises(
        DataUnavailable, match=re.escape(f"{path}, line 4, Source Docs: expected a pattern that matches one of")
    ):
        load(tmp_path, "finsec")
    finsec(tmp_path, [good, ["q", "*AAPL*", "Other", "Table", "x"]])
    with pytest.raises(
        DataUnavailable, match=re.escape("line 4, Question Type: expected one of Single-Doc Single-Chunk RAG")
    ):
        load(tmp_path, "finsec")


def tatqa(answer, scale, kind="span", source="table-text", orders=("2",)):
    return [
        {
            "table": {"uid": "t", "table": [["", "2019"], ["Sales", "$5"]]},
            "paragraphs": [{"uid": "p1", "order": 1, "text": "First."}, {"uid": "p2", "order": 2, "text": "Second."}],
            "questions": [
                {
                    "uid": "u",
                    "order": 1,
                    "question": "Which?",
                    "answer": answer,
                    "answer_type": kind,
                    "answer_from": source,
                    "rel_paragraphs": list(orders),
                    "scale": scale,
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("answer", "scale", "gold"),
    [
        (["$5"], "million", "$5 million"),
        ([" 2019", "", "2018"], "", "2019, 2018"),
        (-12.6, "million", "-12.6 million"),
        (-22.22, "percent", "-22.22%"),
        (["4.00%"], "percent", "4.00%"),
        ("3", "", "3"),
    ],
)
def test_tatqa(tmp_path, answer, scale, gold):
    put(tmp_path, "tatqa/tatqa_dev.json", tatqa(answer, scale, "multi-span"))
    (item,) = load(tmp_path, "tatqa")
    assert item.chunks == (" | 2019\nSales | $5", "First.", "Second.")
    assert (item.answers, item.evidence, item.family, item.metric) == ((gold,), (0, 2), "multi_span", "numeric_f1")


def test_tatqa_that_is_not(tmp_path):
    put(tmp_path, "tatqa/tatqa_dev.json", tatqa("3", "", orders=["3"]))
    with pytest.raises(
        DataUnavailable, match=r"rel_paragraphs\[0\]: expected the order of a paragraph \(1, 2\), found str '3'"
    ):
        load(tmp_path, "tatqa")
    put(tmp_path, "tatqa/tatqa_dev.json", tatqa([""], ""))
    with pytest.raises(DataUnavailable, match="answer: expected a number, a string or a list of strings, not blank"):
        load(tmp_path, "tatqa")


# --- recall ------------------------------------------------------------------------------------------------------------


def conversation(topics):
    start = (
        "Below is a record. The USER will say 'I would like to discuss the topic of <TOPIC>'. Now the record start. "
    )
    turns = "".join(f"USER: I would like to discuss the topic of {topic}. \n ASSISTANT: Sure. \n " for topic in topics)
    return start + turns + "Now the record ends. What is the first topic?"


def test_longchat_topics(tmp_path):
    row = {"test_id": 4, "prompt": conversation(["Tea", "Chess"]), "topics": ["Tea", "Chess"], "prompt_length": -1}
    put(tmp_path, "longchat/2_topics.jsonl", [row])
    (item,) = load(tmp_path, "longchat_topics", num_topics=2)
    assert "".join(item.chunks) + " " + item.question == row["prompt"]
    assert (len(item.chunks), item.evidence, item.answers) == (3, (1,), ("Tea",))
    assert item.chunks[1].startswith("USER: I would like to discuss the topic of Tea.")
    put(tmp_path, "longchat/2_topics.jsonl", [row | {"topics": ["Tea"]}])
    with pytest.raises(DataUnavailable, match=re.escape("prompt: expected a conversation on 1 topics (it starts 2)")):
        load(tmp_path, "longchat_topics", num_topics=2)


def test_longchat_lines(tmp_path):
    lines = [f"line key-{i}: REGISTER_CONTENT is <{i}5>\n" for i in range(3)]
    prompt = (
        f"Below is a record. Now the record start:\n\n{''.join(lines)}\nNow the record is over. Tell me line key-1."
    )
    row = {"prompt": prompt, "correct_line": lines[1], "expected_number": 15, "random_idx": ["key-1", 1]}
    put(tmp_path, "longchat/3_lines.jsonl", [row])
    (item,) = load(tmp_path, "longchat_lines", num_lines=3)
    assert "".join(item.chunks) + " " + item.question == prompt
    assert (item.chunks[2], item.evidence, item.answers) == (lines[1], (2,), ("15",))
    put(tmp_path, "longchat/3_lines.jsonl", [row | {"correct_line": "line key-9: REGISTER_CONTENT is <95>\n"}])
    with pytest.raises(DataUnavailable, match="correct_line: expected a line that occurs once in the prompt"):
        load(tmp_path, "longchat_lines", num_lines=3)


def test_kv_retrieval(tmp_path):
    pairs = [["k1", "v1"], ["k2", 'v"2'], ["k3", "v3"]]
    put(
        tmp_path,
        "kv_retrieval/kv_retrieval_75_keys_40.jsonl",
        [{"ordered_kv_records": pairs, "key": "k2", "value": 'v"2'}],
    )
    (item,) = load(tmp_path, "kv_retrieval")
    assert json.loads("".join(item.chunks)) == dict(pairs)
    assert (item.evidence, item.answers, item.metric) == ((1,), ('v"2',), "contains")
    put(
        tmp_path,
        "kv_retrieval/kv_retrieval_75_keys_40.jsonl",
        [{"ordered_kv_records": pairs, "key": "k2", "value": "v9"}],
    )
    with pytest.raises(DataUnavailable, match="ordered_kv_records: expected pairs of which one is 'k2': 'v9'"):
        load(tmp_path, "kv_retrieval")


# --- prose -------------------------------------------------------------------------------------------------------------


def test_wikitext(tmp_path):
    text = " \n = First = \n \n Text of it . \n = not a heading = \n \n = = Part = = \n \n More . \n"
    text += " \n = Second = \n \n Its text . \n"
    put(tmp_path, "lm/wikitext2_valid.txt", text)
    first, second = load(tmp_path, "wikitext")
    assert first.chunks == ("= First =", "Text of it .", "= not a heading =", "= = Part = =", "More .")
    assert second.chunks == ("= Second =", "Its text .")
    assert (first.question, first.answers) == ("", ())
    rows = [{"text": line + "\n" if line.strip() else ""} for line in text.split("\n")]
    assert from_rows("wikitext", "wikitext", rows) == [first, second]


def test_books(tmp_path):
    body = "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\none two\nthree\n\nfour\n\nfive six seven\n\neight\n\n"
    path = put(tmp_path, "lm/novel.txt", f"licence\n{body}*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nlicence\n")
    items = load(tmp_path, "books", title="novel", words_per_item=4)
    assert [item.chunks for item in items] == [("one two three", "four"), ("five six seven", "eight")]
    assert [len(item.chunks) for item in load(tmp_path, "books", title="novel", words_per_item=5)] == [3]
    path.write_text("licence\n" + body)
    with pytest.raises(DataUnavailable, match="expected a START and an END mark of Project Gutenberg, found 1"):
        load(tmp_path, "books", title="novel")
    path.write_text("all\n\ntext")
    assert load(tmp_path, "books", title="novel", words_per_item=2)[0].chunks == ("all", "text")


# --- items of one's own ------------------------------------------------------------------------------------------------

OWN = QAItem("mine", "fam", ("a ü\n", "b"), "q?", ("x", "y"), evidence=(1,), metric="rouge_l", max_answer_tokens=7)


def test_own_items_round_trip(tmp_path):
    path = tmp_path / "own.jsonl"
    write_items([OWN, dataclasses.replace(OWN, item_id="other", answers=(), evidence=())], path)
    assert list(tmp_path.iterdir()) == [path]
    first, second = load_items(DataSpec("local", "jsonl", options={"file": str(path)}))  # absolute: no data root needed
    assert first == OWN
    assert (second.item_id, second.answers) == ("other", ())


def test_own_items_in_their_shortest_form(tmp_path):
    put(tmp_path, "mine.jsonl", [{"question": "q", "golden_answers": ["a"], "chunks": ["c"], "metadata": {"k": 1}}])
    assert load(tmp_path, "jsonl", file="mine.jsonl") == [QAItem("0", "own", ("c",), "q", ("a",))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": [2]}, "line 1, evidence[0]: expected the index of one of 2 chunks, found int 2"),
        ({"metric": "f2"}, "line 1, metric: expected a metric (unknown metric 'f2'. Known: contains@1,"),
        ({"max_answer_tokens": 0}, "line 1, max_answer_tokens: expected a whole number of at least 1, found int 0"),
        ({"chunks": "text"}, "line 1, chunks: expected a list, found str 'text'"),
        ({"golden_answers": None}, "line 1, golden_answers: expected a value for 'golden_answers', found nothing"),
    ],
)
def test_bad_own_items(tmp_path, change, message):
    path = put(tmp_path, "mine.jsonl", [{"question": "q", "golden_answers": ["a"], "chunks": ["c", "d"]} | change])
    with pytest.raises(DataUnavailable) as caught:
        load(tmp_path, "jsonl", file="mine.jsonl")
    assert f"{path}, {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_ids_must_differ(tmp_path):
    row = {"id": "same", "question": "q", "golden_answers": ["a"], "chunks": []}
    put(tmp_path, "mine.jsonl", [row, row])
    with pytest.raises(DataUnavailable, match=re.escape("line 2, id: expected an id of its own (line 1 has it)")):
        load(tmp_path, "jsonl", file="mine.jsonl")


# --- load_items --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            DataSpec("web", "squad"),
            ConfigError,
            "data.source='web' is not a source. Choose one of generated, local, hf.",
        ),
        (DataSpec("local"), ConfigError, "data.source=local needs data.dataset, one of 2wikimqa, books"),
        (DataSpec("generated"), ConfigError, "data.source=generated needs data.dataset, one of"),
        (DataSpec("local", "sqad"), UnknownName, "unknown dataset 'sqad'. Did you mean 'squad'?"),
        (
            DataSpec("local", "squad", options={"contxt": 1}),
            ConfigError,
            "has no knob 'contxt'. Did you mean 'context'?",
        ),
        (
            DataSpec("local", "squad", options={"context": "page"}),
            ConfigError,
            "context='page' is not one of article, paragraph",
        ),
        (DataSpec("local", "squad", options={"metric": "f2"}), UnknownName, "unknown metric 'f2'"),
        (
            DataSpec("local", "squad", options={"max_answer_tokens": 0}),
            ConfigError,
            "max_answer_tokens=0 must be a whole number",
        ),
        (DataSpec("local", "squad"), DataUnavailable, "needs a data root: set data.root=FOLDER or NINEFOLD_DATA"),
        (
            DataSpec("local", "squad", "/nowhere"),
            DataUnavailable,
            "data root '/nowhere' is not a folder; set data.root or",
        ),
        (
            DataSpec("generated", "single_fact", options={"chunks": 3}),
            ConfigError,
            "the generator has no option 'chunks'",
        ),
        (DataSpec("local", "jsonl"), ConfigError, "dataset 'jsonl' needs data.options.file"),
    ],
)
def test_refusals_are_one_clear_line(spec, error, message):
    with pytest.raises(error) as caught:
        load_items(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    for name in DATASETS:
        if name == "jsonl" or DATASETS.get(name).paths is TextDataset.paths:
            continue
        with pytest.raises(DataUnavailable) as caught:
            load_items(DataSpec("local", name, tmp_path))
        message = str(caught.value)
        assert f"dataset {name!r}: {tmp_path}/text/" in message
        assert DATASETS.get(name).origin in message
        assert "\n" not in message


def test_bad_files_are_reported_by_the_call_itself(tmp_path):
    put(tmp_path, "gsm8k/gsm8k_test_000_299.jsonl", "{")
    with pytest.raises(DataUnavailable, match="line 1, column 2: not JSON"):
        load_items(DataSpec("local", "gsm8k", tmp_path))


def test_number_and_overrides(tmp_path):
    put(tmp_path, "squad/xquad_en.json", squad())
    spec = DataSpec("local", "squad", tmp_path, {"metric": "contains", "max_answer_tokens": 3})
    assert [(item.metric, item.max_answer_tokens) for item in load_items(spec, 1)] == [("contains", 3)]
    assert list(load_items(spec, 0)) == []
    assert len(list(load_items(spec, 9))) == 2
    with pytest.raises(ConfigError, match="num_items=-1"):
        load_items(spec, -1)


def test_settings(tmp_path):
    settings = {"name": "local_squad", "source": "local", "root": str(tmp_path), "dataset": "squad", "options": {}}
    assert DataSpec.from_settings(settings) == DataSpec("local", "squad", str(tmp_path), {}, "local_squad")
    with pytest.raises(ConfigError, match=r"unknown setting 'data\.rot'"):
        DataSpec.from_settings({"rot": "/x"})


def test_hashes_change_with_the_file(tmp_path):
    path = put(tmp_path, "squad/xquad_en.json", squad())
    spec = DataSpec("local", "squad", tmp_path)
    assert input_hashes(spec) == {"text/squad/xquad_en.json": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert input_hashes(DataSpec("generated", "single_fact")) == {}
    own = DataSpec("local", "jsonl", options={"file": str(path)})
    assert list(input_hashes(own)) == ["xquad_en.json"]


def test_sampling():
    items = [dataclasses.replace(OWN, item_id=str(i)) for i in range(50)]
    drawn = [int(item.item_id) for item in sample_items(items, 10, np.random.default_rng(0))]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn == [int(item.item_id) for item in sample_items(iter(items), 10, np.random.default_rng(0))]
    assert drawn != [int(item.item_id) for item in sample_items(items, 10, np.random.default_rng(1))]
    assert sample_items(items, 99, np.random.default_rng(0)) == items


def test_distinct():
    assert distinct([" a", "b", "a ", "", "  "]) == ("a", "b")


def test_generated_items():
    spec = DataSpec("generated", "single_fact", options={"split": "test", "seed": 3, "num_chunks": 4})
    items = list(load_items(spec, 3))
    assert items == list(load_items(spec, 3))
    assert len(items) == 3
    for item in items:
        assert item.answers
        assert len(item.chunks) == 4
        assert all(0 <= index < 4 for index in item.evidence)


def test_a_dataset_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Mine(TextDataset):
        """Mine."""

        size: int = 2

    assert dataclasses.replace(Mine(), size=3).paths() == ()
    with pytest.raises(DataUnavailable, match="Mine has no local form"):
        Mine().from_files(None)
    with pytest.raises(DataUnavailable, match="Mine is not on the hub"):
        Mine().from_hub([], "")
