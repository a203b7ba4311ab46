"""Words spoken by eSpeak NG, if it is installed: recordings for a demo without data."""

import ctypes
from collections.abc import Callable
from ctypes.util import find_library
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16

from upstairs.data.cache import Progress
from upstairs.errors import UpstairsError, reason

INSTALL = "pip install espeakng-loader, or your system's package espeak-ng"
SAID = (
    "apple autumn basket bridge butter candle castle cheese chimney circle cotton dinner dragon eagle engine feather "
    "finger flower forest garden giraffe hammer harbour honey island jacket kettle ladder lemon letter machine marble "
    "meadow mirror monkey mountain needle ocean orange paper pencil pepper picture pillow pocket potato rabbit ribbon "
    "river saddle scissors shadow silver spider summer table thunder tiger tomato tunnel turtle village violin volcano "
    "wagon water weather window winter yellow"
)
WORDS = SAID.split()
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
VARIANTS = ("m1", "m2", "m3", "m5", "m7", "f1", "f2", "f4")
# constants of speak_lib.h
SYNCHRONOUS, DONT_EXIT, UTF8, SPEED, PITCH = 2, 0x8000, 1, 1, 3


class Engine(NamedTuple):
    """The paths of eSpeak NG's library and of its voices (None: the library's default)."""

    library: str
    data: str | None


def find_engine() -> Engine | None:
    """Finds eSpeak NG in the package espeakng-loader or in the system; None if it is in neither."""
    try:
        loader = import_module("espeakng_loader")
    except ImportError:
        return Engine(found, None) if (found := find_library("espeak-ng")) else None
    return Engine(loader.get_library_path(), loader.get_data_path())


def say_words(folder: Path, *, progress: Progress | None = None) -> Path:
    """Writes 70 words in 32 voices to a folder with an index.tsv of files, words and speakers, unless it exists.

    A voice is an accent, a variant and a pitch; each recording has its own speed.

    Raises:
        UpstairsError: eSpeak NG or soundfile is not installed, or eSpeak NG cannot be started.
    """
    index = folder / "index.tsv"
    if index.is_file():
        return folder
    engine = find_engine()
    if engine is None:
        raise UpstairsError(f"eSpeak NG is not installed: {INSTALL}")
    try:
        import soundfile
    except ImportError as error:
        raise UpstairsError("sounds need soundfile: pip install 'upstairs[audio]'") from error
    rate, say = start(engine)
    rng = np.random.default_rng(0)
    rows = ["file\tword\tspeaker"]
    voices = [f"{accent}+{variant}" for variant, accent in product(VARIANTS, ACCENTS)]
    for word in WORDS:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for place, voice in enumerate(voices):
            name = f"{word}/{voice}.flac"
            soundfile.write(folder / name, say(word, voice, 25 + 12 * (place % 5), int(rng.integers(125, 190))), rate)
            rows.append(f"{name}\t{word}\t{voice}")
            if progress:
                progress(len(rows) - 1, len(WORDS) * len(voices))
    index.write_text("\n".join(rows), encoding="utf-8")  # written last, as it marks a complete folder
    return folder


def start(engine: Engine) -> tuple[int, Callable[[str, str, int, int], Int16[np.ndarray, " n"]]]:
    """Starts eSpeak NG; returns its sampling rate and (word, voice, pitch 0 to 100, words a minute) -> samples."""
    try:
        library: Any = ctypes.CDLL(engine.library)
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, engine.data and engine.data.encode(), DONT_EXIT)
    except (OSError, AttributeError) as error:
        raise UpstairsError(f"{engine.library} cannot be loaded ({reason(error)}): {INSTALL}") from error
    if rate <= 0:
        raise UpstairsError(f"{engine.library} finds no voices in {engine.data or 'its own folder'}: {INSTALL}")
    heard: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: Any, count: int, events: Any) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def say(word: str, voice: str, pitch: int, speed: int) -> Int16[np.ndarray, " n"]:
        heard.clear()
        library.espeak_SetSynthCallback(hear)
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(PITCH, pitch, 0)
        library.espeak_SetParameter(SPEED, speed, 0)
        text = word.encode()
        library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, UTF8, None, None)
        library.espeak_Synchronize()
        if not heard:
            raise UpstairsError(f"eSpeak NG said nothing for '{word}' in the voice {voice}: {INSTALL}")
        return np.concatenate(heard)

    return rate, say
