"""Made-up words spoken by eSpeak NG, as additional training classes of sounds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from upstairs.data.audio.espeak import INSTALL, find_engine, start
from upstairs.data.audio.format import AudioFormat
from upstairs.data.cache import Progress, memory_mapped
from upstairs.data.source import Source
from upstairs.errors import UpstairsError

READING = 1  # raise it when the words or voices change
NAMES = "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 Annie Gene2 Jacky Lee mike2 Michael Storm anika"
THROATS = NAMES.split()  # eSpeak NG's variants of a voice
SAYINGS = 12  # recordings of each word, each in another voice
SYLLABLES = (0.15, 0.45, 0.4)  # shares of words of one, two and three syllables


class Tongue(NamedTuple):
    """The letters of made-up syllables, and the accents that read them."""

    accents: str
    share: float  # of the words
    starts: str
    vowels: str
    mute: str = ""  # written after a consonant that ends a syllable


TONGUES = (
    Tongue("ar", 0.7, "ب ت ث ج ح خ د ذ ر ز س ش ص ض ط ظ ع غ ف ق ك ل م ن ه و ي", "َ ُ ِ ا ي و", "ْ"),
    Tongue("es it en-us de tr", 0.3, "b d f g h j k l m n p r s sh t th v w y z ch", "a e i o u ee oo ai"),
)


class Saying(NamedTuple):
    """The parameters of one recording."""

    word: str
    voice: str
    pitch: int
    speed: int  # words a minute
    speaker: str


def made_up_words(count: int, format: AudioFormat, *, progress: Progress | None = None) -> Source:
    """Returns `count` classes, each a made-up word spoken by 12 of 24 voices; the result is cached.

    A voice is a variant, a pitch and a usual speed. Seven words in ten have Arabic syllables and accent, the others
    Latin syllables in five European accents.

    Raises:
        UpstairsError: eSpeak NG is not installed or cannot be started.
    """
    engine = find_engine()
    if engine is None:
        raise UpstairsError(f"`spoken` needs eSpeak NG, which is not installed: {INSTALL}")
    sayings = list(_sayings(count))

    def rows() -> Iterator[UInt8[np.ndarray, "1 bands frames"]]:
        rate, say = start(engine)
        for one in sayings:
            yield format.read((say(one.word, one.voice, one.pitch, one.speed), rate), name=one.word)

    key = f"made-up words {READING} {format.to_json()} {engine.library}"
    inputs = memory_mapped(key, rows, (len(sayings), *format.shape), progress=progress)
    return Source(
        "made-up words",
        inputs,
        tuple(one.word for one in sayings[::SAYINGS]),
        tuple(np.arange(len(sayings)).reshape(count, SAYINGS)),
        format=format,
        speakers=tuple(one.speaker for one in sayings),
    )


def _sayings(count: int) -> Iterator[Saying]:
    rng = np.random.default_rng(0)
    pitches, speeds = rng.integers(15, 85, len(THROATS)), rng.integers(120, 190, len(THROATS))
    for _ in range(count):
        tongue = TONGUES[rng.choice(len(TONGUES), p=[t.share for t in TONGUES])]
        word, accent = _word(tongue, rng), rng.choice(tongue.accents.split())
        for k in rng.permutation(len(THROATS))[:SAYINGS]:
            speed = int(speeds[k] * rng.uniform(0.88, 1.14))
            yield Saying(word, f"{accent}+{THROATS[k]}", int(pitches[k]), speed, THROATS[k])


def _word(tongue: Tongue, rng: np.random.Generator) -> str:
    starts, vowels, word = tongue.starts.split(), tongue.vowels.split(), ""
    for _ in range(1 + rng.choice(len(SYLLABLES), p=SYLLABLES)):
        word += rng.choice(starts) + rng.choice(vowels)
        if rng.random() < 0.35:
            word += rng.choice(starts) + tongue.mute
    return str(word)
