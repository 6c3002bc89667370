"""What stands between embeddings and positions in some speech models."""

from __future__ import annotations

from torch import Tensor, nn


class ConvPrenet(nn.Module):
    """Convolutions over the steps of a text, each with batch norm, ReLU and dropout, and a linear layer.

    Args:
        dim: of the steps.
        num_layers: convolutions.
        kernel_size: odd.
        dropout: after each, in training.

    Source: the text prenet of Tacotron 2 (Shen et al., 2018), as in `valle/models/valle.py` of lifeiteng/vall-e.
    """

    def __init__(self, dim: int, num_layers: int = 3, kernel_size: int = 5, dropout: float = 0.5) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2) for _ in range(num_layers)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(dim) for _ in range(num_layers)])
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Steps `(batch, steps, dim)`, and which of them are no padding, `(batch, steps)`; `None`: all are."""
        x = x.transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # A row's end is then the same whether padding follows or nothing.
            x = x if valid is None else x * valid[:, None]
            x = self.dropout(norm(conv(x)).relu())
        return self.projection(x.transpose(1, 2))


class LinearPrenet(nn.Sequential):
    """A bottleneck of linear layers over single steps.

    Args:
        dim: of the steps.
        bottleneck: of the hidden layers.
        dropout: after each of them, in training.

    Source: the audio prenet in `valle/models/valle.py` of lifeiteng/vall-e.
    """

    def __init__(self, dim: int, bottleneck: int = 256, dropout: float = 0.25) -> None:
        super().__init__(
            *(nn.Linear(dim, bottleneck), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(bottleneck, bottleneck), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(bottleneck, dim),
        )
