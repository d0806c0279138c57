"""From a captioner's answer to a short noun phrase: "The object highlighted in green is a whisk." gives "whisk".

Rules, most telling first: what a sentence says of the highlighted object ("the object ... is a ..."), what a person in
it holds, and otherwise what the first sentence that is an answer begins with. The highlight is ours, so its mention
goes; an object that is green stays green.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

FALLBACK = "object"
"""Stands for an answer that names nothing: refusals, empty answers, descriptions of the scene."""

MAX_WORDS = 8
MAX_LENGTH = 80
"""Characters."""

MAX_ANSWER = 2000
"""Characters that are looked at; whoever has not named the object by then will not."""

PASSES = 8
"""A phrase is parsed until that changes nothing, so that parsing it again never does."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS = _words(
    "black white red green blue yellow orange brown pink purple violet grey gray silver gold golden beige tan cream "
    "teal turquoise cyan magenta maroon navy bronze copper colored coloured colorful colourful multicolored "
    "multicoloured"
)
MODIFIERS = COLOURS | _words(
    "small large big tiny little huge long short tall thin thick wide narrow flat round circular square rectangular "
    "oval cylindrical spherical curved straight pointed shiny glossy matte metallic wooden plastic metal ceramic "
    "transparent translucent clear opaque smooth rough soft hard striped checked checkered dotted spotted zigzag "
    "plain patterned light dark bright pale deep clean dirty wet dry empty full old new half sharp blurry "
    "multi-colored multi-coloured"
)
NOUNS = _words("orange light glass square metal plastic silver gold copper cream tan")
"""Modifiers that name a thing where nothing follows them."""

GENERIC = _words(
    "object objects item items thing things area areas region regions part parts section shape portion element spot "
    "piece image picture photo photograph scene view video frame background foreground color colour material name "
    "type kind size purpose identity location position answer caption description phrase noun highlight overlay "
    "mask outline question day idea green object's image's main certain specific particular unknown unidentified "
    "unspecified unclear blurry visible the a an of in this that it one same other sure yes no ok okay sorry n none "
    "nothing something"
)
"""Phrases of these alone name nothing."""

STOPS = _words(
    "on in inside at near next beside besides behind under underneath above over between against from to by along "
    "around across through within into onto off outside below beneath toward towards among atop for as about during "
    "via upon which that who whose whom where when while because since so but however if although though than like "
    "is are was were be been being am has have had would will shall must may might could should does do did cannot "
    "appears appear seems seem looks lies sits it its it's i i'm he she they we you there here etc not "
    "possibly likely probably perhaps maybe typically commonly usually often currently partially located situated "
    "positioned placed designed intended belonging consisting featuring"
)
"""Words that end a noun phrase: places, clauses, verbs, doubts."""

PARTICIPLES = _words(
    "held holding sitting lying laying resting standing hanging leaning used seen visible shown attached mounted "
    "kept worn carried using wearing carrying floating surrounded connected moving facing"
)
"""End a noun phrase too, unless only modifiers stand before: "white hanging lamp"."""

DETERMINERS = _words("a an the this that these those some his her their its my your our")
TRAILING = DETERMINERS | _words("of with and or made filled very up , containing")
MODALS_OF_CAN = _words("be also not only see")
PAIRS = {("salt", "pepper"), ("nut", "bolt"), ("nuts", "bolts"), ("pen", "pencil"), ("mortar", "pestle")}
"""Nouns that "and" joins into one thing."""

_GREEN = r"(?:(?:bright|light|dark|lime|neon|solid|transparent|translucent|semi-transparent) )*green"
_MARKED = (
    r"(?:highlighted|outlined|marked|shaded|masked|circled|encircled|tinted|overlaid|indicated|colou?red|shown|covered)"
)
_DRAWN = r"(?:highlighted|outlined|marked|shaded|masked|tinted|overlaid)"
_PAINT = r"(?:colou?r|overlay|mask|highlight(?:ing)?|outline|shading|tint|border|box|circle|contour)"
_RELATIVE = r"(?:,? ?\b(?:that|which) )?(?:\b(?:is|are|was|were|being|been|has|have) )*"
HIGHLIGHTS = [
    (re.compile(pattern), instead)
    for pattern, instead in (
        (rf"{_RELATIVE}\b{_MARKED} in (?:a |the )?{_GREEN}(?: {_PAINT})?\b", " "),
        (rf"{_RELATIVE}\b{_MARKED} (?:with|by|using) (?:a |the )?{_GREEN} {_PAINT}\b", " "),
        (rf"{_RELATIVE}\b{_DRAWN} (?:with |by )?{_GREEN}(?= (?:is|are)\b|[.,?!\n]|$)", " "),
        (rf"\b{_GREEN}[ -]{_DRAWN}\b", " "),
        (rf"\bwith (?:a |the )?{_GREEN} {_PAINT}\b", " "),
        (rf"\b{_GREEN} (?:overlay|highlight(?:ing)?|shading|tint)\b", "object"),
        (rf"{_RELATIVE}\bhighlighted\b(?: in (?:the|this) (?:image|picture|photo|scene))?", " "),
    )
]
"""Mentions of the highlight, and what is read in their place."""

