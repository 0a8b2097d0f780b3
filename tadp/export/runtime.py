"""Run an exported ONNX file as a backbone, with ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tadp.errors import ImageError, MissingFileError, ModelError
from tadp.export.facts import Facts
from tadp.export.graph import check_unmasked
from tadp.export.onnx_file import INSTALL
from tadp.features import AttentionMaps, FeatureInfo, Features, cells_of
from tadp.files.atomic import complete_folder
from tadp.files.checks import need, refuse_pointer
from tadp.images.reading import ImageLike, to_tensor
from tadp.text.conditioning import Conditioning


class OnnxBackbone:
    """Runs an ONNX file that `to_onnx` wrote, and is called like a backbone. This needs the extra `onnx`.

    Args:
        path: The ONNX file.
        providers: Execution providers of ONNX Runtime, in order of preference, such as ("CUDAExecutionProvider",
            "CPUExecutionProvider").

    Raises:
        MissingFileError: If the file does not exist.
        ModelError: If the file is not an ONNX file, or was not written by `to_onnx`.
        MissingExtraError: If onnxruntime is not installed.

    Attributes:
        facts: The information in the file's metadata.
        session: The session of ONNX Runtime, with which you can run the graph on named arrays.
    """

    def __init__(self, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)):
        runtime = need("onnxruntime", install=INSTALL)
        path = Path(path).expanduser()
        complete_folder(path.parent)
        if not path.is_file():
            raise MissingFileError(f"no file {path}; tadp.export.to_onnx writes one.")
        refuse_pointer(path, ModelError)
        try:
            self.session: Any = runtime.InferenceSession(path, providers=list(providers))
        except runtime.capi.onnxruntime_pybind11_state.InvalidProtobuf as error:
            raise ModelError(f"{path} is not an ONNX file, or is damaged; export it again.") from error
        self.facts = Facts.read(self.session.get_modelmeta().custom_metadata_map, path)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps, finest first."""
        return self.facts.feature_info

    def __call__(self, images: ImageLike | Sequence[ImageLike], text: Conditioning | None = None) -> Features:
        """Compute the features of images.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads.
            text: Encoded text, from the backbone's `encode_text`: one text for all images, or one per image. None if a
                text is part of the file.

        Returns:
            The features that the backbone would return, on the CPU and without gradient.

        Raises:
            ImageError: If an image cannot be read, or does not have the size for which the file was written.
            CaptionError: If the number of texts is neither one nor B.
            TypeError: If `text` is not a `Conditioning`. A string cannot be used, because the file has no text encoder.
            ValueError: If `text` is None although no text is part of the file, if it is not None although a text is
                part of the file, or if it has the wrong shape.
        """
        pixels = to_tensor(images).detach().float().cpu()
        facts = self.facts
        batch, _, height, width = pixels.shape
        if facts.image_size is not None and [height, width] != facts.image_size:
            raise ImageError(
                f"this file takes images of {facts.image_size[0]}x{facts.image_size[1]} (height x width); got "
                f"{height}x{width}. Resize them, or export with image_size=None for any size."
            )
        if facts.batch_size is not None and batch != facts.batch_size:
            raise ImageError(f"this file takes {facts.batch_size} images per call; got {batch}.")
        inputs = {"pixels": pixels}
        if facts.text is None:
            text = self._check_text(text).expand(batch)
            inputs["embeddings"] = text.embeddings
            if text.pooled is not None and facts.pooled_width is not None:
                inputs["pooled"] = text.pooled
        elif text is not None:
            raise ValueError("this file contains its text; export it without text= to pass a text in each call.")
        arrays = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in inputs.items()}
        results = self.session.run(None, arrays)
        names = [output.name for output in self.session.get_outputs()]
        outputs = {name: torch.from_numpy(array) for name, array in zip(names, results, strict=True)}
        return self._to_features(outputs, text, (height, width))

    def _check_text(self, text: Conditioning | None) -> Conditioning:
        facts = self.facts
        if text is None:
            raise ValueError("this file takes the embeddings of a text: pass encode_text(captions) of the backbone.")
        if not isinstance(text, Conditioning):
            raise TypeError(
                f"text must be a Conditioning, because the file has no text encoder; got {type(text).__name__}. "
                "Encode captions with the backbone that was exported: backbone.encode_text(captions)."
            )
        check_unmasked(text)
        if text.embeddings.shape[1:] != (facts.tokens, facts.text_width):
            raise ValueError(
                f"this file takes embeddings (B, {facts.tokens}, {facts.text_width}); got "
                f"{tuple(text.embeddings.shape)}. Encode the text with the backbone that was exported."
            )
        pooled = None if text.pooled is None else text.pooled.shape[1]
        if facts.pooled_width is not None and pooled != facts.pooled_width:
            raise ValueError(
                f"this file takes a pooled embedding of each text, {facts.pooled_width} wide; this text has "
                f"{'none' if pooled is None else f'one of width {pooled}'}."
            )
        return text

    def _to_features(self, outputs: dict[str, Tensor], text: Conditioning | None, size: tuple[int, int]) -> Features:
        levels = self.facts.levels
        maps = tuple(outputs[f"map_{level}"] for level in levels)
        attention = {int(level): outputs[f"map_{level}"][:, -count:] for level, count in self.facts.attached.items()}
        attention |= {level: outputs[f"attention_{level}"] for level in self.facts.recorded}
        cells = dict(zip(levels, cells_of(size, self.feature_info.reduction).values(), strict=True))
        if not attention:
            return Features(maps, None, size, levels=levels, cells=cells)
        batch = len(maps[0])
        tokens, words = self.facts.names() if text is None else (text.tokens, text.words)
        unnamed = (("",) * self.facts.tokens,)
        names = tokens or unnamed
        if len(names) != batch:
            names, words = names * batch, words and words * batch
        return Features(maps, AttentionMaps(attention, names, words, cells=cells), size, levels=levels, cells=cells)
