"""The benchmark against the textbook loop: that both train the same, and what it writes."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import busy, measuring, sample_images, throughput
from benchmarks.agreement import TOLERANCE, Agreement, Bfloat16, agreement, apart
from benchmarks.textbook import PilImages, Textbook, image_folder
from benchmarks.workloads import WORKLOADS, composed, reading, textbook, tool, words_of

TINY = ["threads=1", "device=cpu", "model.generator.width=8", "model.critic.width=8"]
CLIPPED = [*WORKLOADS["mlp"].paper, "n_critic=5"]
PENALISED = [*WORKLOADS["resnet"].words, *WORKLOADS["resnet"].paper]


@pytest.fixture(autouse=True)
def _one_thread(one_seeded_thread: None) -> None:
    """Whatever the words say."""


def array_of(folder: Path, size: int) -> list[str]:
    rng = np.random.default_rng(0)
    # Smooth, as images are.
    coarse = rng.integers(0, 256, (100, size // 4, size // 4, 3), dtype=np.uint8)
    np.save(folder / "images.npy", coarse.repeat(4, 1).repeat(4, 2))
    return ["dataset=array", f"dataset.path={folder / 'images.npy'}"]


def scored_by(weight: float) -> nn.Module:
    """f(x) = weight * (the sum of x's four numbers): a slope of 2 * weight everywhere."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Flatten(0))
    nn.init.constant_(critic[1].weight, weight)
    return critic


def loop_of(critic: nn.Module, clip: float | None, real: torch.Tensor) -> Textbook:
    generator = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    nn.init.zeros_(generator[0].weight)
    nn.init.zeros_(generator[0].bias)
    return Textbook(
        generator,
        critic,
        torch.optim.SGD(generator.parameters(), lr=0.1),
        torch.optim.SGD(critic.parameters(), lr=0.1),
        iter([real] * 10),
        lambda: torch.randn(len(real), 2),
        n_critic=2,
        clip=clip,
    )


@pytest.mark.exhaustive
def test_the_mlp_trains_as_the_textbook_does():
    compared = agreement([*CLIPPED, "threads=1", "device=cpu"], 20)
    assert compared.losses == 120
    assert compared.reached


def test_the_dcgan_trains_as_the_textbook_does(tmp_path: Path):
    words = [*array_of(tmp_path, 16), "model=dcgan", "batch_size=16", *CLIPPED, *TINY]
    assert agreement(words, 20).reached


@pytest.mark.exhaustive
def test_the_penalised_resnet_trains_as_the_textbook_does(tmp_path: Path):
    words = [*array_of(tmp_path, 28), "batch_size=8", *PENALISED, *TINY, "n_critic=2"]
    assert agreement(words, 20).reached


def test_another_rate_does_not_agree(monkeypatch: pytest.MonkeyPatch):
    """In the textbook loop alone, and by a thousandth."""

    def slower(*given: object) -> Textbook:
        loop = textbook(*given)  # type: ignore[arg-type]
        loop.critic_optimizer.param_groups[0]["lr"] *= 0.999
        return loop

    monkeypatch.setattr("benchmarks.agreement.textbook", slower)
    compared = agreement([*CLIPPED, *TINY], 3)
    assert compared.worst > TOLERANCE
    assert compared.tool_from_float64 is not None


def test_where_rounding_decides_the_tool_must_be_as_near_to_float64():
    assert Agreement(20, 40, TOLERANCE).reached
    assert not Agreement(20, 40, 2 * TOLERANCE).reached
    assert Agreement(20, 40, 0.02, tool_from_float64=0.001, textbook_from_float64=0.02).reached
    assert not Agreement(20, 40, 0.02, tool_from_float64=0.02, textbook_from_float64=0.009).reached


def test_losses_are_compared_by_their_own_size():
    assert apart(1e-9, 1.1e-9) == pytest.approx(0.1 / 1.1)
    assert apart(-1.0, 1.0) == 2.0
    assert apart(0.0, 0.0) == 0.0
    assert apart(math.nan, 1.0) == apart(1.0, math.nan) == math.inf


def test_the_estimates_are_compared_by_their_pooled_deviation():
    # Deviations of 1 and 3 pool to sqrt(5).
    compared = Bfloat16([9.0, 10.0, 11.0], [9.0, 12.0, 15.0])
    assert compared.pooled == pytest.approx(math.sqrt(5))
    assert compared.reached
    assert not Bfloat16([9.0, 10.0, 11.0], [9.3, 12.3, 15.3]).reached


def test_the_textbook_loss_and_clamp():
    real = torch.ones(3, 1, 2, 2)
    loop = loop_of(scored_by(0.5), 0.01, real)
    loop.step()
    # -f(1) + f(0), before the weights are cut and after.
    assert loop.critic_losses == pytest.approx([-2.0, -0.04])
    assert torch.equal(loop.critic[1].weight, torch.full((1, 4), 0.01))
    # Fakes are 0 until the generator follows the critic's slope.
    assert loop.generator_losses == [0.0]
    assert torch.equal(loop.generator[0].bias, torch.full((4,), 0.001))


def test_the_textbook_penalty_is_that_of_a_plane():
    real = torch.randn(3, 1, 2, 2)
    loop = loop_of(scored_by(2.0), None, real)
    assert loop.gradient_penalty(real, torch.randn(3, 1, 2, 2)).item() == pytest.approx(9.0)
    loop.critic_update()
    assert loop.critic_losses[0] == pytest.approx(90.0 - 2.0 * float(real.mean() * 4), rel=1e-5)


def test_textbook_images_are_what_the_tool_sees(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    colour, _ = PilImages(pixels)[1]
    assert torch.allclose(colour, torch.from_numpy(pixels[1]).permute(2, 0, 1) / 127.5 - 1)
    grey, _ = PilImages(pixels[..., 0])[2]
    assert torch.allclose(grey, torch.from_numpy(pixels[2, ..., 0])[None] / 127.5 - 1)
    (tmp_path / "one").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "one" / "0.png")
    filed, _ = image_folder(str(tmp_path), 8)[0]
    assert torch.allclose(filed, torch.from_numpy(pixels[0]).permute(2, 0, 1) / 127.5 - 1)


def test_no_worker_is_left_beside_what_is_timed_next():
    config, device = composed([*TINY, "batch_size=16"])
    loop = textbook(config, device, (1, 8, 8))
    data = PilImages(np.zeros((200, 8, 8), np.uint8))
    with reading(loop, data, 16, 2):
        loop.step()
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_counted_is_what_the_algorithm_needs():
    """Linear layers: forward 2abn, and as much for each gradient that is used."""
    config, device = composed([*TINY, "batch_size=16", "n_critic=3", "latent_dim=4"])
    loop = textbook(config, device, (1, 8, 8))
    loop.batches = iter([torch.zeros(16, 1, 8, 8)] * 3)
    generator = [4 * 8, 8 * 8, 8 * 8, 8 * 64]
    critic = [64 * 8, 8 * 8, 8 * 8, 8 * 1]
    forward, weights, inputs = sum(critic), sum(critic), sum(critic[1:])
    # The critic, on real and on fake samples, and the generator without a backward.
    updates = 3 * (2 * (forward + weights + inputs) + sum(generator))
    # Through the critic to its input, and all of the generator's but its input's.
    last = sum(critic) + sum(critic) + 2 * sum(generator) + sum(generator[1:])
    assert measuring.flops_of_step(loop) == 2 * 16 * (updates + last)
    assert all(parameter.requires_grad for parameter in loop.critic.parameters())


def test_own_images_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample_images, "COUNT", 60)
    first, second = (words_of(WORKLOADS["dcgan32"], Path("data"), None) for _ in range(2))
    assert first == second
    assert capsys.readouterr().out.count("Writing 60 smooth random JPEGs") == 1
    one = tool([*first, *TINY, "batch_size=16"])
    assert one.dataset.sample_shape == (3, 32, 32)
    assert len(one.dataset.held_out) + (one.dataset.training_size or 0) == 60
    (place,) = tmp_path.glob("**/smooth-64-60")
    files = words_of(WORKLOADS["dcgan64"], Path("data"), None)
    assert files[1] == f"dataset.root='{place}'"
    monkeypatch.setattr(sample_images, "COUNT", 20)
    links = sorted(sample_images.chosen(place).rglob("*.jpg"))
    assert len({link.resolve() for link in links}) == 20
    assert {link.parent.name for link in links} == {f"kind{number}" for number in range(10)}


