"""Several workers on one folder: exactly what was asked for is done, once, also where one of them is killed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from helpers.workers import run_workers

WORK = """
from dataclasses import replace
import upstairs.experiments.reproduce as reproduction
import upstairs.training.trainer as trainer

reproduction.TEST_TASKS = 10
experiment = reproduction.find_experiment("sinusoid-5s-maml")
less = {"steps": 20, "compile": "off", "validations": 2, "validation_tasks": 2, "width": 4}
few = replace(experiment, row=replace(experiment.row, settings=experiment.row.settings | less))
reproduction.find_experiment = lambda name: few
reproduce = ["reproduce", "sinusoid-5s-maml", "--tasks", 10, "--json"]
search_maml = ["search", "maml", "--vary", "lr=1e-4..1e-1:log", "--data", "sinusoid", "--width", 4, "--steps", 2,
               "--tasks", 1, "--validations", 1, "--validation-tasks", 2, "--compile", "off", "--quiet"]
take_step = trainer.take_step

def work_on_seeds(number):
    "Worker 1 dies after its first validation; the others take their first step then."
    def step(run):
        if number == 1 and run.progress.step == 15:
            die("killed")
        wait_for("killed") if number != 1 else None
        log(number, run.settings.seed, run.progress.step)
        return take_step(run)

    trainer.take_step = step
    command(*reproduce, "--seeds", 5, "--out", "shared")

def work_on_trials(number):
    "Worker 1 dies in its first trial."
    import upstairs.experiments.search as search
    train_run = search.train_run

    def train(run, tell):
        log(number, run.settings.lr)
        die("killed") if number == 1 else wait_for("killed")
        return train_run(run, tell)

    search.train_run = train
    command(*search_maml, "--trials", 7, "--out", "shared/mine")

sys.stdout = open(os.devnull, "w")
command(*reproduce, "--seeds", 1, "--out", "warm")
four("seeds", work_on_seeds)
try:
    import optuna
except ImportError:
    pass
else:
    command(*search_maml, "--trials", 1, "--out", "warm/mine")
    four("trials", work_on_trials)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which four workers each have reproduced and searched."""
    folder = tmp_path_factory.mktemp("workers")
    run_workers(WORK, folder)
    return folder


def said_by(folder: Path) -> str:
    """What the workers wrote on standard error; only worker 1 was killed."""
    said = "".join((folder / f"err-{n}").read_text() for n in range(4))
    assert json.loads((folder / "statuses").read_text()) == [0, -9, 0, 0], said
    return said


def logged(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def test_four_reproductions_share_the_seeds_and_go_on_where_a_dead_one_was_stopped(done: Path) -> None:
    folder = done / "seeds"
    said = said_by(folder)
    cards = [json.loads((folder / f"out-{n}").read_text()) for n in (0, 2, 3)]
    assert cards[0] == cards[1] == cards[2] and [seed["steps"] for seed in cards[0]["seeds"]] == [20] * 5
    steps = [tuple(map(int, words)) for words in logged(folder)]
    (dead,) = {seed for worker, seed, _ in steps if worker == 1}
    for seed in range(5):
        who = {worker for worker, of, _ in steps if of == seed} - {1}
        taken = [step for worker, of, step in steps if of == seed and worker != 1]
        assert len(who) == 1 and taken == list(range(10 if seed == dead else 0, 20)), (seed, who, taken)
    assert f"seed-{dead}: goes on where process" in said
    assert not list((folder / "shared").rglob("*.lock")), "a claim was left behind"


@pytest.mark.filterwarnings("ignore")  # of Optuna's own libraries
def test_four_searches_finish_the_trials_asked_for_and_replace_a_dead_ones(done: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed (extra [search])")
    folder = done / "trials"
    said = said_by(folder)
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "shared" / "search.journal"))
    trials = optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(journal)).trials
    states = Counter(trial.state.name for trial in trials if trial.params)
    assert states["COMPLETE"] + states["PRUNED"] == 7 and states["FAIL"] == 1, states
    started = logged(folder)
    assert len(started) == 8 == len({rate for _, rate in started}), "one twice, or too many"
    assert len(list((folder / "shared" / "mine").glob("trial-*/settings.json"))) == 8
    assert said.count("is dead: another takes its place") >= 1
    found = {(folder / f"out-{n}").read_text() for n in (0, 2, 3)}
    assert len(found) == 1 and "7 trials," in found.pop()
