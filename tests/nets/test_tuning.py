"""What is trained of a pretrained network, and runs that train one: pictures and sounds, any learner."""

import copy
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

import upstairs
from helpers.encoders import WIDTH, save_onnx, save_transformer, some_sound
from helpers.runs import Call, draw_folder
from helpers.tasks import blobs, double
from upstairs.data.encoded import encoded_format, prepared_format
from upstairs.data.open import open_splits
from upstairs.data.source import as_floats
from upstairs.encoders.base import Encoder, Modality
from upstairs.encoders.mobile import (
    HEAD,
    STEM,
    InvertedResidual,
    MobileConvolution,
    MobilePlan,
    fuse_frozen,
    mobile_network,
)
from upstairs.encoders.open import _opened
from upstairs.errors import UpstairsError
from upstairs.learners.gradient.maml import adapting
from upstairs.nets import PretrainedNetwork, tune
from upstairs.nets.tuning import RANK, LowRankConvolution, LowRankLinear, layers_of
from upstairs.settings import DataOptions, Tune

HOW: tuple[Tune, ...] = ("last", "norms", "lora", "all")
SOUNDS = ("wav2vec2", "whisper", "ast")
SECONDS = 0.5


def trained(net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


def saved(kind: str, path: Path) -> tuple[str, Modality]:
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    return str(save_transformer(kind, path)), "audio" if kind in SOUNDS else "image"


def some_items(modality: Modality, count: int = 6) -> list[Any]:
    rng = np.random.default_rng(0)
    if modality == "audio":
        return [(some_sound(0.4 + 0.1 * k, 16000, k), 16000) for k in range(count)]
    return [Image.fromarray(rng.integers(0, 256, (40 + k, 60, 3), np.uint8).astype(np.uint8)) for k in range(count)]


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "resnet", *SOUNDS])
def test_before_training_the_features_are_those_of_the_frozen_encoder(kind: str, tmp_path: Path) -> None:
    """And what can receive no gradient (a half for texts, a decoder) is never trained."""
    name, modality = saved(kind, tmp_path)
    items, form = some_items(modality), prepared_format(name, modality, SECONDS)
    assert (form.kind, form.dtype) == (("prepared_sound", np.float32) if kind in SOUNDS else ("pixels", np.uint8))
    frozen = torch.from_numpy(encoded_format(name, modality, seconds=SECONDS).read_many(items))
    x = as_floats(form.read_many(items))
    for how in HOW:
        net = PretrainedNetwork(form.opened(), form.shape, tuned=how).train()
        found = net(x)
        torch.testing.assert_close(found, F.normalize(frozen, dim=-1) * frozen.shape[1] ** 0.5, atol=1e-4, rtol=1e-4)
        (found * torch.linspace(0, 1, frozen.shape[1])).sum().backward()
        own = [p for p in net.parameters() if p.requires_grad]
        assert own and all(p.grad is not None and bool(p.grad.isfinite().all()) for p in own)
        if kind in ("clip", "whisper"):
            assert not any("text" in name or "decoder" in name for name in trained(net))
    with torch.no_grad():
        many = net.eval()(x.repeat(12, *(1,) * (x.ndim - 1)))  # in parts
        torch.testing.assert_close(many, found.detach().repeat(12, 1))
    norms = {name for name, m in net.network.named_modules() if "norm" in type(m).__name__.lower()}
    tune(net.network, "norms", lambda: net.read(x))
    names = trained(net.network)
    assert names and {name.rpartition(".")[0] for name in names} <= norms
    with_weights = {n for n, m in net.network.named_modules() if n in norms and any(True for _ in m.parameters(False))}
    if kind not in ("clip", "whisper"):
        assert {name.rpartition(".")[0] for name in names} == with_weights


def test_an_adapter_is_a_product_of_low_rank_beside_the_weight() -> None:
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(12, 20), torch.randn(3, 5, 12)), (nn.Linear(4, 3, bias=False), torch.randn(6, 4))):
        own = LowRankLinear(layer)
        torch.testing.assert_close(own(x), layer(x), rtol=0, atol=0)
        assert own.down.shape == (min(RANK, *layer.weight.shape), layer.in_features) and not own.up.any()
        nn.init.normal_(own.up)
        torch.testing.assert_close(own(x), F.linear(x, layer.weight + own.up @ own.down, layer.bias))
    conv = nn.Conv2d(3, 10, 3, stride=2, padding=1, dilation=2)
    wide, x = LowRankConvolution(conv), torch.randn(2, 3, 11, 9)
    torch.testing.assert_close(wide(x), conv(x), rtol=0, atol=0)
    nn.init.normal_(wide.up)
    weight = conv.weight + (wide.up @ wide.down.flatten(1)).view_as(conv.weight)
    torch.testing.assert_close(wide(x), F.conv2d(x, weight, conv.bias, 2, 1, 2))
    assert copy.deepcopy(wide)(x).equal(wide(x))


