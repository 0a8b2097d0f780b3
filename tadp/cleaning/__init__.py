"""Caption cleaning: remove what captions say about a domain, a kind of image such as watercolors.

A modifier can then name the target domain in the same way in every caption.

    cleaner = RuleCleaner("watercolor")
    cleaner(["a watercolor painting of a dog"])   # ["a dog"]
    cleaner.clean(captions)                        # CleaningReport: changes, failures, remaining mentions

`RuleCleaner` needs no model, `ModelCleaner` needs a language model of transformers, and `EndpointCleaner` needs the
address of a server with OpenAI's chat protocol. No cleaner loses a caption: a caption that cannot be cleaned stays as
it was, and the report says why.

Source: TADP Sec. 4.3, which asks GPT-3.5.
"""

from tadp.cleaning.cleaner import Cleaner, CleaningInterrupted, CleaningReport, Kept
from tadp.cleaning.domains import DOMAINS, Domain
from tadp.cleaning.endpoint import EndpointCleaner
from tadp.cleaning.model_cleaner import ModelCleaner
from tadp.cleaning.rules import RuleCleaner

__all__ = [
    "DOMAINS", "Cleaner", "CleaningInterrupted", "CleaningReport", "Domain", "EndpointCleaner", "Kept",
    "ModelCleaner", "RuleCleaner",
]  # fmt: skip
