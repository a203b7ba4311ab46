"""Encoders of pictures and sounds that `transformers` knows."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn

from upstairs.encoders.base import (
    POOLINGS,
    Encoder,
    Modality,
    Pixels,
    by_shape,
    check_pooling,
    digest_of,
    over_positions,
)
from upstairs.encoders.hub import cannot_load, files_of, quietly
from upstairs.encoders.pictures import normalisation, within_ratio
from upstairs.encoders.texts import text_encoder
from upstairs.errors import UpstairsError, reason

SPECIAL = ("cls_token", "class_embedding", "distillation_token", "register_tokens")


def transformer_encoder(name: str, folder: Path, *, pooling: str | None = None) -> Encoder:
    """Returns the encoder in a folder with config.json; its configuration decides the modality.

    Args:
        name: what the user gave, or the absolute folder.
        pooling: see `Encoder`; None is the network's own: its pooler, else the class token, else the mean.

    Raises:
        UpstairsError: the folder has no model that can be loaded, or the network has no such pooling.
    """
    from transformers import AutoConfig

    try:
        with quietly():
            config = AutoConfig.from_pretrained(folder)
    except Exception as error:
        raise cannot_load(name, error) from error
    modality, files = modality_of(config), files_of(folder)
    if modality == "text":
        return text_encoder(name, files, pooling=pooling)
    try:
        with quietly():
            network, lacking = _network(folder)
            processor = _processor(folder, modality)
    except UpstairsError:
        raise
    except Exception as error:
        raise cannot_load(name, error) from error
    if others := [key for key in lacking if "pooler" not in key]:
        raise UpstairsError(
            f"`encoder` {name} has no weights for {len(others)} of its tensors, such as {others[0]}: give a folder "
            "with the weights of a whole network"
        )
    try:
        if modality == "image":
            tower, prepare, rate = _picture_tower(network), _prepare_picture(processor), 0
            example, pixels = prepare(Image.new("RGB", (64, 48))), _pixels(processor, prepare)
        else:
            tower, rate, pixels = _sound_tower(network), int(processor.sampling_rate), None
            prepare = _prepare_sound(processor, padded=network.config.is_encoder_decoder)
            example = prepare(np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32))
        with torch.inference_mode():
            found = tower(network, torch.from_numpy(example[None]))
        special = _special_tokens(network) if found.last_hidden_state.ndim == 3 else 0
        check_pooling(pooling, POOLINGS if special else ("mean",), name)
        pooled = getattr(found, "pooler_output", None) is not None and not lacking
        chosen = pooling or ("own" if pooled else "class token" if special else "mean")
        forward = partial(_features, tower, chosen, special, name)
        embed = by_shape(partial(forward, network))
        size = embed([example]).shape[1]
    except UpstairsError:
        raise
    except Exception as error:  # some models want more than a picture or a sound
        raise UpstairsError(
            f"`encoder` {name} is a {type(network).__name__}, which could not read an example ({reason(error)}): write "
            "a function that returns an Encoder, and give it as package.module:function"
        ) from error
    # every rule of resizing has enough in a picture of twice the network's size
    digest = digest_of(files, chosen)
    side = 2 * max(example.shape[-2:], default=0)
    return Encoder(name, modality, size, chosen, digest, prepare, embed, rate, side, network=network, forward=forward,
                   pixels=pixels)  # fmt: skip


def modality_of(config: Any) -> Modality:
    """Returns what a model of `transformers` reads, by its configuration."""
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    if type(config) in IMAGE_PROCESSOR_MAPPING or "vision" in config.model_type:
        return "image"
    return "audio" if type(config) in FEATURE_EXTRACTOR_MAPPING else "text"


def _network(folder: Path) -> tuple[Any, list[str]]:
    """Returns the network and the names of its tensors that the files do not have."""
    from transformers import AutoModel

    network, report = AutoModel.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    return network.eval().requires_grad_(False), sorted(report["missing_keys"])


def _processor(folder: Path, modality: Modality) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if modality == "audio":
        return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")


def _prepare_picture(processor: Any) -> Callable[[Image.Image], Float32[np.ndarray, "3 h w"]]:
    def prepare(picture: Image.Image) -> Float32[np.ndarray, "3 h w"]:
        picture = within_ratio(picture)
        return np.asarray(processor(images=picture, return_tensors="np")["pixel_values"][0], np.float32)

    return prepare


def _prepare_sound(processor: Any, *, padded: bool) -> Callable[[np.ndarray], Float32[np.ndarray, "*shape"]]:
    """Returns samples -> the network's input; if it is padded to a length, a last row says which frames are real."""

    def prepare(samples: np.ndarray) -> Float32[np.ndarray, "*shape"]:
        found = processor(
            samples, sampling_rate=processor.sampling_rate, return_tensors="np", return_attention_mask=padded
        )
        x = found[processor.model_input_names[0]][0]
        return np.asarray(np.concatenate([x, found["attention_mask"]]) if padded else x, np.float32)

    return prepare