class Block(nn.Module):
    """A residual layer with batch normalisation, as in a network of pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Stages(nn.Module):
    """Two stages of layers; a module of pictures that may be an encoder."""

    size, mean, std = 12, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def __init__(self, depths: tuple[int, ...] = (3, 4)) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 6, 3)
        self.stages = nn.ModuleList(nn.Sequential(*(Block(6) for _ in range(depth))) for depth in depths)
        self.unused = nn.Linear(2, 2)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))


def test_a_convolution_is_joined_with_its_normalisation_only_while_it_is_frozen() -> None:
    plan = MobilePlan(((1, 8, 1, 1, 3), (2, 8, 2, 2, 3), (2, 12, 2, 2, 3)), 1e-5, True)
    own = [MobileConvolution(3, STEM, 3, stride=2, plan=plan)]
    for inside, outside, widening, stride in (
        (STEM, 8, 1, 1),
        (8, 8, 2, 2),
        (8, 8, 2, 1),
        (8, 12, 2, 2),
        (12, 12, 2, 1),
    ):
        own.append(InvertedResidual(inside, outside, widening=widening, kernel=3, stride=stride, plan=plan))
    own += [MobileConvolution(12, HEAD, plan=plan), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, 1000)]
    whole = nn.Sequential(*own)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    network, x = mobile_network(plan, whole.state_dict()), torch.randn(2, 3, 32, 32)
    expected = whole[:-1].eval()(x)
    joined: dict[Tune | None, int] = {"last": 12, "norms": 0, "all": 0, None: 16}
    for how, count in joined.items():
        copied = copy.deepcopy(network)
        tune(copied, how, lambda copied=copied: copied(x))
        fuse_frozen(copied)
        kinds = [type(m.norm) for m in copied.modules() if isinstance(m, MobileConvolution)]
        torch.testing.assert_close(copied(x), expected, atol=1e-4, rtol=1e-4)
        assert kinds.count(nn.Identity) == count


class Distances(nn.Module):
    """Its distances have no second derivative."""

    size, mean, std = 8, (0.5,) * 3, (0.5,) * 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.reshape(len(x), 12, 16))
        return torch.cdist(x, x).flatten(1)


def test_the_last_layers() -> None:
    net = Stages()
    tune(net, "last", lambda: net(torch.randn(1, 3, 12, 12)))
    assert {name[:10] for name in trained(net)} == {"stages.1.2", "stages.1.3"}
    flat = nn.Sequential(nn.Conv2d(3, 6, 3), *(Block(6) for _ in range(6)), nn.Conv2d(6, 9, 1), nn.Flatten())
    assert [type(layer) for layer in layers_of(flat)[-2:]] == [Block, nn.Conv2d]
    assert len(layers_of(Stages((7, 2)))) == 2 and len(layers_of(nn.Sequential(Stages((7, 8)), nn.Linear(6, 6)))) == 8
    few = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert layers_of(few) == [few[0], few[2]]
    for how, module, message in (
        ("last", nn.Linear(4, 4), "Linear has no stack of layers"),
        ("norms", few, "`tune` is norms and Sequential has no normalisation layers with weights"),
        ("lora", nn.LayerNorm(4), "`tune` is lora and LayerNorm has no linear layers or convolutions"),
    ):
        with pytest.raises(UpstairsError, match=message):
            tune(module, how, lambda module=module: module(torch.randn(2, 4)))
    assert not trained(net.unused), "what no feature depends on is not trained"


def test_what_comes_before_the_trained_layers_has_no_graph(tmp_path: Path) -> None:
    name, modality = saved("vit", tmp_path)
    form = prepared_format(name, modality)
    net = PretrainedNetwork(form.opened(), form.shape, tuned=None)
    tune(net.network, "last", lambda: net.read(torch.zeros(1, *form.shape)), last=1)
    seen = {}
    for place, layer in enumerate(net.network.layers):
        layer.register_forward_hook(lambda m, args, out, place=place: seen.update({place: out.requires_grad}))
    net(torch.rand(2, *form.shape))
    assert seen == {0: False, 1: True}


def meta_gradient(net: nn.Module, tasks: Any, *, lr: float, steps: int) -> dict[str, Tensor]:
    """MAML's meta-gradient by `torch.func`, one task after another."""
    theta = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}

    def outer(theta: dict[str, Tensor], i: int) -> Tensor:
        def loss(phi: dict[str, Tensor], part: Any) -> Tensor:
            return F.cross_entropy(functional_call(net, phi, (part.x[i],)), part.y[i])

        phi = theta
        for _ in range(steps):
            grads = torch.func.grad(loss)(phi, tasks.support)
            phi = {name: p - lr * grads[name] for name, p in phi.items()}
        return loss(phi, tasks.query)

    every = [torch.func.grad(outer)(theta, i) for i in range(len(tasks.query.y))]
    return {name: torch.stack([one[name] for one in every]).mean(0) for name in theta}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["vit", "wav2vec2", "stages"])
