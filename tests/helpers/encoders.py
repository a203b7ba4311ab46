"""Tiny pretrained networks with random weights, saved as real ones are."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE, WIDTH = 24, 16
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def save_transformer(kind: str, path: Path, *, seed: int = 0) -> Path:
    """Saves a network of `transformers` and its processor, both tiny."""
    import transformers as t

    torch.manual_seed(seed)
    size = {"image_size": SIDE, "patch_size": 8}
    normal = {"image_mean": MEAN, "image_std": STD}
    square = {"height": SIDE, "width": SIDE}
    if kind == "vit":
        network: Any = t.ViTModel(t.ViTConfig(**SMALL, **size))
        processor: Any = t.ViTImageProcessorPil(size=square, **normal)
    elif kind == "dinov2":
        network = t.Dinov2Model(t.Dinov2Config(**SMALL, **size))
        processor = t.BitImageProcessorPil(size={"shortest_edge": SIDE + 8}, crop_size=square, **normal)
    elif kind in ("clip", "clip_vision"):
        vision = t.CLIPVisionConfig(**SMALL, **size, projection_dim=12)
        words = t.CLIPTextConfig(**SMALL, vocab_size=99, projection_dim=12)
        both = t.CLIPConfig(text_config=words.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
        network = t.CLIPModel(both) if kind == "clip" else t.CLIPVisionModel(vision)
        processor = t.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square, **normal)
    elif kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, WIDTH], "depths": [1, 1], "layer_type": "basic"}
        network = t.ResNetModel(t.ResNetConfig(**sizes))
        processor = t.ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.8, **normal)
    elif kind == "wav2vec2":
        layers = {"conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
        network = t.Wav2Vec2Model(t.Wav2Vec2Config(**SMALL, **layers, num_conv_pos_embedding_groups=2,
                                                   num_conv_pos_embeddings=8))  # fmt: skip
        processor = t.Wav2Vec2FeatureExtractor(sampling_rate=8000)
    elif kind == "whisper":
        sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        more = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "d_model": WIDTH, "num_mel_bins": 8, "vocab_size": 50}
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        network = t.WhisperModel(t.WhisperConfig(**sizes, **more, **ends, max_source_positions=100))
        processor = t.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    else:
        network = t.ASTModel(t.ASTConfig(**SMALL, patch_size=8, max_length=64, num_mel_bins=16))
        processor = t.ASTFeatureExtractor(num_mel_bins=16, max_length=64)
    network.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def save_onnx(path: Path, shape: list[Any], output: str = "mean", *, dtype: str = "FLOAT", inputs: int = 1) -> Any:
    """Saves a convolution of 3 channels to 5, stride 2; returns the same in torch, [n, 3, h, w] to [n, 5, i, j]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 5, 3, stride=2)
    kind, last = getattr(TensorProto, dtype), len(shape) == 4 and shape[3] == 3
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last else []
    nodes.append(helper.make_node("Conv", ["t" if last else "x", "w", "b"], ["maps"], strides=[2, 2]))
    nodes.append(helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["mean"]))
    if len(shape) != 4 or dtype != "FLOAT":
        nodes = [helper.make_node("Identity", ["x"], [output])]
    given = [helper.make_tensor_value_info(f"x{i}" if i else "x", kind, shape) for i in range(inputs)]
    made = helper.make_tensor_value_info(output, kind, None)
    weights = [numpy_helper.from_array(p.detach().numpy(), n) for n, p in (("w", layer.weight), ("b", layer.bias))]
    graph = helper.make_graph(nodes, "tiny", given, [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return layer


def some_sound(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Returns noise with a tone."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * rate)) / rate
    return (0.1 * rng.normal(size=len(time)) + 0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
