"""Evaluations: their samples, caching and failures, and that they change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wgan_cli.constraints import WeightClipping
from wgan_cli.data.dataset import Dataset, EndlessDataset, Labels, Modes, TensorDataset
from wgan_cli.data.feeds import to_floats
from wgan_cli.data.synthetic import gaussians_ring
from wgan_cli.errors import ConfigError, DataError, DivergedError
from wgan_cli.evaluation.evaluation import Evaluation, EvaluationResult
from wgan_cli.evaluation.registry import (
    TABLE,
    Metric,
    all_metrics,
    data_kinds,
    sized,
    usual_metrics,
)
from wgan_cli.evaluation.samples import Reference
from wgan_cli.evaluation.sampling import evaluating, generate
from wgan_cli.metrics import inception
from wgan_cli.metrics.classifier_training import Labelled, TrainedClassifier, trained_classifier
from wgan_cli.metrics.features import frechet_distance
from wgan_cli.metrics.wasserstein import exact_wasserstein, projected_distance, sorted_projections
from wgan_cli.models import dcgan, mlp
from wgan_cli.models.lipschitz import Critic
from wgan_cli.randomness import Draws, Stream
from wgan_cli.schema import METRICS

CPU = torch.device("cpu")
IMAGE = (1, 8, 8)
LATENT = 3
UNLABELLED = [
    tag
    for tag, traits in METRICS.items()
    if traits.needs in ("samples", "images") and not tag.endswith("_inception")
]
CLASSIFIED = [tag for tag in METRICS if METRICS[tag].needs == "labels"]

pytestmark = pytest.mark.usefixtures("one_seeded_thread", "quick_classifier")


def images(count: int, seed: int) -> Tensor:
    """Two classes that a classifier can learn: dark upper half, and dark lower half."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (count, *IMAGE), dtype=np.uint8)
    pixels[::2, :, :4] //= 4
    pixels[1::2, :, 4:] //= 4
    return torch.from_numpy(pixels)


def labels(count: int) -> Tensor:
    return torch.arange(count) % 2


def noise(train: int = 240, held_out: int = 60) -> TensorDataset:
    return TensorDataset(
        "noise", images(train, 1), images(held_out, 2), Labels(labels(train), labels(held_out))
    )


def networks(shape: Sequence[int] = IMAGE) -> tuple[nn.Module, nn.Module]:
    generator = mlp.Generator(LATENT, shape, width=16, depth=1)
    return generator, mlp.Critic(shape, width=16, depth=2)


def evaluation(
    dataset: Dataset, metrics: Sequence[str], cache: Path = Path(), **counts: Any
) -> Evaluation:
    reference = Reference(dataset, CPU, cache, **counts)
    return Evaluation(metrics, reference, LATENT, seed=0, constraint=WeightClipping(0.01))


class Constant(nn.Module):
    """A generator that has collapsed."""

    def forward(self, latent: Tensor) -> Tensor:
        return torch.full((len(latent), *IMAGE), 0.5)