def test_second_order_as_torch_computes_it(kind: str, how: Tune, tmp_path: Path, door: str) -> None:
    """Against nested `torch.func.grad`, in float64; the first order differs."""
    name, modality = (door, "image") if kind == "stages" else saved(kind, tmp_path)
    form = prepared_format(name, modality, 0.2)
    body = PretrainedNetwork(form.opened(), form.shape, tuned=how)
    net = nn.Sequential(OrderedDict(pretrained=body, head=nn.Linear(body.size, 3))).double()
    with torch.no_grad():  # an adapter has moved
        for own, p in net.named_parameters():
            if own.endswith(".up"):
                p.normal_(std=0.1)
    tasks = double(blobs(2, shot=1, query=2, way=3, shape=form.shape))
    expected = meta_gradient(net.eval(), tasks, lr=0.1, steps=2)
    for learner, close in (
        (upstairs.maml(net, way=3, inner_lr=0.1, steps=2), True),
        (upstairs.fomaml(net, way=3, inner_lr=0.1, steps=2), False),
    ):
        net.zero_grad()
        upstairs.meta_backward(learner.train(), tasks)
        assert {own for own, p in net.named_parameters() if p.grad is not None} == set(expected)
        found = torch.cat([dict(net.named_parameters())[own].grad.flatten() for own in expected])
        reference = torch.cat([g.flatten() for g in expected.values()])
        gap = (found - reference).norm() / reference.norm()
        assert (gap < 1e-8) == close, f"{gap:.1e}"


