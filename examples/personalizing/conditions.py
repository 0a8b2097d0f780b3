"""What is compared: under which modifier the model is shown, or draws, a scene."""

from tadp import CaptionModifier

STYLES = ("watercolor", "comic", "night")
METHODS = ("token", "dreambooth", "lora")
TOKEN, RARE_WORD, INITIALIZER = "<style>", "sks", "painting"
# One for all styles, the paper's for paintings, so that its words give none of them away.
TEMPLATE = "a {} style painting of {{caption}}"

ALONE = "caption alone"
WORDS = "style's own words"  # with which tadp-tiny was trained: what could be reached at best


def before(method: str) -> str:
    """The condition in which the words of a method stand for nothing yet."""
    return "token before learning" if method == "token" else "sks before tuning"


def fixed(condition: str, style: str) -> CaptionModifier:
    """The modifier of a condition in which nothing is learned."""
    if condition == ALONE:
        return CaptionModifier()
    if condition == WORDS:
        return CaptionModifier.for_domain(style, "simple")
    return CaptionModifier(TEMPLATE.format(INITIALIZER if condition == before("token") else RARE_WORD))


def loss_conditions(methods: list[str], style: str) -> list[str]:
    """Conditions under which a style's images are measured; "token of comic" is what was learned of another style."""
    others = [other for other in STYLES if other != style]
    fixed_ones = [ALONE, WORDS, *dict.fromkeys(before(method) for method in methods)]
    return [*fixed_ones, *methods, *(f"{method} of {other}" for method in methods for other in others)]


def sample_conditions(methods: list[str]) -> list[tuple[str, str]]:
    """Conditions and styles to draw; what does not depend on a style is drawn once, as "any"."""
    fixed_ones = [(name, "any") for name in (ALONE, *dict.fromkeys(before(method) for method in methods))]
    return [*fixed_ones, *((condition, style) for condition in (WORDS, *methods) for style in STYLES)]
