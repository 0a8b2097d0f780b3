"""Train a model where labels exist (the source domain) for images where they do not (the target domain).

This is the paper's cross-domain protocol, for any data sets:

    protocol = Protocol(CaptionModifier.style("watercolor"), cleaner=RuleCleaner("watercolor"))
    train = protocol.source(voc)                # captions are modified to name the target domain
    test = protocol.target(watercolor2k)        # captions are first cleaned of words about the domain, then modified
    with protocol.installed(backbone):          # installs the modifier's learned token or tuned U-Net, if it has one
        ...                                     # build, train and measure the model
    ten = images_of(watercolor2k_train, count=10)  # images without labels, for learn_token and dreambooth

Source: TADP Sec. 4.3.
"""

from tadp.cross_domain.comparison import Estimate as Estimate
from tadp.cross_domain.comparison import ModifierTable as ModifierTable
from tadp.cross_domain.comparison import estimate as estimate
from tadp.cross_domain.protocol import Protocol as Protocol
from tadp.cross_domain.protocol import six_modifiers as six_modifiers
from tadp.cross_domain.views import Recaptioned as Recaptioned
from tadp.cross_domain.views import Unlabelled as Unlabelled
from tadp.cross_domain.views import UnlabelledImage as UnlabelledImage
from tadp.cross_domain.views import images_of as images_of

__all__ = [
    "Estimate",
    "ModifierTable",
    "Protocol",
    "Recaptioned",
    "Unlabelled",
    "UnlabelledImage",
    "estimate",
    "images_of",
    "six_modifiers",
]
