"""Whole applications through the parser. What is expected was written down from reading them."""

import functools
from pathlib import Path

import pytest

from chameleonapi.decisions import DecisionSummary
from chameleonapi.parser.parse import ParseReport, parse_application
from chameleonapi.vocabularies import load_vocabulary

APPS = Path(__file__).parent / "apps"
TF, MC, MS, NUM, CONST, NO = "true_false", "multi_choice", "multi_select", "numeric", "constant", "unsupported"
API, LAST, APP = "api_first", "api_last", "app_choice"


@functools.cache
def _small_vocabulary() -> tuple[str, ...]:
    """A third of the bundled labels, to save time: all that an application mentions or must catch, and some others."""
    sources = [p for p in APPS.rglob("*") if p.suffix in (".py", ".json", ".csv", ".txt", ".yaml", ".ini")]
    text = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in sources).casefold()
    expected = {label for _, _, lists in SINGLE.values() for one in lists for label in one.split(", ")}
    bundled = load_vocabulary("image")
    return tuple(v for i, v in enumerate(bundled) if i % 12 == 0 or v.casefold() in text or v in expected)


@functools.cache
def parse(name: str, is_whole: bool = False) -> ParseReport:
    path = APPS / name
    vocabularies = {} if is_whole else {"image": _small_vocabulary()}
    return parse_application(path if path.is_dir() else path.with_suffix(".py"), vocabularies)


def lists(decision: DecisionSummary) -> list[set[str]]:
    return [set(one.labels) for one in decision.lists]


