# ruff: noqa: T201
"""Classify all 150 intents of CLINC150 from a few examples each, and detect out-of-scope texts, by closed-form heads.

    OMP_NUM_THREADS=1 python benchmarks/intents.py CLINC150 ENCODER

ENCODER is the folder of a sentence encoder. Nothing is meta-trained, since every intent is in the test: the
learners are `protonet` and `r2d2` on the encoder's features, and `protonet` on hashed tokens with TF-IDF of the
support texts (no encoder). `intents_setfit.py`, in another environment, is the comparison. The seconds to adapt
include the encoding of the support texts. The threshold for "none of these" is that of `threshold(share=0.1)`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intents_data import chosen_examples, read, test_set
from record import surroundings, write
from torch import Tensor, nn

from upstairs.core import Examples, evaluating
from upstairs.data.text.embeddings import encode_layers
from upstairs.data.text.hashed import TextFormat
from upstairs.learners import R2D2, ProtoNet
from upstairs.learners.open_set import auroc, max_logit, max_probability, threshold
from upstairs.nets import begin_at_idf, text_net


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("encoder")
    words.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10])
    words.add_argument("--seed", type=int, default=0)
    chosen = words.parse_args()
    encode_layers(chosen.encoder, ["the encoder is loaded before the clock starts"])
    test, strange = test_set(chosen.data), read(chosen.data, "oos_test")
    asked = [text for text, _ in (*test, *strange)]
    frozen = encoded(chosen.encoder, asked)
    rows = []
    for shot in chosen.shots:
        examples = chosen_examples(chosen.data, shot, chosen.seed)
        names = sorted({intent for _, intent in examples})
        y = torch.tensor([names.index(intent) for _, intent in examples])
        true = torch.tensor([names.index(intent) for _, intent in test])
        way, started, busy = len(names), time.perf_counter(), time.process_time()
        z = encoded(chosen.encoder, [text for text, _ in examples])
        spent = time.perf_counter() - started, time.process_time() - busy
        hashed, tokens = on_tokens([text for text, _ in examples], asked)
        for name, learner, support, query in (
            ("protonet, frozen", ProtoNet(nn.Identity(), way=way, scale=10.0), z, frozen),
            ("r2d2, frozen", R2D2(nn.Identity(), way=way, strength=1.0, scale=10.0), z, frozen),
            ("protonet, hashed tokens", ProtoNet(nn.Identity(), way=way, scale=0.1), hashed, tokens),
        ):
            own = spent if "frozen" in name else (0.0, 0.0)
            rows.append({"learner": name, "shot": shot, **measure(learner, support, y, query, true, own)})
            print(json.dumps(rows[-1]), flush=True)
    write("intents", {"seed": chosen.seed, "rows": rows, "surroundings": surroundings()})


def encoded(encoder: str, texts: list[str]) -> Tensor:
    """Return features of these texts, computed in batches of 64 with similar lengths."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = [encode_layers(encoder, [texts[i] for i in order[k : k + 64]])[:, 0] for k in range(0, len(order), 64)]
    return torch.from_numpy(np.concatenate(found))[np.argsort(order)]


def on_tokens(support: list[str], asked: list[str]) -> tuple[Tensor, Tensor]:
    """The embeddings that a network from scratch starts with, rare tokens counted in the support texts."""
    form = TextFormat(28)
    rows = [np.stack([form.read(text) for text in texts]) for texts in (support, asked)]
    torch.manual_seed(0)
    net = text_net("bag", 64, words=28)
    begin_at_idf(net, rows[:1])
    with evaluating(net):
        parts = [
            torch.cat([net(torch.from_numpy(r[i : i + 200].astype(np.float32))) for i in range(0, len(r), 200)])
            for r in rows
        ]
    return parts[0], parts[1]


def measure(
    learner: Any, support: Tensor, y: Tensor, query: Tensor, true: Tensor, spent: tuple[float, float]
) -> dict[str, Any]:
    """Return the accuracy with its binomial interval, the seconds to adapt, and the scores on out-of-scope texts."""
    examples, known = Examples(support, y, torch.ones(len(y), dtype=torch.bool)), len(true)
    started, busy = time.perf_counter(), time.process_time()
    with evaluating(learner):
        state = learner.adapt(examples)
        seconds, cpu = time.perf_counter() - started, time.process_time() - busy
        logits = learner.predict(state, query)
    right = logits[:known].argmax(-1) == true
    row: dict[str, Any] = {
        "accuracy": float(right.double().mean()), "ci95": float(1.96 * right.double().std() / known**0.5),
        "adapt_seconds": spent[0] + seconds, "adapt_cpu_seconds": spent[1] + cpu,
    }  # fmt: skip
    for score in (max_logit, max_probability):
        scores = score(logits).double()
        bar = threshold(learner, examples, share=0.1, score=score)
        taken = scores >= bar
        row[score.__name__] = {
            "auroc": auroc(scores[:known].numpy(), scores[known:].numpy()),
            "known_accepted": float(taken[:known].double().mean()),
            "unknown_accepted": float(taken[known:].double().mean()),
            "accuracy_at_threshold": float((taken[:known] & right).double().mean()),
        }
    return row


if __name__ == "__main__":
    main()
