"""The codec contract, for every family: one table of tiny models, one set of checks."""

from __future__ import annotations

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor

import codec_lm_hf
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.modeling.quantization import EuclideanCodebook, LearnedCodebook, kmeans
from codec_lm_hf.processing.audio import load_audio
from tests.common.tiny import STREAMABLE, TILEABLE, TINY
from tests.common.weights import assert_holds

ATOL = 2e-5
every_codec = pytest.mark.parametrize("name", TINY)
OTHER_CODE = (
    "audiodec-vocoder",
    "dac-latent",
    "encodec-segments",
    "funcodec-magphase",
    "funcodec-stft",
    "soundstream_lyra-context",
    "speechtokenizer-snake",
)
every_stream = pytest.mark.parametrize("name", STREAMABLE)
every_tileable = pytest.mark.parametrize("name", TILEABLE)
# Each codec in one of the two, where saving and loading is what takes the time.
either_half = pytest.mark.parametrize(
    ("name", "dtype"), [*zip(TINY, itertools.cycle([torch.bfloat16, torch.float16]), strict=False)]
)
every_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
examples = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
_models: dict = {}


def model_of(name):
    if name not in _models:
        _models[name] = TINY[name].model()
    return _models[name]


def noise(model, samples, batch=1):
    return torch.randn(batch, model.config.audio_channels, samples) * 0.1


def speech_for(model, seconds):
    audio, _ = load_audio(SPEECH, model.config.sampling_rate, model.config.audio_channels)
    return torch.from_numpy(audio)[None, :, : seconds * model.config.sampling_rate]


@torch.no_grad()
def learn_codebooks(model, audio):
    """Give codebooks entries where the latents of `audio` are, so that its codes vary and are near to each other."""
    residual = model._encode_latents(audio)[0].t()
    for layer in model.quantizer.layers:
        if isinstance(layer.codebook, EuclideanCodebook):
            layer.codebook.embed.copy_(kmeans(residual, layer.codebook.size, iterations=3)[0])
            residual = residual - layer.codebook.decode(layer.codebook.encode(residual))


