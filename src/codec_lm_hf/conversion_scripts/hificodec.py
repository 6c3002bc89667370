"""HiFi-Codec's files: the state dicts of `encoder`, `quantizer` and `generator`, the configuration in a JSON apart."""

from __future__ import annotations

from ..configuration.hificodec import HifiCodecConfig
from ..modeling.hificodec import HifiCodecModel
from .engine import ConversionError, Converter, Rules, read_nested

_FIELDS = {
    "sampling_rate": "sampling_rate",
    "upsample_rates": "upsampling_ratios",
    "upsample_kernel_sizes": "upsampling_kernel_sizes",
    "upsample_initial_channel": "decoder_channels",
    "resblock_kernel_sizes": "residual_kernel_sizes",
    "resblock_dilation_sizes": "residual_dilations",
    "n_code_groups": "num_code_groups",
    "n_codes": "codebook_size",
    # Fixed in the original's code.
    "latent_dim": "hidden_size",
    "encoder_base_channels": "encoder_channels",
}


def _weight(origin: str, ours: str) -> Rules:
    return [
        (rf"{origin}\.weight_g", f"{ours}.parametrizations.weight.original0"),
        (rf"{origin}\.weight_v", f"{ours}.parametrizations.weight.original1"),
        (rf"{origin}\.(weight|bias)", rf"{ours}.\1"),
    ]


def rules(config: HifiCodecConfig) -> Rules:
    """The original counts residual blocks through all stages."""
    table = []
    blocks = len(config.residual_kernel_sizes)
    for side, ours, conv in (("encoder", "encoder", "down"), ("generator", "decoder", "up")):
        table += _weight(f"{side}/conv_pre", f"{ours}.first.conv") + _weight(f"{side}/conv_post", f"{ours}.last.conv")
        for stage in range(len(config.upsampling_ratios)):
            table += _weight(rf"{side}/ups\.{stage}", f"{ours}.stages.{stage}.{conv}.conv")
            for block in range(blocks):
                number, inside = stage * blocks + block, f"{ours}.stages.{stage}.blocks"
                table += _weight(rf"{side}/normalize\.{number}", f"{inside}.norms.{block}")
                for place in range(len(config.residual_dilations[block])):
                    step = f"{inside}.blocks.{block}.steps.{place}.convs"
                    table += _weight(rf"{side}/resblocks\.{number}\.convs1?\.{place}", f"{step}.0.conv")
                    table += _weight(rf"{side}/resblocks\.{number}\.convs2\.{place}", f"{step}.1.conv")
    for group in range(config.num_code_groups):
        for layer, name in enumerate(("quantizer_modules", "quantizer_modules2")):
            place = layer * config.num_code_groups + group
            origin = rf"quantizer/{name}\.{group}\.embedding\.weight"
            table.append((origin, f"quantizer.layers.{place}.codebook.embed"))
    return table


def config_from_original(original: dict) -> HifiCodecConfig:
    """The original's JSON to our configuration; what it says of training is not needed.

    Raises:
        ConversionError: a field that every such file has is missing.
    """
    missing = sorted({"sampling_rate", "upsample_rates", "resblock"} - set(original))
    if missing:
        raise ConversionError(f"HiFi-Codec's configuration has a field {missing[0]!r}; give the original's JSON.")
    fields = {ours: original[name] for name, ours in _FIELDS.items() if name in original}
    # The original compares with the text "1", and takes as many dilations as its block has, however many there are.
    paired = original["resblock"] == "1"
    if "residual_dilations" in fields:
        fields["residual_dilations"] = [steps[: 3 if paired else 2] for steps in fields["residual_dilations"]]
    return HifiCodecConfig(**fields, paired_convolutions=paired)


CONVERTER = Converter(HifiCodecConfig, HifiCodecModel, rules, config_from_original, read=read_nested)
