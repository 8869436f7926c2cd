"""Sentence and question templates: several paraphrases each, with held-out ones for the test split.

A template pair is `(train, test)`: the first tuple serves the splits "train" and "dev", the second the split "test" only, so a
test text is never worded as a training text. Every word of a held-out template occurs in some training template (checked by a
test): what is held out is the wording, not the vocabulary.

Slots: `{S}` the subject as a noun phrase ("Anna", "she", "the company"), `{P}` its possessive ("Anna's", "her"), `{V}` the
value, `{Q}` a quarter ("the second quarter", "that quarter"), `{T}` a topic or a kind of thing, `{A}` `{B}` two compared names.

The tables below are completed, at the end of this module, with the further training wordings of `more_wordings`.
"""

from collections.abc import Mapping

from common.data.synthetic import more_wordings

Paraphrases = tuple[tuple[str, ...], tuple[str, ...]]

# (kind of subject, attribute) -> statements. Where an attribute's value is an entity of its own, `common.data.synthetic.scenes`
# knows its kind and lets later sentences refer to it.
STATEMENTS: dict[tuple[str, str], Paraphrases] = {
    ("person", "home"): (
        ("{S} lives in {V}", "{P} home is in {V}", "{S} has a house in {V}", "{S} has lived in {V} for years"),
        ("{S} has a home in {V}", "{P} house is in {V}"),
    ),
    ("person", "employer"): (
        ("{S} works for {V}", "{P} employer is {V}", "{S} is employed by {V}", "{S} has worked for {V} for years"),
        ("{P} employer is called {V}", "{S} is at work for {V}"),
    ),
    ("person", "job"): (
        ("{S} is a {V} by trade", "{P} job is that of a {V}", "{S} works as a {V}", "{S} was trained as a {V}"),
        ("{S} has a job as a {V}", "{P} trade is that of a {V}"),
    ),
    ("person", "hobby"): (
        ("{S} likes {V}", "{P} hobby is {V}", "{S} spends the weekends on {V}", "{S} really enjoys {V}"),
        ("{S} has a hobby , {V}", "{S} really likes {V}"),
    ),
    ("person", "pet"): (
        ("{S} keeps a {V}", "{P} pet is a {V}", "{S} has a {V} as a pet", "{S} owns a {V}"),
        ("{S} keeps a {V} as a pet", "{S} now owns a {V}"),
    ),
    ("person", "food"): (
        (
            "{S} loves to eat {V}",
            "{P} favourite food is {V}",
            "{S} eats {V} every day",
            "{S} would eat {V} at any time",
        ),
        ("{S} eats {V} at any time", "{P} favourite food these days is {V}"),
    ),
    ("person", "age"): (
        ("{S} is {V} years old", "{P} age is {V}", "{S} has reached the age of {V}", "{S} turned {V} this year"),
        ("{S} is now {V} years old", "{S} has turned {V} this year"),
    ),
    ("person", "manager"): (
        ("{S} reports to {V}", "{P} manager is {V}", "{S} is managed by {V}", "{S} has a manager called {V}"),
        ("{S} now reports to {V}", "{P} manager is called {V}"),
    ),
    ("company", "base"): (
        ("{S} is based in {V}", "{P} head office is in {V}", "{S} has its main office in {V}", "{S} is run from {V}"),
        ("{S} has its head office in {V}", "{S} is now based in {V}"),
    ),
    ("company", "product"): (
        (
            "{S} makes the {V}",
            "{P} main product is the {V}",
            "{S} sells a product called {V}",
            "{S} is known for the {V}",
        ),
        ("{S} makes a product called {V}", "{S} now sells the {V}"),
    ),
    ("company", "founder"): (
        ("{S} was founded by {V}", "{P} founder is {V}", "{S} was started by {V}", "{S} has a founder called {V}"),
        ("{S} has been founded by {V}", "{P} founder is called {V}"),
    ),
    ("company", "field"): (
        ("{S} is in the {V} business", "{P} field is {V}", "{S} is active in {V}", "{S} does its business in {V}"),
        ("{S} is active in the field of {V}", "{P} business is {V}"),
    ),
    ("town", "country"): (
        ("{S} is a town in {V}", "{S} lies in {V}", "{S} belongs to {V}", "{S} is found in {V}"),
        ("{S} lies in the country of {V}", "{S} now belongs to {V}"),
    ),
    ("product", "colour"): (
        ("{S} is {V} in colour", "{P} colour is {V}", "{S} comes in {V}", "{S} is sold in {V}"),
        ("{S} comes in the colour {V}", "{S} is now sold in {V}"),
    ),
    ("product", "price"): (
        (
            "{S} costs {V} dollars",
            "{P} price is {V} dollars",
            "{S} sells for {V} dollars",
            "{S} is sold for {V} dollars",
        ),
        ("{S} now costs {V} dollars", "{S} has a price of {V} dollars"),
    ),
    ("product", "month"): (
        ("{S} came out in {V}", "{P} release was in {V}", "{S} was released in {V}", "{S} has been on sale since {V}"),
        ("{S} has been out since {V}", "{P} release came in {V}"),
    ),
    ("company", "sales"): (
        (
            "in {Q} , {S} had sales of {V} million",
            "{P} sales in {Q} were {V} million",
            "in {Q} , {P} sales came to {V} million",
        ),
        ("in {Q} , {P} sales were {V} million", "{S} had sales of {V} million in {Q}"),
    ),
    ("company", "profit"): (
        (
            "in {Q} , {S} made a profit of {V} million",
            "{P} profit in {Q} was {V} million",
            "in {Q} , {P} profit came to {V} million",
        ),
        ("in {Q} , {P} profit was {V} million", "{S} made a profit of {V} million in {Q}"),
    ),
    ("person", "said"): (
        (
            "{S} said that the {T} is {V}",
            "{S} called the {T} {V}",
            "{S} told the group that the {T} is {V}",
            "the {T} is {V} , {S} said",
        ),
        ("{S} told all of the group that the {T} is {V}", "{S} said the {T} is {V}"),
    ),
    ("person", "had"): (
        ("{S} had {V} {T}", "{S} owned {V} {T}", "at first {S} had {V} {T}"),
        ("these days {S} had {V} {T}",),
    ),
    ("person", "got"): (
        ("{S} got {V} more {T}", "then {S} bought {V} more {T}", "{S} was given {V} more {T}"),
        ("then {S} got {V} more {T}",),
    ),
    ("person", "lost"): (
        ("{S} gave away {V} {T}", "then {S} lost {V} {T}", "{S} sold {V} of the {T}"),
        ("then {S} gave away {V} {T}",),
    ),
    ("line", "value"): (
        ("line {S} holds {V}", "on line {S} we read {V}", "the value on line {S} is {V}"),
        ("line {S} has the value {V}",),
    ),
    ("chat", "topic"): (
        ("let us talk about {V}", "I would like to talk about {V}", "the next topic is {V}"),
        ("the topic to talk about next is {V}",),
    ),
}