def mask_of(lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@every_codec
def test_code_vectors_add_up_to_latents(name):
    model = TINY[name].model()
    config = model.config
    vectors = model.code_vectors()
    assert vectors.shape[:2] == (config.num_codebooks, config.codebook_size) and not vectors[:, 0].any()
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(config.codebook_size, (1, config.num_codebooks, 5), generator=generator)
    with torch.no_grad():
        latents, nothing = model._dequantize(codes), model._dequantize(torch.zeros_like(codes))
    summed = sum(vectors[codebook, codes[0, codebook]] for codebook in range(config.num_codebooks))
    torch.testing.assert_close((latents - nothing)[0].T, summed, atol=1e-4, rtol=1e-4)


@every_codec
def test_config_states_the_figures(name):
    config = TINY[name].config()
    assert config.frame_rate == pytest.approx(config.sampling_rate / config.hop_length, rel=0.02)
    assert config.bandwidths == sorted(config.bandwidths)
    for bandwidth in config.bandwidths:
        assert config.bandwidth_of(config.num_quantizers_for(bandwidth)) <= bandwidth + 1e-6


@every_codec
def test_shapes(name):
    model = model_of(name)
    audio = noise(model, 3001, batch=2)
    codes = model.encode(audio)
    assert codes.audio_codes.shape == (2, model.config.num_codebooks, model._num_frames(3001))
    assert codes.audio_codes.dtype == torch.long
    assert model(audio).audio_values.shape == audio.shape


@every_codec
@examples
@given(data=st.data())
def test_padding_changes_nothing(name, data):
    model = model_of(name)
    lengths = data.draw(st.lists(st.integers(1, 9000), min_size=2, max_size=3))
    audio, mask = noise(model, max(lengths), len(lengths)), mask_of(lengths)
    with torch.no_grad():
        codes = model.encode(audio, mask)
        decoded = model.decode(**codes, padding_mask=mask).audio_values
        for row, length in enumerate(lengths):
            alone = model.encode(audio[row : row + 1, :, :length])
            frames = alone.audio_codes.shape[-1]
            assert torch.equal(codes.audio_codes[row, :, :frames], alone.audio_codes[0])
            audio_alone = model.decode(**alone, padding_mask=mask[row : row + 1, :length]).audio_values
            torch.testing.assert_close(decoded[row, :, :length], audio_alone[0], atol=ATOL, rtol=1e-4)
            assert not decoded[row, :, length:].any()


@every_stream
@examples
@given(data=st.data())
def test_stream_equals_offline(name, data):
    model = model_of(name)
    samples = data.draw(st.integers(1, 6000))
    audio = noise(model, samples, batch=2)
    with torch.no_grad():
        whole = model.encode(audio).audio_codes
        whole_audio = model.decode(whole).audio_values
    state, codes, pieces, position = model.init_stream(2), [], [], 0
    while position < samples:
        step = data.draw(st.sampled_from([7, 100, 320, 1000, 4000]))
        final = position + step >= samples
        new = model.encode_chunk(audio[..., position : position + step], state, final=final).audio_codes
        codes.append(new)
        pieces.append(model.decode_chunk(new, state, final=final).audio_values)
        position += step
    assert torch.equal(torch.cat(codes, -1), whole)
    torch.testing.assert_close(torch.cat(pieces, -1), whole_audio, atol=ATOL, rtol=1e-4)


@every_stream
def test_a_stream_takes_single_samples(name):
    model = model_of(name)
    audio = noise(model, 700)
    state = model.init_stream(1)
    codes = [model.encode_chunk(piece, state).audio_codes for piece in audio.split([*[1] * 70, 560, *[1] * 70], -1)]
    codes.append(model.encode_chunk(audio[..., :0], state, final=True).audio_codes)
    assert torch.equal(torch.cat(codes, -1), model.encode(audio).audio_codes)


@every_stream
def test_second_stream_equals_a_fresh_one(name):
    model = model_of(name)
    audio = noise(model, 3000)

    def run(state):
        return model.encode_chunk(audio, state, final=True).audio_codes

    state = model.init_stream(1)
    first = run(state)
    state.reset()
    assert torch.equal(run(state), first)
    assert torch.equal(run(model.init_stream(1)), first)


@every_stream
def test_rows_of_a_stream_reset_alone(name):
    """In the midst of a frame, so that from then on the rows' frames are complete at other times."""
    model, coded, heard = model_of(name), ([], []), ([], [])
    hop = model.config.hop_length
    cut = 10 * hop + hop // 2
    audio = noise(model, cut + 12 * hop, batch=2)
    state = model.init_stream(2)

    def feed(samples, final=False):
        codes = model.encode_chunk(samples, state, final)
        decoded = model.decode_chunk(**codes, state=state, final=final)
        for found, steps, mask in [
            (coded, codes.audio_codes, codes.codes_mask),
            (heard, decoded.audio_values, decoded.audio_mask),
        ]:
            for row in range(2):
                found[row].append(steps[row] if mask is None else steps[row][:, mask[row]])

    feed(audio[..., :cut])
    state.reset(rows=[1])
    coded[1].clear(), heard[1].clear()
    feed(audio[..., cut : cut + 5 * hop])
    feed(audio[..., cut + 5 * hop :], final=True)
    for row, alone in enumerate([audio[:1], audio[1:, :, cut:]]):
        codes = model.encode(alone).audio_codes
        assert torch.equal(torch.cat(coded[row], -1), codes[0])
        with torch.no_grad():
            whole = model.decode(codes).audio_values[0]
        torch.testing.assert_close(torch.cat(heard[row], -1), whole, atol=ATOL, rtol=1e-4)


@every_stream
def test_a_copy_of_a_stream_goes_on_by_itself(name):
    model = model_of(name)
    first, second, other = (
        torch.randint(16, (1, 4, 12), generator=torch.Generator().manual_seed(n)) for n in range(3)
    )
    state = model.init_stream(1)
    begun = model.decode_chunk(first, state).audio_values
    copied = copy.deepcopy(state)
    model.decode_chunk(other, state)
    rest = model.decode_chunk(second, copied, final=True).audio_values
    with torch.no_grad():
        whole = model.decode(torch.cat([first, second], -1)).audio_values
    torch.testing.assert_close(torch.cat([begun, rest], -1), whole, atol=ATOL, rtol=1e-4)


def test_a_model_copied_with_a_stream_goes_on_with_it():
    model = model_of("encodec")
    state, codes = model.init_stream(1), torch.arange(32).view(1, 4, 8)
    begun = model.decode_chunk(codes, state).audio_values
    model, state = copy.deepcopy((model, state))
    rest = model.decode_chunk(codes, state, final=True).audio_values
    with torch.no_grad():
        whole = model.decode(torch.cat([codes, codes], -1)).audio_values
    torch.testing.assert_close(torch.cat([begun, rest], -1), whole, atol=ATOL, rtol=1e-4)


@every_stream
def test_latency_is_what_a_stream_shows(name):
    model = model_of(name)
    state = model.init_stream(1)
    audio = noise(model, 40 * model.config.hop_length)
    codes = model.encode_chunk(audio, state).audio_codes
    decoded = model.decode_chunk(codes, state).audio_values
    assert audio.shape[-1] - decoded.shape[-1] == model.stream_latency


@pytest.mark.parametrize("name", sorted(set(TINY) - set(STREAMABLE)))
def test_what_needs_the_whole_signal_refuses_to_stream(name):
    with pytest.raises(ValueError, match="cannot be streamed; use encode"):
        model_of(name).init_stream()


@every_tileable
def test_long_audio_runs_in_tiles_with_the_same_result(name):
    model = TINY[name].model()
    audio, mask = noise(model, 20000, batch=2), mask_of([20000, 15001])
    model.whole_seconds = 1e9
    with torch.no_grad():
        whole = model.encode(audio).audio_codes
        whole_audio = model.decode(whole).audio_values
        ragged = model.encode(audio, mask)
        model.whole_seconds, model.tile_seconds = 0, 0.1
        assert torch.equal(model.encode(audio).audio_codes, whole)
        assert torch.equal(model.encode(audio, mask).audio_codes, ragged.audio_codes)
        torch.testing.assert_close(model.decode(whole).audio_values, whole_audio, atol=ATOL, rtol=1e-4)


@every_codec
@pytest.mark.parametrize("training", [False, True])
def test_number_of_quantizers_is_honoured(name, training):
    model = TINY[name].model(quantizer_dropout=1.0).train(training)
    audio = noise(model, 2000)
    assert model.encode(audio, num_quantizers=2).audio_codes.shape[1] == 2
    assert model(audio, num_quantizers=3).audio_codes.shape[1] == 3
    codes = model.encode(audio).audio_codes
    torch.testing.assert_close(model.encode(audio, num_quantizers=2).audio_codes, codes[:, :2])


@every_codec
def test_fuse_keeps_the_numbers_and_can_be_repeated(name, tmp_path):
    model = TINY[name].model()
    audio = noise(model, 4000)
    codes, decoded = model.encode(audio).audio_codes, model(audio).audio_values
    copied = copy.deepcopy(model)
    model.fuse().fuse()
    assert torch.equal(model.encode(audio).audio_codes, codes)
    assert torch.equal(pickle.loads(pickle.dumps(model)).encode(audio).audio_codes, codes)
    # A copy stays what it was, and can be fused as well.
    assert torch.equal(copied(audio).audio_values, decoded)
    torch.testing.assert_close(copied.fuse()(audio).audio_values, decoded, atol=ATOL, rtol=1e-4)
    torch.testing.assert_close(model(audio).audio_values, decoded, atol=ATOL, rtol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(audio).audio_values, decoded, atol=ATOL, rtol=1e-4)


@every_codec
def test_a_pickle_is_the_same_codec(name):
    """Weight norm and all, which torch lets nobody pickle; and it can be fused and trained like any other."""
    model = TINY[name].model()
    model.encoder.requires_grad_(False)
    audio = noise(model, 2000)
    decoded = model(audio).audio_values
    again = pickle.loads(pickle.dumps(model))
    assert list(again.state_dict()) == list(model.state_dict())
    assert_holds(again, model)
    ours, theirs = ([parameter.requires_grad for parameter in one.parameters()] for one in (again, model))
    assert ours == theirs and not any(module.training for module in again.modules())
    assert torch.equal(again(audio).audio_values, decoded)
    # As often as wanted, and a copy that is fused leaves the other one as it is.
    third = copy.deepcopy(pickle.loads(pickle.dumps(again.train())))
    assert all(module.training for module in third.modules())
    torch.testing.assert_close(third.eval().fuse()(audio).audio_values, decoded, atol=ATOL, rtol=1e-4)
    again(audio).loss.backward()
    assert all(parameter.grad is not None for parameter in again.decoder.parameters())


def test_datasets_map_takes_a_codec_into_its_processes_and_knows_its_weights():
    codec = TINY["encodec"].model()
    rows = Dataset.from_dict({"audio": [noise(codec, 1000)[0].tolist() for _ in range(4)]})

    def coded(row):
        return {"codes": codec.encode(torch.tensor(row["audio"])[None]).audio_codes[0].tolist()}

    found = rows.map(coded, num_proc=2)
    assert found["codes"][:] == rows.map(coded)["codes"][:]
    fingerprint = Hasher.hash(coded)
    codec.decode(codec.encode(noise(codec, 1000)).audio_codes)
    assert Hasher.hash(coded) == fingerprint
    torch.nn.init.ones_(codec.get_parameter("encoder.layers.0.conv.parametrizations.weight.original0"))
    assert Hasher.hash(coded) != fingerprint


@every_codec
def test_a_fused_codec_follows_its_weights(name):
    """Others that are loaded into it, put in place of them for one call or written over them; and training."""
    model = TINY[name].model().fuse()
    audio = noise(model, 4000)

    def codes_are_those_of_its_weights():
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        return torch.equal(model.encode(audio).audio_codes, fresh.encode(audio).audio_codes)

    others = {key: value.flip(0) if key.endswith("embed") else value for key, value in model.state_dict().items()}
    codes = model.encode(audio).audio_codes
    with torch.no_grad():
        swapped = torch.func.functional_call(model, others, (audio,)).audio_codes
    assert torch.equal(model.encode(audio).audio_codes, codes)
    model.load_state_dict(others)
    assert codes_are_those_of_its_weights() and torch.equal(model.encode(audio).audio_codes, swapped)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(value.flip(0) if value.ndim == 2 else value)
    assert codes_are_those_of_its_weights()
    model.train()(audio).loss.backward()
    if learnt := [*model.quantizer.parameters()]:
        torch.optim.Adam(learnt, lr=0.3).step()
    model.eval()
    assert codes_are_those_of_its_weights()


@every_codec
def test_double_precision_keeps_the_codes(name):
    """Also where transformers builds the model in double precision."""
    model = TINY[name].model()
    audio = noise(model, 4000)
    codes, decoded = model.encode(audio).audio_codes, model(audio).audio_values
    built = AutoModel.from_config(TINY[name].config(), dtype=torch.float64).eval()
    built.load_state_dict(model.state_dict())
    for double in (built, model.double()):
        assert torch.equal(double.encode(audio.double()).audio_codes, codes)
        torch.testing.assert_close(double(audio).audio_values.float(), decoded, atol=ATOL, rtol=1e-4)


@either_half
def test_half_precision_keeps_the_codes_of_speech(name, dtype, tmp_path):
    """All of them: only the decoder is in half precision, however the model came to be so."""
    model = TINY[name].model()
    speech = speech_for(model, seconds=1)
    learn_codebooks(model, speech)
    codes = model.encode(speech).audio_codes
    assert len(codes.unique()) > 10
    model.save_pretrained(tmp_path)
    by_load = AutoModel.from_pretrained(tmp_path, dtype=dtype).eval()
    by_configuration = AutoModel.from_config(TINY[name].config(), dtype=dtype).eval()
    by_configuration.load_state_dict(model.state_dict())
    by_cast = model.to(dtype)
    for half in (by_load, by_configuration, by_cast):
        assert torch.equal(half.encode(speech).audio_codes, codes)
        assert half.dtype == dtype
        assert {parameter.dtype for parameter in half.decoder.parameters()} == {dtype}
    if name in STREAMABLE:
        state = by_cast.init_stream(1)
        assert torch.equal(by_cast.encode_chunk(speech, state, final=True).audio_codes, codes)


@every_codec
def test_autocast_keeps_the_codes_of_speech(name):
    """Also those of a stream, and those that a decoder learns from when codes are frozen."""
    model = TINY[name].model()
    speech = speech_for(model, seconds=1)
    learn_codebooks(model, speech)
    options = {"num_quantizers": model.config.num_codebooks}
    part = speech[..., : model.config.chunk_stride or 4000]
    codes, frozen = model.encode(speech).audio_codes, copy.deepcopy(model).freeze_codes().train()
    taught = frozen(part, **options).audio_codes
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(speech).audio_codes, codes)
        assert torch.equal(frozen(part, **options).audio_codes, taught)
        with torch.no_grad():
            assert torch.equal(model(speech).audio_codes, codes)
        if name in STREAMABLE:
            assert torch.equal(model.encode_chunk(speech, model.init_stream(1), final=True).audio_codes, codes)


