"""The peer for training: the same network, trial step, loss and optimiser in plain torch."""

from itertools import pairwise

import torch
from benchmark_rollouts import tables_of
from torch import nn

WIDTHS = (11, 200, 1000, 1000, 200)
EPS = 1e-12
NUM_STEPS = 10
DTYPE = torch.float64


class TorchTraining:
    """Trains on states that all fail, in a batch or one by one."""

    def __init__(self, samples: int, bodies: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        layers: list[nn.Module] = []
        for before, after in pairwise(WIDTHS):
            layers += [nn.Linear(before, after, dtype=DTYPE), nn.Tanh(), nn.Dropout(0.2)]
        layers += [nn.Linear(WIDTHS[-1], 2, dtype=DTYPE), nn.Softplus()]
        self.network = nn.Sequential(*layers).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-4, weight_decay=1e-2)
        table = torch.as_tensor(tables_of(samples, bodies), dtype=DTYPE, device=self.device)
        self.mass, self.x, self.v = table[..., 0], table[..., 1:3], table[..., 3:5]
        self.inputs = torch.randn(samples, WIDTHS[0], dtype=DTYPE, device=self.device)

    def train_batch(self, iterations: int) -> None:
        """Iterations on all samples at once."""
        for _ in range(iterations):
            self._train(torch.stack([self._losses(self.inputs, self.mass, self.x, self.v).mean()]))
        self._wait()

    def train_one_by_one(self, count: int) -> None:
        """One iteration on the first samples, in a Python loop over them."""
        losses = [
            self._losses(self.inputs[i], self.mass[i], self.x[i], self.v[i]) for i in range(count)
        ]
        self._train(torch.stack(losses))
        self._wait()

    def _train(self, losses: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()

    def _losses(
        self, inputs: torch.Tensor, mass: torch.Tensor, x: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Loss of a trial step from each state, `[...]`."""
        dt = (self.network(inputs)[..., 0] + EPS)[..., None, None] * 1e-3
        start = _energy(mass, x, v)
        a = _acceleration(mass, x)
        for _ in range(NUM_STEPS):
            v = v + 0.5 * dt * a
            x = x + dt * v
            a = _acceleration(mass, x)
            v = v + 0.5 * dt * a
        error = torch.abs(_energy(mass, x, v) - start) / torch.abs(start + EPS)
        log_error = torch.log(error + EPS)
        return torch.relu(-13.8 - log_error) ** 2 + torch.relu(log_error + 9.2) ** 2

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _separations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dx = x[..., None, :, :] - x[..., :, None, :]
    return dx, torch.sum(dx * dx, dim=-1) + torch.eye(x.shape[-2], dtype=DTYPE, device=x.device)


def _acceleration(mass: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dx, r_squared = _separations(x)
    return torch.sum((mass[..., None, :] * r_squared**-1.5)[..., None] * dx, dim=-2)


def _energy(mass: torch.Tensor, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    _, r_squared = _separations(x)
    products = torch.triu(mass[..., :, None] * mass[..., None, :], diagonal=1)
    kinetic = 0.5 * torch.sum(mass[..., None] * v * v, dim=(-2, -1))
    return kinetic - torch.sum(products / torch.sqrt(r_squared), dim=(-2, -1))
