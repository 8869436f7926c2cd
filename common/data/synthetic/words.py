"""The open-class words of the generated texts: names, places, things, numbers.

Every entry is one word, so that the bundled tokenizer can hold each as one token. Companies, towns, countries and products are
invented: what a text says about them can be read in the text only.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words(
    """Anna Maria Julia Clara Emma Laura Nora Irene Helen Alice Diana Eva Flora Grace Hannah Iris Jane Karen Linda Martha
    Nina Olga Paula Rosa Sarah Tina Ursula Vera Wendy Yvonne Zoe Agnes Bertha Carla Doris Edith Frida Greta Hilda Ingrid
    Joan Katia Lena Mona Naomi Olivia Petra Rita Sonia Tessa"""
)
MEN = _words(
    """Adam Bruno Carl David Erik Felix Georg Hugo Ivan Jakob Karl Leo Marco Nils Oscar Paul Quentin Robert Simon Thomas
    Ulrich Victor Walter Xavier Yuri Zeno Albert Boris Conrad Dennis Edgar Frank Gustav Henry Igor Jonas Kevin Lukas Martin
    Nathan Otto Peter Ralph Stefan Theo Urban Vincent Werner Anton Basil"""
)
COMPANIES = _words(
    """Norvex Haldane Brimco Tellux Quorin Zentra Velmont Ardena Corvida Delphar Exonic Fortena Galvex Hypera Indelco Jostra
    Kelvar Lumeco Mantero Nexil Orbitel Palmera Questa Ravello Solvex Tarvin Umbrex Vantor Wexler Yandor Zolvera Astrona
    Belgar Cintra Dynaco Elmora Ferrox Gentor Hexaco Inverna"""
)
TOWNS = _words(
    """Marlow Kelby Tarsk Brenn Alder Corby Dunmore Elsted Farnham Gorsley Hadleigh Ilmen Jarrow Kirkby Lowick Malton Norden
    Orsett Penrith Quorn Ripley Selby Thirsk Ulver Varna Wexford Yarm Zell Ashby Belper Cromer Dalby Epsom Frome Goole Hexham
    Ilkley Keld Ludlow Morpeth"""
)
COUNTRIES = _words(
    """Valdia Ostmark Lorania Kelmar Sundria Tarvia Morovia Belland Corsia Drenland Estoria Falkia Grenia Halvia Istria
    Jutia"""
)
PRODUCTS = _words(
    """Aero Bolt Comet Delta Echo Falcon Glider Hornet Ion Jaguar Kite Lancer Meteor Nova Orion Pulsar Quasar Rocket Saturn
    Titan Ultra Viper Whisper Xenon Yeti Zephyr Atlas Beacon Cobra Drifter"""
)
JOBS = _words(
    """baker nurse teacher lawyer painter driver farmer judge pilot singer writer doctor gardener builder tailor waiter cook
    dentist chemist clerk sailor barber mason"""
)
HOBBIES = _words(
    """chess tennis sailing hiking fishing cooking dancing painting reading running rowing skiing swimming knitting pottery
    archery boxing cycling climbing surfing"""
)
PETS = _words("cat dog parrot rabbit hamster turtle pony goat snake canary lizard ferret hen goose mouse donkey")
FOODS = _words(
    "pasta rice soup bread cheese fish salad pancakes curry beans apples cherries plums noodles honey olives"
)
FIELDS = _words("banking shipping farming mining energy fashion insurance travel printing music health housing")
COLOURS = _words("red blue green yellow black white brown orange purple silver pink grey")
MONTHS = _words("January February March April May June July August September October November December")
TOPICS = _words(
    """budget schedule design contract website office logo report plan launch hiring training price survey brochure
    warehouse"""
)
OPINIONS = _words(
    "risky late fine useless brilliant boring urgent weak solid unclear expensive simple clever sound wrong ready"
)
THINGS = _words("apples books coins pencils stamps shells marbles cards bottles keys")
SUBJECTS = _words(
    """gardening astronomy football painting history cooking medicine poetry trains weather robots dreams mountains rivers
    coffee tea dogs cats taxes dancing chess sailing banking fashion"""
)
ADJECTIVES = _words(
    """amber bitter calm dusty eager faint gentle hollow icy jolly keen lively mellow noble odd plain quiet rapid shy tender
    upper vivid warm young"""
)
NOUNS = _words(
    """anchor basket candle drum engine feather garden hammer island jacket kettle ladder mirror needle oven pillow quilt
    ribbon saddle table umbrella violin window yacht"""
)
QUARTERS = ("first", "second", "third", "fourth")
