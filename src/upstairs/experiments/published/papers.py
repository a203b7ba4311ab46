"""The table of published experiments. Numbers are those of the papers; where one is not known for sure it is left out.

What a paper does not say, or what is otherwise here, stands in `differs`: a card repeats it.
"""

from typing import Any

from upstairs.experiments.published.protocol import Dataset, Row

OMNIGLOT = ((5, 1), (5, 5), (20, 1), (20, 5))
DATASETS = {
    "omniglot": Dataset(
        "Omniglot", "28x28 pixels, characters in four rotations, the classes of Vinyals et al. (2016)",
        "the folder with images_background.zip, images_evaluation.zip and splits/vinyals/{train,val,test}.txt",
        "vinyals", OMNIGLOT,
    ),
    "cifar-fs": Dataset(
        "CIFAR-FS", "32x32 pixels, the classes of Bertinetto et al. (2019)",
        "the folder with sheets/<class>.webp and splits/cifar-fs.json", "cifar-fs",
    ),
    "fc100": Dataset(
        "FC100", "32x32 pixels, the classes of Oreshkin et al. (2018): whole superclasses",
        "the folder with sheets/<class>.webp and splits/fc100.json", "fc100",
    ),
    "miniimagenet": Dataset(
        "mini-ImageNet", "84x84 pixels, the classes of Ravi and Larochelle (2017)",
        "images/ beside train.csv, val.csv and test.csv (columns filename and label), or train, val and test folders",
        None,
    ),
    "sinusoid": Dataset(
        "sinusoids", "y = a sin(x + b) (Finn et al. 2017, section 5.1)", "sinusoid", None, ((None, 5),)
    ),
    "arabic": Dataset(
        "Arabic Speech Commands", "24, 6 and 10 words, speakers shared: a split of this package",
        "the folder with index.tsv and the recordings", "published",
    ),
    "clinc150": Dataset(
        "CLINC150", "90, 30 and 30 intents by whole domains: a split of this package",
        "the folder with data_full.json and domains.json", "published",
    ),
}  # fmt: skip

FINN = "Finn, Abbeel and Levine 2017, table 1"
NICHOL = "Nichol, Achiam and Schulman 2018, table 2"
BERTINETTO = "Bertinetto et al. 2019, table 1"
LEE = "Lee et al. 2019, table 2"
OURS = "no published number: this recipe and its split are the package's own"
STRIDES = "the paper halves the picture by strided convolutions, here by max-pooling"
CLASSES = "the paper's 1,200 training characters are drawn at random, here they are Vinyals's"
LENGTH = "the paper trains until the validation loss stops falling; the number of steps is set here"
UNKNOWN = "the table does not say how it was trained: protocol of MAML's authors"
RETRAINED = "the paper trains once more with the validation classes, here they only choose the model"
ADAM = "the inner optimiser is SGD, the paper's is Adam without momentum"
NO_DROP = "no DropBlock and no colour jitter, which the paper has"

MAML: dict[str, Any] = {
    "norm": "batch", "width": 64, "tasks": 32, "inner_steps": 1, "inner_lr": 0.4, "lr": 1e-3,
    "schedule": "constant", "steps": 60_000, "validations": 60,
}  # fmt: skip
MAML_20 = {"tasks": 16, "inner_steps": 5, "inner_lr": 0.1}
HALVING = {"norm": "population", "lr": 1e-3, "schedule": "halve:2000", "width": 64, "tasks": 1, "validations": 50}
PHOTO_MAML = MAML | {
    "width": 32, "tasks": 4, "inner_steps": 5, "inner_lr": 0.01, "query": 15,
}  # fmt: skip
LEE_SGD: dict[str, Any] = {
    "norm": "population", "width": 64, "tasks": 8, "query": 6, "optimizer": "momentum", "lr": 0.1,
    "weight_decay": 5e-4, "schedule": "20000:0.06,40000:0.012,50000:0.0024", "steps": 60_000, "validations": 60,
    "jitter": True,
}  # fmt: skip
CHEN = {
    "norm": "population", "width": 64, "way": 8, "query": 1, "tasks": 1, "lr": 1e-3, "schedule": "constant",
    "jitter": True,
}  # fmt: skip
CO_TRAINING = {
    "norm": "population", "width": 64, "query": 1, "tasks": 1, "lr": 6e-3, "schedule": "cosine", "steps": 60_000,
    "validations": 60, "jitter": True, "views": 10,
}  # fmt: skip
DN4 = {
    "norm": "population", "width": 96, "query": 2, "tasks": 1, "lr": 3e-3, "schedule": "cosine", "steps": 60_000,
    "validations": 10, "mirror_classes": True, "train_on_validation": True,
}  # fmt: skip
MTL = {
    "norm": "population", "width": 64, "tasks": 4, "query": 15, "inner_steps": 20, "inner_lr": 0.01, "lr": 1e-4,
    "schedule": "halve:1000", "pretrain": 0.5, "hard": 0.1, "steps": 20_000, "jitter": True,
}  # fmt: skip