@every_codec
@every_half
def test_half_precision_decodes(name, dtype):
    """With noise that is a tenth of the power at most; Lyra's rounds to int8 on top."""
    model, half = model_of(name), TINY[name].model().to(dtype)
    codes = model.encode(noise(model, 8000))
    with torch.no_grad():
        audio, found = model.decode(**codes).audio_values, half.decode(**codes).audio_values
    assert found.dtype in (dtype, torch.float32)
    assert (found.float() - audio).square().mean() < audio.square().mean() / 10


@every_codec
@every_half
def test_half_precision_learns(name, dtype):
    model = TINY[name].model().to(dtype).train()
    model(noise(model, 4000)).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@either_half
def test_half_precision_survives_saving(name, dtype, tmp_path):
    """What is kept in float32 keeps its values in a file; what came from halves is written as halves again."""
    half = TINY[name].model().to(dtype)
    half.save_pretrained(tmp_path / "mixed")
    loaded = AutoModel.from_pretrained(tmp_path / "mixed")
    assert loaded.dtype == dtype
    assert_holds(loaded, half)
    folder = tmp_path / "halves"
    half.save_pretrained(folder)
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in half.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert {key: value.dtype for key, value in again.items()} == {key: value.dtype for key, value in state.items()}


@every_codec
def test_save_and_load(name, tmp_path):
    case = TINY[name]
    model, extractor = case.model(), case.feature_extractor()
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    audio = noise(model, 3000)
    codes = model.encode(audio).audio_codes
    for auto in (AutoModel, AutoModelForAudioTokenization, codec_lm_hf.AutoCodecModel):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is case.model_class
        assert torch.equal(loaded.encode(audio).audio_codes, codes)
    for auto in (AutoFeatureExtractor, AutoProcessor):
        assert auto.from_pretrained(tmp_path).to_dict() == extractor.to_dict()