def test_weight_normalisation_has_right_second_derivatives(tmp_path: Path) -> None:
    """Those of torch's own are wrong; all networks of one's own have this one in its place."""
    name, modality = saved("wav2vec2", tmp_path)
    form = prepared_format(name, modality, SECONDS)
    body = PretrainedNetwork(form.opened(), form.shape, tuned="all")
    (own,) = (m for m in body.modules() if "WeightNorm" in type(m).__name__)
    v, g = torch.randn(3, 2, 4).double().requires_grad_(), torch.rand(1, 1, 4).double().requires_grad_()
    assert own.dim == 2
    torch.testing.assert_close(own(g, v), torch._weight_norm(v, g, 2))
    assert torch.autograd.gradgradcheck(own, (g, v))


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an encoder that is a torch module, and a cache of its own."""
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    module = ModuleType("tuned_module")
    module.__dict__.update(make=Stages, distances=Distances)
    monkeypatch.setitem(sys.modules, "tuned_module", module)
    _opened.cache_clear()
    return "tuned_module:make"


OPTIONS: dict[str, Any] = {"net": "pretrained", "way": 3, "query": 2, "steps": 3, "quiet": True, "validation_tasks": 4}


@pytest.mark.parametrize("how", HOW)
def test_a_run_trains_what_is_named_and_nothing_else(how: Tune, tmp_path: Path, door: str) -> None:
    photos = draw_folder(tmp_path / "photos", size=30)
    run = upstairs.train("protonet", data=photos, encoder=door, tune=how, lr=1e-2, out=tmp_path / "run", **OPTIONS)
    assert run.inputs.shape == (3, 12, 12) and run.inputs.format.kind == "pixels" and run.settings.tune == how
    before, after = Stages().state_dict(), run.learner.state_dict()
    own = {name: value for name, value in after.items() if name.startswith("encoder.pretrained.network.")}
    changed = {n for n, v in before.items() if not torch.equal(own[f"encoder.pretrained.network.{n}"], v)}
    blocks = {f"stages.{stage}.{k}" for stage, depth in ((0, 3), (1, 4)) for k in range(depth)}
    last, every = {"stages.1.2", "stages.1.3"}, {"stem.weight", "stem.bias", *blocks}
    parts = {"last": last, "norms": blocks, "lora": set(), "all": every}[how]
    assert {name if name.startswith("stem") else name[:10] for name in changed} == parts
    assert not any("running" in name or "num_batches" in name or "unused" in name for name in changed)
    if how == "norms":
        assert changed == {n for n in before if ".norm." in n and n.rpartition(".")[2] in ("weight", "bias")}
    assert all(value.any() for name, value in own.items() if name.endswith(".up")) and (how == "lora") == (
        len(own) > len(before)
    )
    model = run.adapt({"a": [photos / "class00" / "0.png"], "b": [photos / "class01" / "0.png"]})
    items = [photos / "class00" / "1.png", Image.open(photos / "class01" / "2.png").convert("RGB")]
    assert model.predict(items) == ["a", "b"]
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(items), model.predict_proba(items))
    loaded = upstairs.load(tmp_path / "run").learner.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in after.items())


def test_an_encoder_that_changes_or_goes(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line; a moved folder, and one with other weights."""
    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    name, _ = saved("vit", tmp_path / "vit")
    photos, out = draw_folder(tmp_path / "photos", size=30), tmp_path / "run"
    words = (
        "--data",
        photos,
        "--encoder",
        name,
        "--net",
        "pretrained",
        "--way",
        3,
        "--query",
        2,
        "--steps",
        2,
        "--quiet",
    )
    assert call("train", "fomaml", *words, "--tune", "norms", "--out", out)[0] == 0
    status, found, err = call("evaluate", out, "--way", 2, "--query", 2, "--tasks", 5, "--json")
    assert status == 0 and "nearest_centroid" in found, err
    for label in ("class00", "class01"):
        shutil.copytree(photos / label, tmp_path / "mine" / label)
    assert call("adapt", out, "--support", tmp_path / "mine", "--out", tmp_path / "mine.safetensors")[0] == 0
    shutil.move(name, tmp_path / "moved")
    for command in (("evaluate", out), ("predict", tmp_path / "mine.safetensors", photos / "class00" / "0.png")):
        status, _, err = call(*command)
        assert status == 2 and "is a path that does not exist" in err and err.count("\n") == 1, err
    save_transformer("vit", tmp_path / "vit", seed=1)
    status, _, err = call("predict", tmp_path / "mine.safetensors", photos / "class00" / "0.png")
    assert status == 2 and "has other weights or another preprocessing than when the data was read" in err, err


def test_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soundfile", reason="soundfile (extra [audio]) is not installed")
    import soundfile

    monkeypatch.setenv("UPSTAIRS_CACHE", str(tmp_path / "cache"))
    name, _ = saved("wav2vec2", tmp_path / "wav2vec2")
    for k in range(8):
        (tmp_path / "sounds" / f"w{k}").mkdir(parents=True)
        for e in range(4):
            soundfile.write(tmp_path / "sounds" / f"w{k}" / f"{e}.wav", some_sound(0.3, 16000, 10 * k + e), 16000)
    run = upstairs.train("anil", data=tmp_path / "sounds", encoder=name, tune="lora", out=tmp_path / "run", **OPTIONS)
    assert run.inputs.shape == (4000,) and run.inputs.format.seconds == 0.5, "the usual length of the recordings"
    model = run.adapt({"a": [(some_sound(0.5, 8000), 8000)], "b": [(some_sound(1.0, 44100, 1), 44100)]})
    model.save(tmp_path / "model.safetensors")
    again = upstairs.load_adapted(tmp_path / "model.safetensors")
    sounds = [(some_sound(0.5, 8000, 2), 8000), tmp_path / "sounds" / "w0" / "0.wav"]
    np.testing.assert_array_equal(again.predict_proba(sounds), model.predict_proba(sounds))
    splits = open_splits(
        DataOptions(data=str(tmp_path / "sounds"), encoder=name, net="pretrained", seconds=0.25), quiet=True
    )
    assert splits.train.inputs.shape[1:] == (2000,) and splits.train.augment is None


