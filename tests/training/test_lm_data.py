"""Rows of codes as examples: with companions of the same voice, the same after an interruption, whole or streamed."""

from __future__ import annotations

import itertools

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from codec_lm_hf import ValleProcessor
from codec_lm_hf.training.labelled import load_labelled
from codec_lm_hf.training.lm_data import (
    CodesDataset,
    Examples,
    StreamCodesDataset,
    read_headers,
    read_rows,
    read_texts,
    stream_rows,
)
from codec_lm_hf.training.tokenize import tokenize
from tests.common.tiny import TINY
from tests.training.lm_helpers import SPEAKERS, TEXTS, make_codes

SPOKEN = len(TEXTS) - 1  # the last row has no text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_codes(tmp_path_factory.mktemp("codes")) / "codes"


def processor(kind=ValleProcessor, **fields):
    return kind(ValleProcessor.symbols_of(TEXTS), **{"num_codebooks": 4, "codebook_size": 64, **fields})


def examples(kind=ValleProcessor, **fields):
    return Examples(processor(kind), **{"speaker": "speaker", **fields})


def in_memory(folder, seed=0, **fields):
    made = examples(**fields)
    return CodesDataset(read_rows([folder], made.columns), made, seed)


def text_of(example) -> str:
    symbols = processor().symbols
    return "".join(symbols[place] for place in example["input_ids"][1:-1]).replace("_", " ")


def test_an_example_is_what_the_processor_makes_of_a_row(folder):
    data = in_memory(folder)
    assert len(data) == SPOKEN and [text_of(data[place]) for place in range(SPOKEN)] == TEXTS[:-1]
    row = data.row(3)
    expected = processor()(row["text"], target_codes=[row["codes"]])
    assert data[3].keys() == expected.keys()
    assert all(torch.equal(data[3][name], value[0]) for name, value in expected.items())


def test_fewer_codebooks_are_the_first_ones(folder):
    made = Examples(processor(num_codebooks=2))
    data = CodesDataset(read_rows([folder], made.columns), made)
    assert torch.equal(data[0]["labels"], torch.tensor(data.row(0)["codes"])[:2])


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_text_is_none(folder, empty):
    """As a CSV file has it."""
    made = examples()
    rows = read_rows([folder], made.columns).map(
        lambda row: {"text": empty if row["text"] == "two two" else row["text"]}
    )
    data = CodesDataset(rows, made)
    assert [data.row(place)["text"] for place in range(len(data))] == [
        text for text in TEXTS[:-1] if text != "two two"
    ]


def test_rows_that_are_too_long_or_lack_something_are_left_out(folder, caplog):
    data = in_memory(folder, longest=14)
    assert [data.row(place)["num_frames"] for place in range(len(data))] == [10, 11, 12, 13, 14]
    assert "5 of 10 rows are left out" in caplog.text
    with pytest.raises(ValueError, match="of 10 rows none can be used: each needs .*text.*, at most 3 frames"):
        in_memory(folder, longest=3)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("text", "q9", "are not in this"), ("codes", [[]] * 4, "not empty")],
)
def test_a_row_that_is_no_example_is_named(column, value, message, folder):
    """One among thousands, met in the middle of training."""
    made = examples()
    rows = [{**row, column: value} if row["id"] == "3.wav" else row for row in read_rows([folder], made.columns)]
    data = CodesDataset(datasets.Dataset.from_list(rows), made)
    with pytest.raises(ValueError, match=f"row '3.wav': .*{message}"):
        [data[place] for place in range(len(data))]


