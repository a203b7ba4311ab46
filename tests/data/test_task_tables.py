"""Regression tasks from tables: columns, numbers, tasks with few rows, splits and statistics."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import upstairs
from helpers.runs import Call
from upstairs.core import Examples
from upstairs.data.episodes import Episodes
from upstairs.data.open import open_splits
from upstairs.data.readers import reader_for
from upstairs.data.regression.rows import RowFormat, is_task_table, read_points, task_splits
from upstairs.data.source import Source, function_source
from upstairs.data.splits import Splits
from upstairs.engine.metrics import score_kind
from upstairs.errors import UpstairsError
from upstairs.learners.baselines import Ridge, plain_baselines
from upstairs.settings import DataOptions
from upstairs.testing import check_learner
from upstairs.training.defaults import request_run
from upstairs.training.train import open_run

HEADER = ["city", "temp", "hour", "note", "load", "price"]


def test_a_split_inside_a_json_file_is_refused(tmp_path: Path) -> None:
    rows = [{"city": f"city {i % 4}", "temp": i, "load": i * i} for i in range(24)]
    (tmp_path / "a.json").write_text(json.dumps({"train": rows[:12], "test": rows[12:]}))
    with pytest.raises(UpstairsError, match=r"a\.json is divided into train and test, and tasks are .*: save all rows"):
        open_splits(DataOptions(data=str(tmp_path / "a.json")), quiet=True)


def test_tasks_with_too_few_rows_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"city {k},{i},{(k + 1) * i}" for k in range(10) for i in range(6 if k % 2 else 30)]
    (tmp_path / "a.csv").write_text("\n".join(["city,temp,load", *lines]))
    asked = {"data": str(tmp_path / "a.csv"), "shot": "5", "width": 4, "steps": 2}
    open_run(request_run("maml", query=10, **asked), tmp_path / "run", quiet=True)
    said = capsys.readouterr().err
    assert re.search(
        r"\d of \d tasks have fewer than 15 rows, for shot and query, and are left out: city \d, city", said
    )
    open_run(request_run("maml", query=1, **asked), tmp_path / "run", quiet=True)
    assert capsys.readouterr().err == ""


def cities(count: int = 12, rows: int = 20) -> list[list]:
    """Each city has a line of its own, in units far from 0 and 1."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        a, b = rng.normal(size=2)
        for _ in range(rows):
            x, h = rng.normal(20, 5), int(rng.integers(24))
            found.append([f"city {k}", round(x, 3), h, "a word", round(1000 + 50 * (a * (x - 20) / 5 + b), 3), -x])
    return found


def write(path: Path, rows: list[list], header: list[str] = HEADER, mark: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=mark).writerows([header, *rows])
    return path


def test_the_columns_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", cities())
    assert is_task_table(path) and reader_for(str(path)).name == "rows"
    rows = read_points(path)
    assert rows.names == ("city", ("temp", "hour", "load"), ("price",)) and rows.x.shape == (240, 3)
    assert rows.notes == ["no numbers: 'note' left out"]
    rows = read_points(path, inputs=["TEMP"], targets=["load", " Price "], task="hour")
    assert rows.names == ("hour", ("temp",), ("load", "price")) and len(set(rows.tasks)) == 24
    assert rows.x[0, 0] == cities()[0][1] and rows.y[0].tolist() == cities()[0][4:]
    for asked, message in [
        ({"targets": ["cost"]}, "no column 'cost': it has 'city', 'temp'"),
        ({"inputs": ["note"]}, "row 1 has no number as note; row 2 .*; and 235 more: fix them, or leave them out by"),
        ({"task": "town"}, "no column 'town'"),
    ]:
        with pytest.raises(UpstairsError, match=message):
            read_points(path, **asked)