# application -> (kind, order, lists in the order of the source; for multi_choice in app order that order is tested)
SINGLE = {
    "hotdog_bot": (TF, None, ["Hot dog, Sausage"]),
    "recycle_pi": (
        MC,
        API,
        [
            "Bottle, Plastic bottle, Glass bottle, Water bottle, Wine bottle, Beer bottle, Tin can, Beverage can, "
            "Aluminum can, Plastic, "
            "Plastic bag, Plastic wrap, Glass, Wine glass, Paper, Paper bag, Paper product, Toilet paper, Cardboard",
            "Fruit, Vegetable, Food, Fast food, Junk food, Finger food, Comfort food, Staple food, Leaf, Plant, Succulent plant",
            "Clothing, Shirt, Dress shirt, Polo shirt, Jeans, Toy, Shoe",
        ],
    ),
    "photo_tagger": (
        MS,
        None,
        ["Person, Human, Man, Woman, Child", "Dog, Cat, Pet", "Food, Meal, Dessert", "Beach, Mountain, Forest, Sky"],
    ),
    "pet_door": (TF, None, ["Cat, Dog"]),
    "moderation_api": (TF, None, ["Explicit Nudity, Graphic Violence Or Gore, Hate Symbols"]),
    "plant_watering": (TF, None, ["Plant, Houseplant, Flower, Leaf"]),
    "fridge_inventory": (
        MS,
        None,
        [
            "Apple, Banana, Orange, Pear, Strawberry",
            "Carrot, Broccoli, Tomato, Cucumber, Bell pepper",
            "Milk, Cheese, Yogurt, Butter",
        ],
    ),
    "review_triage": (MC, None, ["NEGATIVE", "POSITIVE"]),
    "drawer_lights": (MC, LAST, ["Book, Notebook", "Coffee, Cup, Coffee cup", "Toy, Lego"]),
    "wildlife_cam": (MC, APP, ["Fox, Deer, Hedgehog, Owl", "Cat, Dog, Person"]),
    "shop_search": (
        MC,
        API,
        ["Shoe, Sneakers, Boot, Sandal", "Shirt, T-shirt, Blouse, Sweater", "Jeans, Trousers, Shorts, Skirt"],
    ),
    "kids_game": (MS, None, ["Leaf, Tree", "Insect, Spider, Worm", "Stone", "Feather"]),
    "art_or_photo": (TF, None, ["Painting, Drawing, Sketch, Art"]),
    "weather_wall": (MC, APP, ["Lightning, Tornado, Storm", "Rain", "Fog, Mist", "Sun, Sunrise, Sunset"]),
    "animal_report": (MC, API, ["Dog", "Cat", "Cattle", "Deer", "Fox", "Bird"]),
    "bird_feeder": (MC, API, ["Squirrel, Chipmunk", "Cat, Kitten", "Bird, Finch, Robin, Sparrow"]),
    "handlers": (MS, None, ["Person, Human, Man, Woman", "Car, Truck", "Dog, Cat"]),
    "json_rules": (
        MC,
        APP,
        ["Weapon, Gun, Rifle, Handgun", "Knife, Sword, Alcoholic beverage, Beer", "Landscape, Flower, Food"],
    ),
    "csv_lists": (MC, API, ["Tomato", "Onion", "Garlic", "Carrot", "Potato", "Rice", "Cheese", "Egg"]),
    "smoke_alarm": (TF, None, ["Wildfire, Smoke"]),
    "toy_robot": (
        MC,
        APP,
        [
            "Dog, Cat, Puppy, Kitten, Dog breed, Tabby cat, Persian cat, Hot dog",
            "Toy, Doll, Lego, Ball, Soccer ball, Tennis ball, Golf ball",
            "Stairs, Ladder",
        ],
    ),
    "old_discovery": (TF, None, ["Cat"]),
    "old_client": (TF, None, ["Snow, Snowboard, Ice"]),
    "top_three": (MC, APP, ["Car, Vehicle", "Dog"]),
    "graded_confidence": (MC, APP, ["Fire", "Fire"]),
    "receipts": (MC, API, ["Receipt", "Letter", "Newspaper"]),
    "lost_found": (
        MC,
        APP,
        [
            "Watch, Jewellery, Ring, Necklace, Wallet",
            "Mobile phone, Laptop, Headphones, Camera",
            "Jacket, Scarf, Glove, Hat",
        ],
    ),
    "streamlit_quiz": (TF, None, ["Guitar, Piano, Violin, Drum, Trumpet, Flute, Saxophone"]),
    "parking": (TF, None, ["Car, Motorcycle, Bicycle"]),
    "parents_only": (TF, None, ["Animal"]),
    "nobody_home": (TF, None, ["Baby, Child, Person"]),
    "emotions": (MC, API, ["HAPPY", "SAD", "ANGRY", "CALM"]),
    "waste_web": (
        MC,
        APP,
        [
            "Fruit, Vegetable, Bread",
            "Plastic, Plastic bottle, Plastic bag, Plastic wrap, Glass, Glass bottle, Glasses, "
            "Tin, Tin can, Aluminum can, Cardboard",
        ],
    ),
    "fire_person": (MS, None, ["Person", "Fire"]),
    "defects": (TF, None, ["Pothole, Accident"]),
    "walking_aid": (MC, APP, ["Car", "Highway, Lane, Road, Motor vehicle, Bicycle, Truck, Traffic"]),
    "entity_redact": (TF, None, ["PERSON, LOCATION, DATE"]),
    "ticket_entities": (MC, API, ["ORGANIZATION", "PRICE, NUMBER"]),
    "batch_album": (MS, None, ["Beach, Ocean, Sea, Coast", "Snow, Skiing, Ice", "Dog, Cat, Horse, Bird"]),
    "bottle_sorter": (TF, None, ["Bottle, Plastic"]),
    "door_lock": (TF, None, ["Person, Uniform"]),
    "motion_alerts": (MS, None, ["Person", "Car", "Dog"]),  # a list that is the default of an environment variable
    "rule_engine": (MC, APP, ["Gun, Rifle", "Person"]),
    "rules_csv": (MC, API, ["Dog, Wolf", "Cat", "Bird"]),
    "kivy_scan": (MC, APP, ["Banana, Apple", "Candy"]),
    "tk_pets": (
        MC,
        API,
        ["Dog, Dog breed, Hot dog, Bulldog", "Cat, Tabby cat, Persian cat, Cattle, Caterpillar, Vacation"],
    ),
    "mood_emoji": (MC, None, ["POSITIVE", "NEGATIVE", "NEUTRAL", "MIXED"]),
    "post_folders": (
        MC,
        API,
        [
            "/Sports, /Sports/Combat Sports, /Sports/Fantasy Sports, /Sports/Individual Sports, /Sports/Motor Sports, "
            "/Sports/Team Sports, /Sports/Water Sports, /Sports/Winter Sports",
            "/Food & Drink, /Food & Drink/Beverages, /Food & Drink/Cooking & Recipes, "
            "/Food & Drink/Food & Grocery Retail, /Food & Drink/Restaurants",
            "/Arts & Entertainment/Music & Audio",
        ],
    ),
    "flask_gate": (MC, APP, ["Snake, Spider", "Dog, Cat, Rabbit"]),
    "enum_dispatch": (
        MC,
        API,
        ["Paper, Newspaper, Cardboard, Magazine", "Glass, Wine bottle", "Banana, Apple, Leaf, Bread"],
    ),
    "lambda_s3": (
        MC,
        APP,
        [
            "Person, Human, Man, Woman, Car, Van, Truck, Motorcycle",  # a conjunction: see below
            "Person, Human, Man, Woman",
            "Car, Van, Truck, Motorcycle",
        ],
    ),
    "ternary_set": (
        MC,
        APP,
        [
            "Pizza, Hamburger, French fries, Hot dog, Coffee, Tea, Juice, Wine, Beer",
            "Pizza, Hamburger, French fries, Hot dog",
            "Coffee, Tea, Juice, Wine, Beer",
        ],
    ),
    "next_gen": (
        MC,
        APP,
        ["Bread, Egg, Coffee, Croissant", "Salad, Sandwich, Soup", "Pizza, Pasta, Steak"],
    ),
    "regex_app": (MS, None, ["Rose, Tulip, Daisy, Sunflower", "Tree, Palm tree, Christmas tree"]),
    "async_fastapi": (TF, None, ["Knife, Kitchen knife, Weapon, Gun"]),
    "dataclass_cfg": (MS, None, ["Car, Truck, Bus", "Tree, Flower, Grass", "Person"]),
    "pygame_quiz": (TF, None, ["Cup, Book, Pen, Shoe"]),
    "json_rest": (TF, None, ["Night"]),
    "match_stmt": (MC, API, ["Dog, Wolf", "Cat, Kitten"]),
    "obj_local": (TF, None, ["Person, Bicycle, Car"]),
    "comprehend_router": (MC, None, ["NEGATIVE", "POSITIVE"]),
}