def test_what_a_trainer_saves_of_a_compiled_codec_has_its_names(tmp_path):
    """`Trainer(model=torch.compile(model))` gives `save_pretrained` the weights by the wrapper's names."""
    model = TINY["encodec"].model()
    model.save_pretrained(tmp_path, state_dict=torch.compile(model).state_dict())
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("device_map", [{"": "disk"}, {"": "cpu", "decoder": "disk"}, {"": "cpu", "decoder": 0}])
def test_a_codec_is_loaded_whole(device_map, tmp_path):
    model = TINY["encodec"].model()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a codec stays whole, on one device: got (0, cpu|cpu, disk|disk)"):
        AutoModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "off")
    audio = noise(model, 500)
    for one in ("auto", "cpu", {"": "cpu"}):
        # Of a device with less memory transformers would leave parts to the next.
        found = AutoModel.from_pretrained(tmp_path, device_map=one, max_memory={"cpu": 20_000})
        assert torch.equal(found.encode(audio).audio_codes, model.encode(audio).audio_codes)


@pytest.mark.parametrize("whole", [True, False])
def test_a_codec_that_was_offloaded_says_so(whole):
    model = TINY["encodec"].model()
    if whole:
        cpu_offload(model, execution_device="cpu")
    else:
        places = {name: "cpu" for name, _ in model.named_children()}
        dispatch_model(model, places | {"decoder": "meta"}, main_device="cpu", state_dict=model.state_dict())
    for call in (lambda: model.encode(noise(model, 500)), lambda: model.decode(torch.zeros(1, 1, 5).long())):
        with pytest.raises(ValueError, match="a codec stays whole, on one device: got .*meta"):
            call()
    with pytest.raises(ValueError, match="a codec stays whole"):
        model.encode_chunk(noise(model, 500), model.init_stream())


