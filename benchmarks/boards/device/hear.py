"""Measures the microphone's front-end on the board that runs this: prints a line of JSON, in ticks of its clock."""

import json

from measure import Clock

from tinyreptile import mel
from tinyreptile.portable import zeros

GAIN = 5


def main(megahertz, front_end, hop, frames, means, deviations):
    """The tables of `LogMel(*front_end)`; a frame, from the driver's samples to features; the rest, for a clip."""
    clock = Clock(megahertz)
    made = []
    tables = clock.time(lambda: made.append(mel.LogMel(*front_end)))
    log_mel = made[0]
    log_mel.normal(means, deviations)
    raw = bytearray(4 * hop)
    state = 1
    for i in range(2, len(raw), 4):  # noise, by a linear congruential generator
        state = (state * 25173 + 13849) & 0xFFFF
        raw[i] = state >> 8
        raw[i + 1] = 0xFF if state & 128 else 0
    frame = front_end[1]
    samples = zeros("H", frame)
    features, inputs = zeros("H", frames * len(means)), zeros("h", frames * len(means))

    def hear():
        mel.push(samples, raw, frame << 16 | hop, GAIN)
        return log_mel.features(samples, features, 0)

    loudness = [hear() for _ in range(frames)]

    def keep():
        mel.middle(loudness)
        for row in range(frames):
            log_mel.normalize(features, row, inputs, row)

    print(json.dumps({"tables": tables, "frame": clock.time(hear), "clip": clock.time(keep)}))
