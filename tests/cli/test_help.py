"""Help that is quick and true: a learner's own options with its real defaults, and whose option an unknown one is."""

import os
import re
import resource
import subprocess
import sys

import pytest

from upstairs.learners.registry import LEARNERS
from upstairs.settings import options_in

QUICK = """
import sys
from upstairs.cli import main
sys.argv = ["upstairs", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "scipy", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-c", QUICK, *words]
    return subprocess.run(code, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})


@pytest.mark.parametrize(
    "words", ["--help", "train --help", "train maml --help", "search protonet --help", "evaluate --help", "list"]
)
def test_help_needs_no_torch_and_half_a_second(words: str) -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = run(*words.split())
        assert done.returncode == 0, done.stderr
        spent.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    assert min(spent) < 0.5, spent


def lines_of(*words: str) -> dict[str, str]:
    """What the help says of each option, in one line."""
    found, name = {}, ""
    for line in run(*words, "--help").stdout.splitlines():
        if start := re.match(r"│ (--[\w-]+)", line):
            name = start[1]
        found[name] = f"{found.get(name, '')} {line.strip('│ ')}"
    return found


def test_a_learners_help_has_its_own_options_with_their_real_defaults() -> None:
    maml, protonet, process = (lines_of("train", name) for name in ("maml", "protonet", "cnp"))
    assert "(default: 0.4; for regression 0.01)" in maml["--inner-lr"] and "(default: 1)" in maml["--inner-steps"]
    assert "(default: 60)" in protonet["--way"] and "(default: 0.8)" in protonet["--scale"]
    assert "(default: 0.003; for regression 0.001)" in maml["--lr"] and "(default: 0.002)" in protonet["--lr"]
    assert "(default: 3-20)" in process["--shot"]
    assert not {"--scale", "--views", "--critic-steps"} & maml.keys()
    assert not {"--inner-lr", "--inner-steps", "--inner-batch", "--critic-steps"} & protonet.keys()
    assert "(default: 0.1)" in lines_of("train", "omniglot_maml")["--inner-lr"]


def test_help_without_a_name_has_the_common_options_and_says_where_the_others_are() -> None:
    common, own = lines_of("train"), {name for line in LEARNERS.values() for name in options_in(line.options)}
    assert {"--data", "--way", "--width", "--lr", "--seed"} <= common.keys()
    assert not {f"--{name.replace('_', '-')}" for name in own} & common.keys()
    assert "`upstairs train NAME --help`" in run("train", "--help").stdout


def test_an_option_of_other_learners_says_whose_it_is(call) -> None:
    status, out, err = call("train", "protonet", "--inner-lr", 0.1, "--steps", 1)
    assert status == 2 and out == "" and err.count("\n") == 1, err
    assert "--inner-lr is an option of anil, " in err and "and the learner is protonet: leave it out" in err
    status, _, err = call("search", "maml", "--vary", "scale=0.1..1", "--steps", 1)
    assert status == 2 and "--scale is an option of " in err and "the learner is maml" in err, err
    status, _, err = call("train", "--inner-lr", 0.1)
    assert status == 2 and "--inner-lr is an option of anil" in err and "name the learner" in err, err


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("train", "protonet", "--way", 0), "--way is 0: it must be at least 1"),
        (("train", "maml", "--data", "sinusoid", "--way", 0), "--way is 0"),
        (("train", "dagan", "--way", 5), "--way is 5 and 'dagan' makes more of one class"),
        (("train", "maml", "--inner-steps", -1), "--inner-steps is -1: it must be at least 0"),
        (("train", "maml", "--inner-lr", 0), "--inner-lr is 0.0: it must be above 0"),
        (("train", "nothing"), "there is no learner 'nothing'"),
        (("train",), "no learner was named"),
        (("nothing",), "there is no command 'nothing'"),
    ],
)
def test_values_that_cannot_be(call, words: tuple[object, ...], needed: str) -> None:
    status, out, err = call(*words)
    assert status == 2 and needed in err and err.count("\n") == 1 and out == "", err
