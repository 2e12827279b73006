"""The part of an image that the backbone sees, where the resized image is cropped."""

from __future__ import annotations


def check_center_crop(center_crop: int | None, *, image_size: int) -> None:
    """Refuse sizes that no image can have.

    Parameters
    ----------
    center_crop : int, optional
        Side in pixels of the central square that is kept; None keeps the whole image.
    image_size : int
        Side in pixels to which images are resized before.

    Raises
    ------
    ValueError
        In one line: the setting, its rule and its value.
    """
    if not _is_integer(image_size) or image_size < 1:
        raise ValueError(f"image_size must be an integer of at least 1, got {image_size!r}")
    if center_crop is None:
        return
    if not _is_integer(center_crop) or not 1 <= center_crop <= image_size:
        raise ValueError(
            f"center_crop must be null or an integer from 1 to image_size={image_size},"
            f" got {center_crop!r}"
        )


def region(
    size: tuple[int, int], *, image_size: int, center_crop: int | None
) -> tuple[slice, slice]:
    """Return the rows and columns of a picture of the image that the backbone sees.

    Parameters
    ----------
    size : tuple of int
        Height and width of the image, of its mask or of any other picture of the whole image.
    image_size, center_crop : int
        As `check_center_crop`.

    Returns
    -------
    tuple of slice
        Every row and column that the square touches, in whole pixels.

    Examples
    --------
    The central 224 of 256 pixels, in that image and in the original of 600 x 900 pixels:

    >>> region((256, 256), image_size=256, center_crop=224)
    (slice(16, 240, None), slice(16, 240, None))
    >>> region((600, 900), image_size=256, center_crop=224)
    (slice(37, 563, None), slice(56, 844, None))
    """
    if center_crop is None:
        return slice(0, size[0]), slice(0, size[1])
    first = (image_size - center_crop) // 2
    end = first + center_crop
    rows, columns = (slice(first * n // image_size, -(-end * n // image_size)) for n in size)
    return rows, columns


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
