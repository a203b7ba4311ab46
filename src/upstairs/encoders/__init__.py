"""Pretrained networks: a name to a function from pictures, sounds or texts to features."""

from upstairs.encoders.base import Encoder
from upstairs.encoders.open import open_encoder

__all__ = ["Encoder", "open_encoder"]