def test_what_is_no_table_of_tasks(tmp_path: Path) -> None:
    cases = {
        "texts.csv": (["text", "city", "label"], [["hello", "a", 1]]),
        "labels.csv": (["city", "price", "label"], [["a", 1, "x"]]),
        "remarks.csv": (["city", "remark", "stars"], [["a", "not so good", 1]]),
        "two.csv": (["city", "price"], [["a", 1]]),
        "none.csv": (["a", "b", "c"], [["a", 1, 1]]),
    }
    for name, (header, rows) in cases.items():
        assert not is_task_table(write(tmp_path / name, rows * 4, header))
    assert not is_task_table(tmp_path / "absent.csv") and not is_task_table("glyphs")
    path = write(tmp_path / "none.csv", [["a", 1, 1], ["b", 2, 2]] * 9, ["where", "b", "c"])
    assert reader_for(str(path), regression=True).name == "rows"
    assert read_points(path).names == ("where", ("b",), ("c",))  # the only column without numbers


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_numbers_as_people_write_them(mark: str, tmp_path: Path) -> None:
    rows = [["a", "1,5", "1e3", "-2"], ["a", "22,25", " 7 ", "3.5"], ["b", "3", "0", "1"], ["b", "4,125", "1", "1"]]
    found = read_points(write(tmp_path / "a.csv", rows, ["site", "x", "z", "y"], mark))
    assert found.x.tolist() == [[1.5, 1000], [22.25, 7], [3, 0], [4.125, 1]] and found.y[:, 0].tolist() == [
        -2,
        3.5,
        1,
        1,
    ]
    rows = [["a", "1,500", "1"], *[["b", str(i), "1"] for i in range(9)]]  # a thousand and a half, or one and a half?
    with pytest.raises(UpstairsError, match="row 1 has no number as x"):
        read_points(write(tmp_path / "b.csv", rows, ["site", "x", "y"], mark))


def test_rows_without_numbers_or_tasks(tmp_path: Path) -> None:
    rows = cities()
    rows[3][1], rows[5][0], rows[9][5], rows[11][4] = "", "", "nan", "inf"
    path = write(tmp_path / "a.csv", rows)
    message = (
        "row 4 has no number as temp; row 6 has no city; row 10 has no number as price; row 12 has no number as load"
    )
    with pytest.raises(UpstairsError, match=message):
        read_points(path)
    assert len(read_points(path, skip_bad=True).x) == 236
    assert "4 rows left out (row 4" in open_splits(DataOptions(data=str(path), skip_bad=True), quiet=True).train.summary


def test_tasks_are_split_and_scaled_by_the_training_tasks(tmp_path: Path) -> None:
    rows = [*cities(), ["alone", 1, 1, "", 1, 1]]
    path = write(tmp_path / "cities.csv", rows)
    splits = task_splits(path, inputs="temp", targets="load,price", seed=3)
    assert splits.train.summary == (
        "240 rows of 12 tasks ('city', 20 to 20 rows) from cities.csv: load, price from temp, 8, 2, 2 tasks to train, "
        "validate and test; 1 of 13 tasks have one row and were left out"
    )
    tables = [part.functions for part in splits]
    assert [len(table.x) for table in tables] == [8, 2, 2] and splits.train.targets == 2
    y, x = torch.cat(tables[0].y), torch.cat(tables[0].x)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(1))
    form = splits.train.format
    assert RowFormat.from_json(json.loads(json.dumps(form.to_json()))) == form
    own = sorted(row[1] for row in rows[:-1])
    back = sorted(
        (torch.cat([torch.cat(t.x) for t in tables])[:, 0].double() * form.scales[0] + form.means[0]).tolist()
    )
    np.testing.assert_allclose(back, own, rtol=1e-5)
    np.testing.assert_allclose(form.in_units(form.scaled(np.array([[990.0, -3.0]]))), [[990.0, -3.0]], rtol=1e-6)
    task = Episodes(splits.train, shot=4, query=6).batch([7, 8, 7])
    assert task.support.x.shape == (3, 4, 1) and task.query.y.shape == (3, 6, 2)
    assert torch.equal(task.query.x[0], task.query.x[2]) and not torch.equal(task.query.x[0], task.query.x[1])
    together = torch.cat([task.support.x[0], task.query.x[0]])[:, 0].tolist()
    assert any({*together} <= {*x[:, 0].tolist()} for x in tables[0].x), "the rows of one task"
    assert len({*together}) == 10, "no row is support and query"
    with pytest.raises(UpstairsError, match="rows at most, and `shot` and `query` are 25 together: lower them"):
        Episodes(splits.train, shot=10, query=15)
    with pytest.raises(UpstairsError, match="has 2 tasks of two rows or more in 'city', and 3 are needed"):
        task_splits(write(tmp_path / "few.csv", cities(2)))


