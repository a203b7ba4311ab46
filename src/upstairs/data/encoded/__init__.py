"""Features of a frozen pretrained encoder as inputs."""

from upstairs.data.encoded.format import (
    EncodedFormat,
    EncodedImageFormat,
    EncodedSoundFormat,
    EncodedTextFormat,
    encoded_format,
)

__all__ = ["EncodedFormat", "EncodedImageFormat", "EncodedSoundFormat", "EncodedTextFormat", "encoded_format"]
