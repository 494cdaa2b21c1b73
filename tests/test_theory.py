"""The numbers of docs/theory.md, read out of the page and computed again."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from scipy.special import expit
from scipy.stats import norm, wasserstein_distance
from torch import Tensor

from wgan_cli.data.dataset import held_out_halves
from wgan_cli.data.feeds import to_floats
from wgan_cli.data.images import digits
from wgan_cli.losses import Gan
from wgan_cli.metrics.wasserstein import exact_wasserstein

PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text(encoding="utf-8")
# A minus sign of prose is one of arithmetic; where lines break does not matter.
PROSE = " ".join(PAGE.replace("−", "-").split())
NUMBER = r"(-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?)"


def stated(phrase: str) -> list[float]:
    """The numbers that the page has where `phrase` has "#"; the phrase stands there once."""
    pattern = re.escape(phrase).replace(r"\#", NUMBER)
    found = re.findall(f"(?<![\\d.]){pattern}", PROSE)
    assert len(found) == 1, f"{phrase!r} stands {len(found)} times on the page"
    numbers = found[0] if isinstance(found[0], tuple) else (found[0],)
    return [float(number.replace(",", "")) for number in numbers]


def table(corner: str) -> list[list[str]]:
    """The cells of the table whose first cell is `corner`, without the line of dashes."""
    lines = PAGE.replace("−", "-").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"| {corner} |")]
    assert len(starts) == 1, f"{len(starts)} tables start with {corner!r}"
    rows = []
    for line in lines[starts[0] :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


class Plan:
    """A transport plan as the page shows it: `pile 2 (0.4)`, `hole (0, 4) (0.3)`, amounts."""

    def __init__(self, name: str) -> None:
        head, *rows = table(name)
        self.holes, self.wanted = self._places(head[1:], "hole")
        self.piles, self.offered = self._places([row[0] for row in rows], "pile")
        self.amounts = np.array([[float(cell) for cell in row[1:]] for row in rows])
        self.distances = cdist(self.piles, self.holes)

    @staticmethod
    def _places(cells: list[str], kind: str) -> tuple[np.ndarray, np.ndarray]:
        places, weights = [], []
        for cell in cells:
            match = re.fullmatch(rf"{kind} \(?([\d, ]+?)\)? \(([\d.]+)\)", cell)
            assert match is not None, cell
            places.append([float(part) for part in match[1].split(",")])
            weights.append(float(match[2]))
        return np.array(places), np.array(weights)

    def feasible(self) -> bool:
        return (
            bool((self.amounts >= 0).all())
            and np.allclose(self.amounts.sum(axis=1), self.offered)
            and np.allclose(self.amounts.sum(axis=0), self.wanted)
        )

    def costs(self) -> np.ndarray:
        """Row by row."""
        return (self.amounts * self.distances).sum(axis=1)

    def least(self) -> float:
        """The cost of the cheapest plan for the same piles and holes."""
        n, m = self.amounts.shape
        marginals = [np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))]
        solution = linprog(
            self.distances.ravel(),
            A_eq=np.concatenate(marginals),
            b_eq=np.concatenate([self.offered, self.wanted]),
        )
        assert solution.status == 0
        return float(solution.fun)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    if (q[p > 0] == 0).any():
        return math.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def js(p: np.ndarray, q: np.ndarray) -> float:
    return kl(p, (p + q) / 2) / 2 + kl(q, (p + q) / 2) / 2


def tv(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


def normal(rng: np.random.Generator, n: int, d: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)))


# Section 1


@pytest.mark.parametrize("name", ["plan A", "plan B", "plan C"])
def test_the_pages_plans_use_all_earth_and_fill_all_holes(name: str):
    assert Plan(name).feasible()


def test_plans_a_and_b_move_the_same_earth():
    first, second = Plan("plan A"), Plan("plan B")
    assert np.array_equal(first.piles, second.piles)
    assert np.array_equal(first.holes, second.holes)
    assert np.array_equal(first.offered, second.offered)
    assert np.array_equal(first.wanted, second.wanted)


def test_plan_a_is_the_independent_coupling_and_costs_what_the_page_says():
    plan = Plan("plan A")
    assert plan.amounts == pytest.approx(np.outer(plan.offered, plan.wanted))
    *rows, total = stated("row by row, is # + # + # = #.")
    assert plan.costs() == pytest.approx(rows)
    assert sum(rows) == pytest.approx(total)


def test_plan_b_is_the_cheapest_by_linear_programming():
    plan = Plan("plan B")
    *rows, total = stated("This costs # + # + # = #.")
    assert plan.costs() == pytest.approx(rows)
    assert sum(rows) == pytest.approx(total)
    assert plan.least() == pytest.approx(total)
    assert stated("so $W_1=#$") == [total]


def test_on_the_line_it_is_the_area_between_the_cumulative_curves():
    plan = Plan("plan B")
    piles, holes = plan.piles[:, 0], plan.holes[:, 0]
    rows = [[float(cell) for cell in row] for row in table("from")[1:]]
    assert [row[0] for row in rows[1:]] == [row[1] for row in rows[:-1]]
    assert (rows[0][0], rows[-1][1]) == (min(*piles, *holes), max(*piles, *holes))
    for start, end, share_p, share_q, area in rows:
        assert share_p == pytest.approx(plan.offered[piles <= start].sum())
        assert share_q == pytest.approx(plan.wanted[holes <= start].sum())
        assert area == pytest.approx((end - start) * abs(share_p - share_q))
    [total] = stated("The areas add up to # again.")
    assert sum(row[-1] for row in rows) == pytest.approx(total)
    scipys = wasserstein_distance(piles, holes, plan.offered, plan.wanted)
    assert scipys == pytest.approx(total)


def test_plan_c_is_the_cheapest_in_the_plane_and_crossing_costs_more():
    plan = Plan("plan C")
    *rows, total = stated("It costs # + # + # = #, the least.")
    parts = (plan.amounts * plan.distances).ravel()
    assert parts[parts > 0] == pytest.approx(rows)
    assert sum(rows) == pytest.approx(total)
    assert plan.least() == pytest.approx(total)
    straight, diagonal = stated("Straight across costs #, the diagonal #:")
    assert plan.distances == pytest.approx(np.array([[straight, diagonal], [diagonal, straight]]))
    one, other, rest = stated("(# on one diagonal, # on the other, # straight)")
    plan.amounts = np.array([[0.0, one], [other, rest]])
    assert plan.feasible()
    assert [plan.costs().sum()] == pytest.approx(stated("straight) costs #."))


@pytest.mark.parametrize("seed", range(3))
def test_between_equal_weights_some_cheapest_plan_is_an_assignment(seed: int):
    rng = np.random.default_rng(seed)
    plan = Plan("plan A")
    plan.piles, plan.holes = rng.standard_normal((2, 6, 3))
    plan.distances = cdist(plan.piles, plan.holes)
    plan.offered = plan.wanted = np.full(6, 1 / 6)
    plan.amounts = np.zeros((6, 6))
    assigned = exact_wasserstein(torch.from_numpy(plan.piles), torch.from_numpy(plan.holes))
    assert plan.least() == pytest.approx(assigned)


# Section 2


def pair() -> tuple[np.ndarray, np.ndarray]:
    p0, p1, q0, q1 = stated("Take (#, #) and (#, #) on two points.")
    return np.array([p0, p1]), np.array([q0, q1])


def test_the_four_distances_of_the_pages_pair():
    p, q = pair()
    total_variation, forward, backward, shannon = stated(
        "TV is #, KL is # one way and # the other, JS is #."
    )
    assert tv(p, q) == pytest.approx(total_variation)
    assert kl(p, q) == pytest.approx(forward, abs=5e-5)
    assert kl(q, p) == pytest.approx(backward, abs=5e-5)
    assert js(p, q) == pytest.approx(shannon, abs=5.1e-5)
    near, gap, far, wide = stated("is # if the points are # apart and # if they are # apart")
    for distance, between in ((near, gap), (far, wide)):
        points = [0, between]
        assert wasserstein_distance(points, points, p, q) == pytest.approx(distance)


def test_js_breaks_the_triangle_inequality_and_its_root_does_not():
    here, both, there = np.array([1.0, 0]), np.array([0.5, 0.5]), np.array([0, 1.0])
    half, way_round, direct = stated(
        "it is #, so by way of the mixture $\\delta_0$ and $\\delta_1$ would be # apart,"
        " yet they are #."
    )
    assert js(here, both) == pytest.approx(half, abs=5e-5)
    assert js(here, both) + js(both, there) == pytest.approx(way_round, abs=5e-5)
    assert js(here, there) == pytest.approx(direct, abs=5e-5)
    assert way_round < direct
    rng = np.random.default_rng(0)
    for p, q, r in rng.dirichlet(np.full(5, 0.3), (300, 3)):
        assert js(p, q) ** 0.5 <= js(p, r) ** 0.5 + js(r, q) ** 0.5 + 1e-12


def test_the_largest_js_is_log_two():
    assert stated("\\log 2\\approx #$") == pytest.approx([math.log(2)], abs=5e-5)


def test_kl_of_two_normal_distributions_is_half_the_squared_shift():
    points = np.linspace(-12, 14, 20001)
    p, q = norm.pdf(points), norm.pdf(points, loc=1.5)
    width = points[1] - points[0]
    assert kl(p * width, q * width) == pytest.approx(1.5**2 / 2, rel=1e-6)


# Section 3


@pytest.mark.parametrize("theta", [-2.0, -0.3, 0.0, 0.5, 3.0])
def test_point_masses_are_theta_apart(theta: float):
    here, there = torch.zeros(5, 1), torch.full((5, 1), theta, dtype=torch.float64)
    assert exact_wasserstein(here, there) == pytest.approx(abs(theta))


@pytest.mark.parametrize("theta", [-0.5, 0.0, 0.25])
def test_parallel_lines_on_a_grid(theta: float):
    heights = (np.arange(40) + 0.5) / 40
    columns = np.array([-0.5, 0.0, 0.25])
    p, q = (np.outer(columns == x, np.full(40, 1 / 40)).ravel() for x in (0.0, theta))
    apart = theta != 0
    assert tv(p, q) == pytest.approx(float(apart))
    assert kl(p, q) == kl(q, p) == (math.inf if apart else 0.0)
    assert js(p, q) == pytest.approx(math.log(2) if apart else 0.0)
    line = torch.from_numpy(np.stack([np.zeros(40), heights], axis=1))
    moved = line + torch.tensor([theta, 0.0], dtype=torch.float64)
    shuffled = moved[torch.from_numpy(np.random.default_rng(0).permutation(40))]
    assert exact_wasserstein(line, shuffled) == pytest.approx(abs(theta))
    # f(x, y) = x and the plan that moves straight across meet.
    lower = abs(float(moved[:, 0].mean() - line[:, 0].mean()))
    upper = float((moved - line).norm(dim=1).mean())
    assert lower == pytest.approx(abs(theta))
    assert upper == pytest.approx(abs(theta))


def factor(loss: Gan, score: float) -> float:
    """What the generator's gradient through the score is multiplied with."""
    scores = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.generator(scores), scores)
    return float(gradient)