def test_an_error_is_in_the_units_of_the_table(tmp_path: Path) -> None:
    splits = task_splits(write(tmp_path / "cities.csv", cities()), inputs="temp", targets="load")
    episodes = Episodes(splits.test, shot=5, query=10)
    tasks = episodes.batch([1, 2])
    kind = score_kind(episodes)
    off = tasks.query.y + 0.5
    unit = splits.test.format.units[0]
    np.testing.assert_allclose(kind.of(off, tasks), [(0.5 * unit) ** 2] * 2, rtol=1e-5)
    scores = upstairs.evaluate(Ridge(), episodes, tasks=50)
    assert scores["mse"] < 0.2 * scores["baselines"]["support_mean"]["mse"], "each city is a line"
    assert set(scores["baselines"]) == {"support_mean", "ridge"}


def test_ridge_equals_numpys_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=generator).double(), torch.randn(6, 2, generator=generator).double()
    learner = Ridge()
    found = learner.predict(learner.adapt(Examples(x, y)), x)
    a, b = x.numpy() - x.numpy().mean(0), y.numpy() - y.numpy().mean(0)
    expected = a @ np.linalg.solve(a.T @ a + np.eye(3), a.T @ b) + y.numpy().mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    source = Source.from_function(lines, name="lines")
    check_learner(Ridge(), Episodes(source, shot=(2, 5), query=4).batch(range(3)))
    assert "ridge" in plain_baselines(source, None)


