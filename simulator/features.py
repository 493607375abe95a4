"""Log-mel features of speech, as a keyword spotter on a microcontroller computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyreptile import mel
from tinyreptile.learner import ONE
from tinyreptile.portable import view16

_CHUNK = 256  # clips transformed at a time
_FLOOR = 4096.0
_LIMIT = 4.0  # standard deviations


@dataclass(frozen=True)
class FrontEnd:
    """What is computed of a clip: a map of ``frames(samples)`` x ``bands``.

    A frame of ``frame`` samples every ``hop``, a Hann window, the power of its Fourier transform, its sums under
    ``bands`` triangles evenly spaced on the mel scale (2595 log10(1 + f / 700)) from ``low`` to ``high`` Hz, and of
    each sum p the logarithm log2(1 + p / 4096), between 0 and 31 for samples of 16 bits.

    It is meant to be done in integers: a frame is a power of two, a logarithm to base 2 is the place of the highest bit
    and a few bits behind it, and what lies below the floor, in mu-law recordings little more than the coding of
    silence, is left out. With ``integer`` it is: `tinyreptile.mel` computes it, as on boards with a microphone, to the
    last bit. Then features, means and deviations are multiples of 1/1024.

    With ``centred`` the map is moved in time until the middle of what is loud in the clip is in its middle, the first
    or last frame repeated at the end where frames are wanting: a device that listens on and on begins a clip when it
    gets loud, too. Loud is what exceeds the median of the frames' means over the bands; it counts by its square.

    Raises ValueError for a frame that is no power of two, so many bands that one has no bin of the transform, and for
    what `tinyreptile.mel.LogMel` can't do.
    """

    rate: int = 8000
    frame: int = 256
    hop: int = 160
    bands: int = 20
    low: float = 20.0
    high: float = 4000.0
    centred: bool = True
    integer: bool = False

    def __post_init__(self) -> None:
        if self.frame < 2 or self.frame & (self.frame - 1):
            raise ValueError(f"a frame's samples are a power of two, not {self.frame}")
        if not self.triangles().any(axis=0).all():
            raise ValueError(f"{self.bands} bands are too many for frames of {self.frame} samples; take fewer")
        if self.integer:
            self._log_mel()

    def frames(self, samples: int) -> int:
        """How many frames a clip of ``samples`` has."""
        return (samples - self.frame) // self.hop + 1

    def triangles(self) -> npt.NDArray[np.float32]:
        """The weight of every bin of the transform in every band, (frame / 2 + 1, bands)."""
        edges = 700 * (10 ** (np.linspace(_mel(self.low), _mel(self.high), self.bands + 2) / 2595) - 1)
        bins = np.arange(self.frame // 2 + 1)[:, None] * self.rate / self.frame
        rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
        falling = (edges[2:] - bins) / np.diff(edges)[1:]
        weights: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
        return weights.astype(np.float32)

    def __call__(self, clips: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """The features (clips, frames, bands) of ``clips`` (clips, samples), which are int16 samples."""
        if self.integer:
            return self._integer(clips)
        window = np.hanning(self.frame + 1)[:-1].astype(np.float32)
        triangles = self.triangles()
        result = np.empty((len(clips), self.frames(clips.shape[1]), self.bands), np.float32)
        for i in range(0, len(clips), _CHUNK):
            framed = np.lib.stride_tricks.sliding_window_view(clips[i : i + _CHUNK], self.frame, axis=1)[:, :: self.hop]
            spectrum = np.fft.rfft(framed * window)
            power = spectrum.real**2 + spectrum.imag**2
            result[i : i + _CHUNK] = np.log2(1 + power @ triangles / _FLOOR)
        return _centred(result) if self.centred else result

    def statistics(self, maps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Each band's mean and standard deviation (bands,) over ``maps`` (clips, frames, bands)."""
        if not self.integer:
            return maps.mean(axis=(0, 1)), maps.std(axis=(0, 1))
        exact = maps.astype(np.float64)
        return np.rint(exact.mean(axis=(0, 1)) * ONE) / ONE, np.rint(exact.std(axis=(0, 1)) * ONE) / ONE

    def normalized(
        self, maps: npt.NDArray[np.float32], mean: npt.NDArray[np.floating], deviation: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.int16]:
        """A network's inputs (clips, frames x bands), Q5.10: deviations from the mean, clipped at 4."""
        if not self.integer:
            normal = np.clip((maps - mean) / deviation, -_LIMIT, _LIMIT)
            inputs: npt.NDArray[np.int16] = np.rint(normal * ONE).astype(np.int16).reshape(len(maps), -1)
            return inputs
        log_mel = self._log_mel()
        log_mel.normal(*([round(value) for value in (values * ONE).tolist()] for values in (mean, deviation)))
        features = (maps * ONE).astype(np.uint16).reshape(len(maps), -1)
        result = np.empty(features.shape, np.int16)
        for cells, row in zip(map(view16, features), map(view16, result), strict=True):
            for frame in range(maps.shape[1]):
                log_mel.normalize(cells, frame, row, frame)
        return result

    def _log_mel(self) -> mel.LogMel:
        """What computes a frame in integers."""
        for frequency in (self.low, self.high):
            if frequency != int(frequency):
                raise ValueError(f"in integers, bands begin and end at whole Hz, not at {frequency}")
        return mel.LogMel(self.rate, self.frame, self.bands, int(self.low), int(self.high))

    def _integer(self, clips: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        log_mel = self._log_mel()
        frames = self.frames(clips.shape[1])
        result = np.empty((len(clips), frames, self.bands), np.uint16)
        for clip, features in zip(clips.astype(np.int16), result, strict=True):
            samples, cells = view16(clip), view16(features)
            loudness = [log_mel.features(samples[row * self.hop :][: self.frame], cells, row) for row in range(frames)]
            if self.centred:
                features[:] = features[np.clip(np.arange(frames) + mel.middle(loudness), 0, frames - 1)]
        return result.astype(np.float32) / np.float32(ONE)


def _centred(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    frames = np.arange(maps.shape[1])
    loudness = maps.mean(axis=2)
    loud = np.maximum(loudness - np.median(loudness, axis=1, keepdims=True), 0) ** 2
    total = loud.sum(axis=1)
    middle = np.where(total > 0, loud @ frames / np.maximum(total, 1e-9), frames[-1] / 2)
    moved = np.rint(middle - frames[-1] / 2).astype(int)
    sources = np.clip(frames + moved[:, None], 0, frames[-1])
    return np.take_along_axis(maps, sources[:, :, None], axis=1)


def _mel(frequency: float) -> float:
    return float(2595 * np.log10(1 + frequency / 700))
