"""Ordinary modules, nothing meta in them."""

from upstairs.nets.conv import conv4, relation_conv
from upstairs.nets.mlp import mlp
from upstairs.nets.norm import BatchNorm, Norm, batch_norm, calibrate, convert_batch_norm, is_transductive

__all__ = [
    "BatchNorm",
    "Norm",
    "batch_norm",
    "calibrate",
    "conv4",
    "convert_batch_norm",
    "is_transductive",
    "mlp",
    "relation_conv",
]
