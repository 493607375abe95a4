"""What private updates cost a device, in the terms of differential privacy; docs/privacy.md says what they promise.

Costs are kept as rho of zero-concentrated differential privacy (Bun and Steinke, TCC 2016, arXiv 1605.02065), which
adds up over a device's updates, whatever their noise. Google's dp-accounting makes epsilon of it: the discrete
Gaussian's Renyi divergences are at most those of the Gaussian mechanism that it is asked about (Canonne, Kamath and
Steinke, NeurIPS 2020, arXiv 2004.00010).
"""

from __future__ import annotations

import math
from typing import Any

from tinyreptile.budget import cost_of
from tinyreptile.privacy import UNIT

from .errors import CoordinatorError

DELTA = 1e-5  # that epsilon is told for, if no other is asked for


_LEAST_RHO = 1e-100  # that the accountant's numbers have room for; its epsilon is 0


def rho_of(noise: float) -> float:
    """What one update costs whose noise has a standard deviation of ``noise`` bounds: 2 / noise^2, as devices count it.

    All samples of the update may be replaced by others: then a change within the bound moves by at most two of them.
    """
    return float(cost_of(noise) / UNIT)


def epsilon_of(rho: float, delta: float = DELTA) -> float:
    """The epsilon at ``delta`` of updates that cost ``rho`` together.

    Raises `CoordinatorError` where dp-accounting is not installed.
    """
    if rho == 0.0:
        return 0.0
    dp = _dp_accounting()
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(dp.GaussianDpEvent(1 / math.sqrt(2 * max(rho, _LEAST_RHO))))
    return float(accountant.get_epsilon(delta))


def rho_for(epsilon: float, delta: float = DELTA) -> float:
    """The most that updates may cost together for ``epsilon`` at ``delta``.

    Raises `CoordinatorError` as above, and where no noise is enough for the accountant to say so.
    """
    dp = _dp_accounting()
    try:
        multiplier = dp.calibrate_dp_mechanism(dp.rdp.RdpAccountant, dp.GaussianDpEvent, epsilon, delta)
    except dp.mechanism_calibration.NoBracketIntervalFoundError:
        raise CoordinatorError(
            f"epsilon {epsilon:g} at delta {delta:g} is out of the accountant's reach; a larger one of the two is in it"
        ) from None
    return 1 / (2 * float(multiplier) ** 2)


def noise_for(epsilon: float, delta: float, updates: int) -> float:
    """The least noise, in units of the bound, with which ``updates`` stay within ``epsilon`` at ``delta``."""
    return math.sqrt(updates * rho_of(1.0) / rho_for(epsilon, delta))


def updates_for(epsilon: float, delta: float, noise: float) -> int:
    """How many updates with ``noise`` stay within ``epsilon`` at ``delta``."""
    return math.floor(rho_for(epsilon, delta) / rho_of(noise) * (1 + 1e-12))


def _dp_accounting() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise CoordinatorError(
            "epsilon takes Google's dp-accounting, which is not installed: pip install 'tinyreptile[privacy]'"
        ) from None
    return dp_accounting
