"""Object detection: Faster R-CNN on features of a backbone.

The box arithmetic, sampling, pooling and losses are torchvision's. There are two differences. Boxes and scores stay in
float32 whatever the head's dtype is. And the anchors are placed by the strides of the features: torchvision derives the
strides from the sizes of image and map, wrongly if the image's size is not a multiple of a stride. Parameters have
torchvision's names, which begin with `rpn` and `roi_heads`; for the names in the pyramid, see `FPN`. The paper's
released model calls these three parts `decode_head.rpn`, `decode_head.roi_heads` and `fpn`.
"""

from collections.abc import Sequence
from typing import overload

import torch
from einops import rearrange
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts, check_numbers, check_ordered, check_whole
from tadp.heads.faster_rcnn import build_stages
from tadp.heads.fpn import FPN
from tadp.heads.maps import check_info, read_maps
from tadp.images.boxes import Boxes, Detections

_ANCHOR_CELLS = 4  # the released sizes, 32 to 256, equal four cells of their level


class DetectionHead(nn.Module):
    """A head that predicts boxes with labels and scores.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        num_classes: Number of classes K, without background, which the head adds.
        channels: Number of channels in the feature pyramid.
        hidden_channels: Number of channels of the two layers that classify a box.
        anchor_sizes: Side of each level's anchors in pixels. None is four cells of the level: 32 to 256 pixels for
            strides 8 to 64, as in the paper's released code.
        aspect_ratios: Ratios of height to width of the anchors.
        score_threshold: Smallest score of a box that is returned, in [0, 1].
        nms_iou: Largest intersection over union of two boxes of the same class, in [0, 1]. If they overlap more, only
            the box with the higher score is kept.
        max_detections: Largest number of boxes that are returned per image.
        max_proposals: Largest number of candidate boxes per image that the first stage, which proposes boxes, passes to
            the second stage, which classifies them. It is doubled in training.
        samples_per_image: Number of candidate boxes per image that are classified in training. On a CPU this takes most
            of the time: with 64, a small model trains several times as fast.

    Raises:
        MissingExtraError: If torchvision is missing, or is built for another version of torch.
        TypeError: If `feature_info` is not a `FeatureInfo`, or `num_classes` is not an integer.
        ValueError: If `num_classes` is below 1, if a stride is not twice the previous one, if `anchor_sizes` does not
            have one size per level, if `score_threshold` or `nms_iou` is outside [0, 1], or if `max_detections`,
            `max_proposals` or `samples_per_image` is below 1.

    Source:
        Ren et al., Faster R-CNN; Lin et al., Feature Pyramid Networks; TADP/tadp_objdet.py for the default sizes.

    Example:
        >>> info = FeatureInfo(channels=(32, 141), reduction=(8, 16))
        >>> head = DetectionHead(info, num_classes=12, channels=8, hidden_channels=16)
        >>> maps = [torch.rand(2, 32, 16, 16), torch.rand(2, 141, 8, 8)]  # maps of 128x128 images
        >>> dog = Boxes(torch.tensor([[16.0, 20.0, 60.0, 90.0]]), torch.tensor([3]))
        >>> nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        >>> sorted(head(maps, [dog, nothing]))
        ['box_regression', 'classification', 'objectness', 'proposal_regression']
        >>> len(head.eval()(maps))  # one `Detections` per image
        2
    """

    def __init__(
        self,
        feature_info: FeatureInfo,
        *,
        num_classes: int,
        channels: int = 256,
        hidden_channels: int = 1024,
        anchor_sizes: Sequence[float] | None = None,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        max_proposals: int = 1000,
        samples_per_image: int = 512,
    ):
        super().__init__()
        num_classes = check_whole(num_classes, name="num_classes")
        check_info(feature_info)
        check_counts(channels=channels, hidden_channels=hidden_channels)
        _check_strides(feature_info.reduction)
        sizes = anchor_sizes or [_ANCHOR_CELLS * stride for stride in feature_info.reduction]
        _check_anchors(sizes, aspect_ratios, levels=len(feature_info))
        check_counts(max_detections=max_detections, max_proposals=max_proposals, samples_per_image=samples_per_image)
        check_numbers(allow_nonfinite=True, score_threshold=score_threshold, nms_iou=nms_iou)
        for name, share in (("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1]; got {share}.")
        self.feature_info, self.num_classes = feature_info, num_classes
        self.neck = FPN(feature_info, channels=channels)
        self.rpn, self.roi_heads = build_stages(
            feature_info.reduction,
            num_classes=num_classes,
            channels=channels,
            hidden_channels=hidden_channels,
            anchors_per_cell=len(aspect_ratios),
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            max_detections=max_detections,
            max_proposals=max_proposals,
            samples_per_image=samples_per_image,
        )
        # (width, height) of each level's anchors, rounded to whole pixels as in torchvision
        self.anchors = tuple(
            tuple((2 * round(size / ratio**0.5 / 2), 2 * round(size * ratio**0.5 / 2)) for ratio in aspect_ratios)
            for size in sizes
        )

    @overload
    def forward(
        self,
        features: Features | Sequence[Tensor],
        targets: Sequence[Boxes],
        *,
        image_size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]: ...

    @overload
    def forward(
        self,
        features: Features | Sequence[Tensor],
        targets: None = None,
        *,
        image_size: tuple[int, int] | None = None,
    ) -> list[Detections]: ...

    def forward(
        self,
        features: Features | Sequence[Tensor],
        targets: Sequence[Boxes] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Detect objects, or compute the losses if there are targets.

        Args:
            features: The output of the backbone, or a list of its maps (B, C, h, w), finest first. The maps are
                converted to the head's dtype.
            targets: The true boxes, one `Boxes` per image, in pixels of the images; a `Boxes` may have no boxes. With
                targets the head returns losses, and without targets detections, both in training mode and in evaluation
                mode.
            image_size: (height, width) of the images in pixels, to which boxes are clipped. None is
                `features.image_size`; for a list of maps, the size of the finest map times its stride.

        Returns:
            With targets, a dictionary of four scalar losses, "objectness" and "proposal_regression" of the first stage,
            and "classification" and "box_regression" of the second stage. Train on their sum. Without targets, one
            `Detections` per image, with the highest score first.

        Raises:
            TypeError: If `features` is neither `Features` nor a list of maps, or `targets` is not a list of `Boxes`.
            ValueError: If the maps do not fit the head's `feature_info` or the image size, if `targets` does not have
                one `Boxes` per image, if a label is not below `num_classes`, or if a box lies outside its image.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        _check_size(maps[0], self.feature_info.reduction[0], size)
        truth = None if targets is None else self._read_targets(targets, maps[0], size)
        pyramid = self.neck(maps)
        proposals, losses = self._propose(pyramid, size, truth)
        if truth is None:
            return self._detect(pyramid, proposals, size)
        return losses | self._judge(pyramid, proposals, size, truth)

    def _propose(
        self, pyramid: list[Tensor], size: tuple[int, int], truth: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes that may hold an object, (N, 4) per image, and with targets compute their two losses."""
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        objectness, deltas = self.rpn.head(pyramid)
        counts = [scores[0].numel() for scores in objectness]
        objectness, deltas = concat_box_prediction_layers(
            [scores.float() for scores in objectness], [offsets.float() for offsets in deltas]
        )
        batch = pyramid[0].shape[0]
        anchors = [self._place_anchors(pyramid)] * batch
        decoded = self.rpn.box_coder.decode(deltas.detach(), anchors)  # (B * N, 1, 4)
        proposals = rearrange(decoded, "(b n) 1 side -> b n side", b=batch)
        boxes, _ = self.rpn.filter_proposals(proposals, objectness, [size] * batch, counts)
        if truth is None:
            return boxes, {}
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, truth)
        is_object, regression = self.rpn.compute_loss(
            objectness, deltas, labels, list(self.rpn.box_coder.encode(matched, anchors))
        )
        return boxes, {"objectness": is_object, "proposal_regression": regression}

    def _place_anchors(self, pyramid: list[Tensor]) -> Tensor:
        """Place the anchors of all levels around the upper left corners of their cells, (N, 4), row by row."""
        placed = []
        for level_map, anchors, stride in zip(pyramid, self.anchors, self.feature_info.reduction, strict=True):
            device = level_map.device
            sides = torch.tensor(anchors, dtype=torch.float32, device=device)
            rows = torch.arange(level_map.shape[2], device=device, dtype=torch.float32) * stride
            columns = torch.arange(level_map.shape[3], device=device, dtype=torch.float32) * stride
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            corners = rearrange([x, y], "xy h w -> h w 1 xy")
            boxes = torch.cat((corners - sides / 2, corners + sides / 2), dim=-1)
            placed.append(rearrange(boxes, "h w anchor side -> (h w anchor) side"))
        return torch.cat(placed)

    def _box_outputs(
        self, pyramid: list[Tensor], proposals: list[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, K + 1), background first, and box offsets (N, 4 * (K + 1)) of all images' proposals, float32."""
        # RoI pooling does not support bfloat16
        named = {str(level): level_map.float() for level, level_map in enumerate(pyramid)}
        pooled = self.roi_heads.box_roi_pool(named, proposals, [size] * len(proposals))
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled.to(pyramid[0].dtype)))
        return logits.float(), deltas.float()

    def _judge(
        self, pyramid: list[Tensor], proposals: list[Tensor], size: tuple[int, int], truth: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        proposals, _, labels, regression_targets = self.roi_heads.select_training_samples(proposals, truth)
        logits, deltas = self._box_outputs(pyramid, proposals, size)
        classification, regression = fastrcnn_loss(logits, deltas, labels, list(regression_targets))
        return {"classification": classification, "box_regression": regression}

    def _detect(self, pyramid: list[Tensor], proposals: list[Tensor], size: tuple[int, int]) -> list[Detections]:
        logits, deltas = self._box_outputs(pyramid, proposals, size)
        boxes, scores, labels = self.roi_heads.postprocess_detections(
            logits, deltas, proposals, [size] * len(proposals)
        )
        return [
            Detections(image_boxes, image_labels - 1, image_scores)
            for image_boxes, image_labels, image_scores in zip(boxes, labels, scores, strict=True)
        ]

    def _read_targets(self, targets: Sequence[Boxes], maps: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Convert targets to torchvision's form, where class 0 is the background."""
        listed = targets if isinstance(targets, Sequence) else [targets]
        wrong = [target for target in listed if not isinstance(target, Boxes)]
        if wrong or not isinstance(targets, Sequence):
            kind = type(wrong[0] if wrong else targets).__name__
            raise TypeError(f"targets must be a list of tadp.images.boxes.Boxes, one per image; got {kind}.")
        if len(targets) != maps.shape[0]:
            raise ValueError(f"there must be one Boxes per image; got {len(targets)} for {maps.shape[0]} images.")
        for image, target in enumerate(targets):
            if len(target) and target.labels.max() >= self.num_classes:
                raise ValueError(
                    f"labels must be 0 to {self.num_classes - 1} for {self.num_classes} classes; got "
                    f"{target.labels.max().item()} in image {image}."
                )
            boxes = target.boxes
            outside = (boxes[:, 2:] <= 0).any(dim=1) | (boxes[:, 0] >= size[1]) | (boxes[:, 1] >= size[0])
            if outside.any():
                box = ", ".join(f"{value:g}" for value in boxes[outside][0].tolist())
                raise ValueError(
                    f"box ({box}) of image {image} lies outside the image, which is {size[0]} high and {size[1]} wide. "
                    "Boxes are left, top, right, bottom in pixels of the images."
                )
        return [
            {"boxes": target.boxes.to(maps.device, torch.float32), "labels": target.labels.to(maps.device) + 1}
            for target in targets
        ]


def _check_anchors(anchor_sizes: Sequence[float], aspect_ratios: Sequence[float], *, levels: int) -> None:
    check_ordered(anchor_sizes=anchor_sizes, aspect_ratios=aspect_ratios)
    for name, numbers in (("anchor_sizes", anchor_sizes), ("aspect_ratios", aspect_ratios)):
        for number in numbers:
            check_numbers(allow_nonfinite=False, **{name: number})
    if len(anchor_sizes) != levels or not aspect_ratios or min(*anchor_sizes, *aspect_ratios) <= 0:
        raise ValueError(
            f"anchor_sizes must have one side in pixels, over 0, for each of the {levels} levels; got "
            f"{list(anchor_sizes)}, with aspect ratios {list(aspect_ratios)}."
        )


def _check_strides(strides: Sequence[int]) -> None:
    doubling = [strides[0] * 2**level for level in range(len(strides))]
    if list(strides) != doubling:
        raise ValueError(
            f"a detection head sorts boxes into levels by size, so each stride must be twice the previous one; got "
            f"{tuple(strides)}. Leave a level out, or add the missing level."
        )


def _check_size(finest: Tensor, stride: int, size: tuple[int, int]) -> None:
    covered = finest.shape[2] * stride, finest.shape[3] * stride
    if any(abs(pixels - side) >= stride for pixels, side in zip(covered, size, strict=True)):
        raise ValueError(
            f"image_size must be the size of the images, which is about {covered[0]}x{covered[1]} for these features; "
            f"got {size[0]}x{size[1]}. Scale the boxes instead."
        )