def _pixels(processor: Any, prepare: Callable[[Image.Image], np.ndarray]) -> Pixels | None:
    """Returns the preprocessing in two parts; None where it is not a normalisation of bytes."""

    def read(picture: Image.Image) -> UInt8[np.ndarray, "3 h w"]:
        found = processor(images=within_ratio(picture), return_tensors="np", do_rescale=False, do_normalize=False)
        return np.asarray(found["pixel_values"][0]).astype(np.uint8)

    scale = float(getattr(processor, "rescale_factor", 1 / 255)) if getattr(processor, "do_rescale", True) else 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    with suppress(Exception):  # a processor of its own kind: its numbers are kept as they are
        if getattr(processor, "do_normalize", True):
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        factor, shift = normalisation(scale, mean, std)
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).astype(np.uint8)
        picture = Image.fromarray(noise)
        made = np.array(factor)[:, None, None] * read(picture) / 255 + np.array(shift)[:, None, None]
        if np.allclose(made, prepare(picture), atol=1e-4):
            return Pixels(read, factor, shift)
    return None


Tower = Callable[[Any, Tensor], Any]  # (network, inputs) -> its output


def _picture_tower(network: Any) -> Tower:
    """Returns what calls the network; for one of pictures and texts, its half for pictures."""
    both = getattr(network.config, "vision_config", None) is not None and hasattr(network, "get_image_features")
    return _image_half if both else _pictures


def _sound_tower(network: Any) -> Tower:
    """Returns what calls the network; for one that writes texts, its encoder."""
    return _encoder_half if network.config.is_encoder_decoder else _sounds


def _pictures(network: Any, x: Tensor) -> Any:
    return network(pixel_values=x)


def _sounds(network: Any, x: Tensor) -> Any:
    return network(**{network.main_input_name: x})


def _image_half(network: Any, x: Tensor) -> Any:
    return network.get_image_features(pixel_values=x)


def _encoder_half(network: Any, x: Float[Tensor, "n rows frames"]) -> Any:
    found = network.get_encoder()(x[:, :-1])
    hidden = found.last_hidden_state
    real = F.interpolate(x[:, -1:], hidden.shape[1], mode="nearest").transpose(1, 2)  # what follows is padding
    found.last_hidden_state = (hidden * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    return found


def _features(tower: Tower, pooling: str, special: int, name: str, network: Any, x: Tensor) -> Float[Tensor, "n size"]:
    return _pooled(tower(network, x), pooling, special, name)


def _special_tokens(network: nn.Module) -> int:
    """Returns the number of tokens before those of positions: class tokens and registers."""
    own = [p for key, p in network.named_parameters() if key.split(".")[-1] in SPECIAL]
    return sum(p.shape[1] if p.ndim == 3 else 1 for p in own)


def _pooled(found: Any, pooling: str, special: int, name: str) -> Float[Tensor, "n size"]:
    """Returns one vector for each input from a network's output."""
    if pooling == "own":
        return found.pooler_output.flatten(1)
    hidden = found.last_hidden_state
    if pooling == "class token":
        return hidden[:, 0]
    mean = over_positions(hidden[:, special:], name) if special else over_positions(hidden, name)
    return torch.cat([hidden[:, 0], mean], 1) if pooling == "both" else mean
