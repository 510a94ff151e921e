"""The ruler: a protocol, a sealed test split, scores with intervals, and the verdict they add up to."""

from .protocol import PROTOCOLS, Protocol
from .score import Arm, Score, score
from .sealed import Sealed
from .verdict import Verdict, judge

__all__ = ["PROTOCOLS", "Arm", "Protocol", "Score", "Sealed", "Verdict", "judge", "score"]
