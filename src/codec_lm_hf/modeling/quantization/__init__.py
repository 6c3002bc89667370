from .codebook import Codebook, LearnedCodebook
from .kmeans import kmeans
from .vector import EuclideanCodebook, QuantizerOutput, ResidualVectorQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "EuclideanCodebook",
    "LearnedCodebook",
    "QuantizerOutput",
    "ResidualVectorQuantizer",
    "VectorQuantizer",
    "kmeans",
]
