"""Build the text of `wgan-train --help` from the YAML files, without torch or Hydra."""

from __future__ import annotations

import textwrap
from pathlib import Path

import yaml

from wgan_cli.untrusted_files import MOST_YAML, read_text

GROUPS = ("dataset", "model", "loss", "constraint", "optimizer", "logger", "experiment", "debug")
EXAMPLES = (
    ("wgan-train", "train on 1,797 handwritten digits, no download"),
    ("wgan-train loss=hinge clip=0.01", "another loss and clip value"),
    ("wgan-train dataset=gaussians_ring steps=2000", "points in the plane, with the critic's map"),
    ("wgan-train -m loss=wasserstein,hinge clip=0.003,0.01,0.03", "a sweep of six runs"),
    ("wgan-train debug=smoke optimizer=adam optimizer.critic.lr=2e-4", "two steps, two rates"),
)


def help_text(configs: Path, config_dir: Path | None = None) -> str:
    """Return the help text. Options in the user's `config_dir` are listed with the shipped ones."""
    lines = [
        "wgan-train trains a Wasserstein GAN; TensorBoard shows its curves and samples.",
        "",
        "usage: wgan-train [GROUP=OPTION ...] [SETTING=VALUE ...] [flags]",
        "",
        "Groups (the first is what runs unless you choose):",
    ]
    train = configs / "train.yaml"
    choices = yaml.safe_load(train.read_text(encoding="utf-8"))["defaults"]
    defaults = {k: v for choice in choices if choice != "_self_" for k, v in choice.items()}
    for group in GROUPS:
        options = options_in(configs / group)
        if config_dir is not None:
            options |= options_in(config_dir / group)
        chosen = defaults.get(group)
        names = sorted(options, key=lambda name: (name != chosen, name))
        lines += ["", f"  {group}="]
        lines += [f"    {name:<18} {options[name]}" for name in names]
    lines += ["", "Settings (wgan-train --cfg job shows them with their values):", ""]
    lines += _settings(train)
    lines += [
        "",
        "Flags:",
        "  -m, --multirun     run every combination of values that stand with commas",
        "  --cfg job          show the config and stop; --resolve fills references in",
        "  --config-dir DIR   add your own options and experiments",
        "  --config-dir RUN --config-name config    repeat a run from its own config.yaml",
        "  --trust PREFIX     allow a folder's config to name classes of your own",
        "  --version          the version",
        '  -sc install=bash   completion: eval "$(wgan-train -sc install=bash)" (or zsh, fish)',
        "  --hydra-help       Hydra's own flags",
        "",
        "Examples:",
        "",
    ]
    for command, description in EXAMPLES:
        lines += [f"  {command}", f"      {description}"]
    lines += [
        "",
        "Runs go to outputs/<day>/<time>/; look at them with: tensorboard --logdir outputs",
        "Sample a run with wgan-sample RUN, measure it with wgan-eval RUN",
    ]
    return "\n".join(lines)


def options_in(folder: Path) -> dict[str, str]:
    """Return a dict from each option in a group's folder to the first comment line of its file.

    Files that cannot be read are left out.
    """
    options = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            lines = read_text(path, MOST_YAML).splitlines()
        except (OSError, ValueError):
            continue
        comments = (
            line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line
        )
        options[path.stem] = next(comments, "")
    return options


def _settings(train: Path) -> list[str]:
    """Return a line of help for each root setting: its name, its default and its comment."""
    shown: list[str] = []
    comment: list[str] = []
    for line in train.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line[1:].strip())
        elif line and not line.startswith(" "):
            name, _, value = line.partition(":")
            default = f" [{value.strip()}]" if value.strip() else ""
            indent = " " * 27
            text = textwrap.fill(
                " ".join(comment), 100, initial_indent=indent, subsequent_indent=indent
            )
            if name not in ("defaults", "hydra"):
                shown.append(f"  {name + default:<24} {text.strip()}".rstrip())
            comment = []
    return shown
