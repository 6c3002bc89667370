"""When each symbol of a text is said: a hidden Markov model that learns it from the recordings themselves.

Each symbol is one state, whose features have a mean and a covariance. The mean is a linear function of the symbol and
of its neighbours, because a letter alone does not say its sound; the covariance is that of all. Symbols without
letters are pauses, and may be passed over. From texts spread evenly over their recordings, states and paths are found
in turn (Viterbi training; Rabiner, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from ..modeling.codec_base import CodecPreTrainedModel
from ..processing.text import BEGIN, END, frontend_named
from .spectrograms import MelSpectrogram
from .tokenize import texts_of

_BANDS = 40
_WINDOW_SECONDS = 0.025
_LOWEST_HZ = 60.0
# Of the spectrum around a frame: how far it goes on each side, and how many of its principal components are kept.
_REACH_SECONDS = 0.04
_COMPONENTS = 40
# Observations that pull the means of rare symbols to those of all.
_PRIOR = 10.0
# Frames times symbols of a batch of paths.
_BATCH = 1 << 19


def add_durations(
    rows: datasets.Dataset,
    codec: CodecPreTrainedModel,
    frontend: str = "graphemes",
    text_column: str = "text",
    speaker_column: str | None = None,
    **options,
) -> datasets.Dataset:
    """A data set of codes (`training.tokenize`) with a column `durations`: frames of each symbol, begin to end.

    Args:
        rows: with codes and texts.
        codec: that made the codes; what it decodes is listened to.
        frontend: of the processor of the language model.
        text_column: what is said.
        speaker_column: who says it; helps where recordings are short.
        **options: of `find_durations`.

    Raises:
        ValueError: a column is missing, a row has no text, or a recording is shorter than its text.
    """
    needed = ["codes", text_column, *([speaker_column] if speaker_column else [])]
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise ValueError(f"the data set has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}.")
    symbols = frontend_named(frontend)
    texts = [[BEGIN, *symbols(text or ""), END] for text in texts_of(rows, text_column)]
    silent = [place for place, text in enumerate(texts) if len(text) == 2]
    if silent:
        raise ValueError(f"rows {silent[:5]} have nothing in their column {text_column!r}: leave them out.")
    speakers = rows[speaker_column][:] if speaker_column else range(len(rows))
    features = speech_features(rows, codec, speakers)
    durations = find_durations(features, texts, **options)
    return rows.add_column("durations", durations, feature=datasets.List(datasets.Value("int32")))


@torch.no_grad()
def speech_features(rows: datasets.Dataset, codec: CodecPreTrainedModel, speakers: Sequence) -> list[Tensor]:
    """What is heard in each frame of codes: `(frames, features)` of each row, uncorrelated, a speaker's mean removed.

    Args:
        rows: with `codes`, and `scales` where the codec has them.
        codec: that made them.
        speakers: who speaks in each row.
    """
    config = codec.config
    window = max(config.hop_length, round(_WINDOW_SECONDS * config.sampling_rate))
    mel = MelSpectrogram(
        config.sampling_rate,
        window,
        _BANDS,
        min_frequency=_LOWEST_HZ,
        hop_length=config.hop_length,
        padding="begun_hops",
        power=2,
        power_floor=1e-7,
        natural_log=True,
    )
    heard = []
    for row in tqdm(rows, desc="listening", unit="row", disable=len(rows) < 200):
        codes = torch.tensor(row["codes"], device=codec.device)[None]
        scales = torch.tensor(row["scales"], device=codec.device)[None] if "scales" in row else None
        audio = codec.decode(codes, audio_scales=scales).audio_values.float().cpu()
        found = mel.log(mel(audio.mean(1, keepdim=True)))[0, 0].T
        heard.append(found[: codes.shape[-1]])
    by_speaker: dict = {}
    for place, speaker in enumerate(speakers):
        by_speaker.setdefault(speaker, []).append(place)
    for places in by_speaker.values():
        mean = torch.cat([heard[place] for place in places]).mean(0)
        for place in places:
            heard[place] = heard[place] - mean
    reach = max(1, round(_REACH_SECONDS * config.frame_rate))
    stacked = [_with_neighbours(found, reach) for found in heard]
    whole = torch.cat(stacked)
    _, directions = torch.linalg.eigh(torch.cov(whole.T))
    return [found @ directions[:, -_COMPONENTS:] for found in stacked]


def _with_neighbours(frames: Tensor, reach: int) -> Tensor:
    """Each frame `(frames, bands)` beside those around it, the outermost ones repeated."""
    padded = pad(frames.T[None], (reach, reach), mode="replicate")[0].T
    return padded.unfold(0, 2 * reach + 1, 1).flatten(1)


def find_durations(
    features: Sequence[Tensor],
    texts: Sequence[Sequence[str]],
    context: int = 1,
    passed_over: int = 2,
    iterations: int = 10,
) -> list[list[int]]:
    """Frames of each symbol of each text.

    Args:
        features: `(frames, features)` of each recording.
        texts: the symbols of each, from that of begin to that of end, which have a frame at least, as letters have.
        context: neighbours of a symbol, on each side, that its mean depends on.
        passed_over: symbols without letters that may have no frame, in a row: one less than the `max_advance` of the
            model that is to learn from this.
        iterations: of states and paths.

    Raises:
        ValueError: other numbers of recordings and texts, or a recording shorter than its text.
    """
    if len(features) != len(texts) or not texts:
        raise ValueError(f"{len(features)} recordings for {len(texts)} texts: give one for each, and one at least.")
    needed = [_needed(text, passed_over) for text in texts]
    kinds, design = _kinds(texts, context)
    frames = torch.cat(list(features))
    durations = [_evenly(place, len(found), needed[place]) for place, found in enumerate(features)]
    for _ in tqdm(range(iterations), desc="aligning", disable=len(texts) < 200):
        says = torch.cat([one.repeat_interleave(found) for one, found in zip(kinds, durations, strict=True)])
        means, whiten = _fit(frames, says, design)
        for batch in _batches(features, texts):
            scores = [-0.5 * torch.cdist(features[place] @ whiten, means[kinds[place]]).square() for place in batch]
            for place, found in zip(batch, best_paths(scores, [needed[place] for place in batch]), strict=True):
                durations[place] = found
    return [found.tolist() for found in durations]


def best_paths(scores: Sequence[Tensor], needed: Sequence[Tensor]) -> list[Tensor]:
    """Frames `(symbols,)` of each symbol on the best way from the first to the last one.

    Args:
        scores: `(frames, symbols)` log-likelihoods of each recording.
        needed: `(symbols,)` bool: which ones have a frame at least; the first and the last one are among them.
    """
    frames = torch.tensor([len(score) for score in scores])
    last = torch.tensor([score.shape[1] - 1 for score in scores])
    size = (int(frames.max()), int(last.max()) + 1)
    score = torch.stack([pad(one, (0, size[1] - one.shape[1], 0, size[0] - len(one))) for one in scores], dim=1)
    stop = torch.stack([pad(one, (0, size[1] - len(one)), value=True) for one in needed])
    # Of going on by 0, 1, 2, ... symbols: where a path may not come to so, because it would pass over a needed one.
    closed = [torch.zeros_like(stop), torch.zeros_like(stop)]
    while not (passed := closed[-1] | _shifted(stop, len(closed) - 1, True)).all():
        closed.append(passed)
    best = torch.full_like(score[0], -torch.inf)
    best[:, 0] = score[0, :, 0]
    moves = []
    for now in score[1:]:
        ways = [_shifted(best, step, -torch.inf).masked_fill(shut, -torch.inf) for step, shut in enumerate(closed)]
        best, move = torch.stack(ways).max(0)
        best = best + now
        moves.append(move)
    rows, place = torch.arange(len(scores)), last.clone()
    durations = torch.zeros(len(scores), size[1], dtype=torch.long)
    for frame in range(size[0] - 1, -1, -1):
        there = frame < frames
        durations[rows[there], place[there]] += 1
        if frame:
            place = torch.where(there, place - moves[frame - 1][rows, place], place)
    return [row[: end + 1] for row, end in zip(durations, last, strict=True)]


def _shifted(x: Tensor, steps: int, value: float) -> Tensor:
    return pad(x, (steps, 0), value=value)[:, : x.shape[1]]


def _needed(text: Sequence[str], passed_over: int) -> Tensor:
    """Which symbols have a frame at least: the ends, letters, and of pauses in a row those after `passed_over`."""
    needed, run = [], 0
    for place, symbol in enumerate(text):
        run = 0 if place in (0, len(text) - 1) or _is_letter(symbol) else run + 1
        run = 0 if run > passed_over else run
        needed.append(run == 0)
    return torch.tensor(needed)


def _is_letter(symbol: str) -> bool:
    return symbol not in (BEGIN, END) and any(letter.isalnum() for letter in symbol)


def _evenly(row: int, frames: int, needed: Tensor) -> Tensor:
    """Frames of each symbol, as equal as can be."""
    count = int(needed.sum())
    if frames < count:
        raise ValueError(
            f"recording {row} has {frames} frames for {count} symbols that need one each: leave it out, or take a "
            "codec of more frames per second or a frontend of fewer symbols."
        )
    bounds = torch.arange(count + 1) * frames // count
    return torch.zeros(len(needed), dtype=torch.long).masked_scatter(needed, bounds.diff())


def _kinds(texts: Sequence[Sequence[str]], context: int) -> tuple[list[Tensor], Tensor]:
    """The kind of each symbol with its neighbours, `(symbols,)` of each text, and what each kind's mean adds up from.

    The latter is `(kinds, parts)`, of ones and zeros. Pauses are of one kind.
    """
    names = {symbol: number for number, symbol in enumerate(sorted({s for text in texts for s in text}), start=1)}
    windows = []
    for text in texts:
        ids = torch.tensor([names[symbol] for symbol in text])
        window = pad(ids, (context, context)).unfold(0, 2 * context + 1, 1)
        pause = torch.tensor([not _is_letter(symbol) for symbol in text])
        windows.append(window.masked_fill(pause[:, None], 0))
    distinct, kinds = torch.cat(windows).unique(dim=0, return_inverse=True)
    design = torch.nn.functional.one_hot(distinct, len(names) + 1).flatten(1)
    return list(kinds.split([len(text) for text in texts])), design.double()


def _fit(frames: Tensor, says: Tensor, design: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(kinds, features)` of what the frames say, and a factor that makes the covariance around them one.

    The means are of frames times that factor.
    """
    count = torch.bincount(says, minlength=len(design))
    total = frames.new_zeros(len(design), frames.shape[1]).index_add_(0, says, frames)
    gram = design.T @ (count[:, None] * design) + _PRIOR * torch.eye(design.shape[1], dtype=design.dtype)
    means = (design @ torch.linalg.solve(gram, design.T @ total.double())).to(frames.dtype)
    rest = frames - means[says]
    covariance = (rest.T @ rest / len(rest)).double()
    # Features without any variance would have no inverse.
    covariance.diagonal().add_(1e-4 * covariance.diagonal().mean())
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.to(frames.dtype)
    return means @ whiten, whiten


def _batches(features: Sequence[Tensor], texts: Sequence[Sequence[str]]) -> list[list[int]]:
    """Recordings of about the same length together."""
    batches, size = [[]], 0
    for place in sorted(range(len(texts)), key=lambda place: len(features[place])):
        size = max(size, len(texts[place]))
        if batches[-1] and (len(batches[-1]) + 1) * len(features[place]) * size > _BATCH:
            batches.append([])
            size = len(texts[place])
        batches[-1].append(place)
    return batches
