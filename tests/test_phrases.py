"""Noun phrases out of whatever a captioner says; no answer can break the parser."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egoexo_xseg.data.phrases import FALLBACK, MAX_LENGTH, MAX_WORDS, names_colour, parse_phrase
from egoexo_xseg.world.paint import COLOURS, PATTERNS
from egoexo_xseg.world.things import SHAPES

ROWS = [
    # the sentence that the reference code was made for, and its traps
    ("The object highlighted in green is a whisk.", "whisk"),
    ("The object highlighted in green is a dish.", "dish"),
    ("This object is a fish.", "fish"),
    ("The object is a pair of scissors.", "pair of scissors"),
    ("scissors", "scissors"),
    ("A list.", "list"),
    ("A wh...", "wh"),
    ("This", "object"),
    ("Whisk", "whisk"),
    ("A whisk.", "whisk"),
    ("It's a whisk", "whisk"),
    ("The object's name is whisk.", "whisk"),
    ("This is his wrist watch.", "wrist watch"),
    # green things stay green; the highlight goes
    ("A green bowl.", "green bowl"),
    ("The object highlighted in green is a green bowl.", "green bowl"),
    ("The highlighted green bowl", "green bowl"),
    ("The green highlighted bowl", "bowl"),
    ("a green-highlighted spatula on the counter", "spatula"),
    ("A bowl of green beans", "bowl of green beans"),
    ("a bowl filled with green beans", "bowl filled with green beans"),
    ("A box marked with green tape", "box marked with green tape"),
    ("A whisk highlighted in bright green", "whisk"),
    ("A whisk tinted green", "whisk"),
    ("The green-tinted whisk", "whisk"),
    ("A green tinted bowl", "bowl"),
    ("a knife overlaid green", "knife"),
    ("The green tint covers a red cup.", "red cup"),
    ("tinted glasses", "tinted glasses"),
    ("No object is tinted green.", "object"),
    ("The knife, which is highlighted in green, is on the table.", "knife"),
    ("A cutting board with a green overlay", "cutting board"),
    ("The object under the green overlay is a pan.", "pan"),
    ("The object is highlighted with a green mask and it is a ladle.", "ladle"),
    ("The part of the image shaded in green is a bicycle wheel.", "bicycle wheel"),
    ("The green object is a bottle.", "bottle"),
    ("The green area shows a cutting board.", "cutting board"),
    ("A whisk is highlighted in green.", "whisk"),
    ("The object highlighted green is a wrench", "wrench"),
    ("The color of the object is green.", "object"),
    ("Green", "object"),
    ("green object", "object"),
    ("The object is green and shiny.", "shiny object"),
    ("an evergreen branch", "evergreen branch"),
    ("A greenhouse lamp", "greenhouse lamp"),
    # doubts
    ("The object appears to be a wooden spoon.", "wooden spoon"),
    ("It looks like a bicycle pump", "bicycle pump"),
    ("Looks like a small screwdriver.", "small screwdriver"),
    ("This could be a tire lever", "tire lever"),
    ("The item seems to be some kind of kitchen utensil", "kitchen utensil"),
    ("I think it is a mortar and pestle.", "mortar and pestle"),
    ("I'm not sure, but it looks like a spatula.", "spatula"),
    ("Most likely a rolling pin", "rolling pin"),
    ("The object is probably a type of cheese grater", "cheese grater"),
    # places, holders and clauses go
    ("A knife on the table", "knife"),
    ("a cup in the person's hand", "cup"),
    ("A bowl being held by a man", "bowl"),
    ("a phone held by the woman", "phone"),
    ("a pan sitting on a stove", "pan"),
    ("The object is a ladle, which is used to serve soup.", "ladle"),
    ("The whisk is used for mixing ingredients.", "whisk"),
    ("A spoon that is silver and shiny", "spoon"),
    ("a lid next to the pot", "lid"),
    ("The object that the person is holding is a knife.", "knife"),
    ("A knife being held by a person using a glove", "knife"),
    ("A bottle located between two plates", "bottle"),
    ("A tool used to tighten bolts", "tool"),
    ("Whisk - a kitchen tool used for beating eggs", "whisk"),
    ("Whisk: a kitchen tool", "whisk"),
    ("A whisk (kitchen utensil)", "whisk"),
    # attributes stay
    ("The object is a small, round, white plate.", "small round white plate"),
    ("a black and white striped box", "black and white striped box"),
    ("red or orange bowl", "red or orange bowl"),
    ("A white cup with a red handle", "white cup with a red handle"),
    ("A bowl made of glass on a counter", "bowl made of glass"),
    ("a bottle of olive oil next to a pan", "bottle of olive oil"),
    ("A white hanging lamp", "white hanging lamp"),
    ("a can of soda", "can of soda"),
    ("A red striped can", "red striped can"),
    ("A watering can can be seen on the shelf", "watering can"),
    ("the handle of a knife", "handle of a knife"),
    ("a salt and pepper shaker", "salt and pepper shaker"),
    ("A 1.5 liter bottle", "1.5 liter bottle"),
    ("Two wooden spoons", "two wooden spoons"),
    ("The object is an orange.", "orange"),
    ("an off-white bowl", "off-white bowl"),
    ("a Dr. Pepper can", "dr pepper can"),
    ("the chef's knife", "chef's knife"),
    ("Red.", "red object"),
    # lists: the first
    ("Knife, fork and spoon", "knife"),
    ("A bowl and a spoon", "bowl"),
    ("1. Knife\n2. Fork\n3. Spoon", "knife"),
    ("1) Knife 2) Fork", "knife"),
    ("- whisk\n- bowl", "whisk"),
    ("spoon/ladle", "spoon"),
    ("It is either a knife or a spatula", "knife"),
    # markup, quotes, labels, echoes
    ("**Whisk**", "whisk"),
    ("`whisk`", "whisk"),
    ('"A metal whisk"', "metal whisk"),
    ("‘metal whisk’", "metal whisk"),
    ("The object is a \"whisk\".", "whisk"),
    ("## Object\n\nA steel kettle", "steel kettle"),
    ("Object: Whisk\nColor: silver", "whisk"),
    ("Color: silver\nObject: whisk", "whisk"),
    ('{"object": "metal whisk"}', "metal whisk"),
    ("Answer: a whisk", "whisk"),
    ("Noun phrase: 'red striped box'", "red striped box"),
    ("Sure! Here is the answer: a whisk.", "whisk"),
    ("Yes, a whisk.", "whisk"),
    ("USER: <image>\nWhat is the object highlighted in green? ASSISTANT: A whisk.</s>", "whisk"),
    ("What is the object highlighted in green? A whisk", "whisk"),
    ("The green tint is only a marker, not the colour of the object. A red box.", "red box"),
    ("Describe the object highlighted in green in a short noun phrase. A whisk", "whisk"),
    ("[INST] name it [/INST] a tea towel", "tea towel"),
    ("a whisk\x00\x1b[0m\u200b", "whisk"),
    ("whisk.It is used for mixing", "whisk"),
    ("[whisk](https://example.org/whisk)", "whisk"),
    ("🥄 spoon", "spoon"),
    ("a wooden\tspoon\r\n", "wooden spoon"),
    ("ﬁsh ｋｎｉｆｅ", "fish knife"),
    # refusals and nothing
    ("", "object"),
    ("   \n ", "object"),
    ("...", "object"),
    ("42", "object"),
    ("I'm sorry, but I cannot determine what the object is.", "object"),
    ("I'm sorry, I can't help with that.", "object"),
    ("As an AI, I do not have the ability to see images.", "object"),
    ("There is no object highlighted in green.", "object"),
    ("The object is not clearly visible.", "object"),
    ("It is difficult to say.", "object"),
    ("Unknown", "object"),
    ("N/A", "object"),
    ("None", "object"),
    ("an unidentified object", "object"),
    ("the object", "object"),
    ("I cannot see it well. It might be a ladle.", "ladle"),
    # scenes
    ("In the image, a person is cutting vegetables on a board. The highlighted object is a red knife.", "red knife"),
    ("In the image, a woman is holding a red knife, which is highlighted in green.", "red knife"),
    ("The image shows a man holding a tennis racket on a court", "tennis racket"),
    ("A person is cutting vegetables in a kitchen.", "object"),
    ("The image features a close-up of a whisk on a table.", "whisk"),
    ("There is a whisk on the counter.", "whisk"),
    ("In this image, I can see a drill.", "drill"),
    ("A hand holding a paint brush", "paint brush"),
    ("a hand mixer for mixing dough", "hand mixer"),
    ("The person in the image is playing the violin. It is a violin.", "violin"),
    ("The object is being used by the person.", "object"),
    ("The object is located on the left side of the image.", "object"),
    ("The image depicts a kitchen scene. The green region is part of a drawer.", "part of a drawer"),
    # other languages: kept, shortened
    ("Das Objekt ist ein Schneebesen.", "das objekt ist ein schneebesen"),
    ("Un fouet en métal", "un fouet en métal"),
    ("绿色高亮的物体是一个打蛋器。它在桌子上。", "绿色高亮的物体是一个打蛋器"),
    ("泡立て器、ボウル", "泡立て器"),
    ("व्हिस्क है।", "व्हिस्क है"),
    ("Венчик для взбивания яиц, который лежит на столе", "венчик для взбивания яиц"),
    # very long
    ("whisk " * 3000, "whisk"),
    ("x" * 5000, "x" * 80),
    ("one two three four five six seven eight nine ten", "one two three four five six seven eight"),
    # other ways of saying it
    ("The highlighted area corresponds to a chair.", "chair"),
    ("The green outline surrounds a guitar.", "guitar"),
    ("I would describe it as a blue sponge.", "blue sponge"),
    ("This is called \"rolling pin\" in English.", "rolling pin"),
    ("\"White ceramic bowl\" is a noun phrase describing the object.", "white ceramic bowl"),
    ("The object, a white bowl, is on the table.", "white bowl"),
    ("The object highlighted in green is, in fact, a bowl.", "bowl"),
    ("A small object, possibly a screw.", "screw"),
    ("The object's color is red.", "red object"),
    ("The object is made of metal.", "object made of metal"),
    ("an unknown plastic object", "plastic object"),
    ("Not sure, maybe a whisk", "whisk"),
    ("What you see is a pan.", "pan"),
    ("COVID-19 antigen test kit", "covid-19 antigen test kit"),
    ("chopped green onions", "chopped green onions"),
    ("a couple of eggs", "eggs"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "phrase"), ROWS)
def test_phrases(answer, phrase):
    assert parse_phrase(answer) == phrase


def test_what_the_sample_world_says_is_a_phrase_already():
    for colour in COLOURS:
        for pattern in ("", *PATTERNS.values()):
            for shape in SHAPES:
                phrase = " ".join(word for word in (colour, pattern, shape) if word)
                assert parse_phrase(phrase) == phrase
                assert parse_phrase(f"The object highlighted in green is a {phrase}.") == phrase
                assert names_colour(phrase)


WORDS = "the a object is are was whisk bowl green red highlighted in of with and or on which that person holding it can salt pepper 7 not i'm sorry , . : - \n / ( ) \" ' ; ? ! # *".split(
    " "
)


@given(
    st.text(max_size=200)
    | st.text(st.characters(exclude_categories=()), max_size=100)
    | st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
    | st.text("aA.,:;-'()<>*_#/&?!1 \n\t（İßﬁ\u0300\u200b\u2028\ud800", max_size=60)
)
@example("colourful cylindrical transparent multi-coloured checkered rectangular translucent multicoloured cup")
@example("\ud800")
@example("´a")
def test_any_answer_gives_one_short_line_that_stays_as_it_is(answer):
    phrase = parse_phrase(answer)
    assert phrase and len(phrase.splitlines()) == 1 and phrase == " ".join(phrase.split())
    assert len(phrase) <= MAX_LENGTH and len(phrase.split()) <= MAX_WORDS
    assert parse_phrase(phrase) == phrase
    phrase.encode()


@pytest.mark.parametrize(
    ("phrase", "colour"),
    [
        ("green bowl", True), ("cup with a red handle", True), ("orange-handled knife", True), ("orange cup", True),
        ("multi-colored box", True), ("A Red cup", True), ("orange", False), ("wooden spoon", False), (FALLBACK, False),
    ],
)  # fmt: skip
def test_colours(phrase, colour):
    assert names_colour(phrase) is colour
