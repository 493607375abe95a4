"""`thumb` for 8-bit weights: the loops that touch none; the others are portable."""

from .loops8 import add_rows, bias_backward, dense_backward, put_deltas, update_channel
from .thumb import add_gradients, list_patch, list_reach, list_tap, put_outputs
