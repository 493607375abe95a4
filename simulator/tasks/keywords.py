"""Keywords: which of a few words was said, after a few recordings of each? (Speech Commands, Warden, arXiv 1804.03209).

Who speaks and what is said are both held out, so that two things can be measured apart: adaptation to unseen people who
say the words of training, and to words that no device has trained on, said by unseen people.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simulator.data import Arrays, DataError, find, load
from simulator.data.speech_commands import SILENCE
from simulator.features import FrontEnd
from tinyreptile.learner import ONE
from tinyreptile.streams import Stream

from . import Task, TaskError
from .episodic import FixedEpisode, FreshEpisodes, Pool

HELD_OUT = ("bed", "cat", "happy", "go", "stop")
UNSEEN = ("speakers", "words")
FRONT_END = FrontEnd()
BOARD_FRONT_END = FrontEnd(integer=True)

_SAMPLES = 8000
_UNSEEN = 1  # tells the seeds of unseen devices from those of training devices


def network(ways: int = 4, front_end: FrontEnd = FRONT_END) -> list[list[Any]]:
    """The task's model list for ``ways`` words and maps of ``front_end``: three convolutions, one dense layer."""
    convolutions: list[list[Any]] = [["conv2d", channels, 3, 2, 1, "relu"] for channels in (16, 24, 32)]
    shape = ["input", front_end.frames(_SAMPLES), front_end.bands, 1]
    return [shape, *convolutions, ["flatten"], ["dense", ways], ["cross_entropy"]]


