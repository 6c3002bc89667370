"""ConvNeXt blocks that give a trained codec a longer memory."""

import pytest
import torch

from codec_lm_hf.modeling.layers.convnext import ConvNeXtContext
from tests.common.tiny import TINY


def test_a_trained_codec_with_new_context_goes_on_from_where_it_stood(tmp_path):
    plain = TINY["soundstream_lyra-taught"].model(semantic_hidden_size=None)
    plain.save_pretrained(tmp_path)
    longer = (
        type(plain)
        .from_pretrained(tmp_path, encoder_context_layers=1, decoder_context_layers=2, context_size=24)
        .eval()
    )
    audio = 0.1 * torch.randn(2, 1, 20 * plain.config.hop_length, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        codes, wider_codes = plain.encode(audio).audio_codes, longer.encode(audio).audio_codes
        assert torch.equal(codes, wider_codes)
        assert torch.equal(plain.decode(codes).audio_values, longer.decode(codes).audio_values)
    assert longer.num_parameters() > plain.num_parameters()


@pytest.mark.parametrize("layers", [1, 3])
def test_context_reaches_back_as_far_as_its_kernels(layers):
    torch.manual_seed(0)
    context = ConvNeXtContext(4, 8, layers, kernel_size=3, expansion=2)
    torch.nn.init.normal_(context.narrow.weight)
    x = torch.randn(1, 4, 20, requires_grad=True)
    context(x)[0, :, 12].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert seen == list(range(12 - 2 * layers, 13))
