"""`codec-lm generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    text: Annotated[str, typer.Option(help="What to say, or a description of the music or sound.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="PATH", help="Audio file, or - for standard output.")
    ],
    model: Annotated[
        str, typer.Option(help="Directory or repository id of a language model with its processor.")
    ] = "bundled:tts",
    prompt: Annotated[
        Path | None,
        typer.Option(
            help="Recording of the voice, cut to the length that the model takes, or of the music to continue. "
            "The bundled model has a voice of its own."
        ),
    ] = None,
    prompt_text: Annotated[str | None, typer.Option(help="What the prompt says; empty by default.")] = None,
    melody: Annotated[Path | None, typer.Option(help="Recording whose melody is followed.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same codes.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="The model's own by default; 0: always the most likely code.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many codes.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among codes of this total probability.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this; the model's limit by default.")] = None,
) -> None:
    """Speak a text, in the voice of a prompt; or play what a text describes, perhaps along a melody.

    Example: codec-lm generate --text "three one four" --prompt me.wav -o out.wav
    """
    import inspect
    import math

    import transformers

    from ..modeling.auto import family_at
    from ..pretrained import is_bundled, locate
    from ..processing.audio import file_format, load_audio
    from .common import file_named, output_file
    from .decode import write_audio

    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise ValueError(f"--max-seconds {max_seconds:g}: give a positive number, or leave it out.")
    written = file_named(output)
    suffix = written.suffix or ".wav"
    file_format(suffix)  # one that is unknown is refused before the work, not after it
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = locate(model)
    if is_bundled(model) and prompt is None:
        prompt = Path(folder) / "voice.ogg"
    row = family_at(folder)
    if row is None or row.kind != "lm" or row.processor is None:
        raise ValueError(
            f"{model} is no codec language model that this command can give a text; `codec-lm list` names them."
        )
    processor = row.load("processor").from_pretrained(folder)
    lm = row.load("model").from_pretrained(folder).eval()
    config = processor.codec.config
    given = {"audio": prompt, "prompt_text": prompt_text, "melody": melody}
    given = {name: value for name, value in given.items() if value is not None}
    taken = inspect.signature(type(processor).__call__).parameters.keys()
    for name in given.keys() - taken:
        option = "prompt" if name == "audio" else name.replace("_", "-")
        raise ValueError(f"{model} takes no --{option}: {type(processor).__name__} has no use for it.")
    for name in given.keys() & {"audio", "melody"}:
        given[name], _ = load_audio(given[name], config.sampling_rate)
    if "truncation" in taken:
        given["truncation"] = True
    options: dict = {"top_k": top_k, "top_p": top_p, "temperature": temperature or None}
    if temperature == 0:
        options["do_sample"] = False
    if max_seconds is not None:
        options["max_new_tokens"] = max(1, round(max_seconds * config.frame_rate))
    options = {name: value for name, value in options.items() if value is not None}
    inputs = processor(text, **given)
    # Opened first: where nothing can be written, nothing is generated.
    with output_file(written) as file:
        codes = lm.generate(**inputs, seed=seed, **options)
        waves = [wave.numpy() for wave in processor.batch_decode(codes)]
        if not waves[0].shape[1]:
            raise ValueError("the model ended at once: there is nothing to write. Try another --seed.")
        write_audio(file, waves, config.sampling_rate, len(waves[0]), suffix)
    if output != "-":
        typer.echo(f"written to {output} ({len(waves[0][0]) / config.sampling_rate:.1f} s)")