def test_the_command_measures_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(measuring, "SQUARES", {"cpu": ((64,), 1)})
    asked: list[int | None] = []
    # A process of its own takes seconds to import torch.
    monkeypatch.setattr(throughput, "peak_memory", lambda _, workers: asked.append(workers) or 1.5)
    file = tmp_path / "found.json"
    words = ["digits", "--threads=1", "--device=cpu", "--repeats=2", "--seconds=0.02"]
    code = throughput.main([*words, "--agreement-steps=2", f"--json={file}"])
    found = json.loads(file.read_text())
    result = found["workloads"]["digits"]
    assert code == (0 if result["agreement"]["reached"] else 1)
    assert {"name", "device", "threads", "torch"} < found["machine"].keys()
    assert found["machine"]["matrix_flops_per_second"].keys() == {"fp32", "bf16"}
    assert result["target"] == 4.0
    assert result["sides"].keys() == {"textbook_0", "textbook_2", "tool"}
    book, own = result["sides"][result["textbook"]], result["sides"]["tool"]
    assert result["ratio"] == book["ms_per_step"] / own["ms_per_step"]
    for side in (book, own):
        least, most = side["ms_per_step_range"]
        assert least <= side["ms_per_step"] <= most
        assert side["images_per_second"] == pytest.approx(64e3 / side["ms_per_step"])
        rate = result["flops_per_step"] / side["ms_per_step"] * 1e3
        assert side["flops_per_second"] == pytest.approx(rate)
        assert side["peak_memory_mib"] == 1.5
    assert asked == [int(result["textbook"][-1]), None]
    assert "LOSSES DIFFER" not in capsys.readouterr().out


