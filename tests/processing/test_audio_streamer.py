"""Audio while it is generated equals audio made afterwards."""

from __future__ import annotations

from queue import Empty
from threading import Thread

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from codec_lm_hf import AudioStreamer
from codec_lm_hf.modeling.lm_base import NO_CODE
from codec_lm_hf.processing.codec_lm_processor import CodecLMProcessor
from tests.common.tiny import STREAMABLE, TINY
from tests.common.tiny_lm import TINY_LM, random_codes

# What the codec contract allows between a stream and the whole.
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
every_stream = pytest.mark.parametrize("name", STREAMABLE)
_processors: dict = {}


def processor_over(name) -> CodecLMProcessor:
    if name not in _processors:
        codec = TINY[name].model()
        sizes = {"num_codebooks": codec.config.num_codebooks, "codebook_size": codec.config.codebook_size}
        _processors[name] = CodecLMProcessor(**sizes)
        _processors[name].codec = codec
    return _processors[name]


def joined(pieces):
    return [torch.cat(waves, dim=-1) for waves in zip(*pieces, strict=True)]


def assert_the_same_audio(pieces, processor, codes):
    for streamed, whole in zip(joined(pieces), processor.batch_decode(codes), strict=True):
        torch.testing.assert_close(streamed, whole, **CLOSE)


@every_stream
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_pieces_of_any_size_joined_are_the_whole(name, data):
    processor = processor_over(name)
    lengths = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=3).filter(any))
    codes = random_codes(processor.codec.config, lengths, seed=data.draw(st.integers(0, 9)))
    streamer = AudioStreamer(processor, chunk_frames=data.draw(st.integers(1, 12)))
    position = 0
    while position < codes.shape[-1]:
        step = data.draw(st.integers(1, 15))
        streamer.put(codes[..., position : position + step])
        position += step
    streamer.end()
    assert_the_same_audio(list(streamer), processor, codes)


@every_stream
def test_a_second_use_equals_the_first(name):
    processor = processor_over(name)
    codes, streamer = random_codes(processor.codec.config, [9, 6]), AudioStreamer(processor, chunk_frames=4)
    for _ in range(2):
        streamer.put(codes)
        streamer.end()
        assert_the_same_audio(list(streamer), processor, codes)


# --- with models -----------------------------------------------------------------------------------------------------


class EndsAt(StoppingCriteria):
    """Ends each row after so many steps; there are `slots` rows of a sequence for each."""

    def __init__(self, steps, slots):
        self.steps = torch.tensor(steps).repeat_interleave(slots)

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.steps


def playing(name="musicgen", codec="soundstream", **fields):
    """A tiny model for a tiny codec, its processor and a batch."""
    processor = processor_over(codec)
    sizes = {"num_codebooks": processor.num_codebooks, "codebook_size": processor.codebook_size}
    case = TINY_LM[name]
    model = case.model(**sizes, **fields)
    inputs = case.inputs(model.config, [3, 3, 3])
    del inputs["labels"]
    return model, processor, inputs


def generated_in_a_thread(model, streamer, inputs, **options):
    found = {}

    def run():
        found["codes"] = model.generate(**inputs, **options, streamer=streamer)

    thread = Thread(target=run)
    thread.start()
    pieces = list(streamer)
    thread.join()
    return pieces, found["codes"]


@every_stream
def test_a_delayed_pattern_is_undone_and_decoded_on_the_way(name):
    model, processor, inputs = playing(codec=name, delays=tuple(range(processor_over(name).num_codebooks)))
    pieces, codes = generated_in_a_thread(
        model, AudioStreamer(processor, chunk_frames=3, timeout=60), inputs, max_new_tokens=45, seed=0
    )
    assert codes.shape[-1] == 45 and len(pieces) > 1
    assert_the_same_audio(pieces, processor, codes)


def test_both_sides_of_stereo_are_streamed():
    model, processor = TINY_LM["musicgen-stereo"].pair()
    inputs = processor(["a calm piano tune", "rain"])
    streamer = AudioStreamer(processor, chunk_frames=3, timeout=60)
    pieces, codes = generated_in_a_thread(model, streamer, inputs, max_new_tokens=9, seed=0)
    assert all(wave.shape[0] == 2 for waves in pieces for wave in waves)
    assert_the_same_audio(pieces, processor, codes)


class Frames(BaseStreamer):
    """Notes what it gets; it knows nothing of audio, or of `fail`."""

    def __init__(self):
        self.parts, self.ended = [], 0

    def put(self, value):
        self.parts.append(value)

    def end(self):
        self.ended += 1


def test_a_frame_comes_with_the_step_that_completes_it():
    model, _, inputs = playing()
    frames, seen = Frames(), []
    model.generate(
        **inputs, max_new_tokens=6, seed=0, streamer=frames, progress=lambda *_: seen.append(len(frames.parts))
    )
    # The last of four codebooks is three steps late.
    assert seen == [0, 0, 0, 1, 2, 3, 4, 5, 6] and frames.ended == 1
    assert all(part.shape == (3, 4, 1) for part in frames.parts)


