"""A LoRA that DreamBooth trained, as something that can be pushed to the hub by itself."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import CorruptFileError, MissingFileError
from tadp.files.atomic import complete_folder, replace_folder
from tadp.files.hub import check_readable, read_json
from tadp.files.model_card import HERE, card_record, model_card
from tadp.files.publishing import Pushable
from tadp.personalize.run_folder import RECORD_NAME, run_record


class TrainedLora(Pushable):
    """The LoRA in the folder of a run of `dreambooth` with `lora_rank`.

    `TADPBackbone.from_pretrained(base_model, lora=…)` loads it from the folder or from the hub.

    Args:
        folder: The folder of the run, or another folder with pytorch_lora_weights.safetensors.

    Raises:
        MissingFileError: If the folder has no LoRA.
        CorruptFileError: If the LoRA or the record of the run is damaged.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / LORA_NAME
        complete_folder(self.path.parent)
        if not self.path.is_file():
            raise MissingFileError(f"no {LORA_NAME} in {folder}; dreambooth writes it if lora_rank is set.")
        check_readable(self.path)
        record = self.path.with_name(RECORD_NAME)
        self._training = read_json(record) if record.exists() else {}
        try:
            self.record = run_record(self._training) if self._training else {}
        except (LookupError, TypeError) as error:
            raise CorruptFileError(f"{record} is not the record of a run. Get the file again.") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the LoRA to another folder.

        Raises:
            OutputError: If the folder cannot be written to.
        """
        with replace_folder(Path(folder)) as part:
            shutil.copyfile(self.path, part / LORA_NAME)

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the LoRA's repository; see `push_to_hub`."""
        record = self.record | card_record(entries)
        base = record.get("base_model", "the base model for which it was trained")
        prompt = self._training.get("prompt")
        return model_card(
            record,
            title="LoRA",
            intro="A LoRA of a diffusion model's attention layers, in diffusers' format, for the Python library tadp.",
            facts={
                "rank": str(self._training.get("lora_rank", "not recorded")),
                "prompt": f"`{prompt}`" if prompt else "not recorded",
            },
            code=f'from tadp import TADPBackbone\n\nbackbone = TADPBackbone.from_pretrained("{base}", lora="{HERE}")\n'
            'features = backbone("photo.jpg", "a dog on grass")',
            source=None,
        )
