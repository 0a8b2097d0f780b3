"""Find the points of one image in another by their features: `tadp.match`."""

from tadp.correspondence.matches import Matches as Matches
from tadp.correspondence.matches import match as match

__all__ = ["Matches", "match"]
