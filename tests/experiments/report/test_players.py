"""The training curves of several players."""

from typing import Any

from upstairs.experiments.report.page import render
from upstairs.experiments.report.panels import draw_players, read_losses

HISTORY = [
    {"step": 10, "loss": 1.0, "loss_critic": 0.7, "loss_generator": 0.3, "accuracy": 0.5},
    {"step": 20, "loss": 2.0, "loss_critic": 0.6, "loss_generator": float("nan"), "accuracy": 0.6},
    {"step": 30, "loss": 1.5, "loss_critic": 0.5, "loss_generator": 1.0, "accuracy": 0.6},
]


def test_a_loss_for_each_player() -> None:
    run = {"learner": "dagan", "history": HISTORY}
    assert read_losses(run) == {"critic": {10: 0.7, 20: 0.6, 30: 0.5}, "generator": {10: 0.3, 30: 1.0}}
    (panel,) = draw_players([run, {"learner": "protonet", "history": [{"step": 1, "loss": 1.0}]}])
    assert panel.table.headers == ["meta-steps", "critic", "generator"]
    assert panel.table.rows[1] == ["20", "0.6", ""] and "critic from 0.7 to 0.5" in panel.says
    assert panel.svg.count("<svg") == 1


def test_they_stand_in_the_page(report: dict[str, Any]) -> None:
    assert "The players of" not in render(report)
    report["runs"][0]["history"] = HISTORY
    assert "The players of" in render(report)
