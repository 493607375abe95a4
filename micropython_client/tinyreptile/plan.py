"""The plan: how an array of int32 describes a model to the kernels.

The kernels have these numbers once more, as constants of their own: viper folds only those of the same file. A test
holds the two together.
"""

# The plan's header.
RANDOM = 0  # the 16-bit Weyl sequence that rounds the updates
RATE = 1  # mantissa of the learning rate, 2^14 to 2^15 - 1, or 0
RATE_SHIFT = 2  # its exponent: delta = (error * mantissa) >> shift
OUTPUT = 3  # where the outputs lie among the activations
OUTPUTS = 4  # their number
LOSS = 5  # SQUARED_ERROR or CROSS_ENTROPY
SIGN = 6  # the sign bit of a weight's cell
JOB = 7  # what a loop is about: the layer's first cell; above 16 bits the input channel
END = 8  # the first cell behind its list
DITHER = 9  # 16 random bits, independent of RANDOM, that round the sums of a layer
LAST = 10  # the generator of both: its last number
BEFORE = 11  # and the one before
SATURATED = 12  # steps in which an output of a layer reached the end of its format
HEADER = 13  # cells of the header

# The cells of layer i, from HEADER + FIELDS * i.
KIND = 0  # DENSE, CONVOLUTION, DEPTHWISE or AVERAGE
HEIGHT = 1  # of the inputs
WIDTH = 2
CHANNELS = 3
OUT_HEIGHT = 4  # of the outputs
OUT_WIDTH = 5
OUT_CHANNELS = 6
KERNEL_HEIGHT = 7
KERNEL_WIDTH = 8
STRIDE = 9
PAD_Y = 10  # rows of zeros above and below the inputs
PAD_X = 11  # columns of zeros left and right
WEIGHTS = 12  # offset of the weights among the parameters
RECIPROCAL = 12  # of an average, which has no weights: 2^(14 + SHIFT) / positions
BIASES = 13  # offset of the biases among the parameters
X = 14  # offset of the inputs among the activations
Y = 15  # offset of the outputs among the activations
RELU = 16  # 1: a ReLU follows
SHIFT = 17  # right shift of every product of the forward sum
POST = 18  # right shift of the forward sum
BIAS_SHIFT = 19  # left shift of a bias before SHIFT
BACK = 20  # what takes the inputs' deltas: 0 (nothing: they are the sample), BEHIND_RELU or LINEAR
BACK_SHIFT = 21  # right shift of every product of the backward sum
BACK_POST = 22  # right shift of the backward sum
SUM_SHIFT = 23  # right shift of every product of a weight's gradient
STEP = 24  # right shift from a gradient (Q28) to the weights' format
BIAS_STEP = 25  # right shift from a delta (Q18) to the biases' format
FIELDS = 26

DENSE = 0
CONVOLUTION = 1
DEPTHWISE = 2
AVERAGE = 3

BEHIND_RELU = 1
LINEAR = 2

SQUARED_ERROR = 0
CROSS_ENTROPY = 1
