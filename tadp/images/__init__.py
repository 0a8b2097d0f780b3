"""Images: reading, padding and cropping, boxes, windows and tiles.

`read_image` reads one image as an array, and `to_tensor` reads paths, PIL images, arrays and tensors as one tensor
(B, 3, H, W) in [0, 1]. `pad_to_multiple` pads
images so that their sides are multiples of a stride, and `crop_to_cells` removes the padding from their feature maps.

Channels are red, green, blue. An array in BGR order, which `cv2.imread` returns, cannot be recognised as such: reverse
its channels with `image[..., ::-1]` first. Colour profiles are not applied.

Files are AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, PSD, TIFF or WebP, whatever their suffix. HEIC is read if its
plug-in is installed: `pip install pillow-heif`.
"""

from tadp.images.image_files import MIN_SIZE as MIN_SIZE
from tadp.images.image_files import SUFFIXES as SUFFIXES
from tadp.images.listing import list_images as list_images
from tadp.images.reading import MAX_PIXELS as MAX_PIXELS
from tadp.images.reading import ImageLike as ImageLike
from tadp.images.reading import crop_to_cells as crop_to_cells
from tadp.images.reading import pad_to_multiple as pad_to_multiple
from tadp.images.reading import read_image as read_image
from tadp.images.reading import to_pil as to_pil
from tadp.images.reading import to_tensor as to_tensor

__all__ = [
    "MAX_PIXELS",
    "MIN_SIZE",
    "SUFFIXES",
    "ImageLike",
    "crop_to_cells",
    "list_images",
    "pad_to_multiple",
    "read_image",
    "to_pil",
    "to_tensor",
]