class Clips:
    """A pool of words, said by groups of people.

    ``rows`` int16 (clips, inputs) are the features, ``words`` and ``speakers`` (clips,) numbers from 0. A draw takes
    words that have clips enough, and for these a group: one person after the other at random, until the group has said
    each word often enough. All clips of the draw are of that group.
    """

    def __init__(self, rows: npt.NDArray[np.int16], words: npt.NDArray[Any], speakers: npt.NDArray[Any]) -> None:
        self.inputs = rows.shape[1]
        self.rows = rows
        self.words = words
        self.speakers = speakers
        self._clips = [np.flatnonzero(words == word) for word in range(int(words.max(initial=0)) + 1)]
        self._said = np.zeros((int(speakers.max(initial=0)) + 1, len(self._clips)), int)
        np.add.at(self._said, (speakers, words), 1)

    def enough(self, count: int) -> npt.NDArray[np.intp]:
        """The words of which there are ``count`` clips or more."""
        return np.flatnonzero(self._said.sum(axis=0) >= count)

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        """``count`` clips each of ``ways`` words, all by one group of people; see `episodic.Pool`."""
        words = random.choice(self.enough(count), ways, replace=False)
        return self.rows[self.choose(random, words, count)]

    def choose(self, random: np.random.Generator, words: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
        """``count`` clips of each of ``words`` by one group of people, (words, count)."""
        people = random.permutation(len(self._said))
        together = self._said[people][:, words].cumsum(axis=0)
        group = np.zeros(len(people), bool)
        group[people[: 1 + int(np.argmax((together >= count).all(axis=1)))]] = True
        theirs = (self._clips[word][group[self.speakers[self._clips[word]]]] for word in words)
        return np.stack([random.choice(clips, count, replace=False) for clips in theirs])


class Spliced:
    """The words of ``pool``, and words that nobody says: each begins like the one and ends like another.

    Of the words that are drawn these are a ``share``, 0 to 1. Maps of ``shape`` (frames, bands) are cut in the middle.
    """

    def __init__(self, pool: Clips, shape: tuple[int, int], share: float) -> None:
        self.inputs = pool.inputs
        self._pool = pool
        self._shape = shape
        self._share = share

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        """As `Clips.draw`, of all pairs of words."""
        words = self._pool.enough(count)
        n = len(words)
        chances = np.full((n, n), self._share / (n * n - n))
        np.fill_diagonal(chances, (1 - self._share) / n)
        first, second = np.divmod(random.choice(n * n, ways, replace=False, p=chances.reshape(-1)), n)
        clips = self._pool.choose(random, words[np.concatenate([first, second])], count).reshape(2, ways, count)
        clips[1, first == second] = clips[0, first == second]
        begins, ends = self._pool.rows[clips].reshape(2, ways, count, *self._shape)
        middle = self._shape[0] // 2
        return np.concatenate([begins[:, :, :middle], ends[:, :, middle:]], axis=2).reshape(ways, count, -1)


class Shifted:
    """``pool``, every clip that is drawn moved at random, by up to ``frames`` in time and ``bands`` in frequency.

    The map's first or last frame or band is repeated where it is wanting. ``shape`` is the map's (frames, bands).
    """

    def __init__(self, pool: Pool, shape: tuple[int, int], frames: int, bands: int) -> None:
        self.inputs = pool.inputs
        self._pool = pool
        self._shape = shape
        self._by = frames, bands

    def draw(self, random: np.random.Generator, ways: int, count: int) -> npt.NDArray[np.int16]:
        """As `Clips.draw`."""
        rows = self._pool.draw(random, ways, count)
        clips = np.arange(ways * count)[:, None, None]
        frames, bands = (
            np.clip(np.arange(size) + random.integers(-by, by, len(clips), endpoint=True)[:, None], 0, size - 1)
            for size, by in zip(self._shape, self._by, strict=True)
        )
        maps = rows.reshape(len(clips), *self._shape)
        shifted: npt.NDArray[np.int16] = maps[clips, frames[:, :, None], bands[:, None, :]]
        return shifted.reshape(rows.shape)


class Keywords(Task):
    """A device tells ``ways`` words of a group of people apart.

    Training devices draw ``drawings`` clips each of the words of training, said by people of meta-train (167). An
    unseen device has people of meta-test (72): ``shots`` of their clips of each word are support, ``queries`` others
    are query. ``unseen`` says which words: those of training ("speakers": only the people are new) or those of
    `HELD_OUT` ("words": both are). No clip is in two parts, and of identical clips one is kept.

    Held out are bed, cat and happy, the only words beside the ten commands with clips enough to adapt and to ask, and
    the last two commands in the data set's order of labels. All others are words of training, the rare ones if training
    people have said them ``drawings`` times. A share of them, ``spliced``, is made of two (`Spliced`): more of few
    words. By ``time_shift`` frames and ``frequency_shift`` bands, training's clips are moved at most, at random
    (`Shifted`): more of few recordings.

    Inputs are ``front_end``'s map of frames x bands, each band in standard deviations from its mean over training's
    clips, clipped at 4. `model` and `settings` suit the defaults; `network` gives the model for others. ``clips`` names
    the data set.

    Raises `TaskError` for impossible parameters and `DataError` where the data set is not to be had or lacks clips.
    """

    name = "keywords"
    model: ClassVar[list[list[Any]]] = network()
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "learning": {"steps": 40, "beta": 0.02, "alpha": 0.3, "alpha_end": 0.0, "bits": 8},
        "evaluation": {"steps": 40, "shots": 20, "queries": 40},
    }

    def __init__(
        self,
        data: Path | None = None,
        *,
        ways: int = 4,
        shots: int = 5,
        queries: int = 10,
        drawings: int = 10,
        spliced: float = 0.0,
        time_shift: int = 0,
        frequency_shift: int = 0,
        unseen: str = "speakers",
        front_end: FrontEnd = FRONT_END,
        clips: str = "speech_commands_8k",
    ) -> None:
        super().__init__(data)
        if ways < 2 or min(shots, queries, drawings) < 1:
            raise TaskError(
                "keywords takes 2 ways or more, and a shot, a query and a drawing or more, "
                f"not {ways}, {shots}, {queries} and {drawings}"
            )
        shape = front_end.frames(_SAMPLES), front_end.bands
        if not (0 <= time_shift < shape[0] and 0 <= frequency_shift < shape[1]):
            raise TaskError(
                f"maps of {shape[0]} frames and {shape[1]} bands are shifted by 0 or more, and fewer, "
                f"not by {time_shift} frames and {frequency_shift} bands"
            )
        if not 0 <= spliced <= 1:
            raise TaskError(f"a share of the words is spliced, 0 to 1, not {spliced}")
        if unseen not in UNSEEN:
            raise TaskError(f"keywords are tried on one of {', '.join(UNSEEN)} that are unseen, not {unseen!r}")
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.drawings = drawings
        pools = _pools(clips, find(clips, data), front_end)
        self.train, self.unseen = pools["training"], pools[unseen]
        self._drawn: Pool = Spliced(self.train, shape, spliced) if spliced else self.train
        if time_shift or frequency_shift:
            self._drawn = Shifted(self._drawn, shape, time_shift, frequency_shift)
        for pool, count, whose in (
            (self.train, drawings, "training"),
            (self.unseen, shots + queries, f"unseen {unseen}"),
        ):
            if len(pool.enough(count)) < ways:
                raise DataError(
                    f"data set {clips}: only {len(pool.enough(count))} words of {whose} have {count} clips or more, "
                    f"and {ways} are needed; take fewer ways, shots or queries, or a larger set"
                )

    def train_stream(self, index: int, seed: int) -> Stream:
        """Device ``index``: new words and people for every piece of work."""
        return FreshEpisodes(self._drawn, self.ways, self.drawings, (seed, index))

    def unseen_stream(self, index: int, seed: int) -> Stream:
        """Held-out device ``index``: always the same words and the same people, none of them training's."""
        return FixedEpisode(self.unseen, self.ways, self.shots, self.queries, (seed, index, _UNSEEN))