@pytest.mark.parametrize("windows", [{}, {"window": 10, "stride": 4}])
@pytest.mark.parametrize("prompts", [[3, 3, 3], [5, 2, 0], None])
@pytest.mark.parametrize("stops", [None, [11, 9, 17], [12, 10, 12]])
def test_frames_are_those_of_the_output(windows, prompts, stops):
    """In windows or not, after prompts of any lengths, and with rows that end at any times."""
    model, processor, inputs = playing()
    if prompts is not None:
        inputs["prompt_codes"] = random_codes(model.config, prompts)
    options = {"max_new_tokens": 16, "do_sample": True, "seed": 1, **windows}
    if stops is not None:
        options["stopping_criteria"] = [EndsAt(stops, 4)]
    frames = Frames()
    codes = model.generate(**inputs, **options, streamer=frames)
    assert torch.equal(torch.cat(frames.parts, -1), codes)
    assert torch.equal(codes, model.generate(**inputs, **options))
    pieces, _ = generated_in_a_thread(model, AudioStreamer(processor, chunk_frames=2, timeout=60), inputs, **options)
    assert_the_same_audio(pieces, processor, codes)


def test_rows_end_where_their_criterion_says():
    model, _, inputs = playing()
    options = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True}
    whole = model.generate(**inputs, **options)
    found = model.generate(**inputs, **options, stopping_criteria=[EndsAt([9, 99, 6], 4)])
    # After 9 steps, of which the first is empty, the fourth codebook, three steps late, has 5 frames.
    assert found.codes_mask.sum(1).tolist() == [5, 12, 2]
    assert found.stopped.tolist() == [True, False, True]
    assert torch.equal(found.sequences, whole.sequences.masked_fill(~found.codes_mask[:, None], NO_CODE))
    all_end = model.generate(**inputs, **options, stopping_criteria=[EndsAt([9, 7, 6], 4)])
    assert all_end.sequences.shape[-1] == 5 and all_end.stopped.all()


def test_speech_comes_when_its_last_codebook_is_there():
    model, processor, inputs = playing("valle")
    inputs["prompt_codes"] = random_codes(model.config, [4, 3, 5])
    options = {"max_new_tokens": 12, "do_sample": True, "seed": 3}
    frames = Frames()
    codes = model.generate(**inputs, **options, streamer=frames)
    assert len(frames.parts) == 1 and torch.equal(frames.parts[0], codes)
    pieces, _ = generated_in_a_thread(model, AudioStreamer(processor, chunk_frames=4, timeout=60), inputs, **options)
    assert len(pieces) > 1
    assert_the_same_audio(pieces, processor, codes)


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_a_codec_that_does_not_stream_is_refused_by_name():
    with pytest.raises(ValueError, match="HifiCodecModel so configured looks at the whole signal"):
        AudioStreamer(processor_over("hificodec"))
    with pytest.raises(ValueError, match="chunk_frames must be at least 1, got 0"):
        AudioStreamer(processor_over("soundstream"), chunk_frames=0)


def test_codes_of_another_codec_are_refused():
    with pytest.raises(ValueError, match="codes must lie in 0..63"):
        AudioStreamer(processor_over("soundstream")).put(torch.full((1, 4, 3), 64))


def test_an_error_of_generate_is_raised_where_audio_is_awaited():
    model, processor, inputs = playing()

    def breaks(done, total):
        if done == 7:
            raise RuntimeError("out of paper")

    streamer = AudioStreamer(processor, chunk_frames=1, timeout=60)
    with pytest.raises(RuntimeError, match="out of paper"):
        model.generate(**inputs, max_new_tokens=9, seed=0, progress=breaks, streamer=streamer)
    next(streamer)
    with pytest.raises(RuntimeError, match="out of paper"):
        list(streamer)
    with pytest.raises(ValueError, match="no argument 'temprature'"):
        model.generate(**inputs, temprature=2, streamer=streamer)
    with pytest.raises(ValueError, match="no argument 'temprature'"):
        next(streamer)
    frames = Frames()
    with pytest.raises(ValueError, match="no argument 'temprature'"):
        model.generate(**inputs, temprature=2, streamer=frames)
    assert frames.ended == 1


def test_an_error_of_the_last_codes_is_raised_where_audio_is_awaited(monkeypatch):
    """They are decoded when generation is over."""
    model, processor, inputs = playing()
    streamer = AudioStreamer(processor, chunk_frames=100, timeout=60)

    def breaks(*args, **kwargs):
        raise RuntimeError("out of paper")

    with monkeypatch.context() as patch:
        patch.setattr(processor.codec, "decode_chunk", breaks)
        with pytest.raises(RuntimeError, match="out of paper"):
            model.generate(**inputs, max_new_tokens=3, seed=0, streamer=streamer)
    with pytest.raises(RuntimeError, match="out of paper"):
        next(streamer)
    codes = model.generate(**inputs, max_new_tokens=3, seed=0, streamer=streamer)
    assert_the_same_audio(list(streamer), processor, codes)


def test_waiting_ends_after_the_timeout():
    with pytest.raises(Empty):
        next(AudioStreamer(processor_over("soundstream"), timeout=0.01))