_DETERMINED = r"(?:a|an|the|some|one|two|three|four|several|his|her|their|its|another|part of|pieces? of|pair of)"
_DOUBT = r"(?:(?:most |very )?(?:likely|probably|possibly|perhaps|actually|indeed|clearly|definitely|also|just) )*"
_BE = (
    r"(?:(?:is|are|was|were)|(?:appears?|seems?|looks?)(?: like| to be)|resembles?|represents?|depicts?|shows?"
    r"|features?|(?:could|may|might|must|can|would|should) be|(?:corresponds|refers|belongs) to)"
)
_OBJECT = (
    r"\b(?:objects?|items?|things?|areas?|regions?|parts?|sections?|shapes?|portions?|tools?|utensils?|focus|subject"
    r"|answer)\b"
)
_PRONOUN = r"(?:^|, |\b(?:but|and|so|think|believe|guess|say) )(?:it|this|that|these|those|they|what)\b"
_SUBJECT = rf"(?:{_OBJECT}.{{0,80}}?|{_PRONOUN}(?: [\w-]+){{0,2}}?)"
_PERSON = (
    r"(?:persons?|people|man|men|woman|women|boy|girl|child|kid|someone|somebody|individual|player|chef|cook|he|she|they"
    r"|worker|lady|guy|mechanic|technician|climber|dancer|musician|doctor|nurse|wearer)"
)
_HOLDING = r"(?:holding|using|carrying|grasping|gripping|wearing|touching|handling|holds|uses|carries|wears)"
_LABEL = r"(?:object|answer|caption|name|noun phrase|description|item|label|output|response)s?"
NAMED = [
    re.compile(pattern)
    for pattern in (
        rf"^(?:[\w'-]+ ){{0,3}}?{_LABEL}\b[^:]{{0,30}}: (?P<phrase>.+)",
        rf"{_SUBJECT} {_BE} {_DOUBT}(?P<phrase>{_DETERMINED} .+)",
        rf"{_OBJECT}[^,]{{0,40}}, {_DOUBT}(?P<phrase>an? .+)",
        r"\b(?:describe|identify|classify|call) (?:it|this|that|the object)(?: as)? (?P<phrase>.+)",
        r"\b(?:mask|outline|overlay|contour) (?:covers|surrounds|shows|is on) (?P<phrase>.+)",
        r"\bobject (?:covers|surrounds) (?P<phrase>.+)",  # "the green tint", as the highlight's mention was
        rf"{_SUBJECT} {_BE} (?P<phrase>.+)",
        rf"^(?:there (?:is|are) )?(?:[\w'-]+ ){{0,3}}?{_PERSON}\b.{{0,40}}?\b{_HOLDING} (?P<phrase>.+)",
        rf"^(?:[\w'-]+ ){{0,3}}?hands? (?:(?:is|are) )?{_HOLDING} (?P<phrase>.+)",
    )
]
"""Sentences that say what the object is, most telling first."""

