"""LZString in its URI-component form, in which the release packs the run lengths of masks."""

from __future__ import annotations

from egoexo_xseg.errors import MaskError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
_BITS = {ord(character): f"{index & 63:06b}" for index, character in enumerate(ALPHABET)}
_BITS[ord(" ")] = _BITS[ord("+")]  # what URI decoding may have made of it

MAX_LENGTH = 1 << 22
"""Characters; masks of people have some thousands, noise at 4K has a few million, more is an attack."""

LITERAL, WIDE_LITERAL, END = 0, 1, 2
FIRST_CODE = 3


def decompress(text: str, max_length: int = MAX_LENGTH) -> str:
    """The text that `compress` was given; anything else raises a MaskError."""
    if len(text) > max_length:
        raise MaskError(f"a compressed mask has more than {max_length} characters")
    try:
        return "".join(_read_entries(text, max_length))
    except (KeyError, IndexError, ValueError):
        raise MaskError("a mask's text is not LZString") from None


def _read_entries(text: str, max_length: int) -> list[str]:
    """The dictionary entries that the text is made of; malformed input fails with whatever it runs into."""
    # Numbers stand lowest bit first: read backwards, each is a plain binary slice.
    bits = "".join([_BITS[ord(character)] for character in text])[::-1]
    place = len(bits)
    known = [""] * FIRST_CODE
    width, room = 2, 1  # bits of a code; entries until codes grow by a bit
    entries: list[str] = []
    length, before = 0, ""
    while True:
        place -= width
        if place < 0:
            raise IndexError
        code = int(bits[place : place + width], 2)
        if code == END:
            return entries
        if code < END:
            size = 8 if code == LITERAL else 16
            place -= size
            if place < 0:
                raise IndexError
            known.append(chr(int(bits[place : place + size], 2)))
            code = len(known) - 1
            room -= 1
            if not room:
                room, width = 1 << width, width + 1
        if code < len(known):
            entry = known[code]
        elif code == len(known) and before:
            entry = before + before[0]
        else:
            raise IndexError
        entries.append(entry)
        length += len(entry)
        if length > max_length:
            raise ValueError
        if before:
            known.append(before + entry[0])
            room -= 1
            if not room:
                room, width = 1 << width, width + 1
        before = entry


def compress(text: str) -> str:
    """LZString's compressToEncodedURIComponent."""
    codes: dict[str, int] = {}
    fresh: set[str] = set()
    bits: list[str] = []
    width, room, phrase = 2, 2, ""

    def write(value: int, count: int) -> None:
        bits.append(f"{value:0{count}b}"[::-1])

    def write_phrase() -> None:
        nonlocal width, room
        if phrase in fresh:
            wide = ord(phrase) > 255
            write(WIDE_LITERAL if wide else LITERAL, width)
            write(ord(phrase), 16 if wide else 8)
            fresh.discard(phrase)
            room -= 1
            if not room:
                room, width = 1 << width, width + 1
        else:
            write(codes[phrase], width)
        room -= 1
        if not room:
            room, width = 1 << width, width + 1

    for character in text:
        if character not in codes:
            codes[character] = len(codes) + FIRST_CODE
            fresh.add(character)
        if phrase + character in codes:
            phrase += character
            continue
        write_phrase()
        codes[phrase + character] = len(codes) + FIRST_CODE
        phrase = character
    if phrase:
        write_phrase()
    write(END, width)
    stream = "".join(bits)
    stream += "0" * (6 - len(stream) % 6)  # always at least one, as the original does
    return "".join(ALPHABET[int(stream[place : place + 6], 2)] for place in range(0, len(stream), 6))
