"""The conditions that are compared: which modifier the model uses for a scene."""

from tadp import CaptionModifier

STYLES = ("watercolor", "comic", "night")
METHODS = ("token", "dreambooth", "lora")
TOKEN, RARE_WORD, INITIALIZER = "<style>", "sks", "painting"
# The same template for all styles, the paper's for paintings, so that its words do not reveal the style.
TEMPLATE = "a {} style painting of {{caption}}"

ALONE = "caption alone"
WORDS = "style's own words"  # tadp-tiny was trained with them, so they show the best possible result


def before(method: str) -> str:
    """The condition in which the words of a method have not been learned yet."""
    return "token before learning" if method == "token" else "sks before tuning"


def fixed(condition: str, style: str) -> CaptionModifier:
    """The modifier of a condition without learning."""
    if condition == ALONE:
        return CaptionModifier()
    if condition == WORDS:
        return CaptionModifier.for_domain(style, "simple")
    return CaptionModifier(TEMPLATE.format(INITIALIZER if condition == before("token") else RARE_WORD))


def loss_conditions(methods: list[str], style: str) -> list[str]:
    """The conditions in which losses are measured. "token of comic" is the token that was learned from comics."""
    other_styles = [other for other in STYLES if other != style]
    unlearned = [ALONE, WORDS, *dict.fromkeys(before(method) for method in methods)]
    return [*unlearned, *methods, *(f"{method} of {other}" for method in methods for other in other_styles)]


def sample_conditions(methods: list[str]) -> list[tuple[str, str]]:
    """The conditions and styles to draw. Conditions that do not depend on the style are drawn once, as "any"."""
    unlearned = [(name, "any") for name in (ALONE, *dict.fromkeys(before(method) for method in methods))]
    return [*unlearned, *((condition, style) for condition in (WORDS, *methods) for style in STYLES)]
