"""Applications in the style of public repositories, written to find what the parser read wrongly or refused needlessly.

Each stands for a fault that was found and mended, or for a mixture of styles that the other applications lack. What is
expected was written down from reading them.
"""

from pathlib import Path

import pytest

from chameleonapi.parser.parse import ParseReport, parse_application
from chameleonapi.vocabularies import load_vocabulary

APPS = Path(__file__).parent / "more_apps"
TF, MC, MS, NUM, NO = "true_false", "multi_choice", "multi_select", "numeric", "unsupported"
API, LAST, APP = "api_first", "api_last", "app_choice"

# application -> (kind, order, window, lists as (labels, threshold))
EXPECTED = {
    "discord_pets": (MS, None, None, [("Dog", 0.8), ("Cat", 0.8), ("Bird", 0.8), ("Fish", 0.8)]),
    "django_category": (
        MC,
        APP,
        None,
        [
            ("Laptop, Mobile phone, Computer, Camera, Television", None),
            ("Chair, Table, Couch, Desk, Bed", None),
            ("Shirt, Dress, Jeans, Shoe, Jacket", None),
        ],
    ),
    "door_panel": (TF, None, None, [("Person, Man, Woman", 0.6)]),  # a method handed to a clock
    "album_cli": (  # click options with defaults
        MS,
        None,
        None,
        [
            ("Person, Human, Face, People", None),
            ("Animal, Dog, Cat, Bird, Wildlife", None),
            ("Nature, Outdoors, Mountain, Landscape, Scenery", None),
            ("Text, Document, Receipt, Page", None),
        ],
    ),
    "report_router": (
        MC,
        API,
        None,
        [
            ("Pothole, Road, Asphalt, Traffic sign, Street light", 0.6),
            ("Tree, Grass, Park, Flower", 0.7),
            ("Waste, Litter, garbage truck, Waste container", 0.6),
        ],
    ),
    "ticket_queue": (
        MC,
        None,
        None,
        [("NEGATIVE", None), ("MIXED", None)],
    ),  # the store of every sentiment decides nothing
    "contacts": (MS, None, None, [("PERSON", None), ("LOCATION, ADDRESS", None), ("ORGANIZATION", None)]),
    "bucket_alarm": (TF, None, None, [("Gun, Weapon, Rifle, Knife", 90)]),
    "season": (
        MC,
        API,
        None,
        [("Snow, Winter, Ice", None), ("Flower, Blossom", None), ("Beach, Sun", None), ("Autumn, Leaf", None)],
    ),
    "mms_bins": (
        MC,
        LAST,
        None,
        [
            (
                "Plastic, Plastic bag, Plastic bottle, Paper, Newspaper, Toilet paper, Glass, Glass bottle, Glasses, "
                "Sunglasses, Metal, Cardboard, Tin can, Bottle, Wine bottle",
                None,
            ),
            ("Styrofoam, diaper, napkin, tissue", None),
        ],
    ),
    "smart_mirror": (MC, APP, None, [("Jacket, Coat, Sweater, Scarf", None), ("T-shirt, Shorts, Dress", None)]),
    "alexa_fridge": (  # sentences that are put together from what was found
        MS,
        None,
        None,
        [
            ("Apple, Banana, Orange, Lemon", None),
            ("Carrot, Broccoli, Tomato, Potato", None),
            ("Milk, Cheese, Butter, Yogurt", None),
        ],
    ),
    "diet_service": (
        MC,
        APP,
        None,
        [
            ("Beef, Pork, Chicken, Steak", 0.7),
            ("Fish, Salmon, Shrimp", 0.7),
            ("Carrot, Broccoli, Tomato, Lettuce", 0.7),
        ],
    ),
    "expense_bot": (MS, None, None, [(x, None) for x in ("Beer", "Wine", "Alcohol", "Cigarette", "Liquor")]),
    "pet_feeder": (  # the same pin, for a longer or a shorter time
        MC,
        APP,
        None,
        [("Dog, Bulldog, Hot dog", None), ("Cat, Cattle, Vacation", None)],
    ),
    "rest_gather": (MC, APP, None, [("Cat", 0.8), ("Dog", 0.8)]),
    "chat_guard": (
        MC,
        APP,
        None,
        [("Explicit Nudity, Graphic Violence Or Gore", None), ("Suggestive, Alcohol, Gambling, Rude Gestures", None)],
    ),
    "gate_py2": (TF, None, None, [("car", 0.9)]),  # iteritems of Python 2
    "action_registry": (MC, API, None, [("Dog, Puppy", None), ("Cat, Kitten", None)]),  # a decorator that keeps classes
    "first_three": (TF, None, 3, [("Bird", None)]),  # labels[0] or labels[1] or labels[2]
    "mood_lights": (MC, API, 1, [("HAPPY", None), ("SAD", None), ("ANGRY, DISGUSTED", None)]),
    "redact_store": (TF, None, None, [("PERSON, DATE, LOCATION", 0.9)]),  # text.replace in a loop is no count
    "tags_and_block": (
        MS,
        None,
        None,
        [
            ("Beach, Sea, Sand", None),
            ("City, Skyscraper, Street", None),
            ("Food, Dish", None),
            ("Weapon, Gun", None),
        ],
    ),
    "news_about": (MC, APP, None, [("ORGANIZATION", 0.1), ("PERSON", None)]),  # entity types of the client library
    "recycle_class": (
        MC,
        APP,
        None,
        [
            ("Plastic, Plastic bottle, Plastic bag", None),
            ("Paper, Cardboard, Newspaper", None),
            ("Metal, Tin, Aluminum can, Tin can", None),
            ("Glass, Glass bottle, Wine bottle", None),
        ],
    ),
    "risk_levels": (MC, APP, None, [("Gun, Rifle, Bomb", None), ("Knife, Scissors", None)]),  # max() of an IntEnum
    "pubsub_router": (MC, APP, None, [("Invoice, Receipt, Document", None), ("Person, Face, Selfie", None)]),
    "app_factory": (TF, None, None, [("Mask, Face mask", None)]),  # a route inside create_app()
    "tk_nested": (TF, None, None, [("Tree, Forest, Plant", None)]),  # a button's function inside main()
    "celery_tags": (
        MS,
        None,
        None,
        [
            ("Beach, Sea, Ocean, Coast", 0.6),
            ("Mountain, Hill, alps", 0.6),
            ("City, Skyscraper, Downtown, metropolis", 0.6),
        ],
    ),
    "people_places": (MS, None, None, [("PERSON", None), ("LOCATION", None)]),  # print((people, places))
    "talking_bin": (  # what is said repeats the label; the motor tells the lists apart
        MC,
        API,
        None,
        [("Bottle, Tin can, Paper", None), ("Banana, Apple, Bread", None)],
    ),
    "urllib_body": (TF, None, None, [("Person", 0.6)]),  # urlopen(Request(url, data=json.dumps(...)))
    "heap_top": (MC, APP, 3, [("Cat", None), ("Dog", None)]),  # heapq.nlargest(3, labels, key=score)
    "heap_queue": (MC, APP, None, [("Fire, Smoke", None), ("Person", None), ("Car", None)]),  # heappush, heappop
    "toml_rules": (MS, None, None, [("Weapon, Gun, Knife", None), ("Cigarette, Beer, Wine", None)]),
    "name_dispatch": (MC, API, None, [("Dog", None), ("Cat", None), ("Cow", None)]),  # globals()["on_" + label]
    "pantry_names": (  # print(found) shows an empty list otherwise: the names are what is told
        MS,
        None,
        None,
        [("Tomato", None), ("Egg", None), ("Noodle", None), ("Bean", None)],
    ),
    "aiogram_partial": (MC, APP, None, [("Cat, Kitten", 0.75), ("Dog, Puppy", 0.75)]),  # a partial for an executor
    "farm_or_pet": (MC, API, None, [("Dog, Cat", 0.5), ("Cow, Horse, Sheep", 0.5)]),
}
COUNTED = {
    "lot_counter": (9.5, "Car, Truck, Van, Bus, Motorcycle"),  # instances; the free places reported are no decision
    "two_signs": (1.5, "Smoke, Fire, Flame"),
    "crowd_limit": (5.5, "Person"),
    "lot_full": (19.5, "Car, Van"),
}
REFUSED = {
    "loudest_group": "treated differently",
    "bin_votes": "treated differently",
    "crowd_yolo": "another model",
    "keras_argmax": "another model",
    "score_product": "treated differently",
    "green_share": "treated differently",
    "clear_lead": "treated differently",
    "salience_sum": "treated differently",
    "cat_album": "counted together",
    "random_joke": "picked at random",
    "same_scene": "several answers are compared",
    "sound_files": "not in the source",
    "weather_clothes": "which labels count depends on",
    "classroom_mood": "counted against each other",
    "treasure_hunt": "not in the source",
    "stock_entity": "another part of the answer",
}
_SPECIAL = {"helmet_check", "deposit", "selfie_or", "crowd_instances", "sure_people"}