SCENE = re.compile(
    rf"^(?:there (?:is|are) )?(?:[\w'-]+ ){{0,3}}?{_PERSON} (?:[\w'-]+ing\b|.{{0,30}}?(?:is|are) \w+ing\b)"
)
REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|cannot|can't|can not|unable|as an ai|(?:do|does|did|is|are) ?n[o']t|unclear|impossible"
    r"|not (?:sure|clear|possible|able|visible|provided|enough)|no (?:objects?|images?|visible|green))\b"
)
DOUBTED = re.compile(rf"\b(?:likely|probably|possibly|perhaps|maybe) (?P<phrase>{_DETERMINED} .+)")
"""What a refusal may still end in."""
NEGATIVE = re.compile(r"(?:no|not|nothing|none|neither|too|(?:difficult|hard|impossible|unclear) to)\b")
ASKED = re.compile(
    r"(?:what|which|who|where|how|why|can|could|is|are|do|does|would)\b.*\?$"
    r"|(?:please |briefly )?(?:describe|identify|name|answer|give|provide|tell|respond|state) "
    r"(?:the|this|what|which|me|with|in|a|an|it|us)\b"
    r"|the object is only a marker\b"  # "the green tint", which the highlight's mention was
)
"""The question, repeated in the answer."""

IN_THE_IMAGE = re.compile(
    r"^(?:in (?:the|this) (?:[\w-]+ )?(?:image|picture|photo|photograph|scene|video|frame)(?: provided| above)?,? "
    r"|(?:the|this) (?:image|picture|photo|photograph|scene|video|frame) (?:shows|features|depicts|contains|is of) )+"
)
OPENERS = re.compile(
    r"^(?:(?:most |very )?(?:likely|probably|possibly|perhaps|actually|indeed|clearly|definitely)"
    r"|also|just|simply|maybe|a|an|the|this|that|these|those|some|his|her|their|its|my|your|our"
    r"|unknown|unidentified|unspecified|(?:one|some|couple|lots?|number) of"
    r"|(?:types?|kinds?|sorts?|forms?|images?|pictures?|photos?|close-?up|close up|view) of"
    r"|(?:there|here|it) (?:is|are)|(?:i|we|you) (?:can )?(?:see|observe|notice|identify)|i (?:think|believe|guess)"
    r"|is|are|was|were|(?:appears?|seems?|looks?)(?: like| to be)|(?:could|may|might|must|would|should) be"
    r"|(?:called|named|known as|identified as|described as|referred to as|considered|labell?ed as)"
    r"|like|as|of|either|both|yes|sure|okay|ok|well|certainly|holding|,|:|-)(?: |$|(?=,))"
)


def parse_phrase(answer: str) -> str:
    """The noun phrase in an answer: lower case, one line, 1 to 8 words, `FALLBACK` for want of one.

    Articles, doubts ("appears to be") and places ("on the table") go, attributes stay. Answers in other languages are
    only shortened. Parsing a phrase again changes nothing.
    """
    text = _shorten(answer, MAX_ANSWER)
    for _ in range(PASSES):
        phrase = _parse(text)
        if phrase == text:
            return phrase
        text = phrase
    return FALLBACK


def names_colour(phrase: str) -> bool:
    """Whether a colour is among a phrase's attributes: an "orange" is a fruit, an "orange cup" is not."""
    words = phrase.lower().replace("-", " ").split()
    return any(word in COLOURS for word in words[:-1])


def _parse(text: str) -> str:
    sentences = _sentences(_clean(text))
    bare = ""  # attributes without a noun: the last resort
    for pattern in NAMED:
        for match in filter(None, map(pattern.search, sentences)):
            phrase = _noun_phrase(match["phrase"])
            if phrase and not _is_bare(phrase):
                return phrase
            bare = bare or phrase
    for sentence in sentences:
        refused = REFUSAL.search(sentence)
        guess = DOUBTED.search(sentence) if refused else None
        if guess or not (refused or SCENE.search(sentence)):
            phrase = _noun_phrase(guess["phrase"] if guess else sentence)
            if phrase and not _is_bare(phrase):
                return phrase
            bare = bare or phrase
    return _attributed(bare)


def _attributed(bare: str) -> str:
    """An object with attributes and no name; that it is green may be the highlight."""
    words = _trim([word for word in bare.split() if word != "green"])
    words = words[words[:1] in (["and"], ["or"]) :][: MAX_WORDS - 1]
    return f"{_shorten(' '.join(words), MAX_LENGTH - len(FALLBACK) - 1)} {FALLBACK}" if words else FALLBACK


