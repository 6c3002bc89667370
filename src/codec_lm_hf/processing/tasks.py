"""What codec language models are asked to do, by the survey's abbreviations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class TaskRow:
    """One task.

    Attributes:
        title: its name, written out.
        inputs: what has to be given: `"text"`, `"audio"`, `"midi"`.
        outputs: what comes out.
        channels: of the audio that comes out, at least.
    """

    title: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels: int = 1

    def __str__(self) -> str:
        return f"{self.title} ({' + '.join(self.inputs)} -> {' + '.join(self.outputs)})"


class Task(Enum):
    """The tasks of Wu et al., 2024, "Towards Audio Language Modeling: An Overview", section 3.2, in its order."""

    SC = TaskRow("speech continuation", ("audio",), ("audio",))
    PC = TaskRow("piano continuation", ("audio",), ("audio",))
    AC = TaskRow("audio continuation", ("audio",), ("audio",))
    TTS = TaskRow("text to speech", ("text",), ("audio",))
    MG = TaskRow("music generation", ("text",), ("audio",))
    SG = TaskRow("stereo generation", ("text",), ("audio",), channels=2)
    S2ST = TaskRow("speech to speech translation", ("audio",), ("audio",))
    ASR = TaskRow("speech recognition", ("audio",), ("text",))
    SLU = TaskRow("spoken language understanding", ("audio",), ("text",))
    AAC = TaskRow("audio captioning", ("audio",), ("text",))
    S2TT = TaskRow("speech to text translation", ("audio",), ("text",))
    MT = TaskRow("text translation", ("text",), ("text",))
    SE = TaskRow("speech enhancement", ("audio",), ("audio",))
    SR = TaskRow("speech removal", ("audio",), ("audio",))
    TSE = TaskRow("target speaker extraction", ("audio",), ("audio",))
    SPED = TaskRow("speech editing", ("text", "audio"), ("audio",))
    VC = TaskRow("voice conversion", ("audio",), ("audio",))
    SVS = TaskRow("singing voice synthesis", ("text", "midi"), ("audio",))
    TTSO = TaskRow("text to sound", ("text",), ("audio",))
    TTM = TaskRow("text to music", ("text",), ("audio",))
    AUED = TaskRow("audio editing", ("text", "audio"), ("audio",))
    SD = TaskRow("speech dereverberation", ("audio",), ("audio",))
    ITTS = TaskRow("instructed text to speech", ("text",), ("audio",))


def task_named(name: str | Task, known: Iterable[str]) -> Task:
    """The task of this name.

    Args:
        name: its abbreviation.
        known: abbreviations of those that a model has learnt.

    Raises:
        ValueError: it is none of them.
    """
    name = name.name if isinstance(name, Task) else name
    known = list(known)
    if name in known:
        return Task[name]
    asked = f"{name!r} ({Task[name].value.title})" if name in Task.__members__ else repr(name)
    learnt = ", ".join(f"{one!r} ({Task[one].value.title})" for one in known)
    raise ValueError(f"the task {asked} is none of this model's; it has learnt {learnt}.")
