"""Holds the loops in assembly against the portable ones: after the same calls all buffers must be the same.

Layers and cells are drawn at random, extremes among them; prints the first difference, or "ok" and what was compared.
"""

from array import array

from tinyreptile import loops, loops8, plan, taps, taps8, thumb, thumb8, thumb_taps, thumb_taps8
from tinyreptile.model import Model

LAYERS = (
    (["input", 1], ["dense", 1]),
    (["input", 7], ["dense", 33]),
    (["input", 40], ["dense", 3]),
    (["input", 5, 4, 3], ["conv2d", 4, 3, 1, 1]),
    (["input", 9, 8, 2], ["conv2d", 5, 3, 2, 1]),
    (["input", 7, 9, 1], ["conv2d", 1, 5, 2, 4]),
    (["input", 6, 6, 1], ["conv2d", 2, 2, 3, 0]),
    (["input", 3, 3, 4], ["conv2d", 6, 3, 1, 2]),
    (["input", 30, 2], ["conv1d", 3, 7, 2, 6]),
    (["input", 20, 3], ["conv1d", 2, 1, 1, 0]),
    (["input", 4, 1], ["conv1d", 2, 4, 1, 3]),
)


class Numbers:
    """A linear congruential generator."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        """0 to n - 1."""
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n

    def cell(self, span):
        """A number from -span to span; often 0 or an extreme."""
        kind = self.below(8)
        if kind < 2:
            return 0
        if kind == 2:
            return span if self.below(2) else -span
        return self.below(2 * span + 1) - span


class Buffers:
    """All that a layer's loops work on."""

    def __init__(self, model, relu, numbers):
        span = (40, 3000, 32767)[numbers.below(3)]
        self.plan = model.plan()
        if model.weights == "int8":
            model.scale(self.plan, [4 + numbers.below(2) * numbers.below(9) for _ in model.offsets])
            self.w = array("b", [numbers.cell(min(span, 127)) for _ in range(model.parameters)])
        else:
            self.w = array("h", [numbers.cell(span) for _ in range(model.parameters)])
        self.a = array("h", [numbers.cell(span) for _ in range(model.activations)])
        # And a few cells behind them, which must stay.
        span = (20, 200, 100000)[numbers.below(3)]
        self.s = array("i", [numbers.cell(span) for _ in range(model.scratch + 4)])
        self.plan[plan.RANDOM] = numbers.below(65536)
        if numbers.below(4):
            # So near to a step that the bits below the sequence's own decide, for one of the first weights.
            self.plan[plan.RANDOM] = (0 - numbers.below(2) - (1 + numbers.below(8)) * 0x9E37) & 0xFFFF
        self.plan[plan.DITHER] = numbers.below(65536)
        at = plan.HEADER
        self.plan[at + plan.RELU] = relu
        self.plan[at + plan.BACK] = (plan.BEHIND_RELU, plan.LINEAR)[numbers.below(2)]


def forward(module, b, at, numbers):
    """One position's outputs."""
    p = b.plan
    row = numbers.below(p[at + plan.OUT_HEIGHT])
    column = numbers.below(p[at + plan.OUT_WIDTH])
    p[plan.JOB] = at
    module.list_patch(p, row << 16 | column, b.a, b.s)
    module.add_rows(p, b.w, b.s)
    place = p[at + plan.Y] + (row * p[at + plan.OUT_WIDTH] + column) * p[at + plan.OUT_CHANNELS]
    module.put_outputs(p, place, b.a, b.s)


def gradients(module, b, at, numbers):
    """One tap's gradients."""
    p = b.plan
    p[plan.JOB] = numbers.below(p[at + plan.CHANNELS]) << 16 | at
    ky = numbers.below(p[at + plan.KERNEL_HEIGHT])
    kx = numbers.below(p[at + plan.KERNEL_WIDTH])
    module.list_tap(p, ky << 16 | kx, b.a, b.s)
    module.add_gradients(p, (ky * p[at + plan.KERNEL_WIDTH] + kx) * p[at + plan.OUT_CHANNELS], b.a, b.s)


def deltas(module, b, at, numbers):
    """The deltas of one channel's inputs."""
    p = b.plan
    p[plan.JOB] = numbers.below(p[at + plan.CHANNELS]) << 16 | at
    start = 0
    while True:
        start = module.list_reach(p, start, b.a, b.s)
        module.put_deltas(p, b.w, b.a, b.s)
        if not start:
            return


def update(module, b, at, numbers):
    """One channel's weights."""
    b.plan[plan.JOB] = numbers.below(b.plan[at + plan.CHANNELS]) << 16 | at
    module.update_channel(b.plan, b.w, b.s)


def dense(module, b, at, numbers):
    """A dense layer's weights and deltas."""
    if b.plan[at + plan.KIND] == plan.DENSE:
        module.dense_backward(b.plan, at, b.w, b.a)


def bias(module, b, at, numbers):
    """Biases."""
    module.bias_backward(b.plan, at, b.w, b.a)


def main(trials):
    """Compare each kind of call so many times on each layer."""
    count = 0
    for number, (first, layer) in enumerate(LAYERS):
        for trial in range(trials):
            weights = ("int16", "int8")[trial & 1]
            model = Model([first, layer, ["flatten"], ["squared_error"]], weights)
            rows = (loops8, thumb8) if trial & 1 else (loops, thumb)
            ways_back = (taps8, thumb_taps8) if trial & 1 else (taps, thumb_taps)
            for job in (forward, gradients, deltas, update, dense, bias):
                portable, assembly = ways_back if job in (gradients, deltas, update) else rows
                seed = trial * 1000 + number
                ours = Buffers(model, trial >> 1 & 1, Numbers(seed))
                theirs = Buffers(model, trial >> 1 & 1, Numbers(seed))
                job(portable, ours, plan.HEADER, Numbers(seed + 7))
                job(assembly, theirs, plan.HEADER, Numbers(seed + 7))
                for name in ("plan", "w", "a", "s"):
                    if getattr(ours, name) != getattr(theirs, name):
                        print("%s of %r, %s, trial %d: %s differs" % (job.__name__, layer, weights, trial, name))
                        return
                count += 1
    print("ok, %d" % count)