def _clean(text: str) -> str:
    """Lower case; letters, digits and a few marks; markup, echoes of the conversation and the highlight taken out."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"^.*(?:\bassistant ?:|\[/inst\])", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"https?://\S+|<[^<>]{0,40}>|\x1b\[[\d;]*[A-Za-z]", " ", text)
    text = re.sub(r"(?<=\w)[*_`\"]* *\([^()]*\)", " ", text)
    text = re.sub(r"(?:^|(?<=\s))\d{1,2}[.)]\s", "\n", text)
    text = re.sub(r"(?<=[a-z])([.!?])(?=[A-Z])", r"\1 ", text)
    text = "".join(map(_plain, text)).lower()
    text = re.sub(r"\b(dr|mr|mrs|ms|st|vs)\.", r"\1", text)
    text = re.sub(r"\b(it|that|this|there|here|what|he|she)'s\b", r"\1 is", text)
    text = text.replace(", in fact,", "")
    text = re.sub(r" *, *", " , ", re.sub(r" *: +", " : ", text))
    text = re.sub(r"[^\S\n]+", " ", text)
    for pattern, instead in HIGHLIGHTS:
        text = re.sub(" +", " ", pattern.sub(instead, text.replace(" , ", ", ").replace(" : ", ": ")))
    return text


MARKS = {
    "‘": "'",
    "’": "'",
    "‐": "-",
    "–": " - ",
    "—": " - ",
    "。": ".\n",
    "।": ".\n",
    "؟": "?\n",
    ";": "\n",
    "、": ",",
}


def _plain(character: str) -> str:
    if character in MARKS:
        return MARKS[character]
    if character in "'-.,:!? ":
        return character
    if character == "/" or character == "&":
        return " or " if character == "/" else " and "
    if character in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029":
        return "\n"
    category = unicodedata.category(character)
    return character if category[0] in "LMN" else "" if category == "Cf" else " "


def _sentences(text: str) -> list[str]:
    """Sentences and lines, without the question."""
    found = []
    for sentence in re.split(r"\n|(?<=[.!?]) ", text):
        sentence = IN_THE_IMAGE.sub("", sentence.strip(" ,:'-")).strip()
        if sentence and not ASKED.match(sentence):
            found.append(sentence.rstrip(".!? "))
    return found


def _noun_phrase(text: str) -> str:
    """The noun phrase that a text begins with; empty if there is none worth the name."""
    while opener := OPENERS.match(text):
        text = text[opener.end() :]
    if NEGATIVE.match(text):
        return ""
    kept: list[str] = []
    for word, following in pairwise([*_tokens(text), ""]):
        if _ends(kept, word, following) or len(kept) == MAX_WORDS:
            break
        if word != "," and kept[-1:] != [word]:
            kept.append(word)
    kept = _trim(kept)
    if len(kept) > 1 and kept[-1] == "green" and kept[-2] not in MODIFIERS:
        kept.pop()  # "a whisk green": the highlight
    if all(word in GENERIC for word in kept) or not any(map(str.isalpha, "".join(kept))):
        return ""
    if kept[0] in ("made", "filled"):
        kept.insert(0, FALLBACK)
    return _shorten(" ".join(kept), MAX_LENGTH)


def _shorten(text: str, length: int) -> str:
    """What fits, up to the end of a word if there is one."""
    return text if len(text) <= length else text[:length].rpartition(" ")[0] or text[:length]


def _tokens(text: str) -> list[str]:
    """Words, and commas, colons and dashes between them; dots stay within numbers only."""
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[!?]", " ", text).replace(",", " , ").replace(":", " : ")
    return [word for word in (token if token == "-" else token.strip("'-.") for token in text.split()) if word]


def _ends(kept: list[str], word: str, following: str) -> bool:
    """Whether a noun phrase of the words `kept` ends before `word`."""
    attributes = all(other in MODIFIERS for other in kept)
    if word == ",":
        return not (kept and attributes and following)
    if word in (":", "-"):
        return True
    if word in ("and", "or"):
        return not kept or not (kept[-1] in MODIFIERS or (kept[-1], following) in PAIRS)
    if word == "can":
        return following in MODALS_OF_CAN
    if word in PARTICIPLES:
        return not attributes if kept else not following or following in STOPS
    return word in STOPS and (bool(kept) or following in STOPS | DETERMINERS or word not in _words("off over in on"))


def _trim(words: list[str]) -> list[str]:
    """Words without what cannot end a noun phrase."""
    while words and (words[-1] in TRAILING or (len(words) > 1 and not any(map(str.isalpha, words[-1])))):
        words = words[:-1]
    return words


def _is_bare(phrase: str) -> bool:
    words = phrase.split()
    return bool(words) and all(word in MODIFIERS or word in TRAILING for word in words) and words[-1] not in NOUNS