_NAMED = [label for _, _, _, lists in EXPECTED.values() for text, _ in lists for label in text.split(", ")]
_NAMED += [label for _, text in COUNTED.values() for label in text.split(", ")]
_KNOWN = set(load_vocabulary("image"))
VOCABULARY = tuple(dict.fromkeys([*(x for x in _NAMED if x in _KNOWN), "Helmet", *load_vocabulary("image")[::16]]))


def parse(name: str) -> ParseReport:
    path = APPS / name
    return parse_application(path if path.is_dir() else path.with_suffix(".py"), {"image": VOCABULARY})


@pytest.mark.parametrize("name", EXPECTED)
def test_decision(name):
    kind, order, window, expected = EXPECTED[name]
    (decision,) = parse(name).decisions
    assert (decision.kind, decision.order, decision.window) == (kind, order, window), decision
    found = [({*one.labels, *one.unknown_labels}, one.threshold and one.threshold.value) for one in decision.lists]
    # A text that is searched for may stand beside the labels that it catches.
    assert len(found) == len(expected), found
    for (labels, threshold), (text, wanted) in zip(found, expected, strict=True):
        named = set(text.split(", "))
        assert named <= labels, (named - labels, labels)
        assert {x for x in labels - named if x in _NAMED} == set(), labels
        assert threshold == wanted