def test_a_prompt_is_another_row_of_the_same_speaker(folder):
    data = in_memory(folder, prompt={"prompt_text": "text", "prompt_codes": "codes"})
    seen = set()
    for epoch, place in itertools.product(range(40), range(len(data))):
        data.set_epoch(epoch)
        (companion,) = data.companions(place)
        assert companion["speaker"] == data.row(place)["speaker"] and companion["id"] != data.row(place)["id"]
        assert torch.equal(data[place]["prompt_codes"], torch.tensor(companion["codes"]))
        assert text_of(data[place]) == f"{companion['text']} {data.row(place)['text']}"
        seen.add((data.row(place)["id"], companion["id"]))
    # All of them, in time: each speaker has five and four rows.
    assert len(seen) == 5 * 4 + 4 * 3


def test_a_prompt_can_be_a_piece_of_its_row(folder):
    data = in_memory(folder, prompt={"prompt_codes": "codes"}, prompt_frames=(2, 4))
    found = set()
    for epoch, place in itertools.product(range(40), range(len(data))):
        data.set_epoch(epoch)
        (companion,) = data.companions(place)
        piece, whole = data[place]["prompt_codes"], torch.tensor(companion["codes"])
        starts = [at for at in range(whole.shape[1]) if torch.equal(whole[:, at : at + piece.shape[1]], piece)]
        assert starts
        found.add((piece.shape[1], starts[0]))
    assert {frames for frames, _ in found} == {2, 3, 4} and len({start for _, start in found}) > 5
    # The same one, whenever it is asked for; a row that is shorter is taken whole.
    assert torch.equal(data[1]["prompt_codes"], data[1]["prompt_codes"])
    long = in_memory(folder, prompt={"prompt_codes": "codes"}, prompt_frames=(99, 99))
    assert torch.equal(long[0]["prompt_codes"], torch.tensor(long.companions(0)[0]["codes"]))


def test_bad_pieces_of_prompts_are_refused():
    with pytest.raises(ValueError, match=r"prompt_frames must rise and begin at 1 at least, got \(3, 2\)"):
        examples(prompt={"prompt_codes": "codes"}, prompt_frames=(3, 2))
    with pytest.raises(ValueError, match="made of its codes alone, but the prompt also has text"):
        examples(prompt={"prompt_codes": "codes", "prompt_text": "text"}, prompt_frames=(1, 2))


def test_without_speakers_all_rows_are_of_one(folder):
    data = in_memory(folder, prompt={"prompt_codes": "codes"}, speaker=None)
    speakers = [(data.row(place)["id"], data.companions(place)[0]["id"]) for place in range(len(data))]
    known = {f"{number}.wav": speaker for number, speaker in enumerate(SPEAKERS)}
    assert {(known[own], known[other]) for own, other in speakers} >= {("a", "b"), ("b", "a")}


def test_a_speaker_with_one_row_has_no_prompt(folder):
    rows = read_rows([folder], examples().columns).select([0, 1, 2])
    made = examples(prompt={"prompt_codes": "codes"})
    data = CodesDataset(rows, made)
    assert [data.row(place)["id"] for place in range(len(data))] == ["0.wav", "1.wav"]
    with pytest.raises(ValueError, match="another row of the same speaker"):
        CodesDataset(rows.select([1, 2]), made)


def test_joined_rows_are_said_after_one_another(folder):
    data = in_memory(folder, join=3, prompt={"prompt_codes": "codes"})
    first, second, last = data.companions(0)
    parts = [first, second, data.row(0)]
    assert text_of(data[0]) == " ".join(part["text"] for part in parts)
    assert torch.equal(data[0]["labels"], torch.cat([torch.tensor(part["codes"]) for part in parts], dim=1))
    assert torch.equal(data[0]["prompt_codes"], torch.tensor(last["codes"]))
    with pytest.raises(ValueError, match="join must be at least 1, got 0"):
        examples(join=0)


class BeatProcessor(ValleProcessor):
    """Knows one thing more than the one that it builds on: numbers of a row."""

    def __call__(self, text, beats=None, **given):
        batch = super().__call__(text, **given)
        return batch if beats is None else {**batch, "beats": torch.tensor(beats)}


