"""The words of the demo language: every list is written by hand or invented from syllables.

The vocabulary is closed: `vocabulary()` returns every word a document, a task or a chat may
use, and the tokenizer has no other. Known gap: no plural forms beyond those listed, and no
capital letters outside the labels of a prompt.
"""

from __future__ import annotations

import random
from functools import lru_cache

SEED = 20250411


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a text that spaces part."""
    return tuple(text.split())


RELATIONS = ("capital", "product", "color", "region")
REGIONS = ("north", "south", "east", "west")
COLORS = ("red", "blue", "green", "white", "black", "yellow", "pink", "brown")
PRODUCTS = _words(
    "rice wheat corn wool silk salt gold iron coal glass paper tea coffee sugar oil cotton wine"
    " honey"
)
JOBS = _words(
    "baker nurse pilot farmer doctor teacher singer painter driver lawyer tailor fisher "
    "miner sailor guard writer dancer judge"
)
FOODS = _words(
    "bread soup cheese apple pear cake fish salad pie egg bean melon plum carrot onion noodle pizza"
    " pasta"
)
PLACES = _words(
    "kitchen garden attic cellar garage office school market library park station church "
    "museum hotel hospital theater harbor bridge"
)
OBJECTS = _words(
    "book key lamp coin ring letter ball hat bag pen phone watch clock mirror flower ticket map box"
)
LETTERS = tuple("bcdfghjklmnpqrstvwxz")
MONTHS = _words(
    "january february march april may june july august september october november december"
)
NUMBERS = tuple(str(number) for number in range(100))

# Ordered from small to big, so that "bigger" is a fact about every pair.
SIZES = _words(
    "ant bee fly spider snail mouse frog bird rat squirrel duck hen rabbit cat fox monkey dog goose"
    " wolf goat sheep pig lion tiger bear donkey horse cow bull camel bus truck elephant whale"
    " house tower castle island mountain planet"
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": SIZES[:30],
    "food": FOODS,
    "job": JOBS,
    "color": COLORS,
    "month": MONTHS,
    "place": PLACES,
}
PLURALS = {
    "animal": "animals", "food": "foods", "job": "jobs",
    "color": "colors", "month": "months", "place": "places",
}  # fmt: skip

TOOLS: dict[str, str] = {
    "knife": "cut the meat", "broom": "sweep the floor", "hammer": "hit the nail",
    "needle": "sew the shirt", "spoon": "stir the sauce", "brush": "paint the wall",
    "towel": "dry the hands", "soap": "wash the dishes", "shovel": "dig a hole",
    "ladder": "climb the roof", "rope": "tie the boat", "candle": "light the cave",
    "umbrella": "stay dry outside", "blanket": "keep the baby warm", "pillow": "rest the head",
    "oven": "roast the turkey", "kettle": "boil the water", "fridge": "keep the milk cold",
    "pencil": "draw a picture", "camera": "take a photo", "ruler": "measure the line",
    "scissors": "cut the cloth", "glue": "fix the vase", "bucket": "carry the sand",
    "axe": "chop the tree", "saw": "split the board", "net": "catch the butterfly",
    "drum": "play the rhythm", "comb": "tidy the hair", "razor": "shave the beard",
    "wheel": "move the cart", "sail": "use the wind", "engine": "power the car",
    "compass": "find the way", "telescope": "see the stars", "scale": "weigh the flour",
    "thermometer": "read the heat", "bandage": "cover the wound", "medicine": "cure the cough",
    "money": "pay the bill", "stamp": "mail the parcel", "helmet": "protect the skull",
    "gloves": "warm the fingers", "boots": "walk in snow", "tent": "sleep in the forest",
    "bell": "call the servant", "whistle": "stop the game", "magnet": "lift the metal",
}  # fmt: skip

_OPPOSITES = _words(
    "hot/cold big/small fast/slow high/low old/young rich/poor hard/soft light/dark wet/dry"
    " full/empty loud/quiet early/late near/far thick/thin wide/narrow deep/shallow strong/weak"
    " clean/dirty sharp/blunt sweet/sour open/closed true/false first/last left/right up/down"
    " inside/outside above/below before/after front/back top/bottom push/pull buy/sell"
    " give/take begin/finish win/lose laugh/cry arrive/leave remember/forget ask/reply"
    " rise/fall live/die find/miss build/destroy day/night summer/winter friend/enemy"
    " king/queen city/village heavy/airy rough/smooth tall/short brave/afraid calm/angry"
    " simple/complex"
)
OPPOSITES = tuple(tuple(pair.split("/")) for pair in _OPPOSITES)

GOOD = _words(
    "lovely great tasty fresh bright kind charming perfect excellent pleasant superb fine wonderful"
    " fantastic brilliant delightful splendid amazing gentle cheerful"
)
BAD = _words(
    "awful terrible nasty stale dull rude ugly broken horrible shabby bitter boring dreadful "
    "rotten gloomy painful messy useless grim harsh"
)
REVIEWED = _words(
    "movie song story room dinner service trip game show hotel staff concert lesson view play party"
    " garden meal drink museum"
)

GAIN_WORDS = ("profit", "sales", "revenue", "income", "orders", "margin")
COST_WORDS = ("costs", "losses", "debt", "expenses")
UP_VERBS = ("rose", "grew", "jumped", "climbed", "increased")
DOWN_VERBS = ("fell", "dropped", "sank", "slid", "decreased")
FLAT_VERBS = ("stalled", "held", "stayed", "remained")

LABELS = _words(
    "Question Answer Q A B C D Input Output Review Sentiment Passage Statement Report Options Text "
    "Label Fact Word Reply Problem Solution"
)
PUNCTUATION = (".", ",", "?", "!", ":", "->", "=")

# Every other word that a template of the generator or of a task uses.
GLUE = _words(
    "the a of is are was in to and or not very it that this what which who where how much does do"
    " you i we has one two three times twice went lives likes works as for with people use need"
    " want wants capital product color region job food home city bigger smaller than opposite word"
    " words reverse rotate plus minus earned million percent positive negative neutral flat moved"
    " ran holds keeps carries hello hi thanks thank please sure answer only end start say tell me"
    " my name list repeat can help anything else know about think sounds good question let here"
    " there happy sells lies some kind helpful assistant course if glad just find copy animal"
    " animals foods jobs colors months month place places swap result enjoyed disliked really quite"
    " left right choose letter write finish begin am four give nothing our loved hated "
)

_SYLLABLES = _words(
    "ba be bo da do fa fe ga ka ke la le lo ma mi mo na ne no pa po ra re ri ro sa se so ta te to"
    " va ve vi za zo"
)
_ENDINGS = {"country": ("land", "nia", "stan", "via"), "city": ("ton", "burg", "ville", "grad"),
            "person": ("n", "l", "r", "m"), "company": ("corp", "tec", "max", "co")}  # fmt: skip


def _invent(kind: str, count: int) -> tuple[str, ...]:
    """Return `count` distinct invented names whose ending tells their kind."""
    rng = random.Random(f"{SEED}-{kind}")
    names: dict[str, None] = {}
    while len(names) < count:
        stem = "".join(rng.choices(_SYLLABLES, k=2))
        names[stem + rng.choice(_ENDINGS[kind])] = None
    return tuple(names)


COUNTRIES = _invent("country", 120)
CITIES = _invent("city", 120)
PEOPLE = _invent("person", 120)
COMPANIES = _invent("company", 40)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return every word of the language once, in a fixed order, without special tokens."""
    # The order gives the ids, with which the committed weights were trained.
    words: dict[str, None] = {"\n": None}
    phrases = " ".join(TOOLS.values()).split()
    pairs = " ".join(map(" ".join, OPPOSITES)).split()
    for group in (
        PUNCTUATION, LABELS, GLUE, NUMBERS, LETTERS, RELATIONS, REGIONS, COLORS, PRODUCTS,
        JOBS, FOODS, PLACES, OBJECTS, MONTHS, SIZES, tuple(TOOLS), phrases, pairs, GOOD, BAD,
        REVIEWED, GAIN_WORDS, COST_WORDS, UP_VERBS, DOWN_VERBS, FLAT_VERBS, COUNTRIES, CITIES,
        PEOPLE, COMPANIES,
    ):  # fmt: skip
        words.update(dict.fromkeys(group))
    return tuple(words)