def test_pictures_in_memory_are_prepared_when_they_are_read(tmp_path: Path, door: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 3, 8, 8), np.uint8).astype(np.uint8)
    np.savez(tmp_path / "pack.npz", x=x, y=np.repeat(np.arange(10), 6))
    splits = open_splits(DataOptions(data=str(tmp_path / "pack.npz"), encoder=door, net="pretrained"), quiet=True)
    rows = splits.train.rows[1]
    found = splits.train.inputs[rows]
    assert (
        found.dtype == np.uint8
        and splits.train.inputs.shape == (60, 3, 12, 12)
        and not [*(tmp_path / "cache").glob("*")]
    )
    np.testing.assert_array_equal(found[2], prepared_format(door, "image").read(x[rows[2]]))
    source = upstairs.Source.from_arrays(x, np.arange(60) % 10)
    run = upstairs.train("protonet", data=source, encoder=door, tune="norms", out=tmp_path / "run", **OPTIONS)
    assert run.inputs.shape == (3, 12, 12)


def test_numbers_that_are_no_bytes_stay_numbers(tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Encoder of one's own prepares pictures in any way, and says how its network is called."""
    photos = draw_folder(tmp_path / "photos", size=30)

    def means(network: Any, x: Tensor) -> Tensor:
        return network(x)

    def own(**more: Any) -> Encoder:
        def prepare(picture: Image.Image) -> np.ndarray:
            return np.sqrt(np.asarray(picture.resize((3, 2)), np.float32)).reshape(-1)

        def embed(prepared: Any) -> np.ndarray:
            return network(torch.from_numpy(np.stack(prepared))).numpy()

        network = nn.Sequential(nn.Linear(18, 8), nn.LayerNorm(8), nn.Linear(8, WIDTH)).requires_grad_(False)
        return Encoder("mine", "image", WIDTH, "own", "digest", prepare, embed, network=network, **more)

    torch.manual_seed(0)
    made = {"forward": own(forward=means), "without": own()}
    monkeypatch.setitem(sys.modules["tuned_module"].__dict__, "forward", lambda: made["forward"])
    monkeypatch.setitem(sys.modules["tuned_module"].__dict__, "without", lambda: made["without"])
    run = upstairs.train(
        "maml", data=photos, encoder="tuned_module:forward", tune="lora", out=tmp_path / "run", **OPTIONS
    )
    assert run.inputs.format.kind == "prepared_image" and run.inputs.shape == (18,)
    expected = np.sqrt(np.asarray(Image.open(photos / "class00" / "0.png").convert("RGB").resize((3, 2)), np.float32))
    np.testing.assert_allclose(run.inputs.read(photos / "class00" / "0.png")[0], expected.reshape(-1))
    for encoder, message in (
        ("tuned_module:without", "tuned_module:without has no network that could be trained"),
        (str(tmp_path / "tiny.onnx"), r"tiny\.onnx has no network that could be trained \(an ONNX file has none"),
    ):
        if encoder.endswith("onnx"):
            pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
            pytest.importorskip("onnx", reason="onnx is not installed")
            save_onnx(tmp_path / "tiny.onnx", ["n", 3, 12, 12])
        with pytest.raises(UpstairsError, match=message):
            upstairs.train("maml", data=photos, encoder=encoder, out=tmp_path / "no", **OPTIONS)
    with pytest.raises(UpstairsError, match="`tune` is about `net` pretrained and the network is projection"):
        upstairs.train("maml", data=photos, encoder=door, out=tmp_path / "no", steps=1, tune="norms", quiet=True)
    with pytest.raises(UpstairsError, match=r"cdist.* cannot be differentiated twice"):
        upstairs.train(
            "maml", data=photos, encoder="tuned_module:distances", tune="norms", out=tmp_path / "no", **OPTIONS
        )
    upstairs.train(
        "fomaml", data=photos, encoder="tuned_module:distances", tune="norms", out=tmp_path / "one", **OPTIONS
    )


def test_within_a_task_frozen_weights_stay_too(door: str) -> None:
    form = prepared_format(door, "image")
    body = PretrainedNetwork(form.opened(), form.shape, tuned="last")
    net = nn.Sequential(OrderedDict(pretrained=body, head=nn.Linear(6, 3)))
    own = trained(net)
    assert set(adapting(net)) == own
    assert set(upstairs.boil(net, way=3).adapting()) == {name for name in own if not name.startswith("head")}
    transformed = upstairs.t_net(net, way=3)
    assert {name.replace(".layer.", ".") for name in transformed.adapting()} == own
    assert not [n for n, p in transformed.net.named_parameters() if n.endswith("transform") and "stages.0" in n]
    with pytest.raises(UpstairsError, match="CAVIA modulates what goes into a ReLU and this network has none"):
        upstairs.cavia(net, way=3)
