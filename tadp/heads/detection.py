"""Object detection: Faster R-CNN on given features.

The box arithmetic, the sampling, the pooling and the losses are torchvision's. Ours are the order of the steps, which
lets boxes and scores be float32 whatever the head's dtype, and the anchors, which stand at the strides of the features
rather than at strides guessed from sizes, which are wrong where an image is no multiple of a stride. Parameters have
torchvision's names: `rpn`, `roi_heads`, and the pyramid's as `FPN` tells them. The released model calls them
`decode_head.rpn`, `decode_head.roi_heads` and `fpn`.
"""

from collections.abc import Sequence
from typing import overload

import torch
from einops import rearrange
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts, check_whole
from tadp.heads.faster_rcnn import build_stages
from tadp.heads.fpn import FPN
from tadp.heads.maps import check_info, read_maps
from tadp.images.boxes import Boxes, Detections

_ANCHOR_CELLS = 4  # the released sizes, 32 to 256, are four cells of their level


class DetectionHead(nn.Module):
    """Features to boxes with labels and scores.

    Args:
        feature_info: `backbone.feature_info`: channels and strides of the levels.
        num_classes: K; background is the head's own affair and none of them.
        channels: Width of the pyramid.
        hidden_channels: Width of the two layers that judge a box.
        anchor_sizes: Side in pixels of each level's anchors; None is four cells of the level, 32 to 256 for strides 8
            to 64, as released.
        aspect_ratios: Height over width of the anchors.
        score_threshold: Boxes that score less are not reported.
        nms_iou: Of two boxes of a class that overlap more than this, the better stays.
        max_detections: Boxes an image, at most.
        max_proposals: Boxes an image that the first stage hands to the second, at most; twice as many in training.
        samples_per_image: Of these, how many are judged in training. On a CPU most of the time goes here: 64 trains a
            small model several times as fast.

    Raises:
        MissingExtraError: If torchvision is missing, or does not fit the installed torch.
        TypeError: If `feature_info` is none, or `num_classes` no integer.
        ValueError: If there are no classes, a stride is not twice the one before, sizes are not one a level, a
            threshold is outside [0, 1], or nothing is to be reported, proposed or sampled.

    Source:
        Ren et al., Faster R-CNN; Lin et al., Feature Pyramid Networks; TADP/tadp_objdet.py, whose sizes are the
        defaults.

    Example:
        >>> info = FeatureInfo(channels=(32, 141), reduction=(8, 16))
        >>> head = DetectionHead(info, num_classes=12, channels=8, hidden_channels=16)
        >>> maps = [torch.rand(2, 32, 16, 16), torch.rand(2, 141, 8, 8)]  # of images 128 by 128
        >>> dog = Boxes(torch.tensor([[16.0, 20.0, 60.0, 90.0]]), torch.tensor([3]))
        >>> nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        >>> sorted(head(maps, [dog, nothing]))
        ['box_regression', 'classification', 'objectness', 'proposal_regression']
        >>> len(head.eval()(maps))  # one `Detections` an image
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
        if len(sizes) != len(feature_info) or min(*sizes, *aspect_ratios) <= 0:
            raise ValueError(
                f"anchor_sizes is one side in pixels for each of the {len(feature_info)} levels; got {list(sizes)}, "
                f"with aspect ratios {list(aspect_ratios)}."
            )
        check_counts(max_detections=max_detections, max_proposals=max_proposals, samples_per_image=samples_per_image)
        for name, share in (("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is in [0, 1]; got {share}.")
        self.feature_info, self.num_classes = feature_info, num_classes
        self.neck = FPN(feature_info, channels=channels)
        self.rpn, self.roi_heads = build_stages(
            feature_info.reduction,
            num_classes=num_classes,
            channels=channels,
            hidden_channels=hidden_channels,
            anchors_a_cell=len(aspect_ratios),
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            max_detections=max_detections,
            max_proposals=max_proposals,
            samples_per_image=samples_per_image,
        )
        # (width, height) of each level's anchors, in whole pixels as torchvision rounds them
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
        """Find objects, or with targets, say how badly that went.

        Args:
            features: What the backbone returned, or a list of its maps (B, C, h, w), finest first. They are brought to
                the head's dtype.
            targets: One `Boxes` an image, in the pixels of the images; an image may have none. With targets there are
                losses, without detections, in training and evaluation mode alike.
            image_size: (height, width) of the images, to which boxes are cut. None is that of the features, and for a
                list of maps the finest map's size times its stride.

        Returns:
            With targets, four scalars: "objectness" and "proposal_regression" of the proposals, "classification" and
            "box_regression" of the boxes; their sum is to be minimised. Without, one `Detections` an image, best first.

        Raises:
            TypeError: If `features` are no maps, or `targets` no `Boxes`.
            ValueError: If they are not the maps the head was built for, or of images of another size; if targets are
                not one an image, a label is outside the classes, or a box lies outside its image.
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
        """Boxes that may hold an object, (N, 4) an image, and with targets the two losses of these."""
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        objectness, deltas = self.rpn.head(pyramid)
        counts = [one[0].numel() for one in objectness]
        objectness, deltas = concat_box_prediction_layers(
            [one.float() for one in objectness], [one.float() for one in deltas]
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
        """All levels' anchors around the upper left corners of their cells, (N, 4), cell by cell, row by row."""
        placed = []
        for one, anchors, stride in zip(pyramid, self.anchors, self.feature_info.reduction, strict=True):
            sides = torch.tensor(anchors, dtype=torch.float32, device=one.device)
            rows = torch.arange(one.shape[2], device=one.device, dtype=torch.float32) * stride
            columns = torch.arange(one.shape[3], device=one.device, dtype=torch.float32) * stride
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            corners = rearrange([x, y], "xy h w -> h w 1 xy")
            boxes = torch.cat((corners - sides / 2, corners + sides / 2), dim=-1)
            placed.append(rearrange(boxes, "h w anchor side -> (h w anchor) side"))
        return torch.cat(placed)

    def _box_outputs(
        self, pyramid: list[Tensor], proposals: list[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, K + 1), background first, and box offsets (N, 4 * (K + 1)) of all images' proposals, float32."""
        # RoI pooling knows no bfloat16
        named = {str(level): one.float() for level, one in enumerate(pyramid)}
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
        return [Detections(*one) for one in zip(boxes, (label - 1 for label in labels), scores, strict=True)]

    def _read_targets(self, targets: Sequence[Boxes], maps: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Targets as torchvision takes them, where class 0 is the background."""
        if not isinstance(targets, Sequence) or not all(isinstance(one, Boxes) for one in targets):
            got = targets if not isinstance(targets, Sequence) else next(o for o in targets if not isinstance(o, Boxes))
            raise TypeError(f"targets are a list of tadp.images.boxes.Boxes, one an image; got {type(got).__name__}.")
        if len(targets) != maps.shape[0]:
            raise ValueError(f"one Boxes an image; got {len(targets)} for {maps.shape[0]} images.")
        for image, one in enumerate(targets):
            if len(one) and one.labels.max() >= self.num_classes:
                raise ValueError(
                    f"labels are 0 to {self.num_classes - 1} for {self.num_classes} classes; got "
                    f"{one.labels.max().item()} in image {image}."
                )
            outside = (one.boxes[:, 2:] <= 0).any(dim=1) | (one.boxes[:, 0] >= size[1]) | (one.boxes[:, 1] >= size[0])
            if outside.any():
                box = ", ".join(f"{value:g}" for value in one.boxes[outside][0].tolist())
                raise ValueError(
                    f"box ({box}) of image {image} lies outside the image, which is {size[0]} high and {size[1]} wide. "
                    "Boxes are left, top, right, bottom in pixels of the images the features are of."
                )
        return [
            {"boxes": one.boxes.to(maps.device, torch.float32), "labels": one.labels.to(maps.device) + 1}
            for one in targets
        ]


def _check_strides(strides: Sequence[int]) -> None:
    doubling = [strides[0] * 2**level for level in range(len(strides))]
    if list(strides) != doubling:
        raise ValueError(
            f"a detection head sorts boxes into levels by size, for which each stride is twice the one before; got "
            f"{tuple(strides)}. Leave a level out, or add the one between."
        )


def _check_size(finest: Tensor, stride: int, size: tuple[int, int]) -> None:
    covered = finest.shape[2] * stride, finest.shape[3] * stride
    if any(abs(have - want) >= stride for have, want in zip(covered, size, strict=True)):
        raise ValueError(
            f"image_size is that of the images the features are of, here about {covered[0]} by {covered[1]}; got "
            f"{size[0]} by {size[1]}. Scale the boxes instead."
        )
