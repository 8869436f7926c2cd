"""Metamorphic relations, oracles, safety and command line of the parser."""

import ast
import itertools
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleonapi.__main__ import main
from chameleonapi.decisions import DecisionSummary, TargetList, Threshold
from chameleonapi.parser.parse import Parser, parse_application
from chameleonapi.parser.sources import read_application
from chameleonapi.vocabularies import NAMES, load_vocabulary, read_vocabulary
from common.errors import ConfigError

APPS = Path(__file__).parent / "apps"
VOCABULARY = ("Dog", "Cat", "Hot dog", "Bird", "Food", "Apple", "Person", "Tree", "Beach", "Glass", "Glasses", "Bottle")

HEAD = """
from google.cloud import vision

def names_of(path):
    client = vision.ImageAnnotatorClient()
    with open(path, 'rb') as f:
        image = vision.Image(content=f.read())
    return [(l.description, l.score) for l in client.label_detection(image=image).label_annotations]
"""


def decide(tmp_path, source: str) -> DecisionSummary:
    (tmp_path / "app.py").write_text(textwrap.dedent(source))
    report = Parser(read_application(tmp_path), {"image": VOCABULARY}).parse()
    assert len(report.decisions) == 1, report
    return report.decisions[0]


def essence(d: DecisionSummary):
    return d.kind, d.order, [(one.labels, one.threshold, one.clauses, one.unless) for one in d.lists]


PLAIN = (
    HEAD
    + """
def run(path):
    for name, score in names_of(path):
        if name == 'Dog':
            return 'woof'
        elif name in ('Cat', 'Bird') and score > 0.6:
            return 'other'
    return None
"""
)

_WOOF = "            return 'woof'"
_ELIF = "elif name in ('Cat', 'Bird') and score > 0.6:\n            return 'other'"
_NESTED = "if score > 0.6:\n            if name in ('Cat', 'Bird'):\n                return 'other'"
_INLINE = "for l in vision.ImageAnnotatorClient().label_detection(image=path).label_annotations"
_RUN = PLAIN.removeprefix(HEAD)
_ROUTE = "from flask import Flask\napp = Flask(__name__)\n"

SAME = {
    "renamed variables": PLAIN.replace("name", "xyz").replace("xyzs_of", "names_of"),
    "debug prints": PLAIN.replace("        if name", "        print('checking', name, score)\n        if name"),
    "logging": "import logging\n" + PLAIN.replace(_WOOF, f"            logging.info('dog %s', name)\n{_WOOF}"),
    "nested ifs": PLAIN.replace(_ELIF, _NESTED),
    "helper inlined": "from google.cloud import vision\n"
    + _RUN.replace("in names_of(path)", f"in [(l.description, l.score) {_INLINE}]"),
    "in a class": HEAD + "class App:\n" + textwrap.indent(_RUN.replace("run(path)", "run(self, path)"), "    "),
    "a route": _ROUTE + PLAIN.replace("def run", "@app.route('/x', methods=['POST'])\ndef run"),
    "asynchronous": PLAIN.replace("def run", "async def run"),
    "called from main": PLAIN + "\nif __name__ == '__main__':\n    print(run('x.jpg'))\n",
    "a constant table": PLAIN.replace("('Cat', 'Bird')", "OTHERS").replace(
        "def run", "OTHERS = ['Cat', 'Bird']\ndef run"
    ),
    "swallowed errors": PLAIN.replace("    for name", "    try:\n     for name").replace(
        "    return None\n", "    except Exception:\n     pass\n    return None\n"
    ),
    "keyword arguments": PLAIN.replace("def run(path)", "def run(*, path, debug=False)"),
    "an early return for no labels": PLAIN.replace(
        "    for name, score in names_of(path)",
        "    found = names_of(path)\n    if not found:\n        return None\n    for name, score in found",
    ),
}


@pytest.mark.parametrize("change", SAME)
def test_changes_of_form_do_not_change_the_summary(tmp_path, change):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ast.parse(SAME[change])
    assert essence(decide(tmp_path / "a", SAME[change])) == essence(decide(tmp_path / "b", PLAIN))


def test_break_turns_last_into_first(tmp_path):
    source = (
        HEAD
        + """
def run(path):
    out = None
    for name, score in names_of(path):
        if name == 'Dog':
            out = 'woof'
        elif name == 'Cat':
            out = 'meow'
        else:
            continue
        pass
    return out
"""
    )
    assert decide(tmp_path, source).order == "api_last"
    assert decide(tmp_path, source.replace("        pass\n", "        break\n")).order == "api_first"


