"""Caption cleaning: drop what a caption says of the target domain, so that a modifier can say it in one way.

    cleaner = RuleCleaner("watercolor")
    cleaner(["a watercolor painting of a dog"])   # ["a dog"]
    cleaner.clean(captions)                        # CleaningReport: what changed, what failed, what still names it

`RuleCleaner` needs nothing, `ModelCleaner` a language model of transformers, `EndpointCleaner` the address of a server
that speaks OpenAI's chat protocol. None loses a caption: one that cannot be cleaned stays as it was, and the report
says why.

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
