"""Sounds from the command line: train, evaluate, adapt, predict."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.runs import SMALL, Call, count_time
from helpers.sounds import folder
from upstairs.data.audio.espeak import WORDS, Engine, find_engine
from upstairs.data.audio.format import AudioFormat

pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")


def test_from_recordings_to_answers(call: Call, tmp_path: Path) -> None:
    data, out, model = folder(tmp_path / "words", words=16), tmp_path / "run", tmp_path / "model.safetensors"
    status, _, err = call("train", "protonet", "--data", data, *SMALL, "--steps", 20, "--out", out, "--quiet")
    assert status == 0, err
    result = json.loads(call("evaluate", out, "--way", 3, "--query", 2, "--tasks", 40, "--json")[1])
    assert result["accuracy"] > 0.5 and "nearest_centroid" in result["baselines"]
    support = tmp_path / "mine"
    for word in ("word1", "word9"):
        (support / word).mkdir(parents=True)
        for s in range(2):
            (support / word / f"{s}.flac").write_bytes((data / word / f"{s}.flac").read_bytes())
    assert call("adapt", out, "--support", support, "--out", model)[0] == 0
    rows = json.loads(call("predict", model, data / "word1" / "4.flac", data / "word9" / "3.flac", "--json")[1])
    assert [row["label"] for row in rows] == ["word1", "word9"]
    (tmp_path / "bad.wav").write_text("no")
    status, _, err = call("predict", model, tmp_path / "bad.wav")
    assert status == 2 and "bad.wav is no sound" in err and err.count("\n") == 1


def test_a_demo_needs_recordings_or_a_synthesiser(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upstairs.experiments.demo.find_engine", lambda: None)
    status, _, err = call("demo", "--kind", "audio", "--out", tmp_path / "demo")
    assert status == 2 and "needs recordings" in err and "pip install espeakng-loader" in err and err.count("\n") == 1
    monkeypatch.setattr("upstairs.experiments.demo.find_engine", lambda: Engine(str(tmp_path / "no.so"), None))
    monkeypatch.setattr("upstairs.data.audio.espeak.find_engine", lambda: Engine(str(tmp_path / "no.so"), None))
    status, _, err = call("demo", "--kind", "audio", "--out", tmp_path / "demo", "--quiet")
    assert status == 2 and "no.so cannot be loaded" in err and err.count("\n") == 1


def test_a_demo_of_synthesised_speech(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (engine := find_engine()) is None:
        pytest.skip("eSpeak NG is not installed")
    monkeypatch.setattr("upstairs.data.audio.espeak.WORDS", WORDS[:24])
    count_time(monkeypatch, 0.125)
    words = ("demo", "--kind", "audio", "--minutes", 0.05, "--tasks", 20, "--out", tmp_path)
    status, out, err = call(*words)
    assert status == 0, err
    assert f"synthesised by eSpeak NG ({engine.library})" in " ".join(out.split())
    assert len(list((tmp_path / "words").rglob("*.flac"))) == 24 * 32
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(r["way"], r["shot"]) for r in results} == {(5, 1), (5, 5)}
    first, second = (AudioFormat().read(tmp_path / "words" / "apple" / f"en-us+{voice}.flac") for voice in ("m1", "f2"))
    assert first.mean() > 5 and not np.array_equal(first, second)
