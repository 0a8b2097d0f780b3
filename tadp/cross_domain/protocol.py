"""The protocol: the captions that a model is trained with, and those that it is tested with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from tqdm import tqdm

from tadp.backbone import TADPBackbone
from tadp.cleaning import Cleaner
from tadp.cleaning.cleaner import warn_about_failures
from tadp.cross_domain.views import Recaptioned, Unlabelled, UnlabelledImage
from tadp.datasets.transforms.augmented import SampleSource
from tadp.errors import CaptionError, ModifierError
from tadp.modifiers import CaptionModifier, Installation, Kind, PaperDomain


@dataclass(frozen=True)
class Protocol:
    """Train on the source with a modifier, and test on the target with the same modifier after cleaning the captions.

    No label of the target is used: cleaning receives only captions.

    Attributes:
        modifier: The modifier that names the target domain; the default changes nothing, which is the paper's null.
        cleaner: Removes what captions of the target already say about the domain; with None the captions are left as
            they are, and may name the domain at test time.

    Source:
        TADP Sec. 4.3, which cleans with GPT-3.5.

    Example:
        >>> from tadp.cleaning import RuleCleaner
        >>> from tadp.datasets import RenderedScenes
        >>> protocol = Protocol(CaptionModifier("a sketch of {caption}"), cleaner=RuleCleaner("comic"))
        >>> protocol.source(RenderedScenes(10, seed=1))[3].caption
        'a sketch of a red person and a purple tree in a desert'
        >>> comics = RenderedScenes(10, seed=1, style="comic")
        >>> comics[3].caption, protocol.target(comics)[3].caption
        ('a comic style painting of a red person and a purple tree in a desert', \
'a sketch of a red person and a purple tree in a desert')
    """

    modifier: CaptionModifier = field(default_factory=CaptionModifier)
    cleaner: Cleaner | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.modifier, CaptionModifier):
            raise TypeError(
                f"modifier must be a CaptionModifier; got {self.modifier!r}. CaptionModifier() changes nothing."
            )
        if isinstance(self.cleaner, str):
            raise TypeError(f"cleaner must be a Cleaner; got {self.cleaner!r}. Pass RuleCleaner({self.cleaner!r}).")

    def source(self, data: SampleSource) -> Recaptioned:
        """The source domain, to train on: each caption is modified."""
        return Recaptioned(data, self.modifier)

    def target(
        self, data: SampleSource, *, captions: Mapping[str, str] | None = None, progress: bool = False
    ) -> Recaptioned:
        """The target domain, to test on: each caption is cleaned, then modified.

        Args:
            data: The data set. Its labels are passed on to the evaluation, but are not read here.
            captions: Captions by image id, such as a `CaptionTable`. The default is the samples' own captions, for
                which every image is read once.
            progress: Whether to show a progress bar.

        Returns:
            The data set with the new captions; its `report` lists what was cleaned.

        Raises:
            CaptionError: If an image has no caption.
            TypeError: If `captions` is not a mapping by id.
        """
        if captions is not None and not isinstance(captions, Mapping):
            raise TypeError(
                f"captions must be given by image id, such as a CaptionTable or {{'image-1': 'a dog'}}; got a "
                f"{type(captions).__name__}. Open a caption file with CaptionTable.open(path)."
            )
        if self.cleaner is None:
            return Recaptioned(data, self.modifier, captions=captions)
        if captions is None:
            images = tqdm(Unlabelled(data), desc="reading captions", total=len(data), disable=not progress)
            captions = {image.image_id: _caption_of(image) for image in images}
        ids = list(captions)
        report = self.cleaner.clean([captions[image_id] for image_id in ids], progress=progress)
        warn_about_failures(report)
        cleaned = dict(zip(ids, report.after, strict=True))
        return Recaptioned(data, self.modifier, captions=cleaned, report=report)

    def installed(self, backbone: TADPBackbone) -> Installation:
        """Install the modifier's learned token and U-Net in a backbone, until the end of a `with` block.

        Build the task model inside the block: a modifier with a U-Net gives the backbone new parameters.

        Raises:
            ModifierError: See `CaptionModifier.install`.
        """
        return self.modifier.install(backbone)


def six_modifiers(
    domain: PaperDomain, *, inverted: CaptionModifier | None = None, tuned: CaptionModifier | None = None
) -> dict[Kind, CaptionModifier]:
    """The paper's six modifiers for one of its target domains, in the order of its tables.

    Args:
        domain: "watercolor", "comic" or "night".
        inverted: The result of `learn_token`; without it there is no "textual_inversion".
        tuned: The result of `dreambooth`; without it there is no "dreambooth".

    Raises:
        ModifierError: If the domain is unknown, `inverted` has no token, or `tuned` has no U-Net.

    Source:
        TADP Tables 4 and 5.

    Example:
        >>> for kind, modifier in six_modifiers("night").items():
        ...     print(kind, modifier(["a dog"]))
        null ['a dog']
        simple ['a dark night photo of a dog']
        nearby ['a foggy photo of a dog']
        unrelated ['a watercolor painting of a dog']
    """
    if inverted is not None and not inverted.tokens:
        raise ModifierError(f"inverted must be a modifier with a token, as learn_token returns; got {inverted!r}.")
    if tuned is not None and not tuned.brings_unet:
        raise ModifierError(f"tuned must be a modifier with a U-Net, as dreambooth returns; got {tuned!r}.")
    learned = {"textual_inversion": inverted, "dreambooth": tuned}
    order = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")
    six: dict[Kind, CaptionModifier] = {}
    for kind in sorted(get_args(Kind), key=order.index):
        modifier = learned[kind] if kind in learned else CaptionModifier.for_domain(domain, kind)
        if modifier is not None:
            six[kind] = modifier
    return six


def _caption_of(image: UnlabelledImage) -> str:
    if image.caption is None:
        raise CaptionError(
            f"image {image.image_id!r} has no caption to clean; open its data set with captions=, a table filled by a "
            "captioner."
        )
    return image.caption