QUESTIONS: dict[tuple[str, str], Paraphrases] = {
    ("person", "home"): (
        (
            "where does {S} live ?",
            "in which town does {S} live ?",
            "where is {P} home ?",
            "where is the house of {S} ?",
        ),
        ("in which town is {P} home ?", "where is {P} house ?"),
    ),
    ("person", "employer"): (
        (
            "for whom does {S} work ?",
            "who is {P} employer ?",
            "which company employs {S} ?",
            "for which company does {S} work ?",
        ),
        ("which company is {P} employer ?", "by which company is {S} employed ?"),
    ),
    ("person", "job"): (
        ("what is {P} job ?", "as what does {S} work ?", "what is {S} by trade ?", "what was {S} trained as ?"),
        ("what is {P} trade ?", "what does {S} work as ?"),
    ),
    ("person", "hobby"): (
        (
            "what is {P} hobby ?",
            "what does {S} like ?",
            "what does {S} enjoy ?",
            "on what does {S} spend the weekends ?",
        ),
        ("which hobby does {S} have ?", "what does {S} really enjoy ?"),
    ),
    ("person", "pet"): (
        (
            "which pet does {S} have ?",
            "what is {P} pet ?",
            "which animal does {S} keep ?",
            "what animal does {S} own ?",
        ),
        ("which pet does {S} keep ?", "which animal does {S} own ?"),
    ),
    ("person", "food"): (
        (
            "what does {S} love to eat ?",
            "what is {P} favourite food ?",
            "what does {S} eat every day ?",
            "which food does {S} love ?",
        ),
        ("which food is {P} favourite ?", "what does {S} eat at any time ?"),
    ),
    ("person", "age"): (
        ("how old is {S} ?", "what is {P} age ?", "what age has {S} reached ?"),
        ("which age has {S} reached ?", "how old is {S} now ?"),
    ),
    ("person", "manager"): (
        ("to whom does {S} report ?", "who is {P} manager ?", "who manages {S} ?", "by whom is {S} managed ?"),
        ("who is the manager of {S} ?", "which manager does {S} report to ?"),
    ),
    ("company", "base"): (
        (
            "where is {S} based ?",
            "in which town is {S} based ?",
            "where is {P} head office ?",
            "where is the main office of {S} ?",
        ),
        ("in which town is {P} head office ?", "where is {P} main office ?"),
    ),
    ("company", "product"): (
        (
            "what does {S} make ?",
            "what is {P} main product ?",
            "which product does {S} sell ?",
            "what is {S} known for ?",
        ),
        ("which product does {S} make ?", "what is {P} product ?"),
    ),
    ("company", "founder"): (
        ("who founded {S} ?", "who is {P} founder ?", "by whom was {S} started ?", "who started {S} ?"),
        ("by whom was {S} founded ?", "who is the founder of {S} ?"),
    ),
    ("company", "field"): (
        ("in which field is {S} active ?", "what is {P} field ?", "in which business is {S} ?"),
        ("what is {P} business ?", "in which field does {S} do business ?"),
    ),
    ("town", "country"): (
        ("in which country is {S} ?", "to which country does {S} belong ?", "where does {S} lie ?"),
        ("which country does {S} belong to ?", "in which country does {S} lie ?"),
    ),
    ("product", "colour"): (
        ("what is {P} colour ?", "in which colour does {S} come ?", "what colour is {S} ?"),
        ("which colour is {S} ?", "in which colour is {S} sold ?"),
    ),
    ("product", "price"): (
        ("how much does {S} cost ?", "what is {P} price ?", "for how much does {S} sell ?"),
        ("what does {S} cost ?", "for how much is {S} sold ?"),
    ),
    ("product", "month"): (
        ("when did {S} come out ?", "when was {S} released ?", "in which month was {P} release ?"),
        ("in which month did {S} come out ?", "in which month was {S} released ?"),
    ),
    ("company", "sales"): (
        ("what were {P} sales in {Q} ?", "how high were the sales of {S} in {Q} ?", "in {Q} , what were {P} sales ?"),
        ("how high were {P} sales in {Q} ?",),
    ),
    ("company", "profit"): (
        ("what was {P} profit in {Q} ?", "how high was the profit of {S} in {Q} ?", "in {Q} , what was {P} profit ?"),
        ("how high was {P} profit in {Q} ?",),
    ),
    ("person", "said"): (
        ("what did {S} say about the {T} ?", "what did {S} call the {T} ?", "how did {S} find the {T} ?"),
        ("what does {S} say about the {T} ?",),
    ),
    ("line", "value"): (
        ("what does line {S} hold ?", "what do we read on line {S} ?", "what is the value on line {S} ?"),
        ("which value does line {S} hold ?",),
    ),
    # ---- questions that read several statements
    ("chat", "nth"): (
        ("what was the {T} topic ?", "which topic came {T} ?", "what did we talk about {T} ?"),
        ("which topic was the {T} ?",),
    ),
    ("person", "who_said"): (
        ("who said that the {T} is {V} ?", "who called the {T} {V} ?"),
        ("who told the group that the {T} is {V} ?",),
    ),
    ("person", "count"): (
        ("how many {T} does {S} have now ?", "how many {T} has {S} got ?", "what number of {T} does {S} have ?"),
        ("how many {T} does {S} own now ?",),
    ),
    ("person", "older"): (
        ("who is older , {A} or {B} ?", "of {A} and {B} , who is older ?"),
        ("{A} or {B} , who is older ?",),
    ),
    ("product", "dearer"): (
        ("which costs more , {A} or {B} ?", "of {A} and {B} , which costs more ?"),
        ("{A} or {B} , which costs more ?",),
    ),
    ("company", "higher_sales"): (
        ("in {Q} , who had higher sales , {A} or {B} ?", "of {A} and {B} , who had higher sales in {Q} ?"),
        ("who had higher sales in {Q} , {A} or {B} ?",),
    ),
    ("company", "best_quarter"): (
        ("in which quarter were {P} sales highest ?", "when were the sales of {S} highest ?"),
        ("in which quarter were the sales of {S} highest ?",),
    ),
    ("company", "all_sales"): (
        ("list {P} sales over the quarters .", "list the sales of {S} for every quarter ."),
        ("list {P} sales for every quarter .",),
    ),
    ("person", "summary"): (
        ("what do we know about {S} ?", "sum up what we know about {S} .", "tell me all about {S} ."),
        ("tell me what we know about {S} .",),
    ),
    ("topic", "summary"): (
        (
            "what was said about the {T} ?",
            "sum up what was said about the {T} .",
            "list all that was said about the {T} .",
        ),
        ("tell me all that was said about the {T} .",),
    ),
}

