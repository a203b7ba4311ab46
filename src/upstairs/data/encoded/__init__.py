"""Inputs as a pretrained encoder reads them: its features, or what its network takes."""

from upstairs.data.encoded.format import (
    EncodedFormat,
    EncodedImageFormat,
    EncodedSoundFormat,
    EncodedTextFormat,
    EncoderFormat,
    encoded_format,
)
from upstairs.data.encoded.prepared import PixelFormat, PreparedFormat, prepared_format

__all__ = [
    "EncodedFormat",
    "EncodedImageFormat",
    "EncodedSoundFormat",
    "EncodedTextFormat",
    "EncoderFormat",
    "PixelFormat",
    "PreparedFormat",
    "encoded_format",
    "prepared_format",
]