def test_swapped_branches_swap_lists(tmp_path):
    source = (
        HEAD
        + """
def run(path):
    names = [n for n, _ in names_of(path)]
    if 'Dog' in names:
        return 'woof'
    elif 'Cat' in names:
        return 'meow'
"""
    )
    swapped = (
        source.replace("'Dog'", "'?'")
        .replace("'Cat'", "'Dog'")
        .replace("'?'", "'Cat'")
        .replace("woof", "!")
        .replace("meow", "woof")
        .replace("!", "meow")
    )
    one, other = decide(tmp_path, source), decide(tmp_path, swapped)
    assert one.order == other.order == "app_choice"
    assert [x.labels for x in one.lists] == [("Dog",), ("Cat",)]
    assert [x.labels for x in other.lists] == [("Cat",), ("Dog",)]
    assert [x.outcome for x in one.lists] == [x.outcome for x in other.lists][::-1]


# --- oracles ----------------------------------------------------------------------------------------------------------

DECIDERS = {
    "first": """
        def decide(output):
            for name, score in output:
                if 'dog' in name.lower():
                    return 'dog'
                if name == 'Cat' and score > 0.7:
                    return 'cat'
            return None
        """,
    "last": """
        def decide(output):
            out = 'none'
            for name, score in output:
                if name.startswith('Gla'):
                    out = 'glass'
                elif name in ('Dog', 'Cat', 'Bird'):
                    out = 'pet'
            return out
        """,
    "app": """
        def decide(output):
            names = {n for n, s in output if s >= 0.6}
            if names & {'Person', 'Beach'}:
                return 1
            if 'Food' in names or 'Apple' in names:
                return 2
            return 0
        """,
    "select": """
        def decide(output):
            names = [n for n, _ in output]
            tags = []
            if 'Dog' in names or 'Hot dog' in names: tags.append('d')
            if 'Tree' in names: tags.append('t')
            if any(n.endswith('s') for n in names): tags.append('s')
            return sorted(tags)
        """,
    "suppression": """
        def decide(output):
            names = [n for n, _ in output]
            if ('Dog' in names or 'Cat' in names) and 'Person' not in names:
                return 'stray'
            return None
        """,
    "conjunction": """
        def decide(output):
            names = [n for n, _ in output]
            return 'Person' in names and ('Dog' in names or 'Cat' in names) and 'Beach' not in names
        """,
}  # fmt: skip


@pytest.mark.parametrize("name", DECIDERS)
def test_summary_equals_the_applications_own_code(tmp_path, name):
    """On every order of up to three labels of twelve, the parsed process takes the decision that Python takes."""
    body = textwrap.dedent(DECIDERS[name])
    summary = decide(tmp_path, HEAD + body + "\ndef run(path):\n    return decide(names_of(path))\n")
    scope: dict = {}
    exec(body, scope)  # the oracle: our own five lines above, executed by Python
    own = scope["decide"]
    seen: dict[tuple[int, ...], object] = {}
    for size in range(4):
        for labels in itertools.permutations(VOCABULARY, size):
            for top in (0.95, 0.69):
                output = [(label, top - 0.02 * i) for i, label in enumerate(labels)]
                choice, result = summary.decide(output), own(output)
                key = json.dumps(result)
                assert seen.setdefault(choice, key) == key, (output, choice, result, seen[choice])
    assert len(set(seen.values())) == len(seen), "two choices of the summary have the same outcome"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_applications_are_recovered(tmp_path_factory, data):
    """Applications generated from a known decision process give that process back."""
    labels = list(VOCABULARY)
    count = data.draw(st.integers(1, 3))
    shuffled = data.draw(st.permutations(labels))
    sizes = [data.draw(st.integers(1, 3)) for _ in range(count)]
    lists = [sorted(shuffled[sum(sizes[:i]) : sum(sizes[: i + 1])], key=labels.index) for i in range(count)]
    style = data.draw(st.sampled_from(["first", "last", "app", "select"]))
    limit = data.draw(st.sampled_from([None, 0.55, 0.8]))
    guard = f" and s >= {limit}" if limit else ""
    lines = ["def run(path):"]
    if style in ("first", "last"):
        lines += ["    out = None", "    for n, s in names_of(path):"]
        for i, one in enumerate(lists):
            lines += [f"        if n in {one!r}{guard}:", f"            out = 'choice {i}'"]
            lines += ["            break"] if style == "first" else []
        lines += ["    return out"]
    else:
        lines += ["    found = names_of(path)", "    out = []"]
        for i, one in enumerate(lists):
            lines += [f"    if any(n in {one!r}{guard} for n, s in found):"]
            lines += [f"        return 'choice {i}'"] if style == "app" else [f"        out.append('choice {i}')"]
        lines += ["    return out"]
    found = decide(tmp_path_factory.mktemp("app"), HEAD + "\n".join(lines))
    expected = {
        "first": ("multi_choice", "api_first"),
        "last": ("multi_choice", "api_last"),
        "app": ("multi_choice", "app_choice"),
        "select": ("multi_select", None),
    }
    if count == 1:
        assert (found.kind, found.order) == ("true_false", None)
    else:
        assert (found.kind, found.order) == expected[style]
    assert [list(one.labels) for one in found.lists] == lists
    assert all(one.threshold == (Threshold(">=", limit) if limit else None) for one in found.lists)


