"""The base class of the three task models: their text, which part of the U-Net trains, and how they are saved."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.memory_saving import MemorySaving
from tadp.backbone.text_source import CaptionFunction
from tadp.captioner.model_files import TINY
from tadp.datasets.sample import Sample
from tadp.errors import ModelError
from tadp.features import Features
from tadp.files.atomic import replace_folder
from tadp.files.building import explained, limited
from tadp.files.diffusers_hooks import is_quantized
from tadp.files.hub import HubOptions
from tadp.files.inference import autocasts
from tadp.files.model_card import card_record, saved_record, split_picture, write_card
from tadp.files.publishing import Pushable
from tadp.images.batches import Batches
from tadp.images.reading import ImageLike
from tadp.tasks.card import task_card
from tadp.tasks.lora_training import Tune, add_lora, check_tune, has_lora
from tadp.tasks.model_text import ModelText, PromptMode
from tadp.tasks.task_files import (
    CONFIG_NAME,
    find_task,
    head_sizes,
    load_backbone,
    load_text,
    load_weights,
    read_config,
    save_task,
)
from tadp.text.conditioning import Conditioning
from tadp.training.schedules import Groups, decay_groups

Model = TypeVar("Model", bound="TaskModel")
Finish = Callable[[], Any]  # returns what `predict` returns


class TaskModel(nn.Module, Pushable):
    """A backbone, a head and a kind of text as one model. This is the base class; use one of its subclasses.

    Args:
        backbone: The backbone.
        head: The head, a module that takes `Features`. It must be built for the backbone's `feature_info`.
        prompt_mode: The text that the model uses. With "captions", each image has its own caption, which you pass or an
            attached captioner writes. All other modes use one text for all images, unless `own_class` is set:
            "class_names", "class_embeddings", "averaged_eos" (see `tadp.prompts`), "null" (the empty prompt), or
            "stored" (embeddings that were passed to `store_text` and are saved with the model, such as those of
            converted checkpoints).
        prompt_classes: The class names in the text. They are required for "class_names", "class_embeddings" and
            "averaged_eos", and with `own_class`.
        tune: The part of the U-Net that trains: "all", "lora" (a LoRA for its attention layers; needs the extra
            `train`), or "nothing". The part that trains is saved with the model. The rest is not saved, and is loaded
            from the base model again.
        lora_rank: Rank of the LoRA if `tune` is "lora".
        own_class: Whether each image only gets the text of its own class; see `TADPForDepthEstimation`.
        default_class: The class of images whose class is not known, if `own_class` is set; None refuses such images.

    Attributes:
        text: The text of the model. `text.of_sample(sample)` is the caption or class that `predict` takes for a sample.

    Raises:
        ValueError: If an option is unknown, or `prompt_classes` is missing in a mode that needs it.
        ModelError: If the text of the prompt mode has a different number of tokens than the backbone expects.
    """

    pipeline_tag: ClassVar[str]  # the hub's name for the task
    earlier_options: ClassVar[Mapping[str, Any]] = {}  # values of options that earlier versions did not save

    def __init__(
        self,
        backbone: TADPBackbone,
        head: nn.Module,
        *,
        prompt_mode: PromptMode,
        prompt_classes: Sequence[str],
        tune: Tune,
        lora_rank: int,
        own_class: bool = False,
        default_class: str | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head.to(backbone.device)
        self.lora_rank = lora_rank
        self.captioner_name: str | None = None
        self.record: dict[str, Any] = {}
        self.text = ModelText(prompt_mode, prompt_classes, backbone, own_class=own_class, default_class=default_class)
        check_tune(tune, backbone.unet, lora_rank)
        if tune == "lora" and not has_lora(backbone.unet):
            add_lora(backbone.unet, backbone.layout, rank=lora_rank)
            backbone.freeze_unused()
        elif tune == "nothing":
            backbone.freeze()
        elif tune == "all":
            backbone.unfreeze()

    @property
    def prompt_mode(self) -> PromptMode:
        """Where the model's text comes from."""
        return self.text.mode

    @property
    def prompt_classes(self) -> tuple[str, ...]:
        """The class names in the text, for the prompt modes that are made of class names."""
        return self.text.classes

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The constructor's arguments without the backbone, as they are saved with the model."""

    @abstractmethod
    def predict(self, image: ImageLike, caption: str | Conditioning | None = None) -> Any:
        """Predict one image, at the image's own size."""

    @abstractmethod
    def start_prediction(self, image: ImageLike, caption: str | Conditioning | None, batches: Batches) -> Finish:
        """Read an image and find its text. The function that is returned predicts the image, through `batches`."""

    @abstractmethod
    def predict_batch(self, pixels: Float[Tensor, "b 3 h w"], texts: Sequence[Conditioning]) -> Any:
        """One prediction for each of several parts of images, each with its own text, for `Batches`."""

    @abstractmethod
    def make_metric(self) -> Any:
        """A new metric for the model's task, with the paper's settings."""

    @abstractmethod
    def score(self, metric: Any, result: Any, sample: Sample) -> None:
        """Add one result of `predict` to a metric.

        Args:
            metric: The metric that `make_metric` returned, or another that takes the same predictions and labels.
            result: The result of `predict` for the sample's image.
            sample: The image with its labels.

        Raises:
            ValueError: If the sample has no labels for the model's task.
        """

    @property
    def tuned(self) -> Tune:
        """The part of the U-Net that belongs to this model: "all" of it, a "lora", or "nothing"."""
        if has_lora(self.backbone.unet):
            return "lora"
        return "all" if any(p.requires_grad for p in self.backbone.unet.parameters()) else "nothing"

    @property
    def device(self) -> torch.device:
        """The device of the U-Net."""
        return self.backbone.device

    @property
    def captioner(self) -> CaptionFunction | None:
        """The captioner attached to the backbone. `predict` calls it when no caption is passed."""
        return self.backbone.captioner

    def attach_captioner(self: Model, captioner: CaptionFunction | str | None = None, **options: Any) -> Model:
        """Attach a captioner to the backbone, so that `predict` needs no captions.

        Args:
            captioner: A captioner, or the name of one. None is the captioner with which this model was trained.
            **options: Options of `Captioner.from_pretrained`, if `captioner` is a name.

        Raises:
            ModelError: If the model takes no captions, or if `captioner` is None and the model does not know its own.
            UnknownModelError: If `captioner` is a name and there is no such captioner.
        """
        if self.prompt_mode != "captions":
            raise ModelError(f"this model's text is {self.text.summary}; it takes no captions.")
        captioner = self.captioner_name if captioner is None else captioner
        if captioner is None:
            raise ModelError(
                "this model does not know its captioner; pass one, or the name of one, such as 'tadp-tiny'."
            )
        self.backbone.attach_captioner(captioner, **options)
        self.captioner_name = getattr(self.captioner, "name", self.captioner_name)  # a function has no name to keep
        return self

    @property
    def stored_text(self) -> Conditioning | None:
        """The text passed to `store_text`, if the prompt mode is "stored"; None in other modes.

        Raises:
            ModelError: If no text was stored yet.
        """
        if self.prompt_mode == "stored":
            self.text.check_known()
        return self.text.stored

    def store_text(self, text: Conditioning) -> None:
        """Set the text of a model whose prompt mode is "stored".

        Args:
            text: One encoded text for all images, (1, L, D), or with `own_class=True` one embedding per class.

        Raises:
            ModelError: If the model's prompt mode is not "stored".
            ValueError: If `text` contains more than one text or, with `own_class`, not one embedding per class.
        """
        self.text.store(text.to(self.device))

    def features(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        *,
        latents: Float[Tensor, "b c h w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Features:
        """Compute the features that the head receives.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads. None if latents are
                passed.
            text: One caption per image, one caption for all images, or a `Conditioning`; if the model was built
                with `own_class=True`, names of classes in place of captions. None is the text of the prompt mode; in
                mode "captions", the backbone then finds the text as in `backbone(images)`. Captions over the text
                encoder's limit are cut, with a warning, so that one long caption does not stop a training run.
            latents: Results of `backbone.encode_image`, for example from a cache, that are used instead of images.
            image_size: (height, width) in pixels of the images of the latents. None is the size that the latents cover.
        """
        text = self.text.of_images(text)
        if latents is not None:
            features = self.backbone.extract(latents, text, image_size=image_size, truncate=True)
        elif images is not None:
            # Sampled latents of a prediction must not change the random numbers of a training in another thread.
            draws = self.backbone.options.sample_posterior and not self.training
            generator = torch.Generator().manual_seed(0) if draws else None
            features = self.backbone(images, text, truncate=True, generator=generator)
        else:
            raise ValueError("pass images, or latents of them.")
        dtype = next(self.head.parameters()).dtype
        if features.maps[0].dtype == dtype or autocasts(self.device):
            return features
        return replace(features, maps=tuple(feature_map.to(dtype) for feature_map in features.maps))

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3, groups: Groups = "matrices"
    ) -> list[dict[str, Any]]:
        """Return the trainable parameters as groups for an optimizer.

        Args:
            lr: Learning rate of the head.
            unet_scale: Learning rate of the U-Net as a fraction of `lr`.
            weight_decay: Weight decay of those parameters to which the rule in `groups` gives one.
            groups: Rule for weight decay: "matrices", which leaves out norms and biases, or "released",
                the groups of the paper's segmentation and detection code (see `tadp.training.schedules.Schedule`).

        Source:
            The paper's released segmentation code uses 8e-5, 0.1 and 5e-3. Its depth code uses `unet_scale` 0.01.
        """
        return [
            *decay_groups(self.head, lr=lr, weight_decay=weight_decay, groups=groups),
            *self.backbone.parameter_groups(lr, unet_scale=unet_scale, weight_decay=weight_decay, groups=groups),
        ]

    @classmethod
    def from_pretrained(
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
        **memory_saving: Any,
    ) -> Model:
        """Load a model that `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        If the model was trained with the captioner of tadp-tiny, which comes with tadp, that captioner is attached.

        Args:
            pretrained_model_name_or_path: A folder, a hub id, or "tadp-tiny-segmentation", "-depth" or "-detection".
            base_model: Folder or hub id of the base model, if it has moved; None takes that in the config.
            dtype: Dtype of all parts; None is float32.
            device: Device of the model; None is the CPU.
            revision: Branch, tag or commit of the task model's repository; None is its default branch.
            local_files_only: Whether to use only files on this machine and never connect to the hub.
            cache_dir: Folder for downloads; None is huggingface_hub's own cache.
            token: Access token for gated models; None is the token that `hf auth login` stored.
            **memory_saving: `idle_on_cpu` and, for models with `tune="nothing"`, `group_offload`, `storage_dtype` and
                `quantization_config`; see `TADPBackbone.from_pretrained`.

        Raises:
            UnknownModelError: If there is no such model, or its base model is not available.
            MissingFileError, CorruptFileError: If a file is missing or damaged. The message says which.
            ModelError: If the folder contains another kind of model, or weights and config do not fit each other.
        """
        hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        folder = find_task(pretrained_model_name_or_path, hub)
        config = read_config(folder, cls)
        saving = MemorySaving(dtype := dtype or torch.float32, **memory_saving)
        backbone = load_backbone(folder, config, base_model=base_model, saving=saving, hub=hub)
        path, options = folder / CONFIG_NAME, {**cls.earlier_options, **config["options"]}
        with explained(path, options, what=f"a {cls.__name__}"), limited(head_sizes(folder)):
            model = cls(backbone, **options)
        load_weights(model.head, model.backbone, folder, config)
        if model.prompt_mode == "stored":
            model.store_text(load_text(folder, model.prompt_classes))
        model.captioner_name = config.get("captioner")
        model.record = saved_record(config, path)
        if model.captioner_name == TINY and model.prompt_mode == "captions":  # it comes with tadp
            model.attach_captioner(device=device)
        for part in (model.head, backbone.unet, backbone.text_adapter):  # the VAE and the text encoder have their own
            if part is not None and not is_quantized(part):
                nn.Module.to(part, dtype=dtype)
        saving.apply(backbone, device)
        return model.to(device=device).eval()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the name of the folder is older
        self,
        save_directory: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model to a folder that `from_pretrained` loads: head, tuned part of the U-Net, config, model card.

        The frozen base model is not copied if it can be loaded again: "tadp-tiny", a model on the hub (its commit is
        saved), or a folder (its path is saved). A backbone that was built from parts is written to the subfolder base.
        If saving fails, the folder keeps its old content.

        Args:
            save_directory: The folder to write to.
            config: Not used, because the model writes its own config.
            repo_id: Id of the repository, for the model card and if the folder is pushed to the hub; None is the
                folder's name.
            push_to_hub: Whether to push the model to the hub afterwards.
            model_card_kwargs: Further entries of the model card; see `push_to_hub`. Except for the picture, they are
                also stored in the model's `record`. None adds none.
            **push_to_hub_kwargs: Options of `push_to_hub`.

        Returns:
            The URL of the commit if the model was pushed to the hub; otherwise None.

        Raises:
            OutputError: If the folder cannot be written to.
            TypeError, ValueError: If `model_card_kwargs` has an unknown entry, or an entry has the wrong type. Nothing
                is written.
        """
        entries, picture = split_picture(model_card_kwargs)
        card = self.generate_model_card(**entries)
        folder = Path(save_directory)
        with replace_folder(folder) as part:
            self._save_pretrained(part)
            write_card(card, part, picture=picture, repo_id=repo_id)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs={"picture": picture}, **push_to_hub_kwargs)

    def stage(self, folder: Path, *, repo_id: str | None = None, entries: Mapping[str, Any] | None = None) -> None:
        """Write what `push_to_hub` sends to a folder; see `tadp.files.publishing.Pushable.stage`.

        Raises:
            ModelError: If the base model is a folder on this machine, which nobody else could load.
        """
        source = self.backbone.source
        if source is not None and (source.is_gone() or Path(source.name).expanduser().is_dir()):
            raise ModelError(
                f"the base model of this model is the folder {source.name}, which others do not have. Push the base "
                "model with backbone.push_to_hub, load it by its hub id, and save this model again."
            )
        super().stage(folder, repo_id=repo_id, entries=entries)

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

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the model's repository: base model, licence, text, data, metrics, and how to use the model."""
        self.record |= card_record(entries)
        return task_card(
            self.record,
            kind=type(self).__name__,
            pipeline=self.pipeline_tag,
            source=self.backbone.source,
            tuned=self.tuned,
            prompt_mode=self.prompt_mode,
            own_class=self.prompt_classes[0] if self.text.own_class else None,
            captioner=self.captioner_name,
            timestep=str(self.backbone.passes),
            class_names=self.options.get("class_names", ()),
        )