# application -> part of the reason, and the line that it must name
REFUSED = {
    "score_duel": ("treated differently", None),
    "weighted_health": ("treated differently", None),
    "meal_score": ("treated differently", None),
    "stock_mood": ("not in the source", 8),  # an average over several answers
    "dog_walkers": ("treated differently", 6),  # a count of one thing together with the presence of another
    "caption_writer": ("without deciding", 7),
    "search_index": ("without deciding", 18),
    "mixed_model": ("another model", 13),
    "db_lists": ("not in the source", 13),
    "ha_platform": ("not in the source", 24),
    "missing_lists": ("not in the source", 8),
    "py2_receipt": ("does not parse", 6),
    "faces_only": ("not customized", 5),
    "counter_app": ("treated differently", 10),  # the most frequent group of labels
}

CONSTANT = {"compare_bug": "annotation objects", "always_true_bug": "always true", "unused": "not used"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_decision_over_the_whole_vocabulary(name):
    check_decision(name, parse(name, True))


@pytest.mark.parametrize("name", SINGLE)
def test_decision(name):
    check_decision(name, parse(name))


def check_decision(name: str, report: ParseReport) -> None:
    kind, order, expected = SINGLE[name]
    assert [d.kind for d in report.decisions] == [kind], report.decisions
    decision = report.decisions[0]
    assert decision.order == order
    wanted = [set(x.split(", ")) for x in expected]
    if kind == MC and order == APP:
        assert lists(decision) == wanted
    else:
        assert sorted(map(sorted, lists(decision))) == sorted(map(sorted, wanted))
        assert lists(decision) == wanted, "lists shall come in the order of the source"


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_has_a_reason_and_a_place(name):
    words, line = REFUSED[name]
    report = parse(name)
    assert [d.kind for d in report.decisions] == [NO]
    decision = report.decisions[0]
    assert words in decision.reason
    assert decision.source[0].path
    assert decision.source[0].line
    if line is not None:
        assert f".py:{line}:" in decision.reason


@pytest.mark.parametrize("name", CONSTANT)
def test_mistakes_make_constants(name):
    (decision,) = parse(name).decisions
    assert decision.kind == CONST
    assert any(CONSTANT[name] in w for w in decision.warnings), decision.warnings


def test_every_application_of_the_folder_is_expected_somewhere():
    special = {
        "sentiment_lamp",
        "news_filter",
        "traffic_counter",
        "two_endpoints",
        "language_mix",
        "avatar_check",
        "gallery_guard",
        "cat_poster",
        "pet_rest",
    }
    names = {p.stem for p in APPS.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name[0] not in "._")}
    assert names == {*SINGLE, *REFUSED, *CONSTANT, *special}