def test_z3_agrees_on_exact_and_substring_tests(tmp_path):
    """The solver, asked for labels of the vocabulary that reach each branch, names the labels of our lists."""
    summary = decide(
        tmp_path,
        HEAD
        + """
def run(path):
    for n, s in names_of(path):
        if 'og' in n:
            return 'a'
        if n == 'Cat' or n.endswith('ass'):
            return 'b'
""",
    )
    label = z3.String("label")
    first = z3.Contains(label, z3.StringVal("og"))
    second = z3.And(z3.Not(first), z3.Or(label == z3.StringVal("Cat"), z3.SuffixOf(z3.StringVal("ass"), label)))
    for one, condition in zip(summary.lists, (first, second), strict=True):
        reached = []
        for word in VOCABULARY:
            solver = z3.Solver()
            solver.add(label == z3.StringVal(word), condition)
            if solver.check() == z3.sat:
                reached.append(word)
        assert list(one.labels) == reached


def test_z3_agrees_on_sentiment_regions(tmp_path):
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        from google.cloud import language_v1
        def mood(text):
            client = language_v1.LanguageServiceClient()
            s = client.analyze_sentiment(request={'document': text}).document_sentiment
            if s.score * 2 + 0.1 > 0.7:
                return 'happy'
            if s.score < -0.4:
                return 'sad'
            return 'calm'
        """)
    )
    (decision,) = parse_application(tmp_path).decisions
    (variable,) = decision.variables
    x = z3.Real("x")
    branch = z3.If(2 * x + z3.Q(1, 10) > z3.Q(7, 10), 2, z3.If(x < z3.Q(-4, 10), 0, 1))
    assert variable.breakpoints == (-0.4, 0.3)
    for interval in variable.intervals:
        inside = z3.And(x > z3.RealVal(str(interval.low)), x < z3.RealVal(str(interval.high)))
        values = set()
        solver = z3.Solver()
        solver.add(inside, x >= -1, x <= 1)
        while solver.check() == z3.sat:
            value = solver.model().eval(branch).as_long()
            values.add(value)
            solver.add(branch != value)
        assert len(values) == 1
        assert ["sad", "calm", "happy"][values.pop()] in interval.outcome


_CROSSHAIR = (sys.executable, "-m", "crosshair", "cover")


def test_crosshair_finds_no_outcome_that_the_summary_lacks(tmp_path):
    """CrossHair executes the isolated decision function symbolically; each outcome that it covers is one of our choices."""
    body = textwrap.dedent("""
        def decide(name: str) -> str:
            if name == 'Dog':
                return 'woof'
            elif name == 'Cat' or name == 'Bird':
                return 'meow'
            return 'none'
        """)
    summary = decide(
        tmp_path,
        HEAD
        + body
        + textwrap.dedent("""
        def run(path):
            for n, s in names_of(path):
                if decide(n) != 'none':
                    return decide(n)
            return 'none'
        """),
    )
    (tmp_path / "isolated.py").write_text(body)
    done = subprocess.run(
        [*_CROSSHAIR, "isolated.decide", "--example_output_format=arg_dictionary", "--per_condition_timeout=20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    examples = [ast.literal_eval(line)["name"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(examples) >= 3, done.stdout + done.stderr
    scope: dict = {}
    exec(body, scope)
    outcomes = {(): "none", (0,): "woof", (1,): "meow"}
    for example in examples:
        assert outcomes[summary.decide([(example, 0.9)])] == scope["decide"](example)
    assert {scope["decide"](e) for e in examples} == set(outcomes.values())


# --- safety -----------------------------------------------------------------------------------------------------------


def test_nothing_of_the_application_runs(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("keep me")
    source = (
        HEAD
        + f"""
