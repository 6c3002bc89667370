from .codebook import Codebook, LearnedCodebook
from .grouped import GroupResidualQuantizer
from .kmeans import kmeans
from .vector import EuclideanCodebook, QuantizerOutput, ResidualVectorQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "EuclideanCodebook",
    "GroupResidualQuantizer",
    "LearnedCodebook",
    "QuantizerOutput",
    "ResidualVectorQuantizer",
    "VectorQuantizer",
    "kmeans",
]