def test_the_factors_of_the_minimax_and_the_non_saturating_generator():
    score, tiny = stated("At a score of # that factor is #.")
    assert factor(Gan(saturating=True), score) == pytest.approx(-tiny, rel=0.03)
    assert "all but -1 at that score" in PROSE
    assert factor(Gan(saturating=False), score) == pytest.approx(-1, abs=1e-8)


def test_the_least_critic_loss_is_twice_log_two_less_js():
    p, q = pair()
    best = np.log(p / q)
    value = float((p * np.logaddexp(0, -best) + q * np.logaddexp(0, best)).sum())
    assert value == pytest.approx(2 * math.log(2) - 2 * js(p, q))


def test_a_lipschitz_critic_under_the_minimax_loss_has_a_gradient():
    stated_factor, theta = stated("which is # at $\\theta=#$")
    # The critic's loss over pairs of scores at most theta apart.
    real, fake = np.meshgrid(np.linspace(-3, 3, 1201), np.linspace(-3, 3, 1201), indexing="ij")
    loss = np.logaddexp(0, -real) + np.logaddexp(0, fake)
    loss[np.abs(real - fake) > theta + 1e-9] = np.inf
    best = np.unravel_index(loss.argmin(), loss.shape)
    assert real[best] == pytest.approx(theta / 2, abs=1e-9)
    assert fake[best] == pytest.approx(-theta / 2, abs=1e-9)
    assert factor(Gan(saturating=True), -theta / 2) == pytest.approx(-expit(-theta / 2))
    assert expit(-theta / 2) == pytest.approx(stated_factor, abs=5e-4)


