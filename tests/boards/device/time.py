"""For boards whose firmware has no clock: time stands still, which nothing that is run on them minds."""


def ticks_ms():
    return 0


def ticks_diff(end, start):
    return end - start
