from .kmeans import kmeans
from .vector import EuclideanCodebook, QuantizerOutput, ResidualVectorQuantizer, VectorQuantizer

__all__ = ["EuclideanCodebook", "QuantizerOutput", "ResidualVectorQuantizer", "VectorQuantizer", "kmeans"]