def test_on_cuda_the_textbook_loop_is_timed_in_real_fp32_too():
    """`fed` opens the loader; the loop itself is not run."""
    loop = loop_of(scored_by(0.5), 0.01, torch.ones(3, 1, 2, 2))
    precisions: dict[str, str] = {}
    for device in (torch.device("cpu"), torch.device("cuda")):
        loops = throughput._textbook_loops(loop, lambda _: nullcontext(), device)
        for side, each in loops.items():
            with each.opened():
                precisions[f"{device} {side}"] = torch.backends.cudnn.conv.fp32_precision
    own = torch.backends.cudnn.conv.fp32_precision
    assert precisions == {
        **{f"cpu textbook_{workers}": own for workers in (0, 2)},
        **{f"cuda textbook_{workers}": "tf32" for workers in (0, 2)},
        **{f"cuda textbook_fp32_{workers}": own for workers in (0, 2)},
    }


@pytest.mark.exhaustive
def test_memory_is_that_of_a_process_of_its_own():
    ballast = torch.ones(2**26)
    tracked = measuring.peak_memory([*TINY, "batch_size=16"], None)
    own = measuring._own_peak()
    assert 100 < tracked < own - ballast.nbytes / 2**20 / 2


@pytest.mark.exhaustive
def test_the_precisions_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "SQUARES", {"cpu": ((64,), 1)})
    for name, value in (("STEPS", 6), ("WINDOW", 2), ("SEEDS", range(2))):
        monkeypatch.setattr(f"benchmarks.agreement.{name}", value)
    file = tmp_path / "found.json"
    words = ["digits", "--bf16-check", "--threads=1", "--device=cpu", f"--json={file}"]
    code = throughput.main(words)
    compared = json.loads(file.read_text())["workloads"]["digits"]["agreement"]
    assert code == (0 if compared["reached"] else 1)
    assert len(compared["float32"]) == len(compared["bfloat16"]) == 2
    assert compared["float32"] != compared["bfloat16"]
    assert compared["means"] == pytest.approx(
        [np.mean(compared["float32"]), np.mean(compared["bfloat16"])]
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mnist"], ["mnist", "mlp", "digits"]),
        (["--repeats=0"], ["--repeats", "at least 1", "not 0"]),
        (["--seconds=long"], ["--seconds", "above 0", "long"]),
        (["--seconds=nan"], ["--seconds", "above 0"]),
        (["--threads=many"], ["--threads", "whole number"]),
        (["--device=tpu"], ["--device", "cuda"]),
        (["--precision=fp16"], ["--precision", "bf16"]),
        (["--compile=maybe"], ["--compile", "true"]),
        (["--graphs=maybe"], ["--graphs", "true"]),
        (["--json=nowhere/found.json"], ["--json", "no such folder"]),
        (["--speed=1"], ["--speed"]),
        (["--busy=-1"], ["--busy", "at least 0", "not -1"]),
        (["--busy=1", "--bf16-check"], ["--bf16-check", "--busy"]),
        (["--busy=1", "--device=cuda"], ["--busy", "--device=cuda"]),
        (["dcgan32", "--images=nowhere"], ["--images", "nowhere"]),
    ],
)
def test_wrong_words_are_answered_in_one_line(
    words: list[str], says: list[str], here: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit_code:
        throughput.main(words)
    assert exit_code.value.code == 2
    answer = capsys.readouterr().err
    assert answer.count("\n") == 1
    for word in says:
        assert word in answer


def test_the_tools_own_refusals_are_passed_on(capsys: pytest.CaptureFixture[str]):
    assert throughput.main(["digits", "--threads=100000"]) == 2
    answer = capsys.readouterr().err
    assert answer.startswith("throughput: threads must be")
    assert answer.count("\n") == 1


def test_both_loops_are_timed_beside_busy_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "found.json"
    words = ["digits", "--threads=1", "--seconds=0.1", "--repeats=1", f"--json={file}"]
    assert throughput.main([*words, "--busy", "0", "1"]) == 0
    found = json.loads(file.read_text())["workloads"]["digits"]
    assert found["sides"]["textbook"] == {"threads": 1, "precision": "fp32"}
    assert found["sides"]["tool"]["threads"] == 1
    assert [row["busy"] for row in found["loads"]] == [0, 1]
    for row in found["loads"]:
        times = row["ms_per_step"]
        assert times.keys() == {"tool", "textbook_0", "textbook_2"}
        assert row["textbook"] == min(["textbook_0", "textbook_2"], key=lambda side: times[side])
        assert row["ratio"] == pytest.approx(times[row["textbook"]] / times["tool"])
    assert capsys.readouterr().out.count("\ndigits ") == 2


def test_a_side_sets_itself_up_before_torch_is_loaded():
    code = "import sys, benchmarks.timed_side; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_side_that_fails_ends_the_benchmark_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    words = [*words_of(WORKLOADS["mlp"], tmp_path, None), "dataset.download=false"]
    with pytest.raises(SystemExit) as end:
        busy.under_load(words, [0], 1, 0.1)
    assert end.value.code == 3
    answer = capfd.readouterr().err
    assert answer.count("\n") == 1
    assert answer.startswith("throughput: mnist cannot be read")


def computes(process: int) -> bool:
    """Whether a process with this number has not ended. A dead one may wait to be noticed."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2]
    except FileNotFoundError:
        return False
    return not state.startswith(("Z", "X"))


def test_busy_processes_end_with_their_block():
    with pytest.raises(KeyboardInterrupt), busy.busy_processes(2) as processes:
        assert len(processes) == 2
        assert all(map(computes, processes))
        raise KeyboardInterrupt
    assert not any(map(computes, processes))


STARTER = """
import sys
from benchmarks.busy import busy_processes
with busy_processes(2) as processes:
    print(*processes, flush=True)
    sys.stdin.read()
"""


def test_busy_processes_end_if_the_benchmark_is_killed():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", STARTER], stdin=pipe, stdout=pipe) as benchmark:
        assert benchmark.stdout is not None
        processes = [int(word) for word in benchmark.stdout.readline().split()]
        assert len(processes) == 2
        assert all(map(computes, processes))
        benchmark.kill()
    until = time.monotonic() + 30
    while any(map(computes, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(computes, processes))


def test_the_products_of_a_penalised_step_are_counted():
    generator = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (generator, critic)]
    real = iter([torch.zeros(16, 1, 2, 2)] * 4)
    loops = [
        Textbook(
            generator, critic, *optimizers, real, lambda: torch.randn(16, 2), n_critic=1, clip=clip
        )
        for clip in (0.1, None)
    ]
    clipped, penalised = (measuring.flops_of_step(loop) for loop in loops)
    # The generator's pass and step, the critic's of real and fake, and through it to the generator.
    assert clipped == 2 * 16 * (8 + 2 * 8 + 2 * (40 + 40 + 8) + 40 + 40)
    assert penalised > clipped + 2 * 16 * 3 * 40