import os, shutil, socket, subprocess
os.remove({str(victim)!r})
open({str(tmp_path / "made.txt")!r}, 'w').write('x')
os.system('touch {tmp_path}/made_by_shell.txt')
eval("__import__('os').mkdir({str(tmp_path / "made")!r})")
exec("import os; os.mkdir({str(tmp_path / "made2")!r})")
__import__('os').mkdir({str(tmp_path / "made3")!r})
().__class__.__base__.__subclasses__()
def run(path):
    shutil.rmtree({str(tmp_path)!r})
    subprocess.run(['rm', '-rf', {str(tmp_path)!r}])
    socket.create_connection(('localhost', 1))
    for n, s in names_of(path):
        if n == 'Dog':
            os.remove({str(victim)!r})
            return True
    return False
"""
    )
    app = tmp_path / "app"
    app.mkdir()
    decision = decide(app, source)
    assert essence(decision)[2][0][0] == ("Dog",)
    assert victim.read_text() == "keep me"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app", "victim.txt"]
    assert [p.name for p in app.iterdir()] == ["app.py"]


@pytest.mark.parametrize(
    "body",
    [
        "while names_of(path) is not None: x = 1",
        "x = 'a' * (10 ** 12)",
        "x = [0] * (10 ** 12)",
        "x = 9 ** (9 ** 9)",
        "x = list(range(10 ** 9))",
        "f = lambda n: f(n)\n    f(1)",
        "x = sum(i for i in range(10 ** 8))",
        "x = {i: i for i in range(10 ** 8)}",
    ],
)
def test_programs_that_never_end_or_explode_are_refused_quickly(tmp_path, body):
    start = time.process_time()
    (tmp_path / "app.py").write_text(
        HEAD + f"\ndef run(path):\n    names = names_of(path)\n    {body}\n    return 'Dog' in [n for n, _ in names]\n"
    )
    report = Parser(read_application(tmp_path), {"image": VOCABULARY}).parse()
    assert time.process_time() - start < 30  # a safety net far above the 2 s aim, not a measurement
    assert all(d.kind == "unsupported" for d in report.decisions), report.decisions


def test_state_does_not_leak_between_probes(tmp_path):
    """An application that remembers what it saw is probed afresh each time."""
    decision = decide(
        tmp_path,
        HEAD
        + """
seen = []
cache = {}
class Memory:
    items = []
def run(path):
    for n, s in names_of(path):
        if n in seen or n in cache or n in Memory.items:
            return 'again'
        seen.append(n)
        cache[n] = s
        Memory.items.append(n)
        if n == 'Dog':
            return 'woof'
    return None
