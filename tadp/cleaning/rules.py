"""Clean captions by rules of English, without a model or network, and with the same result each time."""

import re
from collections.abc import Sequence

from tqdm import tqdm

from tadp.cleaning.cleaner import Cleaner, CleaningReport, Kept, keeping, listed
from tadp.cleaning.domains import PICTURES, Domain, any_of, domain_of, mask, unmask
from tadp.language.grammar import article_for, upper_first, without_bullet, words_of
from tadp.language.lexicon import DANGLING, DETERMINERS, FUNCTION_WORDS, THINGS_IN_ING

NOTHING_ELSE = "the caption says nothing else"
_DETERMINER = rf"(?:(?:{'|'.join(sorted(DETERMINERS, key=len, reverse=True))}|a series of|a collection of)\s+)?"
# Words that may come before a kind of picture, such as "ink" in "an ink drawing".
_KINDS = (
    "black and white", "black-and-white", "abstract", "acrylic", "beautiful", "cartoon", "charcoal", "children's",
    "clean", "close up", "color", "colored", "colorful", "colour", "colourful", "cute", "dense", "detailed",
    "different", "digital", "famous", "fashion", "fine", "hand", "hand-drawn", "heavy", "illustrated", "ink",
    "large", "light", "line", "modern", "nice", "oil", "old", "original", "pen", "pen and ink", "pencil",
    "political", "pretty", "rainy", "simple", "small", "stylized", "thick", "various", "vintage",
)  # fmt: skip
_MATERIAL = r"(?:\s+(?:and|on)\s+(?:acrylic|board|canvas|charcoal|gouache|ink|paper|pastel|pen|pencil))*"
_SHOWS = r"(?:that |which )?(?:of|shows|showing|depicts|depicting|features|featuring|about)"
_PAINTED = "painted|drawn|rendered|done|made|illustrated|depicted"
_SHOWN = "shown|seen|taken|recorded"
_WORD = r"[^\W\d_][\w'’-]*"  # noqa: RUF001


