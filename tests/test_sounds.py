"""Sounds from the command line: train, evaluate, adapt, predict."""

import json
from pathlib import Path

import pytest

from runs_for_tests import SMALL, Call
from sounds_for_tests import folder

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
