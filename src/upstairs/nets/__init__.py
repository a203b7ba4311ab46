"""Ordinary networks and layers, without any meta-learning in them."""

from upstairs.nets.cells import Mixed, cells, chain, discretise
from upstairs.nets.conv import conv4, picture_maps, relation_conv, sound_conv, sound_maps
from upstairs.nets.embedding import embedding_size
from upstairs.nets.mlp import begin_centred, mlp, projection
from upstairs.nets.norm import BatchNorm, batch_norm, convert_batch_norm
from upstairs.nets.pretrained import PretrainedNetwork, PretrainedTransformer, pretrained_body, pretrained_net
from upstairs.nets.resnet import resnet12
from upstairs.nets.text import TfIdf, begin_at_idf, text_net
from upstairs.nets.tuning import tune

__all__ = [
    "BatchNorm",
    "Mixed",
    "PretrainedNetwork",
    "PretrainedTransformer",
    "TfIdf",
    "batch_norm",
    "begin_at_idf",
    "begin_centred",
    "cells",
    "chain",
    "conv4",
    "convert_batch_norm",
    "discretise",
    "embedding_size",
    "mlp",
    "picture_maps",
    "pretrained_body",
    "pretrained_net",
    "projection",
    "relation_conv",
    "resnet12",
    "sound_conv",
    "sound_maps",
    "text_net",
    "tune",
]