# Multi-hop questions: the path of attributes, then how the path is worded. The "steps" wording asks for each hop by name and is
# answered with the whole chain; the "direct" wording is answered with the end of the chain alone.
HOPS: dict[tuple[str, ...], dict[str, Paraphrases]] = {
    ("employer", "base"): {
        "direct": (
            ("where is the employer of {S} based ?", "in which town is {P} employer based ?"),
            ("in which town is the employer of {S} based ?",),
        ),
        "steps": (
            (
                "name {P} employer and the town of its head office .",
                "for whom does {S} work , and where is that company based ?",
            ),
            ("name the employer of {S} and the town where it is based .",),
        ),
    },
    ("employer", "product"): {
        "direct": (
            ("what does the employer of {S} make ?", "which product does {P} employer sell ?"),
            ("which product does the employer of {S} make ?",),
        ),
        "steps": (
            ("name {P} employer and its main product .", "for whom does {S} work , and what does that company make ?"),
            ("name the employer of {S} and its product .",),
        ),
    },
    ("home", "country"): {
        "direct": (
            ("in which country does {S} live ?", "which country is {P} home in ?"),
            ("in which country is {P} home ?",),
        ),
        "steps": (
            ("name {P} home town and its country .", "where does {S} live , and in which country is that town ?"),
            ("name the home town of {S} and its country .",),
        ),
    },
    ("manager", "employer"): {
        "direct": (
            ("for whom does the manager of {S} work ?", "which company employs {P} manager ?"),
            ("for which company does the manager of {S} work ?",),
        ),
        "steps": (
            (
                "name {P} manager and the company of that manager .",
                "who manages {S} , and for whom does that manager work ?",
            ),
            ("name the manager of {S} and the company of that manager .",),
        ),
    },
    ("employer", "base", "country"): {
        "direct": (
            ("in which country is the employer of {S} based ?", "which country is {P} employer based in ?"),
            ("in which country is {P} employer based ?",),
        ),
        "steps": (
            (
                "name {P} employer , its town and the country .",
                "for whom does {S} work , where is it based , and in which country ?",
            ),
            ("name the employer of {S} , its town and the country .",),
        ),
    },
    ("manager", "employer", "base", "country"): {
        "direct": (
            ("in which country is the employer of the manager of {S} based ?",),
            ("in which country is the employer of {P} manager based ?",),
        ),
        "steps": (
            ("name {P} manager , the employer , its town and the country .",),
            ("name the manager of {S} , the employer , its town and the country .",),
        ),
    },
}

