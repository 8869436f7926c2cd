"""One fixture per way of writing a decision, over a small vocabulary."""

import textwrap

import pytest

from chameleonapi.parser.parse import Parser, ParseReport
from chameleonapi.parser.sources import read_application

VOCABULARY = (
    "Dog", "Cat", "Bird", "Hot dog", "Food", "Fruit", "Apple", "Pizza", "Car", "Truck", "Person", "Man", "Woman", "Tree",
    "Flower", "Beach", "Sky", "Bottle", "Plastic bottle", "Plastic", "Paper", "Glass", "Glasses",
    "Human eye", "Eyewear", "Birds eye chili",
)  # fmt: skip
TF, MC, MS, NUM, CONST, NO = "true_false", "multi_choice", "multi_select", "numeric", "constant", "unsupported"
API, LAST, APP = "api_first", "api_last", "app_choice"

GOOGLE = """
from google.cloud import vision
def labels_of(path):
    client = vision.ImageAnnotatorClient()
    with open(path, 'rb') as f:
        image = vision.Image(content=f.read())
    return client.label_detection(image=image).label_annotations
"""
NAMES = GOOGLE + "def names_of(path):\n    return [l.description for l in labels_of(path)]\n"
AWS = """
import boto3
def labels_of(data):
    return boto3.client('rekognition').detect_labels(Image={'Bytes': data})['Labels']
"""


def parse(tmp_path, source: str, **files: str) -> ParseReport:
    (tmp_path / "app.py").write_text(textwrap.dedent(source))
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(textwrap.dedent(text))
    return Parser(read_application(tmp_path), {"image": VOCABULARY, "object": VOCABULARY, "topic": VOCABULARY}).parse()


def the_decision(tmp_path, source: str, **files: str):
    report = parse(tmp_path, source, **files)
    assert len(report.decisions) == 1, (report.decisions, report.reason)
    return report.decisions[0]


def shape(decision):
    lists = [set(one.labels) for one in decision.lists]
    return decision.kind, decision.order, lists


DOG_CAT = [{"Dog"}, {"Cat"}]