# Section 4


def test_pinsker_with_the_pages_pair():
    p, q = pair()
    small, forward, backward = stated("With section 2's pair: # against # one way and # the other.")
    assert tv(p, q) == pytest.approx(small)
    assert math.sqrt(kl(p, q) / 2) == pytest.approx(forward, abs=5e-4)
    assert math.sqrt(kl(q, p) / 2) == pytest.approx(backward, abs=5e-4)


def test_the_three_inequalities_on_random_distributions():
    rng = np.random.default_rng(0)
    for concentration in (0.1, 1.0, 10.0):
        for p, q in rng.dirichlet(np.full(6, concentration), (200, 2)):
            points = rng.uniform(0, 3, 6)
            apart = tv(p, q)
            assert apart <= math.sqrt(kl(p, q) / 2) + 1e-12
            assert apart**2 / 2 <= js(p, q) + 1e-12
            assert js(p, q) <= math.log(2) * apart + 1e-12
            assert wasserstein_distance(points, points, p, q) <= np.ptp(points) * apart + 1e-12


def test_the_counterexamples():
    n = 20
    # Uniform on n cells, and the same one cell further.
    p, q = np.append(np.full(n, 1 / n), 0), np.append(0, np.full(n, 1 / n))
    assert tv(p, q) == pytest.approx(1 / n)
    assert kl(p, q) == kl(q, p) == math.inf
    # A little mass far away.
    p, q = np.array([1 - 1 / n, 1 / n]), np.array([1.0, 0])
    assert tv(p, q) == pytest.approx(1 / n)
    assert wasserstein_distance([0, n**2], [0, n**2], p, q) == pytest.approx(n)


