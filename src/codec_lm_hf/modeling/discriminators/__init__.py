from .base import CodecDiscriminator, DiscriminatorOutput

__all__ = ["CodecDiscriminator", "DiscriminatorOutput"]
