"""Sounds: their log-mel rows, what is refused, and the folders, zips and index tables that they come in."""

import struct
import tracemalloc
import zipfile
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.sounds import bytes_of, folder, tone
from upstairs.data.audio.augment import ROUGHNESS, Hearing
from upstairs.data.audio.espeak import find_engine
from upstairs.data.audio.folders import open_sounds, sound_splits
from upstairs.data.audio.format import LOWEST, RANGE, RATE, AudioFormat, mel_bands, read_sound
from upstairs.data.audio.splice import spliced
from upstairs.data.audio.synthetic_words import made_up_words
from upstairs.data.class_augmentation import training_classes
from upstairs.data.readers import reader_for
from upstairs.data.source import Source
from upstairs.errors import UpstairsError
from upstairs.settings import DataOptions

pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")


@pytest.mark.parametrize("hertz", [150.0, 440.0, 1000.0, 3000.0, 6000.0])
def test_a_tone_is_loudest_in_its_own_band(hertz: float) -> None:
    row = AudioFormat(1.0, 40).read((tone(hertz), RATE))
    assert row.shape == AudioFormat(1.0, 40).shape == (1, 40, 100) and row.dtype == np.uint8 and row.max() == 255

    def mel(f: float) -> float:
        return 2595 * np.log10(1 + f / 700)

    place = 41 * (mel(hertz) - mel(LOWEST)) / (mel(RATE / 2) - mel(LOWEST)) - 1  # of bands as far apart in mels
    found = row[0, :, 20:80].astype(float).mean(1).argmax()
    assert abs(found - place) <= 1


def test_bands_overlap_by_halves() -> None:
    bands = mel_bands(40)
    assert bands.shape == (40, 257) and bands.min() == 0 and bands.max() <= 1
    inside = bands.sum(0)[10:200]  # below the last peak and above the first, two triangles share each line
    np.testing.assert_allclose(inside, 1, atol=1e-12)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 1), (22050, 2)])
def test_any_rate_and_number_of_channels(rate: int, channels: int) -> None:
    plain = AudioFormat().read((tone(440.0), RATE)).astype(int)
    other = AudioFormat().read((tone(440.0, rate=rate, channels=channels), rate)).astype(int)
    loud = plain[:, :, 5:95] > 128
    assert np.abs(plain - other)[:, :, 5:95][loud].max() <= 8


def test_volume_does_not_matter_and_decibels_are_tenths_of_the_range() -> None:
    quiet, loud = (AudioFormat().read((v * tone(440.0), RATE)) for v in (0.001, 1.9))
    assert np.abs(quiet.astype(int) - loud).max() <= 1
    # the loud half moves to the middle
    half = np.concatenate([tone(440.0, seconds=0.5), 0.1 * tone(440.0, seconds=0.5)])
    row = AudioFormat().read((half, RATE))[0].astype(float)
    drop = (row[:, 35:65].max(0).mean() - row[:, 80:95].max(0).mean()) / 255 * RANGE
    assert drop == pytest.approx(20, abs=0.5)