# Openers in front of a statement; "" is drawn most of the time.
OPENERS: Paraphrases = (
    (
        "as we heard , ",
        "in fact , ",
        "these days , ",
        "it is said that ",
        "we know that ",
        "by the way , ",
        "note that ",
    ),
    ("as we know , ", "it is known that "),
)

FILLERS: Paraphrases = (
    (
        "the weather was mild that week",
        "nobody took any notes",
        "there was tea and coffee for all",
        "the room was quiet for some time",
        "most of it had been heard before",
        "the light was good that day",
        "it was late when this was written",
        "some pages were lost on the way",
        "the rest of the day was quiet",
        "all of this was well known",
        "the notes end here for that day",
        "there was not much more to read",
    ),
    (
        "the room was quiet for some of the day",
        "there was coffee for the rest of the day",
        "nobody had read the notes before",
        "it was quiet and the weather was good",
    ),
)

UNKNOWN = "unknown"


def _with_more(tables: dict[tuple[str, str], Paraphrases], more: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
    for key, patterns in more.items():
        train, test = tables[key]
        tables[key] = (_longer(train, patterns), test)


def _longer(train: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    # In a fixed order and without doubles: the n-th wording is drawn for the same random number on every machine.
    further = (text for pattern in patterns for text in more_wordings.expand(pattern))
    return tuple(dict.fromkeys((*train, *further)))


_with_more(STATEMENTS, more_wordings.STATEMENTS)
_with_more(QUESTIONS, more_wordings.QUESTIONS)
for _path, _styles in more_wordings.HOPS.items():
    for _style, _patterns in _styles.items():
        _train, _test = HOPS[_path][_style]
        HOPS[_path][_style] = (_longer(_train, _patterns), _test)
OPENERS = ((*OPENERS[0], *(f"{text} " for text in _longer((), more_wordings.OPENERS))), OPENERS[1])
FILLERS = (_longer(FILLERS[0], more_wordings.FILLERS), FILLERS[1])
