"""A model from a few examples without meta-training, which goes on learning: heads on features, and runs."""

import pickle
import threading
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from upstairs.errors import InputWarning, UpstairsError
from upstairs.learners.metric.heads import HEADS
from upstairs.training.adapt import adapt
from upstairs.training.model import Model, load_adapted

WAY, SHOT, SIZE = 6, 4, 24


def drawn(seed: int = 0, *, each: int = SHOT, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(1).normal(size=(WAY, 1, SIZE))
    x = centres + noise * np.random.default_rng(seed).normal(size=(WAY, each, SIZE))
    return x.reshape(-1, SIZE).astype(np.float32), np.repeat(np.arange(WAY), each)


X, Y = drawn()
QUERIES, TRUTH = drawn(2, each=30)


def logits(model: Model, labels: Sequence[str]) -> torch.Tensor:
    return model.logits(QUERIES)[:, [model.labels.index(label) for label in labels]]


@pytest.mark.parametrize("head", HEADS)
def test_after_any_changes_a_model_is_the_one_adapted_at_once(head: str) -> None:
    whole = adapt((X, Y), head=head)
    rng = np.random.default_rng(3)
    for _ in range(3):
        known = [0, 1, SHOT]  # a class with two examples, one with one
        model = adapt((X[known], Y[known]), head=head)
        for i in rng.permutation([i for i in range(len(Y)) if i not in known]):
            model.add(X[i], Y[i])
            if rng.random() < 0.2:
                model.logits(QUERIES[:1])  # it may be asked in between
            if rng.random() < 0.3:
                model.remove(X[i])
                model.add(X[i], (Y[i] + 1) % WAY)
                model.correct(X[i], Y[i])
        model.remove(label=5).add(X[Y == 5], "5")
        assert len(model.labels) == WAY
        found, expected = logits(model, whole.labels), whole.logits(QUERIES)
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max()
        np.testing.assert_allclose(model.predict_proba(QUERIES).sum(1), 1)


def test_the_nearest_mean_is_that_of_scikit_learn_on_features_of_length_one() -> None:
    model = adapt((X, Y), head="nearest_mean").add(QUERIES[::7], 3).remove(X[0])
    x, y = np.concatenate([X[1:], QUERIES[::7]]), np.concatenate([Y[1:], np.full(len(QUERIES[::7]), 3)])
    x, queries = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, QUERIES))
    expected = NearestCentroid().fit(x, y).predict(queries)
    assert model.predict(QUERIES) == [str(k) for k in expected]


def test_a_model_of_a_file_goes_on_learning(tmp_path: Path) -> None:
    model = adapt((X[:-SHOT], Y[:-SHOT]), head="ridge")
    again = load_adapted(model.save(tmp_path / "model.safetensors"))
    assert again.head == "ridge" and torch.equal(again.logits(QUERIES), model.logits(QUERIES))
    np.testing.assert_array_equal(again.predict_proba(QUERIES), model.predict_proba(QUERIES))
    again.add(X[-SHOT:], 5)
    whole = adapt((X, Y), head="ridge")
    torch.testing.assert_close(again.logits(QUERIES), whole.logits(QUERIES), rtol=0, atol=1e-10)
    assert np.mean([label == str(k) for label, k in zip(again.predict(QUERIES), TRUTH, strict=True)]) > 0.9

    bare = load_adapted(model.save(tmp_path / "bare.safetensors", support=False))
    np.testing.assert_array_equal(bare.predict_proba(QUERIES), model.predict_proba(QUERIES))
    for change in (lambda: bare.add(X[0], 0), lambda: bare.remove(X[0]), bare.check, lambda: bare.predict_set(X)):
        with pytest.raises(UpstairsError, match="left out of the model's file"):
            change()


def test_what_cannot_be_removed_leaves_the_model_as_it_was() -> None:
    model = adapt((X[: 2 * SHOT], Y[: 2 * SHOT]))
    before = model.logits(QUERIES)
    for change, message in {
        (lambda: model.remove(X[[0, -1]])): "example 1 is none of the model's examples: nothing was removed",
        (lambda: model.remove(label=0)): "would know 1 class after that, and needs two",
        (lambda: model.remove(X[:SHOT])): "would know 1 class after that",
        (lambda: model.remove(label="whale")): "knows no class 'whale': it knows 0, 1",
        (lambda: model.remove()): "one of the two",
        (lambda: model.remove(X[0], label=0)): "one of the two",
        (lambda: model.add(X[0], "  ")): "has the label",
        (lambda: model.add(X[0, :5], "a")): "shape",
        (lambda: model.correct(X[:1], None)): "has the label",
        (lambda: model.predict_set(X, coverage=1.0)): "between 0 and 1",
    }.items():
        with pytest.raises(UpstairsError, match=message):
            change()
    torch.testing.assert_close(model.logits(QUERIES), before, rtol=0, atol=1e-12)
    model.correct(X[0], 0)  # which it is already
    assert len(model.support.y) == 2 * SHOT


