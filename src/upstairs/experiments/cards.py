"""Result cards (the protocol, the score and the published number, as json and in words) and tables of several cards.

A card states first where it deviates from the published protocol (a shorter training, fewer seeds), and only a run of
the whole protocol can be said to have reproduced a number.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from upstairs.errors import UpstairsError
from upstairs.experiments.published.protocol import SEEDS
from upstairs.statistics import write_interval
from upstairs.training.trainer import choose_device

Card = dict[str, Any]
BEGIN, END = "<!-- begin: upstairs results -->", "<!-- end: upstairs results -->"


def read_card(path: Path) -> Card:
    """Reads a card's json.

    Raises:
        UpstairsError: the file cannot be read, or is no card.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UpstairsError(f"{path} cannot be read ({error}): give the card.json that `reproduce` wrote") from error
    if not isinstance(card, dict) or card.get("kind") != "result card":
        raise UpstairsError(f"{path} is no result card: give the card.json that `reproduce` wrote")
    return card


def deviations(card: Card) -> list[str]:
    """Returns how the card's run deviates from the published protocol, the most important deviation first."""
    found = []
    done, whole = min(s["steps"] for s in card["seeds"]), card["protocol"]["steps"]
    if card["budget"] is not None or done < whole:
        found.append(f"shorter than published: {done:,} of {whole:,} steps; not the same protocol")
    if len(card["seeds"]) < SEEDS:
        found.append(f"{len(card['seeds'])} of {SEEDS} seeds")
    return found


def verdict(card: Card) -> str:
    """Compares the card's score with the published number, in a sentence."""
    published, score = card["published"], card["score"]
    if published is None:
        return "There is no published number to compare with."
    number, less = published["number"], card["unit"] == "mse"
    half = max(score["ci95"], score["ci95_seeds"] or 0.0)
    gap = (number - score["mean"]) * (-1 if less else 1)  # above 0: short of it
    stands = "at it or better" if gap <= 0 else "within the interval of it" if gap <= half else "short of it"
    whole = f"The published number is {card_number(card, number)}"
    if deviations(card):
        return f"{whole}, of the whole protocol: this shorter run is {stands}."
    if card["differs"]:
        return f"{whole}: this run is {stands}, by a protocol that differs as said below."
    return f"{whole}: {'reproduced' if gap <= half else 'not reproduced'} ({stands})."


def card_number(card: Card, value: float, ci95: float | None = None, digits: int | None = None) -> str:
    """Writes an accuracy (0 to 1 on a card) in per cent, a squared error as it is."""
    share = card["unit"] != "mse"
    return write_interval(value, ci95, percent=share, digits=digits or (1 if share else 2))


def interval_of(card: Card, score: dict[str, Any]) -> str:
    return card_number(card, score["mean"], score["ci95"])


def card_markdown(card: Card) -> str:
    """Returns the card as Markdown; deviations from the published protocol come first."""

    def half(value: float | None) -> str:
        return f" ± {(1 if card['unit'] == 'mse' else 100) * value:.2f}" if value else ""

    first = [f"**{line[0].upper()}{line[1:]}.**" for line in deviations(card)]
    score, published = card["score"], card["published"]
    over = f",{half(score['ci95_seeds'])} over {len(card['seeds'])} seeds" if score["ci95_seeds"] else ""
    kind = "transductive: it sees all queries of a task at once" if card["transductive"] else "inductive"
    rows = [(f"{card['title']} ({kind})", interval_of(card, score) + over)]
    if card["inductive"]:
        rows.append(("the same, each query alone", interval_of(card, card["inductive"])))
    for name, own in card["baselines"].items():
        dagger = " †" if own["transductive"] else ""
        rows.append((f"{name.replace('_', ' ')}{dagger} (baseline)", interval_of(card, own)))
    if published:
        number = card_number(card, published["number"], digits=2) + half(published["ci95"])
        rows.append((f"published: {published['source']}", number))
    lines = [
        f"# {card['name']}", "", *first, *([""] if first else []), verdict(card), "",
        f"| {card['tasks']:,} test tasks, 95% intervals over tasks | {card['unit']} |", "|---|---|",
        *(f"| {what} | {number} |" for what, number in rows), "",
        *(f"- {line}" for line in [*card["words"], *(f"Differs: {line}." for line in card["differs"])]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def results_table(cards: Sequence[Card]) -> str:
    """Returns a table with one row for each card: its score, its budget and the published number."""
    if not cards:
        raise UpstairsError("no card was given: write `upstairs results CARD...`")
    lines = [
        "| experiment | here | each query alone | published | steps | minutes | seeds | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        published = card["published"]
        lines.append(
            f"| `{card['name']}` | {interval_of(card, card['score'])}{' †' if card['transductive'] else ''} | "
            f"{interval_of(card, card['inductive']) if card['inductive'] else ''} | "
            f"{card_number(card, published['number'], digits=2) if published else '–'} | "
            f"{min(s['steps'] for s in card['seeds']):,} of {card['protocol']['steps']:,} | "
            f"{sum(s['seconds'] for s in card['seeds']) / 60:.0f} | {len(card['seeds'])} of {SEEDS} | "
            f"{short_commit(card)} |"
        )
    notes = ["† transductive. Steps are those of each seed, of the published protocol's; minutes those of all seeds."]
    for card in cards:
        shorter = "; ".join(deviations(card))
        where = ", ".join(filter(None, [card["machine"]["summary"], card["note"]]))
        notes.append(f"- `{card['name']}`: {f'{shorter}. ' if shorter else ''}{verdict(card)} {where}.")
    return "\n".join([*lines, "", *notes])


def short_commit(card: Card) -> str:
    """Returns the first nine letters of the commit, with a + where files differed from it."""
    commit = card["commit"] or "?"
    return commit.rstrip("+")[:9] + "+" * commit.endswith("+")


def put_between(page: str, part: str, *, name: str) -> str:
    """Returns the page with `part` between its two marker lines.

    Raises:
        UpstairsError: a marker is missing, or they are in the wrong order.
    """
    start, end = page.find(BEGIN), page.find(END)
    if start < 0 or end < start:
        raise UpstairsError(f"{name} has no place for the table: put the lines {BEGIN} and {END} where it belongs")
    return f"{page[: start + len(BEGIN)]}\n{part}\n{page[end:]}"


def machine(asked: str) -> dict[str, Any]:
    """Describes the processor or GPU of the run."""
    device = choose_device(asked)
    model = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cores, threads = os.cpu_count(), torch.get_num_threads()
    summary = gpu or f"{model}, {cores} cores, {threads} thread{'s' * (threads > 1)} used"
    return {"summary": summary, "processor": model, "cores": cores, "threads": threads, "gpu": gpu}


def commit() -> str | None:
    """Returns the commit of the package, with a + where files differ from it; None outside a repository."""
    try:
        found, changed = (
            subprocess.run(
                ["git", "-C", str(Path(__file__).parents[1]), *words], capture_output=True, encoding="utf-8", check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno", "--", "."))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + "+" * bool(changed)
