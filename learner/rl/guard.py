"""What happens to an update that is not finite."""

import logging

import torch
from torch import Tensor

from protos.errors import TwinRLError

log = logging.getLogger(__name__)


class NanGuard:
    """Refuses updates whose losses or gradients are not finite; stops the run when they keep coming."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        """Updates refused so far."""
        self.in_a_row = 0
        """Of these, how many since the last accepted one."""

    def accepts(self, loss: Tensor, *norms: Tensor) -> bool:
        """Whether all are finite. Raises TwinRLError after `limit` refusals in a row."""
        scalars = torch.stack([scalar.detach().to(loss.device) for scalar in (loss, *norms)])  # one look at the device
        if bool(torch.isfinite(scalars).all()):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        log.warning("update skipped: a loss or gradient is not finite (%d in all)", self.skipped)
        if self.in_a_row >= self.limit:
            raise TwinRLError(
                f"training diverged: {self.in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(nan_limit={self.limit}); resume from the last checkpoint with lower learning rates"
            )
        return False
