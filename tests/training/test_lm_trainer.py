"""The trainer knows no family: whatever has a loss, a processor and `generate` trains, and is heard."""

from __future__ import annotations

import json

import torch
from transformers import BatchFeature

from codec_lm_hf.modeling.auto import AutoCodecModel
from codec_lm_hf.processing.codec_lm_processor import CodecLMProcessor
from codec_lm_hf.training.lm_data import CodesDataset, Examples, read_rows
from codec_lm_hf.training.lm_trainer import CodecLMTrainer, CodecLMTrainingArguments, Speaking
from tests.common.tiny_lm import TINY_LM
from tests.training.lm_helpers import TEXTS, make_codes


class CaptionProcessor(CodecLMProcessor):
    """Captions as what a text encoder might say of them: five states that tell their letters."""

    def __call__(self, text, target_codes=None):
        rows = [{"encoder_hidden_states": self.states(one)} for one in text]
        if target_codes is not None:
            found = self._rows_of_codes("labels", None, target_codes, None, len(rows))
            rows = [{**row, "labels": codes} for row, codes in zip(rows, found, strict=True)]
        return BatchFeature(self.pad(rows))

    @staticmethod
    def states(text: str) -> torch.Tensor:
        return torch.sin(torch.arange(60.0) * sum(map(ord, text))).view(5, 12)


def test_musicgen_trains_and_plays_what_captions_say(tmp_path):
    root = make_codes(tmp_path / "data")
    processor = CaptionProcessor(num_codebooks=4, codebook_size=64)
    processor.codec = AutoCodecModel.from_pretrained(root / "codec")
    examples = Examples(processor)
    rows = read_rows([root / "codes"], examples.columns)
    data, requests = CodesDataset(rows, examples), CodesDataset(rows, Examples(processor, targets={}))
    arguments = CodecLMTrainingArguments(
        str(tmp_path / "out"),
        max_steps=30,
        learning_rate=0.01,
        eval_strategy="steps",
        eval_steps=15,
        sample_count=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = CodecLMTrainer(
        TINY_LM["musicgen"].model(codebook_size=64),
        arguments,
        processor,
        speaking=Speaking(requests, [0, 3], options={"max_new_tokens": 6}),
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    first, last = (entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert last["eval_loss"] < first["eval_loss"] and last["eval_code_accuracy"] > first["eval_code_accuracy"]
    folder = tmp_path / "out" / "samples" / "step-30"
    table = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    assert [row["text"] for row in table] == [TEXTS[0], TEXTS[3]]
    # Without a prompt, the voice is the row's own.
    assert all(row["prompt"] is None and row["seconds"] == 6 * 320 / 16000 for row in table)
    assert (folder / "0-generated.wav").is_file() and (folder / "0-voice.wav").is_file()
