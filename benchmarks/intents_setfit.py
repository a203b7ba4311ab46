# ruff: noqa: T201
"""Measure SetFit (Tunstall et al. 2022) on all intents of CLINC150, for comparison with `intents.py`.

    OMP_NUM_THREADS=1 python benchmarks/intents_setfit.py CLINC150 ENCODER --sampling undersampling

It needs `setfit` and not Upstairs: use a separate environment. All settings are the defaults of `setfit` except for
the training pairs. By default (`oversampling`) they are every pair of unlike examples, 2.2 million here.
`undersampling` takes each pair of like examples once and the same number of unlike ones; a number is its
`num_iterations`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from intents_data import chosen_examples, test_set
from record import surroundings, write


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("encoder")
    words.add_argument("--shot", type=int, default=10)
    words.add_argument("--sampling", default="undersampling")
    words.add_argument("--seed", type=int, default=0)
    chosen = words.parse_args()
    train, test = chosen_examples(chosen.data, chosen.shot, chosen.seed), test_set(chosen.data)
    result = measure(train, test, chosen.encoder, chosen.sampling) | {"shot": chosen.shot, "seed": chosen.seed}
    print(json.dumps(result, indent=1), flush=True)
    write(f"intents-setfit-{chosen.sampling}", result | {"surroundings": surroundings()})


def measure(train: list[tuple[str, str]], test: list[tuple[str, str]], encoder: str, sampling: str) -> dict[str, Any]:
    """Return the seconds to adapt in wall-clock and CPU time (without loading the encoder), and the accuracy."""
    import setfit
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    texts, labels = zip(*train, strict=True)
    model = SetFitModel.from_pretrained(encoder, labels=sorted(set(labels)))
    pairs = {"num_iterations": int(sampling)} if sampling.isdigit() else {"sampling_strategy": sampling}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, save_strategy="no", report_to="none", show_progress_bar=False, **pairs
        )
        data = Dataset.from_dict({"text": list(texts), "label": list(labels)})
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        started, busy = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    started = time.perf_counter()
    found = model.predict([text for text, _ in test])
    right = [str(a) == b for a, (_, b) in zip(found, test, strict=True)]
    return {
        "setfit": setfit.__version__, "sampling": sampling, "adapt_seconds": seconds, "adapt_cpu_seconds": busy,
        "predict_seconds": time.perf_counter() - started, "accuracy": sum(right) / len(right),
    }  # fmt: skip


if __name__ == "__main__":
    main()