@every_codec
def test_loading_through_the_meta_device_leaves_no_garbage(name, tmp_path, monkeypatch):
    """Every parameter and buffer of a loaded model is what was saved or what a fresh model has, never raw memory."""
    model = TINY[name].model()
    model.save_pretrained(tmp_path)
    empty_like = torch.empty_like

    def poisoned(*args, **kwargs):
        out = empty_like(*args, **kwargs)
        return out.fill_(1234.5) if out.is_floating_point() and out.device.type != "meta" else out

    monkeypatch.setattr(torch, "empty_like", poisoned)
    loaded = AutoModel.from_pretrained(tmp_path)
    ours, theirs = dict(loaded.named_buffers()), dict(model.named_buffers())
    assert ours.keys() == theirs.keys()
    for key, value in {**theirs, **dict(model.named_parameters())}.items():
        found = loaded.get_parameter(key) if key not in ours else ours[key]
        torch.testing.assert_close(found, value, msg=key)


@every_codec
def test_missing_weights_are_initialised_not_garbage(name, tmp_path):
    model = TINY[name].model()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    dropped = [key for key in state if "quantizer" in key or ".bias" in key]
    save_file({k: v for k, v in state.items() if k not in dropped}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = AutoModel.from_pretrained(tmp_path)
    for key, value in loaded.state_dict().items():
        assert torch.isfinite(value).all() and value.abs().max() < 100, key


@every_codec
def test_training_step_reaches_every_weight(name):
    model = TINY[name].model().train()
    audio = noise(model, 4000, batch=2)
    output = model(audio)
    output.loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    assert any(parameter.grad.abs().sum() > 0 for key, parameter in model.named_parameters() if "encoder" in key)


@every_codec
def test_training_ignores_padding(name):
    model, other = TINY[name].model().train(), TINY[name].model().train()
    audio, mask = noise(model, 4000, batch=2), mask_of([4000, 2500])
    changed = audio * mask[:, None] + 0.3 * (1 - mask[:, None])
    torch.manual_seed(1)
    ours = model(audio, mask)
    torch.manual_seed(1)
    theirs = other(changed, mask)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.audio_values, theirs.audio_values, atol=ATOL, rtol=1e-4)