def at_way(way: int, settings: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    """These settings for both shots of a way; the others have none."""
    return {task: settings if task[0] == way else {} for task in OMNIGLOT}


def own_shots(tasks: tuple[tuple[int, int], ...], base: dict[tuple[int, int], dict[str, Any]]) -> dict[Any, Any]:
    """With as many queries of each class as there are shots."""
    return {task: {"query": task[1], **base.get(task, {})} for task in tasks}


def four(*numbers: tuple[float, float | None]) -> dict[tuple[int, int], tuple[float, float | None]]:
    return dict(zip(OMNIGLOT, numbers, strict=True))


def two(one: tuple[float, float | None], five: tuple[float, float | None]) -> dict[Any, Any]:
    return {(5, 1): one, (5, 5): five}


_REPTILE = {
    "norm": "batch", "width": 64, "tasks": 5, "inner_steps": 5, "inner_batch": 10, "inner_lr": 0.1, "lr": 1.0,
    "optimizer": "sgd", "schedule": "linear", "clip": 1e9, "query": 5, "steps": 100_000, "validations": 50,
}  # fmt: skip
_REPTILE_20 = {"inner_steps": 10, "inner_batch": 20, "steps": 200_000}
_STEPS_50 = dict.fromkeys(OMNIGLOT, 50)
_MAML_STEPS = {(5, 1): 3, (5, 5): 3, (20, 1): 5, (20, 5): 5}

ON_OMNIGLOT = (
    Row(
        "omniglot", "maml", MAML, four((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)), f"{FINN}; transductive",
        (STRIDES, CLASSES), at=own_shots(OMNIGLOT, at_way(20, MAML_20)), test_steps=_MAML_STEPS, test_query=None,
    ),
    Row(
        "omniglot", "fomaml", _REPTILE | {"lr": 1e-3, "optimizer": "adamw", "clip": 10.0, "inner_batch": None},
        four((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)), f"{NICHOL}; transductive",
        ("the outer optimiser is Adam, and each inner step sees the whole support set", ADAM),
        at=at_way(20, {"inner_steps": 10, "steps": 200_000}), test_steps=_STEPS_50,
    ),
    Row(
        "omniglot", "reptile", _REPTILE, four((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32)),
        f"{NICHOL}; transductive (alone: 95.39, 98.90, 88.14, 96.65)", (ADAM,),
        at=at_way(20, _REPTILE_20), test_steps=_STEPS_50, train_shot="10",
    ),
    Row(
        "omniglot", "meta_sgd", MAML | {"tasks": 16},
        four((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)), "Li et al. 2017, table 2; transductive",
        ("rates start at 0.4, the paper's are drawn from 0.005 to 0.1", CLASSES), at=own_shots(OMNIGLOT, {}),
        test_query=None,
    ),
    Row(
        "omniglot", "maml_pp", MAML | {"tasks": 16, "inner_steps": 5, "schedule": "cosine", "steps": 75_000},
        four((99.47, None), (99.93, None), (97.65, 0.05), (99.33, 0.03)), "Antoniou, Edwards and Storkey 2019, table 1",
        ("one model, where the paper averages five checkpoints", "the paper's own split of the classes"),
        at=own_shots(OMNIGLOT, at_way(20, {"tasks": 8, "inner_lr": 0.1})),
    ),
    Row(
        "omniglot", "protonet", HALVING | {"query": 5, "scale": 8.0, "steps": 40_000},
        four((98.8, None), (99.7, None), (96.0, None), (98.9, None)), "Snell, Swersky and Zemel 2017, table 1",
        (LENGTH, RETRAINED), train_way=60,
    ),
    Row(
        "omniglot", "matchingnet", HALVING | {"query": 5, "steps": 40_000},
        four((98.1, None), (98.9, None), (93.8, None), (98.5, None)),
        "Vinyals et al. 2016, table 1 (cosine, no fine-tuning)",
        ("the paper gives no optimiser and no number of steps: those of ProtoNet", "a learned scale of the cosine"),
    ),
    Row(
        "omniglot", "r2d2", HALVING | {"lr": 5e-3, "query": 5, "steps": 40_000}, {},
        "Bertinetto et al. 2019 (its Omniglot table is left out here: the numbers could not be checked)", (LENGTH,),
        train_way=60, train_shot="1-5",
    ),
    Row(
        "omniglot", "dn4", DN4, {}, OURS,
        ("a recipe of this package: the paper has photos, and a deeper map", "mirrored characters are classes too"),
        train_way=20, train_shot="1",
    ),
)  # fmt: skip


def _photos(data: str, *, conv: dict[str, Any], resnet: dict[str, Any], sources: dict[str, str]) -> tuple[Row, ...]:
    """The methods on one set of photos: numbers by learner for Conv4 and for ResNet-12."""

    def row(learner: str, settings: dict[str, Any], differs: tuple[str, ...], **more: Any) -> Row:
        deep = more.get("net") == "resnet12"
        numbers = (resnet if deep else conv).get(learner)
        source = sources.get(f"{learner}-resnet12" if deep else learner) or "no published number of this network here"
        return Row(data, learner, settings, two(*numbers) if numbers else {}, source, differs, **more)

    shots = ((5, 1), (5, 5))
    return (
        row("maml", PHOTO_MAML, (UNKNOWN,) if data != "miniimagenet" else (), test_steps=dict.fromkeys(shots, 10)),
        row(
            "protonet", HALVING | {"query": 15, "scale": 8.0, "steps": 40_000}, (LENGTH,), train_way=20,
            at={(5, 1): {"way": 30}} if data == "miniimagenet" else {},
        ),
        row("r2d2", HALVING | {"lr": 5e-3, "query": 15, "steps": 40_000}, (LENGTH,), train_way=20, train_shot="1-5"),
        row(
            "baseline_pp", CHEN | {"steps": 400_000},
            ("batches of 16 pictures of 8 classes", "heads start at the class means, the paper's at random"),
            train_shot="1",
        ),
        row("protonet", LEE_SGD | {"scale": 8.0}, (NO_DROP,), net="resnet12", train_way=5),
        row(
            "r2d2", LEE_SGD, (NO_DROP,), net="resnet12", train_way=5, train_shot="15" if data != "cifar-fs" else "5",
        ),
        row(
            "co_training", CO_TRAINING, ("a recipe of this package: the paper has a deeper network",), train_way=60,
            train_shot="1",
        ),
        row("mtl", MTL, ("the first stage classifies by cosine", NO_DROP), net="resnet12"),
    )  # fmt: skip


_BASELINES = f"{BERTINETTO} (their runs)"
ON_PHOTOS = (
    *_photos(
        "cifar-fs",
        conv={"maml": ((58.9, 1.9), (71.5, 1.0)), "protonet": ((55.5, 0.7), (72.0, 0.6)),
              "r2d2": ((60.0, 0.7), (76.1, 0.6))},
        resnet={"protonet": ((72.2, 0.7), (83.5, 0.5)), "r2d2": ((72.6, 0.7), (84.3, 0.5))},
        sources={"maml": _BASELINES, "protonet": _BASELINES, "protonet-resnet12": LEE, "r2d2-resnet12": LEE,
                 "r2d2": "Bertinetto et al., arXiv 1805.08136 v1, 64 filters (published, wider net: 65.3 and 79.4)"},
    ),
    *_photos(
        "fc100",
        conv={"maml": ((38.1, 1.7), (50.4, 1.0)), "protonet": ((35.3, 0.6), (48.6, 0.6))},
        resnet={"protonet": ((37.5, 0.6), (52.5, 0.6)), "r2d2": ((40.5, 0.6), (55.3, 0.6)),
                "mtl": ((45.1, 1.8), (57.6, 0.9))},
        sources={"maml": "Sun et al. 2019, table 2 (their run)", "protonet": "Oreshkin et al. 2018, as in " + LEE,
                 "protonet-resnet12": LEE, "r2d2-resnet12": LEE, "mtl-resnet12": "Sun et al. 2019, table 2"},
    ),
    *_photos(
        "miniimagenet",
        conv={"maml": ((48.70, 1.84), (63.11, 0.92)), "protonet": ((49.42, 0.78), (68.20, 0.66)),
              "baseline_pp": ((48.24, 0.75), (66.43, 0.63))},
        resnet={"protonet": ((59.25, 0.64), (75.60, 0.48)), "r2d2": ((61.41, 0.61), (77.88, 0.46)),
                "mtl": ((61.2, 1.8), (75.5, 0.8))},
        sources={"maml": FINN, "protonet": "Snell, Swersky and Zemel 2017, table 2",
                 "baseline_pp": "Chen et al. 2019, table 2", "protonet-resnet12": "Lee et al. 2019, table 3",
                 "r2d2-resnet12": "Lee et al. 2019, table 1", "mtl-resnet12": "Sun et al. 2019, table 1"},
    ),
)  # fmt: skip

_SINE = {
    "width": 40, "norm": "none", "query": 10, "tasks": 25, "inner_steps": 1, "inner_lr": 0.01, "lr": 1e-3,
    "schedule": "constant", "steps": 60_000, "validations": 60, "compile": "auto",
}  # fmt: skip
_LI = "Li et al. 2017, table 1 (5 examples, one step)"
OTHERS = (
    Row("sinusoid", "maml", _SINE, {(None, 5): (1.13, 0.18)}, _LI, net="mlp", test_query=100),
    Row("sinusoid", "meta_sgd", _SINE, {(None, 5): (0.90, 0.16)}, _LI, net="mlp", test_query=100),
    *(
        Row("arabic", learner, {"query": 3, "steps": 10_000}, {}, OURS, net="sound", train_way=20, train_shot="1-5")
        for learner in ("protonet", "r2d2")
    ),
    *(
        Row("clinc150", learner, {"query": 5, "steps": 5_000}, {}, OURS, net="bag", train_way=30, train_shot="1-5")
        for learner in ("protonet", "r2d2")
    ),
)
ROWS = (*ON_OMNIGLOT, *ON_PHOTOS, *OTHERS)
