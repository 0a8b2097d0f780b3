"""Caption cleaning: remove mentions of the target domain, so that a modifier can name it in the same way everywhere.

    cleaner = RuleCleaner("watercolor")
    cleaner(["a watercolor painting of a dog"])   # ["a dog"]
    cleaner.clean(captions)                        # CleaningReport: changes, failures, remaining mentions

`RuleCleaner` needs nothing else, `ModelCleaner` needs a language model of transformers, and `EndpointCleaner` the
address of a server with OpenAI's chat protocol. No cleaner loses a caption: if one cannot be cleaned, it stays as it
was, and the report says why.

Source: TADP Sec. 4.3, which asks GPT-3.5.
"""

from tadp.cleaning.cleaner import Cleaner, CleaningInterrupted, CleaningReport
from tadp.cleaning.domains import DOMAINS, Domain
from tadp.cleaning.endpoint import EndpointCleaner
from tadp.cleaning.model_cleaner import ModelCleaner
from tadp.cleaning.rules import RuleCleaner

__all__ = [
    "DOMAINS", "Cleaner", "CleaningInterrupted", "CleaningReport", "Domain", "EndpointCleaner", "ModelCleaner",
    "RuleCleaner",
]  # fmt: skip