@pytest.mark.parametrize("name", COUNTED)
def test_count(name):
    point, labels = COUNTED[name]
    (decision,) = parse(name).decisions
    assert decision.kind == NUM
    (variable,) = decision.variables
    assert (variable.name, variable.breakpoints) == ("count", (point,))
    assert set(variable.of) == set(labels.split(", "))


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    (decision,) = parse(name).decisions
    assert decision.kind == NO
    assert REFUSED[name] in decision.reason
    assert ".py:" in decision.reason


def test_one_label_takes_the_effect_of_another_away():
    (decision,) = parse("helmet_check").decisions
    assert decision.kind == TF
    assert decision.lists[0].labels == ("Person",)
    assert decision.lists[0].unless == ("Helmet",)


def test_two_labels_together_beside_an_ordinary_list():
    (decision,) = parse("deposit").decisions
    assert (decision.kind, decision.order) == (MC, APP)
    assert sorted(map(sorted, decision.lists[0].clauses)) == [["Bottle"], ["Plastic"]]
    outputs = (["Bottle"], ["Plastic", "Bottle"], ["Glass bottle", "Plastic"])
    assert [decision.decide([(x, 0.9) for x in labels]) for labels in outputs] == [(), (0,), (1,)]


def test_one_label_or_two_others_is_one_list():
    (decision,) = parse("selfie_or").decisions
    assert decision.kind == TF
    outputs = (["Selfie"], ["Face"], ["Person"], ["Face", "Person"])
    assert [decision.decide([(x, 0.9) for x in labels]) for labels in outputs] == [(0,), (), (), (0,)]


def test_a_count_of_instances_with_several_steps():
    (decision,) = parse("crowd_instances").decisions
    assert (decision.kind, decision.variables[0].breakpoints) == (NUM, (0.5, 10.5))


def test_a_count_of_labels_with_a_threshold():
    (decision,) = parse("sure_people").decisions
    assert (decision.kind, decision.variables[0].breakpoints) == (NUM, (0.5, 3.5))
    assert (decision.lists[0].threshold.op, decision.lists[0].threshold.value) == (">", 0.7)


def test_every_application_of_the_folder_is_expected_somewhere():
    names = {p.stem for p in APPS.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name[0] not in "._")}
    assert names == {*EXPECTED, *COUNTED, *REFUSED, *_SPECIAL}