class BoardKeywords(Keywords):
    """The same with features in integers, as boards with a microphone compute them: both can be of one fleet."""

    def __init__(self, data: Path | None = None, *, front_end: FrontEnd = BOARD_FRONT_END, **options: Any) -> None:
        super().__init__(data, front_end=front_end, **options)


@functools.lru_cache(maxsize=2)
def _pools(name: str, path: Path, front_end: FrontEnd) -> dict[str, Clips]:
    """The clips of "training", of unseen "speakers" and of unseen "words", of data set ``name`` at ``path``."""
    known = load(name, path.parent)
    words, speakers = known["word"], known["speaker"]
    parts = _parts(known)
    maps = front_end(known["mulaw_table"][known["audio"]])
    rows = front_end.normalized(maps, *front_end.statistics(maps[parts["training"]]))
    return {part: Clips(rows[chosen], words[chosen], speakers[chosen]) for part, chosen in parts.items()}


def _parts(known: Arrays) -> dict[str, npt.NDArray[np.bool_]]:
    """Which clips of the data set ``known`` are of "training", of unseen "speakers" and of unseen "words"."""
    words = known["word"]
    kept = (known["first_copy"] == np.arange(len(words))) & (words != known["words"].tolist().index(SILENCE))
    held_out = np.isin(known["words"], HELD_OUT)[words]
    new = known["speaker_split"][known["speaker"]] == 1
    return {"training": kept & ~new & ~held_out, "speakers": kept & new & ~held_out, "words": kept & new & held_out}


def band_statistics(name: str = "speech_commands_8k", data: Path | None = None) -> dict[str, list[int]]:
    """What a stream "microphone" takes to go with the training clips of data set ``name``.

    "means" and "deviations" of the bands of `BOARD_FRONT_END`, in 1/1024. Raises `DataError`, also for a data set
    without words.
    """
    known = load(name, data)
    if "word" not in known:
        raise DataError(f"bands are those of spoken words, as in speech_commands_8k, and {name} has none")
    training = _parts(known)["training"]
    maps = BOARD_FRONT_END(known["mulaw_table"][known["audio"][training]])
    mean, deviation = (np.rint(values * ONE).astype(int).tolist() for values in BOARD_FRONT_END.statistics(maps))
    return {"means": mean, "deviations": deviation}