@pytest.mark.parametrize(
    ("name", "op", "value"),
    [
        ("pet_door", ">=", 85),
        ("moderation_api", ">", 60),
        ("plant_watering", ">=", 0.7),  # `if score < min: continue`, default of an option
        ("fridge_inventory", ">", 0.6),
        ("json_rules", ">=", 75),  # from the JSON file
        ("smoke_alarm", ">", 0.6),
        ("receipts", ">=", 0.55),
        ("entity_redact", ">", 0.9),
        ("batch_album", ">", 0.5),
        ("hotdog_bot", None, None),
        ("enum_dispatch", ">", 70),
        ("pygame_quiz", ">", 0.65),
        ("json_rest", ">", 0.7),  # scores.get(label, 0) > 0.7
        ("obj_local", ">=", 0.6),
    ],
)
def test_threshold(name, op, value):
    for one in parse(name).decisions[0].lists:
        assert (one.threshold and one.threshold.op, one.threshold and one.threshold.value) == (op, value)
        assert not one.label_thresholds


def test_thresholds_of_single_labels():
    (one,) = parse("parking").decisions[0].lists
    assert {label: (one.threshold_of(label).op, one.threshold_of(label).value) for label in one.labels} == {
        "Car": (">=", 90),
        "Motorcycle": (">=", 80),
        "Bicycle": (">=", 70),
    }


def test_grades_of_one_label_are_lists_with_thresholds():
    decision = parse("graded_confidence").decisions[0]
    assert [(one.threshold.op, one.threshold.value) for one in decision.lists] == [(">", 90), (">", 60)]
    assert [decision.decide([("Fire", s)]) for s in (95, 90, 61, 60)] == [(0,), (1,), (1,), ()]


def test_conjunction_and_suppression():
    one = parse("bottle_sorter").decisions[0].lists[0]
    assert one.combine == "all"
    assert sorted(map(sorted, one.clauses)) == [["Bottle"], ["Plastic"]]
    decision = parse("door_lock").decisions[0]
    assert decision.combine == "all"
    assert decision.lists[0].unless == ("Weapon",)
    assert decision.decide([("Person", 90), ("Uniform", 80)]) == (0,)
    assert decision.decide([("Person", 90), ("Uniform", 80), ("Weapon", 50)]) == ()
    assert decision.decide([("Person", 90)]) == ()


def test_both_of_two_lists_is_a_choice_of_its_own():
    decision = parse("lambda_s3").decisions[0]
    assert decision.lists[0].combine == "all"
    assert sorted(map(set, decision.lists[0].clauses), key=len) == [set(one.labels) for one in decision.lists[1:]]
    outputs = ([("Man", 90)], [("Van", 90)], [("Van", 90), ("Man", 80)], [("Chair", 90)])
    assert [decision.decide(output) for output in outputs] == [(1,), (2,), (0,), ()]
    decision = parse("ternary_set").decisions[0]
    assert [decision.decide([(x, 0.9) for x in labels]) for labels in (["Pizza"], ["Tea"], ["Tea", "Pizza"])] == [
        (1,),
        (2,),
        (0,),
    ]


def test_thresholds_on_how_sure_a_sentiment_is():
    negative, positive = parse("comprehend_router").decisions[0].lists
    assert (negative.threshold.op, negative.threshold.value) == (">=", 0.7)
    assert positive.threshold is None


def test_top_of_the_output_only():
    assert parse("top_three").decisions[0].window == 3
    assert parse("art_or_photo").decisions[0].window == 1
    assert parse("emotions").decisions[0].window == 1
    assert parse("hotdog_bot").decisions[0].window is None


def test_request_limits():
    assert parse("hotdog_bot").decisions[0].request == {"max_results": 15}
    assert parse("photo_tagger").decisions[0].request == {"MaxLabels": 25, "MinConfidence": 70}
    assert parse("old_discovery").decisions[0].request == {"max_results": 5}
    assert parse("batch_album").decisions[0].request == {"max_results": 12}