# Section 5


def test_the_pages_function_certifies_plan_b():
    head, values = table("point")
    points = [float(cell) for cell in head[1:]]
    f = dict(zip(points, (float(cell) for cell in values[1:]), strict=True))
    assert [abs(f[x + 1] - f[x]) for x in points[:-1]] == [1.0] * 5
    plan = Plan("plan B")
    piles, holes = plan.piles[:, 0], plan.holes[:, 0]
    over_piles = sum(f[x] * weight for x, weight in zip(piles, plan.offered, strict=True))
    over_holes = sum(f[y] * weight for y, weight in zip(holes, plan.wanted, strict=True))
    [mean_p, mean_q] = stated("its mean over the piles is #, over the holes #.")
    assert (over_piles, over_holes) == pytest.approx((mean_p, mean_q))
    [difference] = stated("The difference is #, the cost of plan B")
    assert mean_p - mean_q == pytest.approx(difference)
    assert plan.costs().sum() == pytest.approx(difference)
    # Slope 1 along each move, and on the way.
    for i, j in zip(*np.nonzero(plan.amounts), strict=True):
        assert f[piles[i]] - f[holes[j]] == plan.distances[i, j]


# Section 6


def test_the_bound_of_a_clipped_critic():
    *widths, clip, bound = stated("(#–#–#–#–#, c = #) the product is #,")
    shapes = list(itertools.pairwise(widths))
    product = math.prod(clip * math.sqrt(inputs * outputs) for inputs, outputs in shapes)
    assert product == pytest.approx(bound, abs=0.05)
    assert stated("doubling $c$ multiplies that bound by #.") == [2 ** len(shapes)]
    # It is reached: all weights at the bound stretch a constant vector so much.
    for inputs, outputs in [(64, 512), (512, 1)]:
        layer = np.full((outputs, inputs), clip)
        norm_of_layer = np.linalg.norm(layer, ord=2)
        assert norm_of_layer == pytest.approx(clip * math.sqrt(inputs * outputs))


@pytest.mark.parametrize("seed", range(5))
def test_a_1_lipschitz_function_never_exceeds_the_exact_distance_of_the_samples(seed: int):
    rng = np.random.default_rng(seed)
    real, fake = normal(rng, 30, 4), normal(rng, 30, 4) + 0.3
    exact = exact_wasserstein(real, fake)
    for _ in range(20):
        centre = normal(rng, 1, 4)
        direction = torch.nn.functional.normalize(normal(rng, 1, 4))
        linear = real @ direction.T, fake @ direction.T
        cone = torch.cdist(fake, centre), torch.cdist(real, centre)
        for larger, smaller in (linear, cone):
            assert float(larger.mean() - smaller.mean()) <= exact + 1e-12


# Section 7


