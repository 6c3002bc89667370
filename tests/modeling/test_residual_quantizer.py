"""What AudioDec's quantizer has that EnCodec's has not: codebooks that start as noise, losses that are summed."""

from __future__ import annotations

import torch

from codec_lm_hf.modeling.quantization import EuclideanCodebook, ResidualVectorQuantizer


def test_without_k_means_a_codebook_starts_as_noise():
    codebook = EuclideanCodebook(500, 8, kmeans_iterations=None)
    codebook.start(torch.full((3, 8), 100.0))
    assert abs(codebook.embed.mean()) < 0.1 and abs(codebook.embed.std() - 1) < 0.1
    assert torch.equal(codebook.embed, codebook.embed_avg) and not codebook.cluster_size.any()
    before = codebook.embed.clone()
    codebook.start(torch.full((3, 8), 100.0))
    assert torch.equal(codebook.embed, before)


def test_losses_are_summed_or_averaged():
    torch.manual_seed(0)
    options = {"num_quantizers": 3, "size": 16, "dim": 4}
    summed, averaged = ResidualVectorQuantizer(**options, sum_losses=True), ResidualVectorQuantizer(**options)
    for layer in summed.layers:
        layer.codebook.embed.normal_()
    averaged.load_state_dict(summed.state_dict())
    latents = torch.randn(2, 4, 10)
    ours, theirs = summed.eval()(latents), averaged.eval()(latents)
    torch.testing.assert_close(ours.commitment_loss, 3 * theirs.commitment_loss)
    assert torch.equal(ours.codes, theirs.codes)
