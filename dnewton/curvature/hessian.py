"""Products with the Hessian of the mean loss, unlike the Gauss-Newton matrix with the curvature of the network.

B. A. Pearlmutter, *Fast Exact Multiplication by the Hessian*, Neural Computation 6(1), 1994: the derivative of the
gradient along v, in his notation R{·}, by one tangent sweep and one backward sweep of the pair (cotangent,
R{cotangent}). Where σ or a maximum has no derivative, that of the piece at hand is taken: ReLU has no curvature, the
winners of max-pooling stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.loss_entry import Loss
from dnewton.model.block import Block
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.activation import ACTIVATIONS
from dnewton.model.layers.interface import Linear
from dnewton.model.network import Network, Pushed, Tape


class Hessian:
    """The Hessian of the mean loss at θ, without regulariser and damping; symmetric, in general indefinite."""

    def __init__(
        self, network: Network, theta: Array, batches: Sequence[tuple[Tape, Array]], loss: Loss, samples: int
    ) -> None:
        """`batches`: forward passes at θ with what the backward sweep needs, and their targets (N, K); sums over them
        are divided by `samples`. The passes and θ are kept as they are, not copied."""
        self._network = network
        self._theta = theta
        self._loss = loss
        self._samples = samples
        self._batches = [(tape, loss.gradient(tape.z, y), loss.state(tape.z, y)) for tape, y in batches]

    def product(self, v: Array) -> Array:
        """H v on this rank's blocks, for the direction whose part on this rank's blocks is v; both are laid out like θ.

        Collective over the forward-sum and backward-sum groups: a tangent sweep, and a backward sweep with twice the
        numbers of a gradient's.
        """
        xp = namespace(v)
        out = xp.zeros_like(v)
        for tape, cot, state in self._batches:
            pushed: Pushed = {}
            rz = self._network.tangents(self._theta, tape, v, pushed=pushed)[0, ...]
            pair = xp.stack([cot, self._loss.hessian_product(state, rz)], axis=1) / self._samples  # (N, 2, K)
            sweep = _Sweep(self._theta, tape, v, pushed, out)
            self._network.backward(self._theta, tape, pair, sweep.visit)
        return out


class _Sweep:
    """What happens at every block on the way back through one batch; R{∂ξ/∂θ} is added to `out`."""

    def __init__(self, theta: Array, tape: Tape, v: Array, pushed: Pushed, out: Array) -> None:
        self._theta = theta
        self._tape = tape
        self._v = v
        self._pushed = pushed
        self._out = out

    def visit(self, block: Block, op: Linear, here: Cotangent, z: Array) -> Array | None:
        """`here` is (cot, R{cot}) ∘ σ′. Returns this rank's part of (Wᵀd, R{Wᵀd}), (N, 2, features or H, W, C)."""
        inputs, sums = self._pushed[block.position]
        pair = here.keep_whole()  # (N, 2, Q, O)
        if here.slope is not None:  # else `pair` is what came in, and is not ours to change
            pair[:, 1:, ...] += self._slope_term(block, op, here, sums[0, ...])
        d, rd = pair[:, 0, ...], pair[:, 1, ...]
        block.add(self._out, op.weight_gradient(rd, z), rd)
        if inputs is not None:
            weight = block.weight(self._out)
            weight += op.weight_gradient(d, inputs[0, ...])
        if block.layer.first:
            return None
        n = int(z.shape[0])
        cot = op.input_cotangent(block.weight(self._theta), here, n)
        cot[:, 1:, ...] += op.input_cotangent(block.weight(self._v), Cotangent(pair[:, :1, ...], None), n)
        return cot

    def _slope_term(self, block: Block, op: Linear, here: Cotangent, rs: Array) -> Array:
        """cot ∘ σ″ ∘ R{s}, (N, 1, Q, O): what R{·} of σ′ adds to R{d}."""
        curve = ACTIVATIONS[block.layer.spec.activation].curve(self._tape.kept[block.position])
        factor = op.positions((curve * rs)[:, None, ...])[:, 0, ...]
        if here.winners is not None:
            factor = here.winners.gather(factor)
        return Cotangent(here.outer[:, :1, ...], factor, here.winners).product()