class RuleCleaner(Cleaner):
    """Removes mentions of a domain from captions by rules of English.

    "a watercolor painting of a dog" and "a dog, in the style of a watercolor" become "a dog", "a cartoon cat" becomes
    "a cat", and "a street at night" becomes "a street". A drawing that is an object in the picture stays ("a man holds
    a drawing"). A list marker before a caption ("- ", "20. ") is removed too. If cleaning would leave nothing or only
    half a phrase, the caption stays as it was, without the list marker, and the report says so.

    Args:
        domain: The domain whose mentions are removed: "watercolor", "comic", "night", "foggy" or "dashcam"; a list of
            nouns that name another domain; or a `Domain`.

    Raises:
        CaptionError: If `domain` is an unknown name.

    Example:
        >>> cleaner = RuleCleaner("watercolor")
        >>> cleaner(["- a watercolor painting of a dog", "an owl in the style of a watercolor"])
        ['a dog', 'an owl']
        >>> report = cleaner.clean(["a watercolor", "a dog"])
        >>> report.after, dict(report.failures)
        (('a watercolor', 'a dog'), {0: 'the caption says nothing else'})
    """

    def __init__(self, domain: str | Domain | Sequence[str] = "watercolor"):
        self.domain = domain_of(domain)
        own = any_of((*self.domain.nouns, *self.domain.adjectives))
        self._phrases = [re.compile(pattern, re.IGNORECASE) for pattern in _phrases(self.domain, own)]
        self._whole = (*self.domain.keep, *self.domain.compounds)
        manner = r"(?:[ -]+(?:style|styled|like|themed|inspired)(?=[ -]+\w))?"  # "a watercolor-style dog"
        self._modifier = re.compile(rf"({own}){manner}[ -]+(?=\w)", re.IGNORECASE)
        self._adjective = re.compile(any_of(self.domain.adjectives), re.IGNORECASE)
        self._medium = re.compile(any_of((*self.domain.media, *PICTURES)), re.IGNORECASE)
        # "a man holding a watercolor of a cat": the watercolor is an object that he holds
        self._picture = re.compile(rf"(?<=\s)(an?\s+)?({own})(?=\s+of\b)", re.IGNORECASE)
        # "hummingbird watercolor painting": a name of up to three words, without function words
        joining = "|".join(DETERMINERS | FUNCTION_WORDS)
        name = rf"(?:(?!(?:{joining})\b){_WORD}\s+){{1,3}}?"
        self._label = re.compile(rf"({name}){own}(?:[\s-]+{self._medium.pattern})*", re.IGNORECASE)

    def __repr__(self) -> str:
        return f"RuleCleaner({self.domain.name!r})"

    def clean(
        self, captions: str | Sequence[str], *, progress: bool = False, kept: Kept | None = None
    ) -> CleaningReport:
        texts = listed(captions)
        cleaned: dict[str, str] = {}
        failures: dict[str, str] = {}
        unique = dict.fromkeys(texts)
        with keeping(self.domain, texts, cleaned, failures):
            for text in tqdm(unique, desc="cleaning", unit="caption", disable=not progress):
                cleaned[text], failure = self._clean(text)
                if failure:
                    failures[text] = failure
        if kept is not None:
            kept.update({text: result for text, result in cleaned.items() if text.strip() and text not in failures})
        return CleaningReport.of_unique(self.domain, texts, cleaned, failures)

    def _clean(self, text: str) -> tuple[str, str | None]:
        """Return the cleaned text, and the reason if it stayed as it was or still names the domain."""
        plain = without_bullet(text)
        spaced = " ".join(plain.split())  # a long run of spaces would take the patterns minutes
        masked = mask(spaced, self._whole)
        cleaned = masked
        for phrase in self._phrases:
            cleaned = phrase.sub("", cleaned)
        label = self._label.fullmatch(cleaned)
        if label and words_of(label[1])[-1] not in _KINDS:
            cleaned = label[1]
        if self.domain.media:
            cleaned = self._picture.sub(_as_picture, cleaned)
        cleaned = self._drop_modifiers(cleaned)
        if cleaned == masked:
            return plain or text, self._why_named(plain)
        cleaned = unmask(_tidy(cleaned), spaced, self._whole)
        words, first, last = words_of(cleaned), words_of(plain)[:1], words_of(plain)[-1:]
        if not self._says_more(words):
            return plain, NOTHING_ELSE
        if (words[-1] in DANGLING and words[-1:] != last) or (words[0] in FUNCTION_WORDS and words[:1] != first):
            return plain, "only half a phrase would be left"
        cleaned = upper_first(cleaned) if plain[:1].isupper() else cleaned
        return cleaned, self._why_named(cleaned)

    def _why_named(self, text: str) -> str | None:
        """Return why a caption still names the domain after the rules; None if it does not."""
        if not self.domain.named_in(text):
            return None
        if compound := re.search(any_of(self.domain.compounds), text, re.IGNORECASE):
            return f"{compound[0]!r} is a compound with the domain's name, which no rule changes"
        return "names the domain in a way that no rule covers" if self._says_more(words_of(text)) else NOTHING_ELSE

    def _says_more(self, words: list[str]) -> bool:
        """Whether there is a word besides the domain's own."""
        return bool(set(words) - DETERMINERS - self.domain.words - set(PICTURES))

    def _drop_modifiers(self, text: str) -> str:
        """Remove the domain's words before a noun, and correct the article before them."""
        position = 0
        while match := self._modifier.search(text, position):
            before, after = text[: match.start()], text[match.end() :]
            following = re.match(_WORD, after)
            if following is None or not self._is_modifier(match[1], following[0].lower()):
                position = match.end()
                continue
            if following[0].lower() == "and":  # "a foggy and dark street"
                after = after[3:].lstrip()
            elif re.search(r"\w\s+and\s+$", before) and self._adjective.fullmatch(match[1]):
                before = re.sub(r"\s+and\s+$", " ", before)  # "a wet and foggy street"
            text, position = _with_article(before, after), len(before)
        return text

    def _is_modifier(self, word: str, following: str) -> bool:
        """Whether a word of the domain belongs to the noun after it, rather than being a noun of its own."""
        if following == "and":
            return bool(self._adjective.fullmatch(word))
        if following in DETERMINERS or following in FUNCTION_WORDS:
            return False
        return not following.endswith("ing") or following in THINGS_IN_ING or bool(self._medium.fullmatch(following))