""",
    )
    # 'seen' outlives the run, so what is appended to it is an effect: it repeats every label and decides nothing.
    assert [one.labels for one in decision.lists] == [("Dog",)]


def test_parsing_is_deterministic():
    one, two = (parse_application(APPS / "toy_robot.py").to_json() for _ in range(2))
    assert one == two


# --- command line and files -------------------------------------------------------------------------------------------


def test_command_line(capsys, tmp_path):
    assert main(["parse", str(APPS / "hotdog_bot.py")]) == 0
    text = capsys.readouterr().out
    assert "True-or-False" in text
    assert "Hot dog" in text
    assert "hotdog_bot.py:23" in text
    assert main(["parse", str(APPS / "recycle_pi"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["decisions"][0]["kind"] == "multi_choice"
    assert DecisionSummary.from_json(data["decisions"][0]).kind == "multi_choice"
    assert main(["parse", str(APPS / "caption_writer.py")]) == 1
    assert "Reason: caption_writer.py:7" in capsys.readouterr().out
    words = tmp_path / "words.txt"
    words.write_text('"Hot dog"\nSausage roll\n\nDog\n')
    assert main(["parse", str(APPS / "hotdog_bot.py"), "--vocabulary", str(words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decisions"][0]["lists"][0]["labels"] == ["Hot dog", "Sausage roll"]
    assert main(["parse", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["parse", str(APPS / "hotdog_bot.py"), "--vocabulary", "imagge=x"]) == 2
    assert "not known" in capsys.readouterr().err


def test_importing_the_api_does_not_import_torch():
    code = "import sys, chameleonapi.api, chameleonapi.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_vocabularies(tmp_path):
    for name in NAMES:
        labels = load_vocabulary(name)
        assert len(labels) == len(set(labels)) > 3
        assert all(label == label.strip() for label in labels)
    assert len(load_vocabulary("image")) >= 600
    (tmp_path / "v.json").write_text('["A", "B", "A"]')
    assert read_vocabulary(tmp_path / "v.json") == ("A", "B")
    (tmp_path / "v.txt").write_text("\n")
    with pytest.raises(ConfigError, match="holds no label"):
        read_vocabulary(tmp_path / "v.txt")
    with pytest.raises(ConfigError, match="not known"):
        load_vocabulary("images")


def test_empty_and_foreign_folders(tmp_path):
    with pytest.raises(ConfigError, match="no Python file"):
        read_application(tmp_path)
    (tmp_path / "app.py").write_text(
        "class Dog:\n    def detect_labels(self, x): return []\nprint(Dog().detect_labels(1))\n"
    )
    report = parse_application(tmp_path)
    assert report.decisions == []
    assert "ML API" in report.reason
    (tmp_path / "app.py").write_text(
        "import boto3, mylib\nclient = mylib.Client()\nif client.label_detection(image=1).label_annotations:\n    print(1)\n"
    )
    assert parse_application(tmp_path).decisions == []


def test_summaries_refuse_nonsense():
    with pytest.raises(ConfigError, match="kind"):
        DecisionSummary("a", "b", "maybe")
    with pytest.raises(ConfigError, match="order"):
        DecisionSummary("a", "b", "multi_choice", "api_middle")
    with pytest.raises(ConfigError, match="one list"):
        DecisionSummary("a", "b", "true_false")
    with pytest.raises(ConfigError, match="operator"):
        Threshold("<", 0.5)
    with pytest.raises(ConfigError, match="no target lists"):
        DecisionSummary("a", "b", "numeric").decide([])
    with pytest.raises(ConfigError, match="not a decision summary"):
        DecisionSummary.from_json({"api": "x"})


def test_decision_tables():
    """D(O) by hand: ties, empty output, overlapping lists, thresholds on the boundary."""
    lists = (TargetList(0, ("a", "b")), TargetList(1, ("b", "c"), threshold=Threshold(">", 0.5)))

    def make(kind, order=None, window=None):
        return DecisionSummary("api", "f", kind, order, lists, window)

    first, last, app, many = (
        make("multi_choice", "api_first"),
        make("multi_choice", "api_last"),
        make("multi_choice", "app_choice"),
        make("multi_select"),
    )
    assert [d.decide([]) for d in (first, last, app, many)] == [()] * 4
    assert [d.decide([("c", 0.9), ("a", 0.8)]) for d in (first, last, app, many)] == [(1,), (0,), (0,), (0, 1)]
    assert [d.decide([("b", 0.9)]) for d in (first, last, app, many)] == [(0,), (0,), (0,), (0, 1)]
    assert [d.decide([("c", 0.5)]) for d in (first, many)] == [(), ()]
    assert make("multi_choice", "api_first", window=1).decide([("x", 0.9), ("a", 0.8)]) == ()
    assert first.is_correct([("c", 0.9), ("a", 0.8)], ["a"]) is False
    assert first.is_correct([("c", 0.9), ("a", 0.8)], ["a", "c"]) is True
    assert app.is_correct([("c", 0.9)], ["a", "c"]) is False
    assert many.is_correct([("c", 0.9)], ["a", "c"]) is False


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.txt", "Dog".encode("utf-16"), "cannot be read"),
        ("labels.json", b'["Dog", ', "cannot be read"),
        ("labels.json", b"3", "JSON int"),
        ("labels.txt", b"\n \n", "holds no label"),
    ],
)
def test_a_vocabulary_that_cannot_be_read_gets_one_line(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert main(["parse", str(APPS / "hotdog_bot.py"), "--vocabulary", str(tmp_path / name)]) == 2
    output = capsys.readouterr()
    (line,) = (output.out + output.err).strip().splitlines()
    assert words in line
