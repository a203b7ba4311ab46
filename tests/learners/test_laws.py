"""Every learner in the table keeps the laws, and the suite catches one that does not."""

import pytest
import torch
from torch import Tensor, nn

from helpers.runs import settings_of
from helpers.tasks import WAY, blobs, sinusoids
from upstairs.core import Examples, squared_error
from upstairs.errors import UpstairsError
from upstairs.learners import LEARNERS, SGD, GradientLearner, ProtoNet, make_learner, nearest_centroid, scratch
from upstairs.nets import conv4, mlp, sound_conv
from upstairs.testing import LAWS, check_learner

HEAD = {"relabelled": "starts from a head whose outputs are not alike"}
BATCH = {"padding": "counts padding in the statistics of the batch"}
LABELS = {"relabelled": "reads labels by weights that are not alike"}
EXPECTED = {
    "maml": HEAD, "fomaml": HEAD, "anil": HEAD, "boil": HEAD, "maml_pp": HEAD, "meta_sgd": HEAD,
    "meta_curvature": HEAD, "imaml": HEAD, "cavia": HEAD, "reptile": HEAD, "es_maml": HEAD, "mtl": HEAD,
    "protonet": {}, "matchingnet": {}, "relationnet": {}, "dn4": {}, "r2d2": {}, "metaoptnet": {}, "proto_maml": {},
    "unicorn_maml": {}, "simpleshot": {}, "co_training": {}, "baseline_pp": {}, "bd_cspn": {},
    "hypernetwork": {}, "film": {},
    "versa": {"relabelled": "has noise for each class's place"},
    "caml": {}, "snail": LABELS, "in_context": LABELS, "lstm": LABELS, "memory": LABELS,
    "learned_optimizer": HEAD,
    "sparse_maml": HEAD, "t_net": HEAD, "early_exit": {}, "metanas": {"gradients": "has operations that were pruned"},
    "neural_statistician": {}, "redrawing": {},
    "dagan": {"support_order": "draws after the support picture that its noise numbers"},
}  # fmt: skip
PICTURES = ("dagan", "redrawing")
GENERATE = [name for name, line in LEARNERS.items() if line.generation is not None]
CLASSIFY = [name for name, line in LEARNERS.items() if line.classification is not None]


@pytest.mark.parametrize("name", CLASSIFY)
def test_table_on_vectors(name: str) -> None:
    torch.manual_seed(0)
    settings = settings_of(learner=name, net="mlp", norm="none", width=8, inner_lr=0.1)
    check_learner(make_learner(settings, (8,), WAY), blobs(), expected_failures=EXPECTED[name])


@pytest.mark.parametrize("norm", ["batch", "group", "none", "per_step", "population"])
@pytest.mark.parametrize("name", CLASSIFY)
def test_table_on_images(name: str, norm: str) -> None:
    torch.manual_seed(0)
    learner = make_learner(settings_of(learner=name, norm=norm, width=8, inner_lr=0.1), (1, 16, 16), WAY).eval()
    expected = EXPECTED[name] | (BATCH if norm == "batch" else {})
    check_learner(learner, blobs(shape=(1, 16, 16)), expected_failures=expected)


@pytest.mark.parametrize("shape", [(8,), (1, 16, 16)])
@pytest.mark.parametrize("name", GENERATE)
def test_table_of_generators(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = "mlp" if len(shape) == 1 else "conv4"
    settings = settings_of(learner=name, way=1, net=net, norm="none", width=8, inner_lr=0.01, inner_steps=3)
    if name in PICTURES and len(shape) == 1:
        with pytest.raises(UpstairsError, match="takes pictures"):
            make_learner(settings, shape, 1)
        return
    learner = make_learner(settings, shape, 1).eval()
    check_learner(learner, blobs(way=1, query=4, shape=shape), expected_failures=EXPECTED[name])


def test_baselines_and_regression() -> None:
    torch.manual_seed(0)
    check_learner(nearest_centroid(way=WAY), blobs())
    check_learner(scratch(mlp((8,), out=WAY), way=WAY), blobs(), expected_failures=HEAD)
    net = mlp((1,), out=1)
    check_learner(GradientLearner(net, SGD(0.01), way=None, loss_fn=squared_error), sinusoids())


class Leaky(ProtoNet):
    """Breaks most laws: keeps state on itself, lets queries see each other, ignores the mask, minds the order."""

    def adapt(self, support: Examples, /) -> Tensor:
        self.seen = len(support.x)
        return self.encoder(support.x)[:WAY] + 0 * self.unused.sum()

    def predict(self, state: Tensor, x: Tensor, /) -> Tensor:
        z = self.encoder(x)
        return -(z - z.mean(0))[:, None].sub(state).square().sum(-1)


def test_suite_catches_a_bad_learner() -> None:
    torch.manual_seed(0)
    bad = Leaky(nn.Linear(8, 4), way=WAY)
    bad.unused = nn.Parameter(torch.zeros(2))
    with pytest.raises(AssertionError) as caught:
        check_learner(bad, blobs())
    for law in ("pure", "support_order", "queries_apart", "gradients"):
        assert f"{law}:" in str(caught.value)


def test_suite_refuses_a_stale_excuse() -> None:
    with pytest.raises(AssertionError, match="kept, though expected"):
        check_learner(nearest_centroid(way=WAY), blobs(), expected_failures={"padding": "never mind"})
    with pytest.raises(AssertionError, match="no such law"):
        check_learner(nearest_centroid(way=WAY), blobs(), expected_failures={"typo": "x"})
    assert len(LAWS) == 10


def test_conv4_is_conv4() -> None:
    """113,088 weights: 4 blocks of 64 (Snell 2017 counts the biases too; batch norm makes them idle)."""
    assert sum(p.numel() for p in conv4((1, 28, 28)).parameters()) == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64


@pytest.mark.parametrize("shape", [(1, 16, 20), (1, 33, 47), (1, 40, 61), (1, 64, 100)])
def test_sound_conv_of_any_shape(shape: tuple[int, ...]) -> None:
    net = sound_conv(shape, width=6, norm="none", out=WAY)
    assert net(torch.rand(2, *shape)).shape == (2, WAY)
    weights = [p.shape for name, p in net.named_parameters() if "block" in name and name.endswith("weight")]
    assert weights == [(3, 1, 3, 3), (6, 3, 3, 3), (6, 6, 3, 3), (6, 6, 3, 3)] and net.block0[0].stride == (2, 2)