def test_a_strided_convolution_stretches_more_than_its_reshaped_kernel():
    operator, reshaped = stated(
        "A 4×4 kernel with stride 2 counts each pixel four times, and its norm can reach #"
        " where the reshaped kernel's is #."
    )
    kernel = torch.full((1, 1, 4, 4), 0.25)
    assert float(torch.linalg.matrix_norm(kernel.reshape(1, 16), ord=2)) == reshaped
    image = torch.ones(1, 1, 16, 16)
    wrapped = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="circular")
    stretched = torch.nn.functional.conv2d(wrapped, kernel, stride=2)
    assert float(stretched.norm() / image.norm()) == pytest.approx(operator)
    assert stated("Over four such layers that is #.") == [operator**4]


def test_maxmin_keeps_the_gradients_length():
    hidden = normal(np.random.default_rng(0), 1, 8).requires_grad_()
    first, second = hidden.chunk(2, dim=1)
    sorted_pairs = torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)
    upstream = normal(np.random.default_rng(1), 1, 8)
    (gradient,) = torch.autograd.grad(sorted_pairs, hidden, upstream)
    assert float(gradient.norm()) == pytest.approx(float(upstream.norm()))


# Section 8


@pytest.mark.exhaustive
def test_the_floors_of_normal_samples():
    head, *rows = table("d")
    sizes = [int(cell.removeprefix("n = ")) for cell in head[1:]]
    means = {}
    for row in rows:
        d = int(row[0])
        for n, cell in zip(sizes, row[1:], strict=True):
            rng = np.random.default_rng(0)
            draws = [exact_wasserstein(normal(rng, n, d), normal(rng, n, d)) for _ in range(5)]
            means[d, n] = float(np.mean(draws))
            assert means[d, n] == pytest.approx(float(cell), abs=0.006), (d, n)
    [percent] = stated("sixteen times the samples buy #%.")
    assert 100 * (1 - means[64, 1024] / means[64, 64]) == pytest.approx(percent, abs=0.5)
    n, floor = stated("Two samples of # are about # apart;")
    assert means[64, int(n)] == pytest.approx(floor, abs=0.05)


def test_samples_at_the_centre_score_below_the_floor():
    n, score = stated(
        "Put all # generated points at the centre, and the distance is"
        " $E\\lVert x\\rVert\\approx$ #:"
    )
    mean_length = math.sqrt(2) * math.exp(math.lgamma(65 / 2) - math.lgamma(64 / 2))
    assert mean_length == pytest.approx(score, abs=0.005)
    real = normal(np.random.default_rng(0), int(n), 64)
    collapsed = exact_wasserstein(torch.zeros_like(real), real)
    assert collapsed == pytest.approx(score, abs=0.1)
    assert collapsed < stated("Two samples of # are about # apart;")[1]


def test_the_mean_digit_scores_above_the_floor():
    dataset = digits()
    real, other = (to_floats(dataset.held_out[half]) for half in held_out_halves(dataset, None))
    mean = to_floats(dataset.train).mean(dim=0, keepdim=True)
    floor, score = stated("on the digits the floor is #, and the mean digit alone scores #.")
    assert exact_wasserstein(other, real) == pytest.approx(floor, abs=0.006)
    assert exact_wasserstein(mean.expand_as(real), real) == pytest.approx(score, abs=0.006)


def test_sliced_distances():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 1024, 64))
    directions = rng.standard_normal((500, 64))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shifted = second + np.eye(64)[0]

    def sliced(other: np.ndarray) -> float:
        return float(np.mean([wasserstein_distance(first @ u, other @ u) for u in directions]))

    def exact(other: np.ndarray) -> float:
        return exact_wasserstein(torch.from_numpy(first), torch.from_numpy(other))

    [floor] = stated("in every dimension: # for one pair of samples in 64 dimensions.")
    [moved, before, after] = stated("it goes to #, while the exact distance goes from # to #.")
    assert sliced(second) == pytest.approx(floor, abs=0.002)
    assert sliced(shifted) == pytest.approx(moved, abs=0.004)
    assert exact(second) == pytest.approx(before, abs=0.006)
    assert exact(shifted) == pytest.approx(after, abs=0.006)
    [counted] = stated("In 64 dimensions a shift by 1 counts #,")
    # The mean of abs(u_1) over the unit sphere.
    share = math.exp(math.lgamma(64 / 2) - math.lgamma(65 / 2)) / math.sqrt(math.pi)
    assert share == pytest.approx(counted, abs=5e-4)