def lines(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    w, x = torch.randn(3, 2, generator=generator), torch.randn(count, 3, generator=generator)
    return x, x @ w


class Pictures:
    name = "pictures"

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(count, 1, 6, 6, generator=generator)
        return x, x.mean((1, 2, 3))[:, None].double()  # the type does not matter


LEARNERS = (
    "maml", "fomaml", "anil", "boil", "meta_sgd", "meta_curvature", "maml_pp", "cavia", "reptile", "t_net",
    "sparse_maml", "r2d2", "cnp", "lnp", "anp", "imaml", "es_maml", "learned_optimizer",
)  # fmt: skip


@pytest.mark.parametrize("learner", LEARNERS)
def test_three_inputs_and_two_outputs(learner: str, tmp_path: Path) -> None:
    source = Source.from_function(lines, name="lines")
    words = {"steps": 2, "tasks": 2, "validations": 1, "validation_tasks": 2, "quiet": True}
    run = upstairs.train(learner, data=Splits(source, source, source), out=tmp_path / "run", **words)
    assert run.settings.outputs == 2 and run.inputs.shape == (3,)
    again = upstairs.load(tmp_path / "run")
    task = Episodes(source, shot=5, query=4).batch([0])
    assert again.learner.solve(task)[..., :2].shape == (1, 4, 2)


def test_inputs_of_other_shapes(tmp_path: Path) -> None:
    source = function_source(Pictures())
    words = {"data": Splits(source, source, source), "steps": 1, "tasks": 2, "validations": 1, "validation_tasks": 2}
    run = upstairs.train("maml", out=tmp_path / "run", shot="2-4", quiet=True, **words)
    assert run.inputs.shape == (1, 6, 6)
    with pytest.raises(UpstairsError, match=r"cnp reads vectors and the inputs have shape \(1, 6, 6\)"):
        upstairs.train("cnp", out=tmp_path / "no", quiet=True, **words)


def test_settings_follow_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", [[f"c{k}", i, k * i] for k in range(9) for i in range(8)], ["city", "x", "y"])
    assert request_run("maml", data=str(path)).settings.task_kind == "regression"
    other = write(tmp_path / "other.csv", [[f"c{k}", i, k * i] for k in range(9) for i in range(8)], ["who", "x", "y"])
    assert request_run("maml", data=str(other)).settings.task_kind == "classification"
    assert request_run("maml", data=str(other), target="y").settings.task_kind == "regression"
    run = upstairs.train("maml", data=other, target="y", out=tmp_path / "run", steps=1, quiet=True)
    assert (run.settings.shot, run.settings.query) == ("5", 3) and run.inputs.format.task == "who"


def test_from_a_table_to_a_score(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", cities())
    words = ("--columns", "temp", "--target", "load", "--steps", 3, "--validations", 1, "--out", tmp_path / "run")
    status, _, err = call("train", "maml", "--data", path, *words)
    assert status == 0 and "240 rows of 12 tasks" in err, err
    status, out, err = call("evaluate", tmp_path / "run", "--tasks", 20, "--json", "--quiet")
    result = json.loads(out)
    assert status == 0 and set(result["baselines"]) == {"support_mean", "ridge", "scratch"}
    assert 1 < result["baselines"]["ridge"]["mse"] < result["baselines"]["support_mean"]["mse"] and result["ci95"] > 0
    fresh = write(tmp_path / "fresh.csv", cities(5))
    for data in (fresh, path):
        status, out, err = call("evaluate", tmp_path / "run", "--data", data, "--split", "all", "--tasks", 9, "--json")
        assert status == 0 and json.loads(out)["split"] == "all", err
    for more, message in [
        (("--words", 5), "--words is about texts"),
        (("--split", "group"), "--split is 'group'"),
        (("--query", 50), "--shot and --query are 55 together"),
        (("--target", "cost"), "has no column 'cost'"),
        (("--train-classes", 3), "has none"),
    ]:
        status, _, err = call("train", "maml", "--data", path, *more, "--steps", 1, "--out", tmp_path / "no", "--quiet")
        assert status == 2 and message in err and err.count("upstairs: ") == 1, err
    assert call("train", "maml", "--data", "glyphs", "--target", "y", "--out", tmp_path / "no")[0] == 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> upstairs.Run:
    folder = tmp_path_factory.mktemp("cities")
    path = write(folder / "cities.csv", cities())
    words = {"columns": "temp,hour", "target": "load,price", "validations": 1, "validation_tasks": 4, "quiet": True}
    return upstairs.train("r2d2", data=path, out=folder / "run", steps=30, **words)


def test_a_model_predicts_in_the_units_of_its_table(run: upstairs.Run, tmp_path: Path) -> None:
    own = [row for row in cities(14) if row[0] == "city 13"]
    support, rest = write(tmp_path / "few.csv", own[:12]), own[12:]
    model = run.adapt(support)
    assert model.labels == ["load", "price"]
    x, y = np.array([row[1:3] for row in rest]), np.array([row[4:6] for row in rest])
    found = model.predict(x)
    assert found.shape == y.shape and np.abs(found - y).mean() < 0.5 * np.abs(y - y.mean(0)).mean()
    form = run.inputs.format  # by hand
    seen = np.array([row[1:3] for row in own[:12]])
    scaled = (np.concatenate([seen, x]) - form.means[:2]) / form.scales[:2]
    scaled = torch.tensor(scaled, dtype=torch.float32)
    goals = torch.tensor((np.array([row[4:6] for row in own[:12]]) - form.means[2:]) / form.scales[2:]).float()
    with torch.no_grad():
        by_hand = run.learner.predict(run.learner.adapt(Examples(scaled[:12], goals)), scaled[12:]).numpy()
    np.testing.assert_allclose(found, by_hand * form.scales[2:] + form.means[2:], rtol=1e-4)
    again = upstairs.load_adapted(model.save(tmp_path / "model.safetensors"))
    np.testing.assert_allclose(again.predict(x), found, rtol=1e-6)
    alone = upstairs.load_adapted(model.save(tmp_path / "alone.safetensors", support=False))
    np.testing.assert_allclose(alone.predict(x), found, rtol=1e-6)
    pairs = run.adapt((seen, np.array([row[4:6] for row in own[:12]])))
    for one in (x[0], x[0].tolist(), {"temp": x[0, 0], "hour": x[0, 1], "note": "-"}, [x[0]], x[:1]):
        np.testing.assert_allclose(pairs.predict(one), found[:1], rtol=1e-5)
    cases = [
        (lambda: run.adapt({"a": [1]}), "has no labels: give .inputs, targets."),
        (lambda: run.adapt((seen, np.zeros(12))), "12 inputs: give 2 finite numbers as targets for each"),
        (lambda: run.adapt((seen, ["a"] * 24)), "12 inputs: give 2 finite numbers as targets for each"),
        (lambda: run.adapt(support, unknown=0.1), "`unknown`, `columns` and `pattern` are about labels"),
        (lambda: run.adapt(write(tmp_path / "all.csv", cities())), "has rows of several tasks in 'city'"),
        (lambda: model.predict([1.0]), "give 2 numbers: temp, hour"),
        (lambda: model.predict([x[0], ["a", "b"]]), "input 1 is .* give 2 numbers: temp, hour"),
        (lambda: model.predict({"temp": 1}), "has no 'hour': give temp, hour"),
        (lambda: model.predict_proba(x), "predicts numbers and names no classes"),
        (lambda: model.evaluate((x, y), columns="a,b"), "`columns` and `pattern` are about labels"),
        (lambda: model.evaluate((x[:1], y[:1])), "1 example: give two or more"),
    ]
    for call, message in cases:
        with pytest.raises(UpstairsError, match=message):
            call()


def test_a_model_is_scored_in_the_units_of_its_table(run: upstairs.Run, call: Call, tmp_path: Path) -> None:
    own = [row for row in cities(14) if row[0] == "city 13"]
    model, rest = run.adapt(write(tmp_path / "few.csv", own[:12])), write(tmp_path / "rest.csv", own[10:])
    x, y = np.array([row[1:3] for row in own[10:]]), np.array([row[4:6] for row in own[10:]], float)
    score, error = model.evaluate(rest), model.predict(x) - y
    for k, (name, found) in enumerate(score["targets"].items()):
        assert name == ("load", "price")[k] and found["rmse"] == pytest.approx(
            (error[:, k] ** 2).mean() ** 0.5, rel=1e-4
        )
        assert found["r2"] == pytest.approx(
            1 - (error[:, k] ** 2).sum() / ((y[:, k] - y[:, k].mean()) ** 2).sum(), rel=1e-3
        )
        for what in ("rmse", "r2"):
            assert found[f"{what}_interval"][0] < found[what] < found[f"{what}_interval"][1]
    assert score["examples"] == 10 and score["repeated"] == 2
    assert model.evaluate((x, y)) == score
    file = model.save(tmp_path / "m.safetensors")
    status, out, _ = call("evaluate", file, "--data", rest, "--quiet")
    assert status == 0 and "load: root mean squared error" in out and "over 10 examples" in out
    assert "2 of them are support examples, so the error is too low" in out
    assert json.loads(call("evaluate", file, "--data", rest, "--json")[1])["targets"].keys() == {"load", "price"}
    status, _, err = call("evaluate", file, "--data", rest, "--out", tmp_path / "a.png")
    assert status == 2 and "predicts numbers, which are not confused: leave it out" in err


def test_adapt_and_predict_a_table(run: upstairs.Run, call: Call, tmp_path: Path) -> None:
    own = [row for row in cities(14) if row[0] == "city 13"]
    support, model = write(tmp_path / "few.csv", own[:6]), tmp_path / "model.safetensors"
    status, out, err = call("adapt", run.path, "--support", support, "--out", model)
    assert status == 0 and "predicts numbers from 6 examples (load, price)" in out, err
    fresh = write(tmp_path / "fresh.csv", [[row[2], row[1]] for row in own[6:9]], ["hour", "Temp"])
    expected = upstairs.load_adapted(model).predict(np.array([row[1:3] for row in own[6:9]]))
    rows = json.loads(call("predict", model, fresh, "--json")[1])
    np.testing.assert_allclose([[row["load"], row["price"]] for row in rows], expected)
    assert (
        call("predict", model, fresh)[1].splitlines()[0].startswith(f"{fresh}: row 1\tload {expected[0, 0]:.6g}\tprice")
    )
    assert call("predict", model, fresh, "--out", tmp_path / "answers.csv")[0] == 0
    assert (tmp_path / "answers.csv").read_text().splitlines()[0] == "input,load,price"
    status, _, err = call("predict", model, write(tmp_path / "bad.csv", [["x", 1]], ["hour", "temp"]))
    assert status == 2 and "row 1 has no number as hour" in err and err.count("upstairs: ") == 1


def test_a_run_on_functions_adapts_to_arrays(tmp_path: Path) -> None:
    source = Source.from_function(lines, name="lines")
    words = {"steps": 2, "tasks": 2, "validations": 1, "validation_tasks": 2, "quiet": True}
    for learner in ("maml", "cnp"):
        run = upstairs.train(learner, data=Splits(source, source, source), out=tmp_path / learner, **words)
        x, y = lines(5, torch.Generator().manual_seed(3))
        model = run.adapt((x, y))
        assert model.labels == ["y1", "y2"] and model.predict(x).shape == (5, 2)
        with torch.no_grad():
            expected = run.learner.predict(run.learner.adapt(Examples(x, y)), x)[:, :2]
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
