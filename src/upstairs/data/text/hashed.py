"""Converts texts to rows of hashed tokens: words, pairs of words, and character n-grams."""

import codecs
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from upstairs.data.cache import Progress
from upstairs.data.source import InputFormat, Source
from upstairs.data.tables import plain_labels
from upstairs.errors import UpstairsError

BUCKETS = 2**16  # number of hash values; 0 is padding
LONGEST = 12  # characters; a longer word is cut into pieces
GRAMS = (2, 3, 4)
TOKENS = 2 + sum(LONGEST + 2 - n + 1 for n in GRAMS)  # the most tokens of a word
LONGEST_TEXT = 512  # words of a text that are read unless more are asked for
INSIDE = "'’\u200c\u200d"  # characters that belong to a word if they follow one of its letters


@dataclass(frozen=True)
class TextFormat(InputFormat):
    """Reads a text as a row: uint16 [words, tokens of a word], padded with 0.

    Attributes:
        words: the number of words that are read; the rest of a text is ignored.

    Raises:
        UpstairsError: a number of words out of range.
    """

    kind = "text"
    net = "bag"
    is_text = is_tokens = True

    words: int

    def __post_init__(self) -> None:
        if not 1 <= self.words <= 4096:
            raise UpstairsError(f"words is {self.words}: give how many words of a text are read, from 1 to 4096")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.words, TOKENS

    def cut(self, texts: Sequence[str], among: int | None = None) -> str:
        lengths = [len(words_of(text)) for text in texts]
        long = [length > self.words for length in lengths]
        return cut_note(long, f"{self.words} words", min(4096, max(lengths)), among)

    def read(self, item: Any, *, name: str | None = None) -> UInt16[np.ndarray, "words tokens"]:
        """Reads one text as a row.

        Raises:
            UpstairsError: the item is no text, or is empty.
        """
        row = np.zeros(self.shape, np.uint16)
        for place, tokens in zip(range(self.words), hashed(as_text(item, name)), strict=False):
            row[place, : len(tokens)] = tokens
        return row


def cut_note(long: Sequence[bool], read: str, words: int | None = None, among: int | None = None) -> str:
    """Returns a note on the texts that are longer than what is read, with the `words` that would read all of them."""
    way = f": --words {words} {'' if among is None else 'at training '}reads more" if words else ""
    return f"{sum(long)} of {among or len(long)} texts are longer than {read} and were cut{way}" if any(long) else ""


def as_text(item: Any, name: str | None = None) -> str:
    """Returns the text of a string, of bytes in UTF-8, or of a file (a `Path`); refuses an empty one.

    UTF-16 is read where a byte-order mark says so.
    """
    name = name or (str(item) if isinstance(item, Path) else "the text")
    if isinstance(item, Path):
        try:
            item = item.read_bytes()
        except OSError as error:
            raise UpstairsError(f"{name} cannot be read ({error.strerror or error}): check the path") from error
    if isinstance(item, bytes):
        try:
            marked = item[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            item = item.decode("utf-16" if marked else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UpstairsError(f"{name} is not UTF-8 at byte {error.start}: save it as UTF-8, or remove it") from error
    if not isinstance(item, str):
        raise UpstairsError(f"{name} is a {type(item).__name__}: give a string, bytes in UTF-8, or a path")
    if is_blank(item):
        raise UpstairsError(f"{name} is empty: give a text with at least one word, or leave it out")
    return item


def is_blank(text: str) -> bool:
    """Returns whether a text has no word and no sign."""
    return all(_kind(character) in "ZC" for character in unicodedata.normalize("NFKC", text))


def words_of(text: str) -> list[str]:
    """Splits a text into words in lower case and single signs; long words are cut into pieces.

    A word consists of letters, numbers and their marks. Chinese characters, kana, emoji and punctuation marks stand
    alone. The text is normalised (NFKC); spaces and control characters separate words.
    """
    words, word = [], ""
    for character in unicodedata.normalize("NFKC", text).lower():
        kind = _kind(character)
        if kind in "LNM" or (word and character in INSIDE):
            word += character
            continue
        if word:
            words.append(word)
            word = ""
        if kind not in "ZC":
            words.append(character)
    if word:
        words.append(word)
    return [w[i : i + LONGEST] for w in words for i in range(0, len(w), LONGEST)]


@lru_cache(maxsize=2**16)
def _kind(character: str) -> str:
    """Returns the first letter of the Unicode category; S (sign) for Chinese characters and kana."""
    kind = unicodedata.category(character)[0]
    alone = "\u3040" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"
    return "S" if alone and kind in "LNM" else kind


def hashed(text: str) -> Iterator[list[int]]:
    """Yields each word's tokens: the word, its pair with the word before, and its n-grams, with < and > at its ends."""
    before = ""
    for word in words_of(text):
        own, *grams = _of_word(word)
        yield [own, *buckets([f"b{before} {word}"]), *grams]
        before = word


@lru_cache(maxsize=2**16)
def _of_word(word: str) -> tuple[int, ...]:
    """Returns the tokens of the word and of its n-grams; cached, since most words recur."""
    whole = f"<{word}>"
    grams = [f"c{whole[i : i + n]}" for n in GRAMS for i in range(len(whole) - n + 1)]
    return tuple(buckets([f"w{word}", *grams]))


def buckets(tokens: list[str]) -> list[int]:
    return [1 + zlib.crc32(token.encode("utf-8", "surrogatepass")) % (BUCKETS - 1) for token in tokens]


def text_source(
    texts: Sequence[Any],
    labels: Sequence[Any],
    *,
    name: str = "texts",
    groups: Sequence[str] | None = None,
    format: InputFormat | None = None,
    summary: str = "",
    progress: Progress | None = None,
) -> Source:
    """Returns a source of texts.

    Args:
        texts, labels: one of each for an example.
        groups: the group (domain, topic) of each example's class.
        format: how a text is read; None is hashed tokens, long enough that at most one text in 20 is cut, and of
            `LONGEST_TEXT` at most.
        summary: one line that says where the texts are from; what is cut is added.

    Raises:
        UpstairsError: different numbers of texts and labels, an empty text, or a label that is missing or a list.
    """
    if len(texts) != len(labels):
        raise UpstairsError(f"{name}: {len(texts)} texts and {len(labels)} labels: give one label for each text")
    if len(texts) == 0:
        raise UpstairsError(f"{name}: no texts were given")
    read = [as_text(text, f"text {i + 1} of {name}") for i, text in enumerate(texts)]
    names = plain_labels(labels, marks=False)
    if missing := [i for i, label in enumerate(names, 1) if label is None]:
        raise UpstairsError(
            f"{name}: {len(missing)} of {len(names)} labels are missing or no plain values, the first that of text "
            f"{missing[0]}: give each text a label, or leave it out"
        )
    own_names = [str(label) for label in names]
    if format is None:
        lengths = np.array([len(words_of(text)) for text in read])
        suited = max(min(64, lengths.max()), np.quantile(lengths, 0.95, method="higher"))
        format = TextFormat(int(min(LONGEST_TEXT, suited)))
    if summary and (note := format.cut(read)):
        summary += f"; {note}"
    inputs = format.read_many(read, progress)
    order = sorted(set(own_names))
    place = {label: k for k, label in enumerate(order)}
    own = np.array([place[label] for label in own_names])
    rows = tuple(np.flatnonzero(own == k) for k in range(len(order)))
    named = tuple(groups[int(r[0])] for r in rows) if groups is not None else ()
    return Source(
        name, inputs, tuple(order), rows, named if any(named) else (), format=format, texts=tuple(read), summary=summary
    )