IDIOMS = {
    "equality in a loop with return": (GOOGLE, """
        def run(p):
            for l in labels_of(p):
                if l.description == 'Dog':
                    return 'woof'
                elif l.description == 'Cat':
                    return 'meow'
        """, (MC, API, DOG_CAT)),
    "flag and break": (GOOGLE, """
        def run(p):
            found = 0
            for l in labels_of(p):
                if l.description == 'Dog':
                    found = 1
                    break
            return bool(found)
        """, (TF, None, [{"Dog"}])),
    "for else": (GOOGLE, """
        def run(p):
            for l in labels_of(p):
                if l.description in ('Dog', 'Cat'):
                    break
            else:
                return 'no pet'
            return 'pet'
        """, (TF, None, [{"Dog", "Cat"}])),
    "last wins": (GOOGLE, """
        def run(p):
            out = None
            for l in labels_of(p):
                if l.description == 'Dog': out = 'woof'
                if l.description == 'Cat': out = 'meow'
            return out
        """, (MC, LAST, DOG_CAT)),
    "index loop": (GOOGLE, """
        def run(p):
            labels = labels_of(p)
            i = 0
            while i < len(labels):
                if labels[i].description == 'Dog':
                    return True
                i += 1
            return False
        """, (TF, None, [{"Dog"}])),
    "while true over an iterator": (GOOGLE, """
        def run(p):
            labels = labels_of(p)
            i = 0
            while True:
                if i >= len(labels):
                    break
                if labels[i].description == 'Cat':
                    return True
                i = i + 1
            return False
        """, (TF, None, [{"Cat"}])),
    "range len": (GOOGLE, """
        def run(p):
            labels = labels_of(p)
            for i in range(len(labels)):
                if labels[i].description == "Dog":
                    return "woof"
            return ""
        """, (TF, None, [{"Dog"}])),
    "membership in app order": (NAMES, """
        def run(p):
            names = names_of(p)
            if 'Cat' in names: return 'meow'
            if 'Dog' in names: return 'woof'
            return '-'
        """, (MC, APP, [{"Cat"}, {"Dog"}])),
    "independent ifs": (NAMES, """
        def run(p):
            names = names_of(p); out = {}
            out['dog'] = 'Dog' in names
            out['cat'] = 'Cat' in names
            return out
        """, (MS, None, DOG_CAT)),
    "tuple of flags": (NAMES, """
        def run(p):
            names = names_of(p)
            return 'Dog' in names, 'Cat' in names
        """, (MS, None, DOG_CAT)),
    "bit mask": (NAMES, """
        def run(p):
            mask = 0
            for n in names_of(p):
                if n == 'Dog': mask |= 1
                elif n == 'Cat': mask |= 2
            return [b for b in (1, 2) if mask & b]
        """, (MS, None, DOG_CAT)),
    "substring with lower": (NAMES, """
        def run(p):
            return any('eye' in n.lower() for n in names_of(p))
        """, (TF, None, [{"Human eye", "Eyewear", "Birds eye chili"}])),
    "reverse substring": (NAMES, """
        def run(p):
            for n in names_of(p):
                if n in "Dog, Cat and Bird":
                    return True
            return False
        """, (TF, None, [{"Dog", "Cat", "Bird"}])),
    "last word": (NAMES, """
        def run(p):
            return any(n.split(' ')[-1].lower() == 'dog' for n in names_of(p))
        """, (TF, None, [{"Dog", "Hot dog"}])),
    "startswith tuple": (NAMES, """
        def run(p):
            return any(n.startswith(('Plas', 'Gla')) for n in names_of(p))
        """, (TF, None, [{"Plastic bottle", "Plastic", "Glass", "Glasses"}])),
    "regular expression": (NAMES, """
        import re
        def run(p):
            for n in names_of(p):
                if re.search(r'\\bbottle\\b', n, re.IGNORECASE):
                    return True
            return False
        """, (TF, None, [{"Bottle", "Plastic bottle"}])),
    "find": (NAMES, """
        def run(p):
            for n in names_of(p):
                if n.find('Pl') != -1:
                    return 1
            return 0
        """, (TF, None, [{"Plastic bottle", "Plastic"}])),
    "joined text": (NAMES, """
        def run(p):
            text = ' '.join(names_of(p)).lower()
            return 'recycle' if 'glass' in text else 'bin'
        """, (TF, None, [{"Glass", "Glasses"}])),
    "set intersection": (NAMES, """
        GOOD = {'Dog', 'Cat'}
        def run(p):
            return len(GOOD & set(names_of(p))) > 0
        """, (TF, None, [{"Dog", "Cat"}])),
    "isdisjoint": (NAMES, """
        GOOD = {'Dog', 'Cat'}
        def run(p):
            return not GOOD.isdisjoint(names_of(p))
        """, (TF, None, [{"Dog", "Cat"}])),
    "filter and lambda": (NAMES, """
        def run(p):
            pets = list(filter(lambda n: n in ['Dog', 'Cat'], names_of(p)))
            return 'pet' if len(pets) else 'none'
        """, (TF, None, [{"Dog", "Cat"}])),
    "dictionary of scores": (GOOGLE, """
        def run(p):
            scores = {l.description: l.score for l in labels_of(p)}
            if scores.get('Dog', 0) > 0.8:
                return 'woof'
            if 'Cat' in scores:
                return 'meow'
        """, (MC, APP, DOG_CAT)),
    "dictionary look-up with try": (NAMES, """
        SOUND = {'Dog': 'woof', 'Cat': 'meow', 'Hot dog': 'woof'}
        def run(p):
            for n in names_of(p):
                try:
                    return SOUND[n]
                except KeyError:
                    pass
            return None
        """, (MC, API, [{"Dog", "Hot dog"}, {"Cat"}])),
    "dictionary of lists": (NAMES, """
        KINDS = {'pet': ['Dog', 'Cat'], 'food': ['Pizza', 'Apple']}
        def run(p):
            for n in names_of(p):
                for kind, words in KINDS.items():
                    if n in words:
                        return kind
            return 'other'
        """, (MC, API, [{"Dog", "Cat"}, {"Pizza", "Apple"}])),
    "app order through a dictionary": (NAMES, """
        KINDS = {'pet': ['Dog', 'Cat'], 'food': ['Pizza', 'Apple']}
        def run(p):
            names = names_of(p)
            return next((k for k, words in KINDS.items() if any(w in names for w in words)), None)
        """, (MC, APP, [{"Dog", "Cat"}, {"Pizza", "Apple"}])),
    "sorted by score": (GOOGLE, """
        def run(p):
            best = sorted(labels_of(p), key=lambda l: -l.score)
            for l in best:
                if l.description == 'Dog': return 'woof'
                if l.description == 'Cat': return 'meow'
        """, (MC, API, DOG_CAT)),
    "reversed": (GOOGLE, """
        def run(p):
            for l in reversed(labels_of(p)):
                if l.description == 'Dog': return 'woof'
                if l.description == 'Cat': return 'meow'
        """, (MC, LAST, DOG_CAT)),
    "max of a filtered list": (AWS, """
        def run(d):
            pets = [l for l in labels_of(d) if l['Name'] in ('Dog', 'Cat')]
            if not pets:
                return None
            return max(pets, key=lambda l: l['Confidence'])['Name']
        """, (MC, API, DOG_CAT)),
    "nested function and closure": (NAMES, """
        def run(p):
            hits = []
            def note(n):
                if n == 'Dog': hits.append('woof')
                if n == 'Cat': hits.append('meow')
            for n in names_of(p): note(n)
            return hits
        """, (MS, None, DOG_CAT)),
    "class with state": (NAMES, """
        class Watch:
            PETS = ('Dog', 'Cat')
            def __init__(self): self.alarm = False
            def look(self, p):
                for n in names_of(p): self._one(n)
            def _one(self, n):
                if n in self.PETS: self.alarm = True
        """, (TF, None, [{"Dog", "Cat"}])),
    "inheritance": (NAMES, """
        class Base:
            words = ()
            def run(self, p): return any(n in self.words for n in names_of(p))
        class Pets(Base):
            words = ('Dog', 'Cat')
        def main(p): return Pets().run(p)
        """, (TF, None, [{"Dog", "Cat"}])),
    "global variable": (NAMES, """
        state = 'idle'
        def run(p):
            global state
            for n in names_of(p):
                if n == 'Dog':
                    state = 'alarm'
        """, (TF, None, [{"Dog"}])),
    "generator": (NAMES, """
        def pets(p):
            for n in names_of(p):
                if n in ('Dog', 'Cat'):
                    yield 'pet'
        def run(p):
            for _ in pets(p):
                return True
            return False
        """, (TF, None, [{"Dog", "Cat"}])),
    "swallowed exceptions": (GOOGLE, """
        def run(p):
            try:
                labels = labels_of(p)
                for l in labels:
                    if l.description == 'Dog':
                        return 'woof'
            except:
                print('oh no')
            return None
        """, (TF, None, [{"Dog"}])),
    "exception as outcome": (NAMES, """
        class NoPet(Exception): pass
        def check(p):
            if not any(n in ('Dog', 'Cat') for n in names_of(p)):
                raise NoPet('no pet in ' + p)
        def run(p):
            try:
                check(p)
            except NoPet as e:
                return 'refused'
            return 'ok'
        """, (TF, None, [{"Dog", "Cat"}])),
    "assert": (NAMES, """
        def run(p):
            assert 'Dog' in names_of(p), 'no dog'
            return 'dog'
        """, (TF, None, [{"Dog"}])),
    "comparison chain and": (GOOGLE, """
        def run(p):
            for l in labels_of(p):
                if l.description == 'Dog' and 0.5 <= l.score <= 1:
                    return True
            return False
        """, (TF, None, [{"Dog"}])),
    "percent scores": (GOOGLE, """
        def run(p):
            for l in labels_of(p):
                pct = int(l.score * 100)
                if l.description == 'Dog' and pct >= 70:
                    return True
            return False
        """, (TF, None, [{"Dog"}])),
    "negated list": (NAMES, """
        def run(p):
            return all(n not in ('Person', 'Man', 'Woman') for n in names_of(p))
        """, (TF, None, [{"Person", "Man", "Woman"}])),
    "anything but": (NAMES, """
        def run(p):
            return any(n not in ('Sky', 'Tree') for n in names_of(p))
        """, (TF, None, [set(VOCABULARY) - {"Sky", "Tree"}])),
    "conditional expression": (NAMES, """
        def run(p):
            names = names_of(p)
            return 'A' if 'Dog' in names else 'B' if 'Cat' in names else 'C'
        """, (MC, APP, DOG_CAT)),
    "match statement": (NAMES, """
        def run(p):
            for n in names_of(p):
                match n.lower():
                    case 'dog' | 'hot dog': return 1
                    case 'cat': return 2
        """, (MC, API, [{"Dog", "Hot dog"}, {"Cat"}])),
    "walrus": (NAMES, """
        def run(p):
            if hit := [n for n in names_of(p) if n == 'Dog']:
                return 'yes'
            return 'no'
        """, (TF, None, [{"Dog"}])),
    "printed decision of a script": (NAMES, """
        names = names_of('x.jpg')
        print('Labels:', names)
        if 'Dog' in names:
            print('dog!')
        """, (TF, None, [{"Dog"}])),
    "opaque calls": (NAMES, """
        import RPi.GPIO as GPIO
        def run(p):
            if 'Dog' in names_of(p):
                GPIO.output(17, GPIO.HIGH)
            else:
                GPIO.output(17, GPIO.LOW)
        """, (TF, None, [{"Dog"}])),
    "opaque attribute": (NAMES, """
        import streamlit as st
        def run(p):
            st.session_state.pet = 'none'
            for n in names_of(p):
                if n == 'Dog': st.session_state.pet = 'dog'
        """, (TF, None, [{"Dog"}])),
    "counter of one": (NAMES, """
        def run(p):
            c = 0
            for n in names_of(p):
                if n in ('Dog', 'Cat'): c += 1
            if c > 0: return 'pets'
            return 'none'
        """, (TF, None, [{"Dog", "Cat"}])),
    "two of a list": (NAMES, """
        def run(p):
            hits = [n for n in names_of(p) if n in ('Dog', 'Cat', 'Bird')]
            return len(hits) >= 2
        """, (NUM, None, [{"Dog", "Cat", "Bird"}])),
    "conjunction": (NAMES, """
        def run(p):
            names = names_of(p)
            return 'Dog' in names and 'Person' in names
        """, (TF, None, [{"Dog", "Person"}])),
    "conjunction of lists": (NAMES, """
        def run(p):
            names = names_of(p)
            return any(n in ('Dog', 'Cat') for n in names) and any(n in ('Person', 'Man') for n in names)
        """, (TF, None, [{"Dog", "Cat", "Person", "Man"}])),
    "conjunction of three": (NAMES, """
        def run(p):
            names = names_of(p)
            return {'Dog', 'Person', 'Beach'}.issubset(names)
        """, (TF, None, [{"Dog", "Person", "Beach"}])),
    "case mismatch": (NAMES, """
        def run(p):
            names = names_of(p)
            return 'dog' in names or 'Cat' in names
        """, (TF, None, [{"Cat"}])),
    "json text": (NAMES, """
        import json
        def run(p):
            body = json.dumps({'names': names_of(p)})
            data = json.loads(body)
            return 'Dog' in data['names']
        """, (TF, None, [{"Dog"}])),
    "format strings": (NAMES, """
        def run(p):
            out = ''
            for n in names_of(p):
                if n == 'Dog': out = 'found {} here'.format('a dog')
            return '[%s]' % out
        """, (TF, None, [{"Dog"}])),
    "map and any": (NAMES, """
        def is_pet(n): return n in ('Dog', 'Cat')
        def run(p): return any(map(is_pet, names_of(p)))
        """, (TF, None, [{"Dog", "Cat"}])),
    "enumerate and zip": (GOOGLE, """
        def run(p):
            labels = labels_of(p)
            for i, (n, s) in enumerate(zip([l.description for l in labels], [l.score for l in labels])):
                if n == 'Dog' and s > 0.5: return True
            return False
        """, (TF, None, [{"Dog"}])),
    "environment with default": (GOOGLE, """
        import os
        LIMIT = float(os.environ.get('LIMIT', '0.75'))
        def run(p):
            return any(l.description == 'Dog' and l.score >= LIMIT for l in labels_of(p))
        """, (TF, None, [{"Dog"}])),
    "callback": (NAMES, """
        def each(names, then):
            for n in names: then(n)
        def run(p):
            out = []
            each(names_of(p), lambda n: out.append('pet') if n in ('Dog', 'Cat') else None)
            return bool(out)
        """, (TF, None, [{"Dog", "Cat"}])),
    "partial": (NAMES, """
        from functools import partial
        def has(word, names): return word in names
        has_dog = partial(has, 'Dog')
        def run(p): return has_dog(names_of(p))
        """, (TF, None, [{"Dog"}])),
    "counter": (NAMES, """
        from collections import Counter
        def run(p):
            c = Counter(names_of(p))
            return 'dog' if c['Dog'] else 'cat' if c['Cat'] else None
        """, (MC, APP, DOG_CAT)),
    "enum": (NAMES, """
        from enum import Enum
        class Pet(Enum):
            DOG = 'Dog'
            CAT = 'Cat'
        def run(p):
            for n in names_of(p):
                for pet in Pet:
                    if n == pet.value: return pet.name
        """, (MC, API, DOG_CAT)),
    "numpy of constants is opaque, lists are not": (NAMES, """
        import numpy as np
        frame = np.zeros((3, 3))
        def run(p):
            if frame.shape[0] > 2:
                return 'Dog' in names_of(p)
            return False
        """, (TF, None, [{"Dog"}])),
    "thread": (NAMES, """
        import threading
        result = {}
        def work(p):
            result['pet'] = 'Dog' in names_of(p)
        def run(p):
            t = threading.Thread(target=work, args=(p,))
            t.start(); t.join()
            return result['pet']
        """, (TF, None, [{"Dog"}])),
    "wrapping decorator": (NAMES, """
        import functools
        def logged(f):
            @functools.wraps(f)
            def inner(*args, **kwargs):
                out = f(*args, **kwargs)
                return out
            return inner
        @logged
        def run(p): return 'Dog' in names_of(p)
        """, (TF, None, [{"Dog"}])),
    "guard that is off by default": (NAMES, """
        import sys
        def run(p):
            if len(sys.argv) < 2:
                sys.exit('usage')
            return 'Dog' in names_of(p)
        """, (TF, None, [{"Dog"}])),
    "first matching label as a variable": (GOOGLE, """
        def run(p):
            hit = None
            for l in labels_of(p):
                if hit is None and l.description in ('Dog', 'Cat'):
                    hit = l.description
            if hit == 'Dog': return 'woof'
            if hit == 'Cat': return 'meow'
        """, (MC, API, DOG_CAT)),
    "lambda as the handler": (NAMES, """
        import gradio
        check = lambda p: 'yes' if [n for n in names_of(p) if n in ('Dog', 'Cat')] else 'no'
        gradio.Interface(fn=check).launch()
        """, (TF, None, [{"Dog", "Cat"}])),
    "call by the name of the feature": ("", """
        from google.cloud import vision
        def detect(p, feature='label_detection'):
            return getattr(vision.ImageAnnotatorClient(), feature)(image=p).label_annotations
        def run(p): return {'Dog', 'Cat'} & {l.description for l in detect(p)} != set()
        """, (TF, None, [{"Dog", "Cat"}])),
    "found labels kept by the object": (GOOGLE, """
        class Camera:
            def __init__(self, bus): self.bus = bus; self.found = []
            def look(self, p):
                self.found = [l.description for l in labels_of(p) if l.description in ('Dog', 'Cat')]
                if len(self.found) > 0: self.bus.fire('pet')
        """, (TF, None, [{"Dog", "Cat"}])),
    "return at module level": (NAMES, """
        names = names_of('x.jpg')
        if 'Dog' not in names:
            print('no dog')
            exit(0)
        print('dog')
        """, (TF, None, [{"Dog"}])),
    "all of a tuple among objects": ("", """
        from google.cloud import vision
        NEEDED = ('dog', 'person')
        def run(p):
            objects = vision.ImageAnnotatorClient().object_localization(image=p).localized_object_annotations
            found = {o.name.lower() for o in objects}
            return all(n in found for n in NEEDED)
        """, (TF, None, [{"Dog", "Person"}])),
    "singleton by __new__": ("", """
        from google.cloud import vision
        class Service:
            _one = None
            def __new__(cls):
                if cls._one is None:
                    cls._one = super().__new__(cls)
                    cls._one.client = vision.ImageAnnotatorClient()
                return cls._one
            def names(self, p):
                return [l.description for l in self.client.label_detection(image=p).label_annotations]
        def run(p): return 'Dog' in Service().names(p)
        """, (TF, None, [{"Dog"}])),
    "one flag for each of a list": (NAMES, """
        def run(p):
            names = names_of(p)
            return [1 if w in names else 0 for w in ['Dog', 'Cat']]
        """, (MS, None, DOG_CAT)),
    "entries with a flag": (NAMES, """
        def run(p):
            names = names_of(p)
            return [{'pet': w, 'found': w in names} for w in ['Dog', 'Cat']]
        """, (MS, None, DOG_CAT)),
    "rules that are subclasses": (NAMES, """
        class Rule: pass
        class Dogs(Rule):
            def applies(self, names): return 'Dog' in names
            def act(self): return 'woof'
        class Cats(Rule):
            def applies(self, names): return 'Cat' in names
            def act(self): return 'meow'
        RULES = [cls() for cls in Rule.__subclasses__()]
        def run(p):
            names = names_of(p)
            for rule in RULES:
                if rule.applies(names): return rule.act()
        """, (MC, APP, DOG_CAT)),
    "exceptions suppressed": (NAMES, """
        from contextlib import suppress
        def run(p):
            kind = 'none'
            with suppress(StopIteration):
                next(n for n in names_of(p) if n in ('Dog', 'Cat'))
                kind = 'pet'
            return kind
        """, (TF, None, [{"Dog", "Cat"}])),
    "configuration in a string": (GOOGLE, r"""
        import configparser
        cfg = configparser.ConfigParser()
        cfg.read_string("[vision]\nlabels = Dog, Cat\n")
        WANTED = [x.strip() for x in cfg['vision']['labels'].split(',')]
        LIMIT = cfg.getfloat('vision', 'limit', fallback=0.5)
        def run(p): return any(l.description in WANTED and l.score > LIMIT for l in labels_of(p))
        """, (TF, None, [{"Dog", "Cat"}])),
    "members of an enumeration counted beside the decision": ("", """
        import boto3
        class Listener:
            counts = {'POSITIVE': 0, 'NEGATIVE': 0, 'NEUTRAL': 0, 'MIXED': 0}
            def run(self, text, api):
                s = boto3.client('comprehend').detect_sentiment(Text=text, LanguageCode='en')['Sentiment']
                self.counts[s] += 1
                if s == 'NEGATIVE': api.apologise()
        """, (TF, None, [{"NEGATIVE"}])),
    "text of a whole answer": (AWS.replace("['Labels']", ""), """
        import json
        def run(data):
            answer = labels_of(data)
            print(answer)
            return '"Dog"' in json.dumps(answer) or "'Cat'" in str(answer)
        """, (TF, None, [{"Dog", "Cat"}])),
    "kinds sorted and grouped": (NAMES, """
        from itertools import groupby
        KINDS = {'Dog': 'pet', 'Cat': 'pet', 'Car': 'vehicle', 'Truck': 'vehicle'}
        def run(p):
            kinds = sorted(KINDS[n] for n in names_of(p) if n in KINDS)
            return [kind for kind, _ in groupby(kinds)]
        """, (MS, None, [{"Dog", "Cat"}, {"Car", "Truck"}])),
    "a test under another, found in a batch": (NAMES, """
        def run(p):
            names = names_of(p)
            if 'Dog' in names:
                if any('eye' in n.lower() for n in names): return 'portrait'
            return '-'
        """, (TF, None, [{"Dog", "Human eye", "Eyewear", "Birds eye chili"}])),
    "tags and how many there are": (NAMES, """
        from flask import jsonify
        RULES = {'dog': 'Dog', 'cat': 'Cat', 'plant': 'Tree'}
        def run(p):
            names = names_of(p)
            tags = [tag for tag, label in RULES.items() if label in names]
            return jsonify({'tags': tags, 'count': len(tags)})
        """, (MS, None, [{"Dog"}, {"Cat"}, {"Tree"}])),
    "rules in simple namespaces": (NAMES, """
        from types import SimpleNamespace
        RULES = [SimpleNamespace(name='dog', words={'Dog'}), SimpleNamespace(name='cat', words={'Cat'})]
        def run(p):
            seen = set(names_of(p))
            return next((r.name for r in RULES if r.words & seen), 'other')
        """, (MC, APP, DOG_CAT)),
    "format with an event": ("", """
        from google.cloud import vision
        def run(event, context):
            image = vision.Image()
            image.source.image_uri = 'gs://{bucket}/{name}'.format(**event)
            labels = vision.ImageAnnotatorClient().label_detection(image=image).label_annotations
            return any(l.description == 'Dog' for l in labels)
        """, (TF, None, [{"Dog"}])),
    "several answers in a row are described for one": (NAMES, """
        from collections import deque
        last = deque(maxlen=5)
        def tick(p, siren):
            last.append(any(n in ('Dog', 'Cat') for n in names_of(p)))
            if sum(last) >= 3: siren.on()
        """, (TF, None, [{"Dog", "Cat"}])),
    "a set whose order does not matter": (NAMES, """
        def run(p):
            for n in {n.lower() for n in names_of(p)}:
                if n in {'dog', 'cat'}: return True
            return False
        """, (TF, None, [{"Dog", "Cat"}])),
}  # fmt: skip