def test_label_echo():
    decision = parse("animal_report").decisions[0]
    assert all(one.label_echo and one.group == 0 for one in decision.lists)
    assert not any(one.label_echo for one in parse("defects").decisions[0].lists)


def test_unknown_labels_are_reported():
    decision = parse("kids_game").decisions[0]
    assert decision.lists[2].unknown_labels == ("Rock",)
    decision = parse("old_discovery").decisions[0]
    assert decision.lists[0].unknown_labels == ("cat",)
    assert any("differs from the label 'Cat' in case" in w for w in decision.warnings)


def test_text_topics_with_different_thresholds():
    (decision,) = parse("news_filter").decisions
    news = {v for v in load_vocabulary("topic") if v == "/News" or v.startswith("/News/")}
    assert decision.kind == TF
    assert lists(decision) == [news | {"/Sensitive Subjects"}]
    one = decision.lists[0]
    assert one.threshold_of("/News").value == 0.5
    assert one.threshold_of("/News/Politics").value == 0.0


def test_sentiment_regions():
    (decision,) = parse("sentiment_lamp").decisions
    assert decision.kind == NUM
    (score,) = decision.variables
    assert (score.name, score.breakpoints) == ("score", (-0.25, 0.25))
    assert [(i.includes_low, i.includes_high) for i in score.intervals] == [(True, False), (True, True), (False, True)]


def test_two_numbers_and_a_topic():
    numeric, topic = parse("language_mix").decisions
    assert {v.name: v.breakpoints for v in numeric.variables} == {"score": (-0.6,), "magnitude": (1.5,)}
    assert topic.kind == TF
    wanted = {
        v for v in load_vocabulary("topic") if v.startswith(("/Shopping", "/Business & Industrial/Transportation"))
    }
    assert lists(topic) == [wanted]


def test_counted_objects():
    (decision,) = parse("traffic_counter").decisions
    assert decision.kind == NUM
    (count,) = decision.variables
    assert count.name == "count"
    assert count.breakpoints == (2.5, 7.5)
    assert set(count.of) == {"Car", "Truck", "Bus", "Van"}


def test_several_decisions_in_one_application():
    food, scene, comment = parse("two_endpoints").decisions
    assert (food.kind, lists(food)) == (TF, [{"Food", "Meal"}])
    assert (scene.kind, scene.order, lists(scene)) == (MC, APP, [{"Beach"}, {"Mountain"}, {"City", "Urban area"}])
    assert comment.kind == NUM
    assert [(v.name, v.breakpoints) for v in comment.variables] == [("Negative", (0.8,))]


def test_moderation_counts_from_no_label():
    (decision,) = parse("avatar_check").decisions
    bad = {"Nudity", "Graphic Male Nudity", "Graphic Female Nudity"}
    assert (decision.kind, decision.order) == (MC, APP)
    assert lists(decision) == [bad, set(load_vocabulary("moderation")) - bad]
    (decision,) = parse("gallery_guard").decisions
    assert (decision.kind, lists(decision)) == (TF, [set(load_vocabulary("moderation"))])


@pytest.mark.parametrize("name", SINGLE)
def test_summary_survives_json_and_says_where(name):
    decision = parse(name).decisions[0]
    assert DecisionSummary.from_json(decision.to_json()).to_json() == decision.to_json()
    assert decision.source[0].line
    assert decision.source[0].text
    for one in decision.lists:
        assert one.source
        assert all(span.line for span in one.source), one
        assert one.predicate
        assert one.outcome


def test_decisions_that_need_two_answers():
    labels, moderation = parse("cat_poster").decisions
    assert (labels.kind, lists(labels)) == (TF, [{"Cat"}])
    assert (moderation.kind, lists(moderation)) == (TF, [{"Violence", "Explicit Nudity"}])
    assert any("together with" in w for w in moderation.warnings)


def test_two_features_in_one_request():
    labels, objects = parse("pet_rest").decisions
    assert (labels.api, lists(labels)) == ("google.vision.label_detection", [{"Pet"}])
    assert (objects.api, lists(objects)) == ("google.vision.object_localization", [{"Dog", "Cat"}])


def test_every_refusal_names_file_and_line():
    for name in REFUSED:
        reason = parse(name).decisions[0].reason
        assert ".py:" in reason, reason