@every_codec
def test_codebooks_learn_only_in_training_forward(name):
    model = TINY[name].model()
    codebook = model.quantizer.layers[0].codebook
    before = codebook.embed.detach().clone()
    audio = noise(model, 3000)
    model(audio)
    model.train().encode(audio)
    assert torch.equal(codebook.embed, before)
    loss = model(audio).loss
    if isinstance(codebook, LearnedCodebook):
        loss.backward()
        torch.optim.SGD([codebook.embed], lr=0.1).step()
    assert not torch.equal(codebook.embed, before)


@every_codec
@torch.no_grad()
def test_no_layer_overwrites_what_a_hook_holds(name):
    """Whoever collects features by hooks gets what the layer gave, and not what a later one made of its memory."""
    model, held = TINY[name].model(), []

    def hold(_, inputs, output):
        held.extend((x, x.clone()) for x in (*inputs, output) if isinstance(x, torch.Tensor))

    for module in model.modules():
        module.register_forward_hook(hold)
    model(noise(model, 2000))
    assert held and all(torch.equal(x, before) for x, before in held)


@every_codec
def test_tuple_output(name):
    model = model_of(name)
    audio = noise(model, 2000)
    as_tuple = model.encode(audio, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], model.encode(audio).audio_codes)


@every_codec
def test_codes_scales_and_mask_come_in_the_order_of_transformers_own(name):
    """`decode(codes, scales, padding_mask)` is how its documentation calls EnCodec."""
    model, mask = model_of(name), mask_of([2000, 900])
    with torch.no_grad():
        codes = model.encode(noise(model, 2000, 2), mask)
        named = model.decode(**codes, padding_mask=mask).audio_values
        assert torch.equal(model.decode(codes.audio_codes, codes.audio_scales, mask)[0], named)
    if model.config.normalize:
        assert torch.equal(codes[1], codes.audio_scales)


# One of each family, and those with layers that it has not.
@pytest.mark.parametrize("name", [name for name in TINY if "-" not in name or name in OTHER_CODE])
def test_compiles_without_graph_break(name):
    torch.compiler.reset()  # What was compiled for other models counts towards the limit of recompilations.
    model = TINY[name].model().fuse()
    audio = noise(model, 2000)
    output = model.encode(audio)
    codes, scales = output.audio_codes, output.audio_scales
    encode = torch.compile(lambda x: model.encode(x).audio_codes, fullgraph=True, backend="eager")
    decode = torch.compile(lambda x, s: model.decode(x, s).audio_values, fullgraph=True, backend="eager")
    assert torch.equal(encode(audio), codes)
    torch.testing.assert_close(decode(codes, scales), model.decode(codes, scales).audio_values)


