"""What the three task models share: their text, what of the U-Net trains, and how they are kept."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.text_source import CaptionFunction
from tadp.datasets.sample import Sample
from tadp.errors import ModelError
from tadp.features import Features
from tadp.files.atomic import replace_folder
from tadp.files.hub import HubOptions
from tadp.heads.maps import autocasts
from tadp.images.reading import ImageLike
from tadp.tasks.card import card_record, model_card
from tadp.tasks.lora_training import Tune, add_lora, check_tune, has_lora
from tadp.tasks.model_text import ModelText, PromptMode
from tadp.tasks.task_files import find_task, load_backbone, load_text, load_weights, read_config, save_task
from tadp.text.conditioning import Conditioning
from tadp.training.schedules import decay_groups

Model = TypeVar("Model", bound="TaskModel")


class TaskModel(nn.Module, ModelHubMixin, library_name="tadp", tags=["tadp", "diffusion-backbone"]):
    """A backbone, a head, and the text they were trained with. Use one of its subclasses.

    Args:
        backbone: Its `feature_info` must be that of the head.
        head: Takes `Features`.
        prompt_mode: The text: "captions" (given, or an attached captioner's), or one for all images: "class_names",
            "class_embeddings", "averaged_eos" (see `tadp.prompts`), "null", the empty prompt, or "stored", embeddings
            that `store_text` gives it and that are kept with the model, as converted files of others have them.
        prompt_classes: The names for the three modes that need them.
        tune: What of the U-Net trains: "all", a "lora" of attention (extra `train`), or "nothing". What trains is
            saved, what does not is loaded from its source again.
        lora_rank: Rank of the LoRA.

    Raises:
        ValueError: If an option is unknown, or a mode lacks its classes.
        ModelError: If the backbone counts another number of tokens than the mode's text has.
    """

    pipeline_tag: ClassVar[str]  # the hub's name of the task

    def __init__(
        self,
        backbone: TADPBackbone,
        head: nn.Module,
        *,
        prompt_mode: PromptMode,
        prompt_classes: Sequence[str],
        tune: Tune,
        lora_rank: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head.to(backbone.device)
        self.lora_rank = lora_rank
        self.captioner_name: str | None = None
        self.record: dict[str, Any] = {}
        self._text = ModelText(prompt_mode, prompt_classes, backbone)
        check_tune(tune, backbone.unet, lora_rank)
        if tune == "lora" and not has_lora(backbone.unet):
            add_lora(backbone.unet, backbone.layout, rank=lora_rank)
        elif tune == "nothing":
            backbone.freeze()
        elif tune == "all":
            backbone.unfreeze()

    @property
    def prompt_mode(self) -> PromptMode:
        """Where the model's text comes from."""
        return self._text.mode

    @property
    def prompt_classes(self) -> tuple[str, ...]:
        """The names in the text of the three modes that need them."""
        return self._text.classes

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the constructor takes besides the backbone, as saved with the model."""

    @abstractmethod
    def predict(self, image: ImageLike, caption: str | Conditioning | None = None) -> Any:
        """What the model predicts for one image, in the image's own size."""

    @abstractmethod
    def make_metric(self) -> Any:
        """A new metric of the model's task, with the paper's settings."""

    @abstractmethod
    def score(self, metric: Any, result: Any, sample: Sample) -> None:
        """Count one result of `predict` in a metric of the model's task.

        Args:
            metric: From `make_metric`, or another one that takes the same predictions and labels.
            result: What `predict` returned for the sample's image.
            sample: The image with its labels.

        Raises:
            ValueError: If the sample has no labels of the model's task.
        """

    @property
    def tuned(self) -> Tune:
        """What of the U-Net is the model's own: "all" of it, a "lora", or "nothing"."""
        if has_lora(self.backbone.unet):
            return "lora"
        return "all" if any(p.requires_grad for p in self.backbone.unet.parameters()) else "nothing"

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.backbone.device

    @property
    def captioner(self) -> CaptionFunction | None:
        """The captioner that is attached to the backbone, which `predict` asks where no caption is given."""
        return self.backbone.captioner

    def attach_captioner(self: Model, captioner: CaptionFunction | str | None = None, **options: Any) -> Model:
        """Attach a captioner to the backbone, so that `predict` describes images by itself.

        Args:
            captioner: A captioner, or the name of one; None is the one that this model was trained with.
            **options: Options of `Captioner.from_pretrained`, if a name is given.

        Raises:
            ModelError: If the model does not know its captioner's name, or takes no captions.
            UnknownModelError: If there is no such captioner.
        """
        if self.prompt_mode != "captions":
            raise ModelError(
                f"this model's text is {self.prompt_mode!r}, the same for all images; it takes no captions."
            )
        captioner = self.captioner_name if captioner is None else captioner
        if captioner is None:
            raise ModelError("this model does not know its captioner; pass one, or its name such as 'tadp-tiny'.")
        self.backbone.attach_captioner(captioner, **options)
        self.captioner_name = getattr(self.captioner, "name", self.captioner_name)  # a function has no name to keep
        return self

    @property
    def stored_text(self) -> Conditioning | None:
        """What `store_text` gave a model whose prompt mode is "stored"; None in other modes.

        Raises:
            ModelError: If it has no text yet.
        """
        return self._text.for_all() if self.prompt_mode == "stored" else None

    def store_text(self, text: Conditioning) -> None:
        """Give a model whose prompt mode is "stored" its text: (1, L, D), for all images, saved with the model.

        Raises:
            ModelError: If the mode is another.
            ValueError: If there is more than one text.
        """
        self._text.store(text.to(self.device))

    def features(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        *,
        latents: Float[Tensor, "b c h w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Features:
        """What the head sees.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads; None if latents are given.
            text: One caption per image, one for all, or `Conditioning`. None: the mode's own text; for captions, what
                the backbone takes by itself. What is over the text encoder's limit is cut, with a warning: a long
                caption among many does not stop a training.
            latents: A cache of `backbone.encode_image`, in place of images.
            image_size: (height, width) of the images the latents came from; by default the latents' own.
        """
        text = self._text.for_all() if text is None else text
        if latents is not None:
            made = self.backbone.extract(latents, text, image_size=image_size, truncate=True)
        elif images is not None:
            made = self.backbone(images, text, truncate=True)
        else:
            raise ValueError("pass images, or latents of them.")
        dtype = next(self.head.parameters()).dtype
        if made.maps[0].dtype == dtype or autocasts(self.device):
            return made
        return replace(made, maps=tuple(one.to(dtype) for one in made.maps))

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: the head at `lr`, the U-Net at `unet_scale` of it; norms and biases do not decay.

        Source:
            The released segmentation code: 8e-5, 0.1 and 5e-3. Its depth code takes 0.01 for the U-Net.
        """
        return [
            *decay_groups(self.head, lr=lr, weight_decay=weight_decay),
            *self.backbone.parameter_groups(lr, unet_scale=unet_scale, weight_decay=weight_decay),
        ]

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """Evaluation mode and no gradient; afterwards all is as it was."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            self.eval()
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the mixin's takes any keyword
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        base_model: str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> Model:
        """Load a model that `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A folder, or a repository on the hub.
            base_model: What it was trained on, if it is elsewhere now than where the config says.
            dtype: Dtype of all parts; None is float32.
            device: Device of the model; None is the CPU.
            revision: Branch, tag or commit of the repository; that of the base is in the config.
            local_files_only: Use only files that are already here.
            cache_dir: Where hub models are kept.
            token: Access token for gated models.

        Raises:
            UnknownModelError: If there is no such model, or its base is not available.
            MissingFileError, CorruptFileError: If a file is missing or damaged; the message says which.
            ModelError: If it is another kind of model, or weights and config disagree.
        """
        hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        folder = find_task(pretrained_model_name_or_path, hub)
        config = read_config(folder, cls)
        dtype = dtype or torch.float32
        backbone = load_backbone(folder, config, base_model=base_model, dtype=dtype, hub=hub)
        model = cls(backbone, **config["options"])
        load_weights(model.head, model.backbone, folder, config)
        if model.prompt_mode == "stored":
            model.store_text(load_text(folder, model.prompt_classes))
        model.captioner_name = config.get("captioner")
        model.record = config.get("record", {})
        return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a folder that `from_pretrained` gives back: the head, what was tuned of the U-Net, config and card.

        The frozen base is not copied if it can be had again: "tadp-tiny", a hub id, kept with its commit, or a folder,
        kept with its path. One made from parts is written into `base/`, once. A failure leaves what the folder held.

        Args:
            save_directory: The folder.
            config: Not used: the config is the model's own.
            repo_id: The repository, as `push_to_hub` takes it; None is the folder's name.
            push_to_hub: Send it to the hub afterwards.
            model_card_kwargs: What the card says besides, kept in `record`: "data" (str), "metrics" (dict of numbers),
                "license" (str), "notes" (str).
            **push_to_hub_kwargs: Options of `push_to_hub`.

        Returns:
            The commit's address, if it was sent to the hub.

        Raises:
            OutputError: If the folder cannot be written.
            TypeError, ValueError: If the card has no such entry, or one is of another kind; nothing is written then.
        """
        self.record |= card_record(model_card_kwargs or {})
        folder = Path(save_directory)
        with replace_folder(folder) as part:
            self._save_pretrained(part)
            self.generate_model_card().save(part / "README.md")
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send the model to the hub; `options` are those of `huggingface_hub.ModelHubMixin.push_to_hub`.

        Raises:
            ModelError: If its base is a folder on this machine, which nobody else could load.
        """
        source = self.backbone.source
        if source is not None and Path(source.name).expanduser().is_dir():
            raise ModelError(
                f"the base of this model is the folder {source.name}, which others do not have. Push the base, load it "
                "by its hub id, and save the model anew."
            )
        return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_task(
            save_directory,
            kind=type(self).__name__,
            backbone=self.backbone,
            head=self.head,
            options=self.options,
            text=self.stored_text,
            captioner=self.captioner_name,
            record=self.record,
        )

    def generate_model_card(self, **card: Any) -> ModelCard:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The README of the model's repository: base, licence, text, data, figures, and how to use it."""
        self.record |= card_record(card)
        return model_card(
            self.record,
            kind=type(self).__name__,
            pipeline=self.pipeline_tag,
            source=self.backbone.source,
            tuned=self.tuned,
            prompt_mode=self.prompt_mode,
            captioner=self.captioner_name,
            timestep=str(self.backbone.passes),
            class_names=self.options.get("class_names", ()),
        )