def test_check_names_the_examples_that_look_wrong() -> None:
    wrong = Y.copy()
    wrong[[3, 10]] = 5, 0
    model = adapt((X, wrong))
    found = model.check()
    assert {mistake.name for mistake in found["mistakes"]} >= {"example 3"} or found["mistakes"][0].looks_like == "0"
    assert {(m.label, m.looks_like) for m in found["mistakes"]} >= {("5", "0"), ("0", "2")}
    assert found["examples"] == len(Y) and found["accuracy"] < 1 and "examples that look wrong:" in str(found)
    for mistake in found["mistakes"]:
        place = int(mistake.name.split()[1])  # in the support set, which is sorted by class
        model.correct(model.support.x[place].numpy(), mistake.looks_like)
        break
    assert len(model.check()["mistakes"]) < len(found["mistakes"])


def test_classes_of_one_example_are_said_to_be_unchecked() -> None:
    model = adapt((X[: SHOT + 1], Y[: SHOT + 1]))
    found = model.check()
    assert found["unchecked"] == ["1"] and found["examples"] == SHOT and "cannot be checked: 1" in str(found)
    single = adapt((X[::SHOT], Y[::SHOT]))
    assert single.predict_proba(QUERIES).shape == (len(QUERIES), WAY)
    for asked in (single.check, lambda: single.predict_set(QUERIES)):
        with pytest.raises(UpstairsError, match="every class has one example"):
            asked()


def test_prediction_sets_cover_the_truth_and_begin_with_the_answer() -> None:
    """400 tasks of 30 queries: the standard error of the coverage is below 0.6%; false alarms below 1 in 1,000."""
    covered, sizes = [], []
    rng = np.random.default_rng(0)
    for _ in range(400):
        centres = rng.normal(size=(5, 1, 8))
        x = (centres + 1.2 * rng.normal(size=(5, 5 + 6, 8))).astype(np.float32)
        y = np.repeat(np.arange(5), 5)
        model = adapt((x[:, :5].reshape(-1, 8), y), head="ridge")
        queries, truth = x[:, 5:].reshape(-1, 8), np.repeat(np.arange(5), 6)
        sets = model.predict_set(queries)
        covered += [str(k) in own for own, k in zip(sets, truth, strict=True)]
        sizes += [len(own) for own in sets]
        assert all(own[0] == label for own, label in zip(sets, model.predict(queries), strict=True) if own)
    assert 0.88 <= np.mean(covered) <= 0.92
    assert 1 < np.mean(sizes) < 4


def test_unknown_inputs_are_refused_after_a_change_too() -> None:
    far = 10 * np.random.default_rng(5).normal(size=(1, SIZE)).astype(np.float32)
    model = adapt((X[:-SHOT], Y[:-SHOT]), head="nearest_mean", unknown=0.1)
    assert model.predict(QUERIES[-1:]) == ["none of these"] and model.predict(far) == ["none of these"]
    model.add(X[-SHOT:], 5)
    assert model.predict(QUERIES[-1:]) == ["5"] and model.predict(far) == ["none of these"]


def test_threads_see_a_change_whole_or_not_at_all() -> None:
    model = adapt((X, Y), head="ridge")
    whole, fewer = model.predict_set(QUERIES[-9:]), None
    fewer = adapt((X[:-SHOT], Y[:-SHOT]), head="ridge").predict_set(QUERIES[-9:])
    seen, bad = [], []

    def ask() -> None:
        for _ in range(25):
            try:
                seen.append(model.predict_set(QUERIES[-9:]))
            except Exception as error:  # reported below
                bad.append(error)

    def teach() -> None:
        for _ in range(12):
            model.remove(label=5)
            model.predict(QUERIES[:1])
            model.add(X[-SHOT:], 5)

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=teach)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad and len(seen) == 75
    assert all(one in (whole, fewer) for one in seen)
    assert model.predict_set(QUERIES[-9:]) == whole


def test_features_must_be_vectors() -> None:
    with pytest.raises(UpstairsError, match="`encoder` is missing"):
        adapt("photos")
    with pytest.raises(UpstairsError, match=r"first has shape \[2, 3\]"):
        adapt((np.zeros((4, 2, 3)), [0, 0, 1, 1]))
    with pytest.raises(UpstairsError, match="choose auto, nearest_mean"):
        adapt((X, Y), head="svm")


def test_support_examples_among_labelled_ones_are_named() -> None:
    model = adapt((X, Y))
    score = model.evaluate((np.concatenate([QUERIES, X[:2]]), [*TRUTH, *Y[:2]]))
    assert len(score["repeated"]) == 2


def test_labels_that_differ_in_case_alone_are_pointed_out() -> None:
    labels = ["Cat", "cat", "big  dog", "big dog", "B", "a"]
    with pytest.warns(InputWarning) as found:
        assert len(adapt((X[:6], labels), head="cosine").labels) == 6
    said = [str(one.message) for one in found]
    assert len(said) == 2 and said[0].startswith("'Cat' and 'cat' of the support set are two classes")


def test_a_copy_learns_by_itself() -> None:
    model = adapt((X[:-SHOT], Y[:-SHOT]), head="ridge")
    for other in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        assert torch.equal(other.logits(QUERIES), model.logits(QUERIES))
        other.add(X[-SHOT:], 5)
        assert len(other.labels) == WAY and len(model.labels) == WAY - 1