def test_further_columns_go_through_the_processor_into_the_batch(folder):
    made = examples(BeatProcessor, inputs={"text": "text", "beats": "beats"}, join=2)
    data = CodesDataset(read_rows([folder], made.columns), made)
    (companion,) = data.companions(2)
    assert data[2]["beats"].tolist() == [*companion["beats"], 2, 1]
    batch = made.processor.pad([data[2], data[3]])
    assert batch["beats"].shape == (2, 4) and batch["labels"].shape[0] == 2


def test_what_an_example_is_follows_from_seed_epoch_and_place(folder):
    fields = {"prompt": {"prompt_codes": "codes"}}
    one, other = in_memory(folder, 3, **fields), in_memory(folder, 3, **fields)

    def companions(data, epoch):
        data.set_epoch(epoch)
        return [data.companions(place)[0]["id"] for place in reversed(range(len(data)))]

    assert companions(one, 0) == companions(other, 0) and companions(one, 5) == companions(other, 5)
    assert companions(one, 0) != companions(one, 1)
    assert companions(one, 0) != companions(in_memory(folder, 4, **fields), 0)


def stream(folder, seed=0, **fields):
    made = examples(**fields)
    return StreamCodesDataset(stream_rows([folder], made.columns), made, seed)


def test_a_stream_gives_every_row_once_an_epoch_in_another_order(folder):
    texts = [text_of(example) for example in itertools.islice(stream(folder), 2 * SPOKEN)]
    first, second = texts[:SPOKEN], texts[SPOKEN:]
    assert sorted(first) == sorted(second) == sorted(TEXTS[:-1]) and first != second
    again = [text_of(example) for example in itertools.islice(stream(folder), 2 * SPOKEN)]
    assert again == texts
    assert [text_of(example) for example in itertools.islice(stream(folder, 1), SPOKEN)] != first


def test_a_streamed_row_has_a_prompt_of_the_same_speaker_too(folder):
    rows = read_rows([folder], examples().columns).to_list()
    for example in itertools.islice(stream(folder, prompt={"prompt_codes": "codes"}), 40):
        own = next(row for row in rows if torch.equal(torch.tensor(row["codes"]), example["labels"]))
        prompt = next(row for row in rows if torch.equal(torch.tensor(row["codes"]), example["prompt_codes"]))
        assert own["speaker"] == prompt["speaker"] and own["id"] != prompt["id"]


def test_loading_processes_for_which_a_stream_has_no_part_leave_it_to_the_others(folder):
    loader = DataLoader(stream(folder), batch_size=None, num_workers=2)
    texts = [text_of(example) for example in itertools.islice(loader, SPOKEN)]
    assert sorted(texts) == sorted(TEXTS[:-1])


def test_a_stream_without_a_row_that_can_be_used_ends_in_an_error(folder):
    with pytest.raises(ValueError, match="the stream has no row that can be used"):
        next(iter(stream(folder, longest=3)))


def test_columns_that_are_not_there_are_named(folder):
    for read in (read_rows, stream_rows):
        with pytest.raises(ValueError, match=r"has no column 'words'; it has .*beats.*codes.*speaker, text"):
            read([folder], ["codes", "words"])
    assert list(read_texts([folder], "text")) == TEXTS[:-1]


def test_codes_of_different_codecs_do_not_go_together(folder, tmp_path):
    other = TINY["stft_codec"].model()
    for parameter in other.state_dict().values():
        parameter.add_(1)
    tokenize(other.eval(), load_labelled(folder.parent / "audio"), tmp_path / "codes", num_quantizers=2)
    with pytest.raises(ValueError, match="codes of different codecs: fingerprint"):
        read_headers([folder, tmp_path / "codes"])
    assert read_headers([folder, folder]).num_codebooks == 4
    with pytest.raises(FileNotFoundError, match="is no data set made by codec-lm tokenize"):
        read_headers([folder, tmp_path])