@pytest.mark.parametrize("name", IDIOMS)
def test_idiom(tmp_path, name):
    head, body, expected = IDIOMS[name]
    decision = the_decision(tmp_path, head + textwrap.dedent(body))
    kind, order, lists = shape(decision)
    wanted_kind, wanted_order, wanted_lists = expected
    assert (kind, order) == (wanted_kind, wanted_order), decision
    assert lists == wanted_lists, decision


REFUSALS = {
    "argmax of sums": (GOOGLE, """
        def run(p):
            a = sum(l.score for l in labels_of(p) if l.description in ('Dog', 'Cat'))
            b = sum(l.score for l in labels_of(p) if l.description in ('Pizza', 'Apple', 'Fruit'))
            return 'pet' if a > b else 'food'
        """),
    "votes": (NAMES, """
        def run(p):
            score = {'pet': 0, 'food': 0}
            for n in names_of(p):
                if n in ('Dog', 'Cat', 'Bird'): score['pet'] += 1
                if n in ('Pizza', 'Apple', 'Fruit'): score['food'] += 1
            return max(score, key=score.get)
        """),
    "weights": (GOOGLE, """
        W = {'Dog': 2, 'Cat': 1, 'Pizza': -3}
        def run(p):
            return sum(W.get(l.description, 0) * l.score for l in labels_of(p)) > 0.5
        """),
    "average score": (GOOGLE, """
        def run(p):
            good = [l.score for l in labels_of(p) if l.description in ('Dog', 'Cat')]
            return bool(good) and sum(good) / len(good) > 0.8
        """),
    "all labels returned": (NAMES, "def run(p): return names_of(p)"),
    "best label returned": (NAMES, "def run(p): return names_of(p)[0]"),
    "caption": (NAMES, "def run(p): return 'I see ' + ', '.join(names_of(p))"),
    "labels stored": (NAMES, """
        import sqlite3
        def run(p):
            db = sqlite3.connect('x.db')
            for n in names_of(p): db.execute('INSERT INTO t VALUES (?)', (n,))
        """),
    "parameter": (NAMES, "def run(p, wanted): return wanted in names_of(p)"),
    "input": (NAMES, "word = input()\nprint('yes' if word in names_of('x.jpg') else 'no')"),
    "database": (NAMES, """
        import sqlite3
        def run(p):
            words = [r[0] for r in sqlite3.connect('x.db').execute('select w from t')]
            return any(n in words for n in names_of(p))
        """),
    "request": (NAMES, """
        from flask import request
        def run():
            return request.args['q'].lower() in [n.lower() for n in names_of('x')]
        """),
    "missing list module": (NAMES, """
        from words import PETS
        def run(p): return any(n in PETS for n in names_of(p))
        """),
    "missing predicate": (NAMES, """
        from words import is_pet
        def run(p): return any(is_pet(n) for n in names_of(p))
        """),
    "missing file": (NAMES, """
        WORDS = open('/etc/words.txt').read().split()
        def run(p): return any(n in WORDS for n in names_of(p))
        """),
    "local model": (NAMES, """
        import cv2
        face = cv2.CascadeClassifier('face.xml')
        def run(p):
            faces = face.detectMultiScale(cv2.imread(p))
            return 'Person' in names_of(p) and len(faces) > 0
        """),
    "local classifier": (NAMES, """
        from ultralytics import YOLO
        def run(p):
            pred = YOLO('n.pt')(p)[0].names[0]
            names = names_of(p)
            if pred == 'dog' and 'Dog' in names: return 'dog'
            if 'Cat' in names: return 'cat'
        """),
    "embedding similarity": (NAMES, """
        import spacy
        nlp = spacy.load('en')
        def run(p): return any(nlp(n).similarity(nlp('pet')) > 0.7 for n in names_of(p))
        """),
    "endless loop": (NAMES, """
        def run(p):
            names = names_of(p); i = 0
            while i >= 0: i += 1
            return 'Dog' in names
        """),
    "endless recursion": (NAMES, """
        def down(n): return down(n + 1)
        def run(p):
            names = names_of(p)
            return down(0) if 'Dog' in names else 0
        """),
    "cursor asked for each label": (NAMES, """
        import sqlite3
        def run(p):
            for n in names_of(p):
                cursor = sqlite3.connect('x.db').cursor()
                cursor.execute('select kcal from food where name = ?', (n,))
                row = cursor.fetchone()
                if row: return row[0]
        """),
    "two answers compared": ("", """
        from google.cloud import language_v1
        def score(t):
            return language_v1.LanguageServiceClient().analyze_sentiment(document=t).document_sentiment.score
        def run(a, b):
            client = language_v1.LanguageServiceClient()
            one = client.analyze_sentiment(document=a).document_sentiment.score
            two = client.analyze_sentiment(document=b).document_sentiment.score
            return 'a' if one > two else 'b'
        """),
    "whole answer handed on": (AWS.replace("['Labels']", ""), """
        def run(data): return labels_of(data)
        """),
    "categories of labels": (AWS, """
        def run(data): return 'Food and Beverage' in {c['Name'] for l in labels_of(data) for c in l['Categories']}
        """),
    "two answers' labels compared": (NAMES, """
        def run(a, b): return names_of(a)[0] != names_of(b)[0]
        """),
    "labels compared with the last ones": (NAMES, """
        last = []
        def run(p, bus):
            global last
            now = names_of(p)
            new = [n for n in now if n not in last]
            last = now
            if new: bus.emit('changed')
        """),
    "prices added": ("", """
        import boto3
        PRICE = {'Apple': 0.5, 'Pizza': 7}
        def run(data):
            total = 0
            for l in boto3.client('rekognition').detect_labels(Image={'Bytes': data})['Labels']:
                try:
                    total += PRICE[l['Name']] * len(l['Instances'])
                except KeyError:
                    pass
            return total
        """),
    "labels translated": (NAMES, """
        from google.cloud import translate_v2
        def run(p):
            client = translate_v2.Client()
            for n in names_of(p)[:3]:
                print(client.translate(n, target_language='de')['translatedText'])
        """),
    "number of labels": (NAMES, """
        def run(p): return 'blurred' if len(names_of(p)) < 3 else 'fine'
        """),
    "order of a set": (NAMES, """
        def run(p):
            for n in set(names_of(p)):
                if n == 'Dog': return 'woof'
                if n == 'Cat': return 'meow'
        """),
    "any element of a set": (NAMES, """
        def run(p):
            hit = set(names_of(p)) & {'Dog', 'Cat'}
            return hit.pop() if hit else None
        """),
    "shuffled": (NAMES, """
        import random
        def run(p):
            names = names_of(p)
            random.shuffle(names)
            return 'pet' if names[0] in ('Dog', 'Cat') else 'other'
        """),
    "scores of one answer compared": ("", """
        import boto3
        def run(text):
            s = boto3.client('comprehend').detect_sentiment(Text=text, LanguageCode='en')['SentimentScore']
            return s['Negative'] > s['Positive']
        """),
    "smiles": ("", """
        import boto3
        def run(data):
            faces = boto3.client('rekognition').detect_faces(Image={'Bytes': data}, Attributes=['ALL'])['FaceDetails']
            return all(f['Smile']['Value'] for f in faces)
        """),
    "uncustomized": ("", """
        from google.cloud import vision
        def run(p):
            r = vision.ImageAnnotatorClient().safe_search_detection(image=p).safe_search_annotation
            return r.adult >= 4
        """),
    "score band": (GOOGLE, """
        def run(p):
            return any(l.description == 'Dog' and l.score < 0.7 for l in labels_of(p))
        """),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_never_guessed(tmp_path, name):
    head, body = REFUSALS[name]
    report = parse(tmp_path, head + textwrap.dedent(body))
    assert {d.kind for d in report.decisions} == {NO}, report.decisions
    assert all(d.reason and d.source for d in report.decisions)
