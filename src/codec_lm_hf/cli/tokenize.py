"""`codec-lm tokenize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tokenize(
    source: Annotated[
        str, typer.Argument(help="Folder of audio files, or a data set: path or repository id, as datasets loads it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the data set of codes.")],
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; the bundled codec by default.")
    ] = None,
    codec_revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the codec.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Rate in kbps; the codec's highest by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set that has several.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a data set with several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the data set.")] = None,
    column: Annotated[str, typer.Option(help="The data set's audio column.")] = "audio",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that cannot be read, or are too long.")
    ] = False,
    batch_seconds: Annotated[
        float,
        typer.Option(
            help="Audio encoded at once; also the longest recording for codecs that look at the whole signal."
        ),
    ] = 60.0,
    shard_rows: Annotated[int, typer.Option(help="Recordings per file; a crash loses at most these.")] = 200,
    speed: Annotated[float, typer.Option(help="Play recordings this many times faster, and higher: more voices.")] = 1,
    speaker: Annotated[
        str | None, typer.Option(help="Column that says who speaks; at another speed it says NAME xSPEED.")
    ] = None,
) -> None:
    """Turn recordings into a data set of codes, to train on (needs the extra `train`). Run again, it adds the rest.

    On several devices: accelerate launch -m codec_lm_hf.cli tokenize SOURCE -o CODES

    Example: codec-lm tokenize recordings -o codes
    """
    import time

    from ..training.labelled import load_labelled
    from ..training.tokenize import processes
    from ..training.tokenize import tokenize as run
    from .common import load_codec

    state = processes()
    # The others find it in the cache.
    with state.main_process_first():
        recordings = load_labelled(source, split, name, column, revision)
        model = load_codec(codec, codec_revision).to(state.device)
    count = None if bandwidth is None else model.config.num_quantizers_for(bandwidth)
    started = time.monotonic()
    played = {"speed": speed, "speaker_column": speaker}
    report = run(model, recordings, output, count, batch_seconds, shard_rows, skip_bad, **played)
    if not state.is_main_process:
        return
    hours, rate = report.seconds / 3600, report.seconds / (time.monotonic() - started)
    typer.echo(
        f"{output}: {report.written} recordings coded ({hours:.2f} h, {rate:.0f} x real time), "
        f"{report.present} were there, {len(report.skipped)} skipped"
    )
    for reason in report.skipped.values():
        typer.echo(f"skipped: {reason}", err=True)
