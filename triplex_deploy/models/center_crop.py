"""The part of a tile that models of smaller patches see."""

from torch import Tensor


def center_crop(images: Tensor, patch_px: int) -> Tensor:
    """The centre (B, C, patch_px, patch_px) of square images, all of one of that size.

    112 px of a 224 px tile are its rows and columns 56 to 167.
    """
    start = (images.shape[-1] - patch_px) // 2
    stop = start + patch_px
    return images[..., start:stop, start:stop]
