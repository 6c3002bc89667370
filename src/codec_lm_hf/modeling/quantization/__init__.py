from .codebook import Codebook, LearnedCodebook
from .factorized import FactorizedResidualQuantizer, FactorizedVectorQuantizer
from .grouped import GroupResidualQuantizer
from .kmeans import kmeans
from .vector import EuclideanCodebook, QuantizerOutput, ResidualVectorQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "EuclideanCodebook",
    "FactorizedResidualQuantizer",
    "FactorizedVectorQuantizer",
    "GroupResidualQuantizer",
    "LearnedCodebook",
    "QuantizerOutput",
    "ResidualVectorQuantizer",
    "VectorQuantizer",
    "kmeans",
]