class Broken(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return torch.full((len(latent), *IMAGE), float("nan"))


def test_evaluating_restores_every_modules_own_mode_also_after_an_error():
    network = dcgan.Generator(LATENT, IMAGE, width=2)
    network.layers[1].eval()
    modes = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise RuntimeError
    assert [module.training for module in network.modules()] == modes


def test_generating_uses_running_statistics_and_changes_nothing():
    network = dcgan.Generator(LATENT, IMAGE, width=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    latent = Draws(0, Stream.SAMPLES).normal((300, LATENT), CPU)
    together = generate(network, latent)
    assert together.shape == (300, *IMAGE)
    assert not together.requires_grad
    torch.testing.assert_close(together[:7], generate(network, latent[:7]))
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert network.training


def test_the_metrics_use_the_documented_samples():
    measure, (generator, critic) = evaluation(noise(), UNLABELLED), networks()
    found = measure(generator, critic)
    values = found.scalars()
    real, other = measure.reference.real.eval_set, measure.reference.floor_samples.eval_set
    fake = generate(generator, Draws(0, Stream.EVALUATION).normal((30, LATENT), CPU))
    assert values["wasserstein/exact_n"] == len(real) == 30
    assert values["wasserstein/exact"] == pytest.approx(exact_wasserstein(fake, real))
    assert values["wasserstein/exact_real_real"] == pytest.approx(exact_wasserstein(other, real))
    lines = Draws(0, Stream.EVALUATION, step=3)
    for tag, samples in (("wasserstein/sliced", fake), ("wasserstein/sliced_real_real", other)):
        projected = (sorted_projections(each, lines) for each in (samples, real))
        assert values[tag] == pytest.approx(projected_distance(*projected))
    kept = measure.reference.real
    assert kept.sorted_projections(lines) is kept.sorted_projections(lines)
    assert not torch.equal(
        kept.sorted_projections(lines), kept.sorted_projections(Draws(1, Stream.EVALUATION, step=3))
    )
    assert 0 < values["wasserstein/sliced"] < values["wasserstein/exact"]
    assert 0 < values["wasserstein/sliced_real_real"] < values["wasserstein/exact_real_real"]
    with torch.no_grad():
        estimate = float(critic(real).mean() - critic(fake).mean())
    assert values["critic/wasserstein_heldout"] == pytest.approx(estimate, abs=1e-6)
    expected = estimate / values["critic/lipschitz"]
    assert values["wasserstein/normalized"] == pytest.approx(expected, rel=1e-4)
    assert {"metrics/precision_pixel_30", "metrics/recall_pixel_30"} <= set(values)
    assert found.floors["metrics/precision_pixel_30"] > 0.5
    assert set(found.pictures) == {"critic/gradient_norms", "critic/weights"}
    assert found.values == measure(generator, critic).values


def test_the_two_real_samples_are_disjoint_and_held_out():
    dataset = noise()
    reference = Reference(dataset, CPU, Path())
    held_out = {row.tobytes() for row in to_floats(dataset.held_out).numpy()}
    first = {row.tobytes() for row in reference.real.eval_set.numpy()}
    second = {row.tobytes() for row in reference.floor_samples.eval_set.numpy()}
    assert len(first) == len(second) == 30
    assert not first & second
    assert first | second == held_out


def test_features_use_held_out_images_and_the_floor_reserved_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset = noise()
    shown: list[Tensor] = []

    def spy(name: str, train: Labelled, *others: Any) -> TrainedClassifier:
        shown.append(train[0])
        return trained_classifier(name, train, *others)

    monkeypatch.setattr("wgan_cli.evaluation.samples.trained_classifier", spy)
    measure, (generator, critic) = evaluation(dataset, CLASSIFIED, tmp_path), networks()
    measure.prepare()
    found = measure(generator, critic)
    assert measure.reference.counts.feature_samples == 60
    assert {tag.removesuffix("_60") for tag in found.values} == set(CLASSIFIED)
    network = measure.reference.network("classifier")
    with torch.no_grad():
        real, _ = network(to_floats(dataset.held_out))
        other = torch.cat(list(measure.reference.floor_samples.feature_batches()))
        train, logits = network(other)
    rows = [{row.tobytes() for row in part.numpy()} for part in (other, to_floats(shown[0]))]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == {row.tobytes() for row in to_floats(dataset.train).numpy()}
    floor = found.floors["metrics/fid_classifier_60"]
    assert floor == pytest.approx(frechet_distance(real, train), rel=1e-4)
    assert found.values["metrics/fid_classifier_60"] > 5 * floor
    assert measure.reference.classifier_accuracy is not None
    counts = logits.argmax(1).bincount(minlength=2)
    assert found.floors["metrics/class_kl_60"] == pytest.approx(
        float((counts / 60 * (counts / 30).log()).sum()), abs=1e-6
    )
    assert found.pictures["metrics/classes"].ndim == 3


def test_the_classifier_is_not_trained_on_a_larger_floor_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: list[Tensor] = []

    def spy(name: str, train: Labelled, *_: Any) -> TrainedClassifier:
        shown.append(train[0])
        raise DataError("seen enough")

    monkeypatch.setattr("wgan_cli.evaluation.samples.trained_classifier", spy)
    monkeypatch.setattr("wgan_cli.evaluation.samples.MAX_FEATURE_SAMPLES", 20)
    reference = Reference(noise(240, 60), CPU, tmp_path, feature_samples=50)
    with pytest.raises(DataError, match="seen enough"):
        reference.network("classifier")
    floor = torch.cat(list(reference.floor_samples.feature_batches()))
    rows = [{row.tobytes() for row in part.numpy()} for part in (floor, to_floats(shown[0]))]
    assert [len(part) for part in rows] == [50, 190]
    assert not rows[0] & rows[1]


@pytest.mark.parametrize(("byte_limit", "least", "seen"), [(6400, 2, 100), (6400, 130, 130)])
def test_the_classifiers_training_images_are_limited_in_bytes(
    byte_limit: int, least: int, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: list[Tensor] = []

    def spy(name: str, train: Labelled, *_: Any) -> TrainedClassifier:
        shown.extend(train)
        raise DataError("seen enough")

    monkeypatch.setattr("wgan_cli.evaluation.samples.trained_classifier", spy)
    monkeypatch.setattr("wgan_cli.evaluation.samples._CLASSIFIER_BYTES", byte_limit)
    monkeypatch.setattr("wgan_cli.evaluation.samples._MIN_CLASSIFIER_IMAGES", least)
    with pytest.raises(DataError, match="seen enough"):
        Reference(noise(240, 60), CPU, tmp_path).network("classifier")
    assert [len(part) for part in shown] == [seen, seen]


@pytest.mark.parametrize(("shape", "seen"), [((3, 32, 32), 60_000), ((3, 256, 256), 5461)])
def test_the_byte_limit_affects_only_large_images(
    shape: tuple[int, ...], seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []

    class Large(TensorDataset):
        """A data set that claims to have 100,000 training images of this shape."""

        @property
        def sample_shape(self) -> tuple[int, ...]:
            return shape

        @property
        def training_size(self) -> int:
            return 100_000

        def training_sample(self, chosen: Tensor) -> Tensor:
            asked.append(len(chosen))
            raise DataError("seen enough")

    small = noise(240, 60)
    dataset = Large("large", small.train, small.held_out, small.labels)
    with pytest.raises(DataError, match="seen enough"):
        Reference(dataset, CPU, tmp_path).network("classifier")
    assert asked == [seen]


@pytest.mark.parametrize(("count", "name"), [(10_000, "10k"), (359, "359"), (1024, "1024")])
def test_a_tag_states_its_sample_count(count: int, name: str):
    from wgan_cli.evaluation.samples import SampleCounts

    metric = Metric(lambda comparison: 0.0, count="feature_samples")
    assert sized("metrics/x", metric, SampleCounts(5, count)) == f"metrics/x_{name}"


def test_every_metric_is_in_the_schema_and_only_those():
    assert set(TABLE) == set(METRICS)


def test_an_evaluation_changes_nothing(tmp_path: Path):
    measure, (generator, critic) = (
        evaluation(noise(), [*UNLABELLED, *CLASSIFIED], tmp_path),
        networks(),
    )
    before = [tensor.clone() for net in (generator, critic) for tensor in net.state_dict().values()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    measure.prepare()
    measure(generator, critic)
    after = [tensor for net in (generator, critic) for tensor in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.get_num_threads() == 1
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert generator.training
    assert critic.training


def test_a_mixture_has_its_modes_counted():
    dataset = gaussians_ring()
    tags = usual_metrics(dataset)
    assert {"metrics/modes_found", "metrics/share_within_3sigma"} <= set(tags)
    found = evaluation(dataset, tags)(*networks((2,)))
    assert found.floors["metrics/modes_found_4096"] == 8
    assert found.floors["metrics/share_within_3sigma_4096"] == pytest.approx(0.98889, abs=0.006)
    assert 0 <= found.values["metrics/modes_found_4096"] <= 8


def test_a_generator_that_draws_the_data_is_as_good_as_the_floor():
    class Ring(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            rng = np.random.default_rng(abs(int(latent[0, 0] * 1e6)))
            return torch.from_numpy(gaussians_ring().draw(rng, len(latent)))

    found = evaluation(gaussians_ring(), usual_metrics(gaussians_ring()))(Ring(), networks((2,))[1])
    assert found.values["metrics/modes_found_4096"] == 8
    assert found.values["metrics/share_within_3sigma_4096"] == pytest.approx(0.98889, abs=0.006)
    assert found.values["wasserstein/exact"] < 1.5 * found.floors["wasserstein/exact"]


def test_a_critic_that_knows_its_constant_is_divided_by_it():
    generator, critic = networks()
    measure = evaluation(noise(), ["critic/wasserstein_heldout", "wasserstein/normalized"])
    critic.lipschitz_constant = 4.0  # type: ignore[assignment]
    values = measure(generator, critic).values
    assert values["wasserstein/normalized"] == values["critic/wasserstein_heldout"] / 4


def test_a_collapsed_generator_gets_distances_and_failures_but_no_meaningless_number(
    tmp_path: Path,
):
    chosen = ["wasserstein/exact", *CLASSIFIED]
    found = evaluation(noise(), chosen, tmp_path)(Constant(), networks()[1])
    assert found.values["wasserstein/exact"] > 0
    assert {"metrics/fid_classifier", "metrics/kid_classifier"} <= set(found.failures)
    assert "equal" in found.failures["metrics/fid_classifier"]
    assert not {tag.removesuffix("_60") for tag in found.values} & set(found.failures)
    assert all(np.isfinite(value) for value in found.values.values())


def test_a_flat_critic_has_no_scale():
    generator, critic = networks()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    found = evaluation(noise(), ["wasserstein/normalized", "critic/lipschitz"])(generator, critic)
    assert found.values == {"critic/lipschitz": 0.0}
    assert "gradient is 0" in found.failures["wasserstein/normalized"]


@pytest.mark.parametrize("size", [1e12, float("inf"), float("nan")])
def test_a_critic_with_infinite_values_gets_failures_and_no_number(size: float):
    generator, critic = networks()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(size)
    critical = [tag for tag in UNLABELLED if tag.startswith("critic/")]
    found = evaluation(noise(), [*critical, "wasserstein/exact", "wasserstein/normalized"])(
        generator, critic
    )
    assert all(np.isfinite(value) for value in found.values.values())
    assert "wasserstein/exact" in found.values
    if size != 1e12:
        assert "NaN or infinite" in found.failures["wasserstein/normalized"]
        assert "NaN or infinite" in found.failures["critic/lipschitz"]


def test_samples_that_are_not_numbers_end_the_run():
    with pytest.raises(DivergedError, match="samples"):
        evaluation(noise(), ["wasserstein/exact"])(Broken(), networks()[1])


def test_more_samples_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="at most 30"):
        Reference(noise(), CPU, Path(), eval_samples=31)
    for dataset, most in ((noise(), 60), (noise(80), 20)):
        with pytest.raises(ConfigError, match=f"at most {most}, .* 60 held-out"):
            Reference(dataset, CPU, Path(), feature_samples=most + 1)
        assert Reference(dataset, CPU, Path()).counts.feature_samples == most


def test_data_that_are_constant_or_not_numbers_are_refused():
    with pytest.raises(DataError, match="equal"):
        TensorDataset("grey", images(20, 1), torch.full((20, *IMAGE), 128, dtype=torch.uint8))
    points = torch.randn(20, 2)
    with pytest.raises(DataError, match="uint8"):
        TensorDataset("floats", to_floats(images(20, 1)), to_floats(images(20, 2)))
    for broken in (labels(19), labels(20) - 1, labels(20).float()):
        with pytest.raises(DataError, match="label"):
            TensorDataset("labels", images(20, 1), images(20, 2), Labels(labels(20), broken))
    with pytest.raises(DataError, match="NaN"):
        TensorDataset("points", points, torch.where(points > 1, torch.nan, points))


def test_the_default_metrics():
    small, large = noise(), noise(3000, 2000)
    plain = TensorDataset("plain", images(20, 1), images(20, 2))
    assert data_kinds(small) == {"samples", "images", "labels"}
    assert data_kinds(plain) == {"samples", "images"}
    assert data_kinds(gaussians_ring()) == {"samples", "modes"}
    one_class = TensorDataset(
        "one", images(20, 1), images(20, 2), Labels(0 * labels(20), 0 * labels(20))
    )
    tiny = TensorDataset(
        "tiny", images(20, 1)[..., :4], images(20, 2)[..., :4], Labels(labels(20), labels(20))
    )
    assert data_kinds(one_class) == data_kinds(tiny) == {"samples", "images"}
    assert "metrics/fid_classifier" not in usual_metrics(small)
    assert {"metrics/fid_classifier", "metrics/class_kl"} <= set(usual_metrics(large))
    assert set(CLASSIFIED) <= set(all_metrics(small))
    assert not {tag for tag in usual_metrics(large) if "inception" in tag}
    assert "metrics/precision_pixel" not in usual_metrics(gaussians_ring())


def test_inception_metrics_need_the_weights_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "metrics/fid_inception" not in all_metrics(noise())
    inception.weights_path().parent.mkdir(parents=True)
    inception.weights_path().write_bytes(b"bogus")
    assert "metrics/fid_inception" not in all_metrics(noise())
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"bogus").hexdigest())
    assert "metrics/fid_inception" in all_metrics(noise())


def test_every_metric_is_timed_and_a_slow_one_is_announced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    measure, pair = evaluation(noise(), UNLABELLED), networks()
    assert set(measure(*pair).seconds) == {"samples", *UNLABELLED}
    with caplog.at_level("INFO", logger="wgan_cli"):
        measure(*pair)
    assert not caplog.messages
    monkeypatch.setattr("wgan_cli.evaluation.evaluation._SLOW_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="wgan_cli"):
        measure(*pair)
    assert any("evaluating wasserstein/exact" in message for message in caplog.messages)


def test_slow_metrics_are_announced_already_the_first_time(tmp_path: Path):
    measure = evaluation(noise(), [*UNLABELLED, *CLASSIFIED], tmp_path)
    told: dict[str, bool] = {}
    measure.on_metric = told.__setitem__
    measure(*networks())
    assert list(told) == [*UNLABELLED, *CLASSIFIED]
    assert {tag for tag, slow in told.items() if slow} == set(CLASSIFIED)


def test_the_picture_of_weights_shows_the_effective_weights(
    monkeypatch: pytest.MonkeyPatch,
):
    drawn: list[tuple[np.ndarray, float | None]] = []

    def draw(weights: np.ndarray, clip: float | None) -> np.ndarray:
        drawn.append((weights, clip))
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("wgan_cli.evaluation.registry.weight_histogram", draw)
    reference = Reference(noise(), CPU, Path())
    generator, _ = networks()
    exempt = WeightClipping(0.01, exempt_normalization=True)
    normalised = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    lipschitz = Critic(IMAGE, width=4, depth=1)
    for critic, constraint in (
        (nn.Sequential(normalised, nn.Flatten(0)), exempt),
        (lipschitz, None),
    ):
        Evaluation(["critic/weights"], reference, LATENT, 0, constraint)(generator, critic)
    (clipped, clip), (free, none) = drawn
    assert (len(clipped), clip) == (64 * 2 + 2 + 2 + 1, 0.01)
    assert none is None
    layers = [module for module in lipschitz.modules() if isinstance(module, nn.Linear)]
    expected = torch.cat([t.detach().flatten() for x in layers for t in (x.bias, x.weight)])
    assert np.allclose(np.sort(free), expected.sort().values.numpy(), atol=1e-6)


def test_curves_hold_floors_and_the_time():
    found = EvaluationResult(
        values={"wasserstein/exact": 2.0},
        floors={"wasserstein/exact": 1.0},
        seconds={"samples": 0.5, "wasserstein/exact": 0.25},
        n=7,
    )
    assert found.scalars() == {
        "wasserstein/exact": 2.0,
        "wasserstein/exact_n": 7,
        "wasserstein/exact_real_real": 1.0,
        "throughput/evaluation_seconds": 0.75,
    }


def test_an_endless_data_set_knows_its_modes():
    modes = gaussians_ring(modes=5, radius=2.0).modes
    assert isinstance(modes, Modes)
    assert np.allclose(np.linalg.norm(modes.centres, axis=1), 2.0)
    assert EndlessDataset("plain", (2,), gaussians_ring().draw).modes is None


def test_the_raw_generator_is_measured_too_by_cheap_metrics():
    measure, (generator, critic) = evaluation(noise(), UNLABELLED), networks()
    torch.manual_seed(1)
    raw, _ = networks()
    both = measure(generator, critic, raw)
    alone = measure(raw, critic)
    beside = {
        "wasserstein/exact",
        "wasserstein/sliced",
        "metrics/precision_pixel_30",
        "metrics/recall_pixel_30",
    }
    assert both.raw == {tag: alone.values[tag] for tag in beside}
    assert both.values == measure(generator, critic).values
    assert both.scalars()["wasserstein/exact_raw"] == alone.values["wasserstein/exact"]
    assert not alone.raw