class TestBadInput:
    """Every refusal names the value, the expectation and a way out."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda c: torch.zeros(1, c, 0), "is empty"),
            (lambda c: torch.zeros(c, 100), r"must have shape \(batch"),
            (lambda c: torch.zeros(1, 3, 100), "must have shape"),
            (lambda c: torch.full((1, c, 100), float("nan")), "NaN or infinite"),
            (lambda c: torch.full((1, c, 100), float("inf")), "NaN or infinite"),
            (lambda c: torch.full((1, c, 100), -20000.0), "peaks at 20000; expected floats .*divide 16-bit samples"),
            (lambda c: torch.zeros(1, c, 100, dtype=torch.int16), "divide 16-bit samples by 32768"),
        ],
    )
    @every_codec
    def test_audio(self, name, make, message):
        model = model_of(name)
        with pytest.raises(ValueError, match=message):
            model.encode(make(model.config.audio_channels))

    @every_codec
    def test_codes(self, name):
        model = model_of(name)
        size, books = model.config.codebook_size, model.config.num_codebooks
        good = torch.zeros(1, books, 4, dtype=torch.long)
        for codes, message in [
            (good + size, f"must lie in 0..{size - 1}, found {size}"),
            (good - 1, "found -1"),
            (good.float(), "must be integers"),
            (good[0], "must have shape"),
            (torch.zeros(1, books + 1, 4, dtype=torch.long), f"has {books + 1} codebooks, but this model has {books}"),
            (good[..., :0], "is empty"),
        ]:
            with pytest.raises(ValueError, match=message):
                model.decode(codes)

    @every_codec
    def test_counts_and_rates(self, name):
        model = model_of(name)
        audio = noise(model, 1000)
        for count in (9, 0, -1, 2.0, True, "2", [2]):
            message = re.escape(f"num_quantizers={count!r}, but this model has 1 to 4 quantizers; give a whole")
            with pytest.raises(ValueError, match=message):
                model.encode(audio, num_quantizers=count)
        for count in (np.int64(2), torch.tensor(2)):
            assert model.encode(audio, num_quantizers=count).audio_codes.shape[1] == 2
        with pytest.raises(ValueError, match="is not offered by this model; choose one of"):
            model.encode(audio, bandwidth=7.77)
        with pytest.raises(ValueError, match="not both"):
            model.encode(audio, num_quantizers=1, bandwidth=model.config.bandwidths[0])

    @every_codec
    def test_masks(self, name):
        model = model_of(name)
        audio = noise(model, 100)
        with pytest.raises(ValueError, match="pad at the right"):
            model.encode(audio, torch.tensor([[0] * 50 + [1] * 50]))
        with pytest.raises(ValueError, match="hold no real sample"):
            model.encode(audio, torch.zeros(1, 100))
        with pytest.raises(ValueError, match="one entry per sample"):
            model.encode(audio, torch.ones(1, 99))

    @every_codec
    def test_masks_of_codes(self, name):
        """One of other rows would give so many rows of audio, or noise; one of other frames would be cut."""
        model = model_of(name)
        codes = torch.zeros(2, 4, 6, dtype=torch.long)
        scales = torch.ones(2, 1) if model.config.normalize else None
        samples = 6 * model.config.hop_length
        some, hole, none = (torch.ones(2, 6, dtype=torch.bool) for _ in range(3))
        some[0, 4:] = hole[0, 2:4] = none[1] = False
        for masks, message in [
            ({"codes_mask": some[:1]}, r"codes_mask must have shape \(2, 6\), one entry per frame, got \(1, 6\)"),
            ({"codes_mask": some[:, :5]}, r"codes_mask must have shape \(2, 6\), .* got \(2, 5\)"),
            ({"codes_mask": hole}, "codes_mask has padding before or between real frames; pad at the right"),
            ({"codes_mask": none}, r"rows \[1\] of codes_mask hold no real frame"),
            ({"padding_mask": torch.ones(1, samples)}, r"padding_mask must have shape \(2, samples\), .* got \(1,"),
            ({"padding_mask": torch.ones(2, 1, samples)}, r"padding_mask must have shape \(2, samples\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                model.decode(codes, scales, **masks)

    @every_codec
    def test_what_is_no_tensor(self, name):
        model = model_of(name)
        audio, codes = noise(model, 100), torch.zeros(1, 4, 2, dtype=torch.long)
        scales = torch.ones(1, 1) if model.config.normalize else None
        calls = [
            ("input_values", lambda: model.encode(audio.numpy())),
            ("input_values", lambda: model(audio.tolist())),
            ("padding_mask", lambda: model.encode(audio, np.ones((1, 100)))),
            ("audio_codes", lambda: model.decode(codes.numpy(), scales)),
            ("padding_mask", lambda: model.decode(codes, scales, padding_mask=[[1] * 100])),
            ("codes_mask", lambda: model.decode(codes, scales, codes_mask=np.ones((1, 2)))),
        ]
        if scales is not None:
            calls.append(("audio_scales", lambda: model.decode(codes, [[1.0]])))
        if name in STREAMABLE:
            calls.append(("input_values", lambda: model.encode_chunk(audio.numpy(), model.init_stream())))
            calls.append(("audio_codes", lambda: model.decode_chunk(codes.numpy(), model.init_stream())))
        for argument, call in calls:
            with pytest.raises(TypeError, match=f"{argument} must be a torch.Tensor, got .*; torch.as_tensor makes"):
                call()

    @every_codec
    def test_scales(self, name):
        """Gains that a codec does not have would be ignored without a word."""
        model = model_of(name)
        codes = torch.zeros(2, 4, 2, dtype=torch.long)
        message = r"needs audio_scales of shape \(2, 1\)" if model.config.normalize else "has none: leave them out"
        for scales in (torch.ones(2), torch.ones(1, 1), torch.ones(2, 2)):
            with pytest.raises(ValueError, match=message):
                model.decode(codes, scales)

    @every_codec
    def test_arguments_that_there_are_not(self, name):
        model = model_of(name)
        audio = noise(model, 1000)
        with pytest.raises(TypeError, match=r"(has no|unexpected keyword) argument 'num_quantizer'"):
            model.encode(audio, num_quantizer=2)
        with pytest.raises(TypeError, match=r"(has no|unexpected keyword) argument 'scale'"):
            model.decode(model.encode(audio).audio_codes, scale=1.0)
        # What DAC's, EnCodec's and SpeechTokenizer's own take.
        for foreign in ("n_quantizers", "audio_codes", "first", "first_quantizer"):
            message = f"has no argument '{foreign}'; it takes input_values, padding_mask, num_quantizers, bandwidth"
            with pytest.raises(TypeError, match=message):
                model(audio, **{foreign: 1})

    def test_streams(self):
        """Each of these would begin anew, or decode what is no code, without a word."""
        model, other = model_of("encodec"), model_of("soundstream")
        audio, codes = noise(model, 1000, batch=2), torch.zeros(2, 4, 3, dtype=torch.long)
        state = model.init_stream(2)
        with pytest.raises(
            ValueError, match=r"what init_stream\(\) of this model returned, got that of another model"
        ):
            other.encode_chunk(audio, state)
        # A mask would reset rows 0 and 1.
        for rows in ([False, True], torch.tensor([False, True]), np.array([False, True]), [1.0]):
            with pytest.raises(ValueError, match=r"must be numbers of rows, such as \[0, 2\], got .* gives them"):
                state.reset(rows)
        for rows in (torch.tensor([1, 1]), np.array([1]), {1}, iter([1]), [torch.tensor(1)]):
            fresh = model.init_stream(2)
            fresh.reset(rows)
            assert [group.rows for group in fresh.groups] == [[0], [1]]
        with pytest.raises(ValueError, match=r"what init_stream\(\) of this model returned, got NoneType"):
            model.decode_chunk(codes, None)
        with pytest.raises(TypeError, match="cannot be pickled; copy.deepcopy makes a second one"):
            pickle.dumps(state)
        with pytest.raises(ValueError, match=r"rows \[0, 1\] of this stream move in step, .* have \[2, 3\] frames"):
            model.decode_chunk(codes, state, codes_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
        with pytest.raises(ValueError, match="audio_codes has 5 codebooks, but this model has 4"):
            model.decode_chunk(codes.new_zeros(2, 5, 0), state)
        model.encode_chunk(audio, state, final=True)
        with pytest.raises(ValueError, match=r"rows \[0, 1\] of this stream's encoder ended .* by state.reset\(\)"):
            model.encode_chunk(audio, state)
        model.decode_chunk(codes, state, final=True)
        state.reset(rows=[0])
        with pytest.raises(ValueError, match=r"rows \[1\] of this stream's decoder ended"):
            model.decode_chunk(codes, state)

    def test_scales_are_needed_where_the_codec_normalises(self):
        model = model_of("encodec-segments")
        codes = model.encode(noise(model, 6000))
        with pytest.raises(ValueError, match="needs audio_scales"):
            model.decode(codes.audio_codes)

    def test_unknown_preset(self):
        with pytest.raises(ValueError, match="choose one of"):
            codec_lm_hf.EncodecCodecConfig.from_preset("encodec_96khz")

    def test_truncated_safetensors(self, tmp_path):
        model_of("encodec").save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(OSError, match="are no complete safetensors file .*download or copy them again"):
            AutoModel.from_pretrained(tmp_path)