def test_the_loudest_part_of_a_long_recording_and_silence_around_a_short_one() -> None:
    long = np.concatenate([0.01 * tone(200.0, seconds=3), tone(3000.0), 0.01 * tone(200.0, seconds=2)])
    np.testing.assert_array_equal(
        AudioFormat().read((long, RATE))[0, :, 5:95], AudioFormat().read((tone(3000.0), RATE))[0, :, 5:95]
    )
    short = AudioFormat().read((tone(1000.0, seconds=0.4), RATE))[0]
    assert short[:, :28].max() == 0 and short[:, 72:].max() == 0 and short[:, 35:65].max(0).min() > 200


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_of_each_kind(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(bytes_of(tone(440.0), kind))
    plain = AudioFormat().read((tone(440.0), RATE)).astype(int)
    for item in (path, path.read_bytes(), str(path)):
        row = AudioFormat().read(item).astype(int)
        assert np.abs(row - plain)[0, :, 10:90][plain[0, :, 10:90] > 150].max() <= 12


def test_what_is_refused(tmp_path: Path) -> None:
    whole = bytes_of(tone(440.0), "WAV")
    (tmp_path / "text.wav").write_text("hello")
    cases = [
        (tmp_path / "none.wav", "does not exist"), (tmp_path / "text.wav", "text.wav is no sound"),
        (whole[:20], "is no sound"),
        (b"", "is no sound"), (bytes_of(np.zeros(0, np.float32), "WAV"), "has no samples"),
        (bytes_of(np.zeros(9000, np.float32), "WAV"), "is silent"),
        (bytes_of(np.zeros(700_000, np.float32), "WAV", 1000), "12 minutes long"),
        ((np.array([0.1, np.nan]), RATE), "no finite or usual numbers"), ((np.zeros((2, 3, 4)), RATE), "has shape"),
        (7, "is a int"),
    ]  # fmt: skip
    for item, message in cases:
        with pytest.raises(UpstairsError, match=message):
            read_sound(item)
    clipped = AudioFormat().read((np.clip(9 * tone(440.0), -1, 1), RATE))
    assert clipped.max() == 255
    with pytest.raises(UpstairsError, match=r"0\.2 to 60 seconds"):
        AudioFormat(seconds=0)


def test_eight_hours(tmp_path: Path) -> None:
    """A WAV header that promises them, and a file of nothing: 28.8 million bytes of 8 bits at 1000 Hz."""
    samples, path = 8 * 3600 * 1000, tmp_path / "night.wav"
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 1000, 1000, 1, 8)
    with path.open("wb") as file:
        file.write(struct.pack("<4sI4s", b"RIFF", 36 + samples, b"WAVE") + form + struct.pack("<4sI", b"data", samples))
        file.truncate(44 + samples)
    with pytest.raises(UpstairsError, match=r"night\.wav is 480 minutes long: cut out the seconds that are meant"):
        read_sound(path)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Recordings that take ten times the memory that reading them may take."""
    whole, count = bytes_of(tone(440.0, seconds=8), "OGG"), 120
    for k in range(4):
        (tmp_path / f"class{k}").mkdir()
        for i in range(count // 4):
            (tmp_path / f"class{k}" / f"{i}.ogg").write_bytes(whole)
    tracemalloc.start()
    try:
        source = open_sounds(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source.inputs) == count and source.inputs[-1].max() == 255
    assert 10 * peak < count * 8 * RATE * 4


def test_folders_and_zips(tmp_path: Path) -> None:
    path = folder(tmp_path / "words", words=14)
    assert reader_for(str(path)).name == "sounds" != reader_for(str(tmp_path / "nowhere")).name
    source = open_sounds(path)
    assert len(source) == 14 and source.inputs.shape == (70, 1, 64, 60) and source.format == AudioFormat(0.6, 64)
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        for file in sorted(path.rglob("*.flac")):
            archive.write(file, file.relative_to(path))
    np.testing.assert_array_equal(open_sounds(tmp_path / "words.zip").inputs, source.inputs)
    assert sound_splits(path).train.augment == Hearing() and sound_splits(path).test.augment is None
    with pytest.raises(UpstairsError, match="names no speakers"):
        sound_splits(path, split="speakers")
    (path / "word3" / "2.flac").write_bytes(b"fLaC")
    with pytest.raises(UpstairsError, match=r"word3/2\.flac is no sound"):
        open_sounds(path)


def test_an_index_names_words_and_speakers(tmp_path: Path) -> None:
    path = folder(tmp_path / "words", words=10)
    rows = [f"word{w}/{s}.flac\tword{w}\tvoice{s}" for w in range(10) for s in range(5)]
    (path / "index.tsv").write_text("\n".join(["file\tword\tspeaker", *rows]))
    parts = sound_splits(path)
    kept = [{int(row) % 5 for rows in part.rows for row in rows} for part in parts]
    assert [len(speakers) for speakers in kept] == [3, 1, 1] and set.union(*kept) == set(range(5))
    assert not set(parts.train.labels) & set(parts.test.labels)
    assert all(len(rows) == 5 for rows in sound_splits(path, split="ratio").test.rows)
    (path / "index.tsv").write_text("file\tword\nword0/9.flac\tword0")
    with pytest.raises(UpstairsError, match=r"row 1 names word0/9\.flac"):
        sound_splits(path)
    (path / "index.tsv").write_text("a\tb\n1\t2")
    with pytest.raises(UpstairsError, match="needs file and label"):
        sound_splits(path)


def test_real_words_and_speakers_are_apart(data_dir: Path) -> None:
    parts = sound_splits(data_dir / "arabic-speech-commands")
    assert [len(part) for part in parts] == [26, 6, 8]
    assert [len(part.rows[0]) for part in parts] == [18, 6, 6], "the official split of the speakers"
    speakers = [{int(row) % 30 for rows in part.rows for row in rows} for part in parts]
    assert all(not a & b for a, b in zip(speakers, speakers[1:] + speakers[:1], strict=True))


NONE = Hearing(tempo=0, shift=0, pitch=0, tract=0, colour=0, noise=0, bands=0, frames=0)
MIDDLE = torch.full((15,), 0.5)  # no change of tempo, moment, voice or colour


def heard(x: torch.Tensor, *drawn: tuple[int, float], **strengths: float) -> torch.Tensor:
    """One sound, with these of the random numbers (place, value) not at their middle."""
    u = MIDDLE.clone()
    for place, value in drawn:
        u[place] = value
    return replace(NONE, **strengths).apply(x[None, None], u[None])[0, 0]


def test_hearing_of_no_strength_changes_nothing() -> None:
    x = torch.rand(3, 1, 8, 20)
    torch.testing.assert_close(NONE.apply(x, NONE.draw(3, torch.Generator().manual_seed(0))), x)
    drawn = Hearing().draw(50, torch.Generator().manual_seed(0))
    out = Hearing().apply(x[:1].expand(50, -1, -1, -1), drawn)
    assert out.shape == (50, 1, 8, 20) and out.min() >= 0 and out.max() <= 1 and out.isfinite().all()
    torch.testing.assert_close(Hearing().apply(x[:1], drawn[7:8]), out[7:8])  # each by its own numbers alone


def test_hearing_shifts_stretches_and_leaves_out() -> None:
    x = torch.rand(9, 21) + 0.1
    later = heard(x, (1, 1.0), shift=0.1)  # a tenth of the 20 steps from the first frame to the last
    torch.testing.assert_close(later[:, 2:], x[:, :-2])
    assert later[:, :2].abs().max() == 0
    higher = heard(x, (2, 1.0), pitch=0.25)
    torch.testing.assert_close(higher[2:], x[:-2])
    assert higher[:2].abs().max() == 0
    faster = heard(x, (0, 1.0), tempo=log(2))  # twice as fast: every second frame, around the middle
    torch.testing.assert_close(faster[:, 5:16], x[:, ::2])
    longer = heard(x, (3, 1.0), tract=1.0)  # the lowest band stays, the others are read from twice as high
    torch.testing.assert_close(longer[:5], x[::2])
    expected = x.clone()
    expected[3:5], expected[:, 17:] = 0, 0
    torch.testing.assert_close(heard(x, (11, 1), (12, 0.45), (13, 1), (14, 1), bands=0.25, frames=0.2), expected)


def test_other_voices_are_higher_lower_longer_and_shorter() -> None:
    x = torch.rand(2, 1, 9, 21)
    voices = Hearing(pitch=0.25, tract=0.5).voices(x)
    torch.testing.assert_close(voices[0], x)
    torch.testing.assert_close(voices[1][:, :, 2:], x[:, :, :-2])
    torch.testing.assert_close(voices[2][:, :, :-2], x[:, :, 2:])
    torch.testing.assert_close(voices[3][:, :, :6:2], x[:, :, :9:3])  # read from one and a half times as high
    torch.testing.assert_close(voices[4][:, :, ::2], x[:, :, :5])


def test_hearing_colours_and_adds_noise() -> None:
    x = torch.full((9, 200), 0.5)
    x[:, 50:60], x[:, 150:] = 1.0, 0.0
    tilt = heard(x, *((4 + i, i / 4) for i in range(5)), colour=0.1)  # from 5 decibels softer to 5 louder
    torch.testing.assert_close(tilt[:, 55], 0.8 + torch.arange(9) * 0.025)  # the loudest is 1
    torch.testing.assert_close(tilt[:, 160], torch.full((9,), 0.0))
    torch.testing.assert_close(heard(x, (9, 0.2), noise=0.3), x)  # the lowest draws have no noise
    noisy = heard(x, (9, 1.0), noise=0.3)
    assert (noisy[:, 150:].mean() - 0.3).abs() < 0.02, "as loud as was drawn"
    assert noisy[:, 150:].std() == pytest.approx(ROUGHNESS / RANGE, rel=0.1)
    assert (noisy[:, 60:150].mean() - 0.5).abs() < 0.02, "hardly heard below what is 10 decibels louder"


def test_made_up_words_are_half_of_the_training_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "words", words=10)
    splits = sound_splits(path, split="ratio")
    monkeypatch.setattr("upstairs.data.audio.synthetic_words.find_engine", lambda: None)
    with pytest.raises(UpstairsError, match="`spoken` needs eSpeak NG"):
        training_classes(splits, splice=0, spoken=24)
    monkeypatch.undo()
    if find_engine() is None:
        pytest.skip("eSpeak NG is not installed")
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    train = training_classes(splits, splice=0, spoken=24).train
    own, made = train.parts
    assert len(own) == len(splits.train) and len(made) == 24 and train.weights == (0.5, 0.5)
    assert made.feature_shape == own.feature_shape and made.augment == own.augment
    for rows in made.rows:
        assert len({made.speakers[row] for row in rows}) == len(rows) == 12
        assert made.inputs[rows].reshape(12, -1).max(1).min() == 255
    again = made_up_words(24, made.format)
    np.testing.assert_array_equal(again.inputs, made.inputs)
    assert len(set(made.labels)) > 20 and again.labels == made.labels


def test_a_spliced_class_has_halves_of_two_by_one_speaker(tmp_path: Path) -> None:
    path = folder(tmp_path / "words", words=10)
    rows = [f"word{w}/{s}.flac\tword{w}\tvoice{s}" for w in range(10) for s in range(5) if w % 5 != s]
    (path / "index.tsv").write_text("\n".join(["file\tword\tspeaker", *rows]))
    plain = open_sounds(path)
    source = spliced(plain, 6)
    assert len(source) == 16 and source.feature_shape == plain.feature_shape
    for label, own in zip(source.labels[10:], source.rows[10:], strict=True):
        words = [plain.labels.index(word) for word in label.split("+")]
        halves = [{plain.speakers[row]: plain.inputs[row] for row in plain.rows[word]} for word in words]
        speakers = sorted(set(halves[0]) & set(halves[1]))
        expected = np.stack([np.concatenate([half[s][..., i * 30 :][..., :30] for i, half in enumerate(halves)], -1)
                             for s in speakers])  # fmt: skip
        assert words[0] != words[1] and len(speakers) == len(own) >= 3
        np.testing.assert_array_equal(source.inputs[own], expected)
    mixed = np.array([2, source.rows[11][1], 3])
    np.testing.assert_array_equal(source.inputs[mixed][[0, 2]], plain.inputs[[2, 3]])
    assert len(source.inputs) == len(plain.inputs) + sum(map(len, source.rows[10:])) and plain.inputs[2].max() == 255
    splits = training_classes(sound_splits(path, split="ratio"), splice=None)
    assert len(splits.train) == 3 * len(sound_splits(path, split="ratio").train)
    with pytest.raises(UpstairsError, match="joins halves of sounds"):
        spliced(Source.from_arrays(np.zeros((4, 1, 16, 16), np.uint8), [0, 0, 1, 1]), 2)


def test_made_up_words_are_for_one_data_set_and_for_training_alone() -> None:
    from upstairs.data.open import open_splits
    from upstairs.experiments.evaluate import UNHEARD

    with pytest.raises(UpstairsError, match="`spoken` adds made-up words to one data set and `data` is glyphs"):
        open_splits(DataOptions(data="glyphs + glyphs", spoken=24), quiet=True)
    with pytest.raises(UpstairsError, match="`spoken` makes words that are heard"):
        open_splits(DataOptions(data="glyphs", spoken=24), quiet=True)
    assert len(open_splits(DataOptions(data="glyphs", **UNHEARD), quiet=True).test)