def _phrases(domain: Domain, own: str) -> list[str]:
    """Return patterns of the phrases that are removed, in this order; `own` matches any word that names the domain."""
    art = any_of(domain.media)
    picture = any_of((*domain.media, *PICTURES))
    kind = rf"(?:(?:{any_of((*_KINDS, *domain.media, *PICTURES))}|{own})[\s,-]+)"
    setting = any_of(("book", *domain.settings, *domain.media, *PICTURES))
    named = rf"{_DETERMINER}{kind}{{0,5}}?{own}(?:[\s-]+{setting})*{_MATERIAL}"  # "a dark comic book page"
    page = rf"{_DETERMINER}{kind}{{0,5}}?{picture}\s+(?:from|in|of)\s+{named}"  # "a page from the comic book"
    drawing = rf"{_DETERMINER}{kind}{{0,5}}?{art}"  # "a black and white drawing"
    end = r"(?=\s*(?:[.;:!?]|$|,(?!\s*(?:and|or)\b)))"  # not "a pen, a comic, and a cup"
    stop = rf"(?=\s*(?:[.,;:!?]|$|\b(?:{'|'.join(FUNCTION_WORDS)})\b))"
    verb = r"(?:(?:is|are)\s+)?"
    # "with a comic" or "covered in comics" describes somebody who has comics; "covered in fog" describes the picture.
    painted = _PAINTED if domain.media else rf"{_PAINTED}|{_SHOWN}|covered"
    places = [word for word in domain.prepositions if not (word == "with" and domain.media)]
    free = "(?<!covered)(?<!interested)"  # "a man interested in comics"
    manner = rf"(?:{own}(?<!s)|(?:an?\s+)?{own}[\s-]+(?:style|effect|technique)s?)"
    patterns = [
        rf"^(?:{page}|{named}),?\s+(?:{_SHOWS}|with)\s+(?=\S)",
        rf"^{drawing},?\s+{_SHOWS}\s+(?=\S)" if domain.media else None,
        rf",?\s*{verb}(?:(?:{_PAINTED}|{_SHOWN})\s+)?in\s+the\s+style\s+of\s+{named}{stop}",
        rf",?\s+{verb}(?:{painted})\s+(?:in|with|using|by|from)\s+{named}{stop}",
        rf",?\s+{verb}(?:{_SHOWN})\s+in\s+{named}{stop}",
        rf"{free}(?:^|,?\s+){verb}(?:late\s+)?(?:{'|'.join(places)})\s+{named}{stop}" if places else None,
        rf",?\s+{verb}with\s+{manner}{stop}" if places != list(domain.prepositions) else None,
        rf",\s*{named}{end}",
        rf"\s+{verb}(?:(?:{_PAINTED}|{_SHOWN})\s+)?in\s+{drawing}{end}" if domain.media else None,
    ]
    return [pattern for pattern in patterns if pattern]


def _as_picture(match: re.Match[str]) -> str:
    return f"{'a ' if match[1] else ''}{'pictures' if match[2].endswith('s') else 'picture'}"


def _with_article(before: str, after: str) -> str:
    """Join two parts of a caption, and choose "a" or "an" before the second part by its sound."""
    article = re.search(r"\ban?\s+$", before, re.IGNORECASE)
    if article:
        right = article_for(after)
        before = f"{before[: article.start()]}{upper_first(right) if article[0][0].isupper() else right} "
    return before + after


def _tidy(text: str) -> str:
    text = re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.split()))
    return text.lstrip(",;:.!? -").rstrip(",;: -")
