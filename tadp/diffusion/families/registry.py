"""The list of known families, to which `register` adds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tadp.diffusion.families.family import PARTS, Family, refuse_adapter
from tadp.errors import ModelError

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, so that `TADPBackbone`, its `from_pretrained` and everything built on them can use its models.

    If several families match a model, the one that was registered last is used. A registered family with the same name
    is replaced.

    Args:
        family: An instance of a subclass of `Family`.

    Raises:
        TypeError: If `family` is not an instance of a subclass of `Family`, its `denoiser_class` is not a subclass of
            `nn.Module`, or its `part` is neither "unet" nor "transformer".
    """
    if not isinstance(family, Family):
        raise TypeError(f"family must be an instance of a subclass of Family; got {family!r}.")
    if not issubclass(family.denoiser_class, nn.Module) or family.part not in PARTS:
        raise TypeError(
            f"denoiser_class must be a subclass of nn.Module and part one of {', '.join(PARTS)}; got "
            f"{family.denoiser_class!r} and {family.part!r}."
        )
    _FAMILIES.pop(family.name, None)
    _FAMILIES[family.name] = family


def family_of(model: nn.Module) -> Family:
    """The family of a denoiser.

    Raises:
        ModelError: If the denoiser belongs to no known family; the message lists the families.
    """
    for family in reversed(_FAMILIES.values()):
        if isinstance(model, family.denoiser_class) and family.matches(family.config(model)):
            return family
    refuse_adapter(model)
    raise ModelError(f"tadp cannot read a {type(model).__name__}; it reads {known_families()}.")


def family_of_config(config: Mapping[str, Any], where: Path) -> Family:
    """Return the family to which a saved denoiser belongs.

    Args:
        config: The content of the denoiser's config.json, with its `_class_name`.
        where: The denoiser's folder, for the error message.

    Raises:
        ModelError: If the denoiser belongs to no known family. The message lists the known families.
    """
    name = config.get("_class_name")
    for family in reversed(_FAMILIES.values()):
        if family.denoiser_class.__name__ == name and family.matches(config):
            return family
    raise ModelError(
        f"{where} holds a {name!r}; tadp reads {known_families()}. Check _class_name in its config.json, or `register`."
    )


def known_families() -> str:
    """The names of all families and their denoiser classes, for error messages.

    Example:
        >>> known_families().startswith("Stable Diffusion 1.x and 2.x (UNet2DConditionModel), Stable Diffusion XL")
        True
    """
    return ", ".join(f"{family.name} ({family.denoiser_class.__name__})" for family in _FAMILIES.values())
