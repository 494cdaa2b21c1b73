"""The config without a run: types, ranges, rules and what null stands for."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from functools import cache
from typing import Any

import pytest
from conftest import COMPANIONS
from omegaconf import OmegaConf

from wgan_cli.commands.composition import Composer
from wgan_cli.config import (
    DEFAULT_STEPS,
    GROUPS,
    as_dict,
    configs_folder,
    fill,
    validate,
)
from wgan_cli.data.images import digits
from wgan_cli.data.synthetic import gaussians_grid, gaussians_ring, parallel_lines, swiss_roll
from wgan_cli.errors import ConfigError
from wgan_cli.models import resnet
from wgan_cli.rules import check_rules
from wgan_cli.schema import METRICS, SCHEMAS, TrainConfig, traits
from wgan_cli.schema.traits import DatasetTraits
from wgan_cli.validation import flatten

OPTIONS = sorted(
    path.relative_to(configs_folder()).with_suffix("").as_posix()
    for group in GROUPS
    for path in (configs_folder() / group).glob("*.yaml")
)
DATASETS = [option.split("/")[1] for option in OPTIONS if option.startswith("dataset/")]
SILENT = {"steps": None, "clip": None, "lr": {}, "decay": None, "ema": None}


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(Composer().compose(overrides))
    assert isinstance(plain, dict)
    del plain["hydra"]
    return plain


def composed(*overrides: str, **settings: Any) -> dict[str, Any]:
    """The composed config as plain dicts; `settings` replaces dotted keys (`__` for a dot)."""
    plain = copy.deepcopy(_composed(*overrides))
    for key, value in settings.items():
        *path, last = key.split("__")
        node = plain
        for part in path:
            node = node[part]
        node[last] = value
    return plain


def refusal(plain: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_rules(validate(plain))
    message = str(caught.value)
    assert "\n" not in message
    assert "Error" not in message
    return message


def silent(*overrides: str, **settings: Any) -> TrainConfig:
    """A checked config whose data set recommends nothing."""
    return validate(composed(*overrides, dataset__recommended=dict(SILENT), **settings))


def test_the_defaults_are_complete_and_valid():
    config = validate(composed())
    check_rules(config)
    filled, _ = fill(config)
    left = {key for key, value in flatten(as_dict(filled)).items() if value is None}
    own = {key for key in left if key.startswith(("optimizer.critic.", "optimizer.generator."))}
    advice = {key for key in left if key.startswith("dataset.recommended.")}
    unknown_yet = {"threads", "compile", "graphs", "metrics", "eval_samples", "feature_samples"}
    unknown_yet |= {"resume", "keep_every", "decay.steps"}
    unknown_yet |= {"grad_clip.critic", "grad_clip.generator"}
    assert left - own - advice <= unknown_yet
    assert "???" not in map(str, flatten(as_dict(filled)).values())


def test_a_config_cannot_be_changed():
    config = validate(composed())
    filled, _ = fill(config)
    for node, name in ((config, "steps"), (filled, "clip"), (filled.decay, "kind")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(node, name, None)


def test_the_defaults_are_the_papers_where_nothing_is_recommended():
    config, _ = fill(silent())
    assert config.n_critic == 5
    assert config.batch_size == 64
    assert config.clip == 0.01
    assert config.optimizer["name"] == "rmsprop"
    assert config.optimizer["lr"] == 5e-5
    assert config.loss["name"] == "wasserstein"
    assert config.constraint["name"] == "clip"
    assert config.ema == 0
    assert config.decay.kind == "none"
    assert config.critic_warmup.steps == config.critic_warmup.every == 0
    assert config.model["critic"]["width"] == 512
    assert config.model["critic"]["depth"] == 3


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_is_valid(option: str):
    group, name = option.split("/")
    plain = composed(f"{group}={name}", *COMPANIONS.get(option, []))
    config = validate(plain)
    check_rules(config)
    filled, _ = fill(config)
    assert getattr(filled, group)["name"] == name
    assert as_dict(validate(as_dict(filled))) == as_dict(filled)


@pytest.mark.parametrize(
    "option",
    sorted(
        path.relative_to(configs_folder()).with_suffix("").as_posix()
        for folder in ("experiment", "debug")
        for path in (configs_folder() / folder).glob("*.yaml")
    ),
)
def test_every_recipe_composes_and_is_valid(option: str):
    group, name = option.split("/")
    config = validate(composed(f"{group}={name}"))
    check_rules(config)
    fill(config)


def test_a_composed_hydra_config_is_taken_as_it_is():
    raw = Composer().compose(["n_critic=3", "model.generator.width=8"])
    plain = OmegaConf.masked_copy(raw, [key for key in raw if key != "hydra"])
    config = validate(plain)
    assert config.n_critic == 3
    assert config.model["generator"]["width"] == 8


def test_a_filled_config_fed_back_is_the_same_config():
    config, _ = fill(validate(composed("optimizer=adam", "loss=gan", "dataset=mnist")))
    again = validate(OmegaConf.create(as_dict(config)))
    assert as_dict(again) == as_dict(config)
    check_rules(again)
    assert fill(again)[0] == config


def test_validating_and_filling_change_nothing_that_is_passed_in():
    plain = composed()
    before = copy.deepcopy(plain)
    config = validate(plain)
    kept = copy.deepcopy(config)
    fill(config)
    assert plain == before
    assert config == kept


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("n_critics", 3, ["n_critics", "n_critic?"]),
        ("batchsize", 3, ["batchsize", "batch_size"]),
        ("critic_warmup__step", 3, ["critic_warmup.step", "critic_warmup.steps"]),
        ("model__generator__widht", 3, ["model.generator.widht", "model.generator.width"]),
        ("model__width", 3, ["model.width"]),
        ("optimizer__learning_rate", 1e-3, ["optimizer.learning_rate"]),
        ("optimizer__critic__alhpa", 0.5, ["optimizer.critic.alhpa", "optimizer.critic.alpha"]),
        ("loss__saturating", True, ["loss.saturating"]),
        ("constraint__clip", 0.1, ["constraint.clip"]),
        ("dataset__root", "data", ["dataset.root"]),
        ("dataset__recommended__momentum", 0.5, ["dataset.recommended.momentum"]),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(key: str, value: Any, words: list[str]):
    message = refusal(composed(**{key: value}))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "many"),
        ("steps", 1.5),
        ("n_critic", "5x"),
        ("n_critic", True),
        ("batch_size", None),
        ("batch_size", [64]),
        ("clip", "small"),
        ("clip", True),
        ("compile", "perhaps"),
        ("metrics", "wasserstein/exact"),
        ("ema", "high"),
        ("critic_warmup", 3),
        ("critic_warmup__steps", "x"),
        ("optimizer__lr", "fast"),
        ("optimizer__critic__lr", "fast"),
        ("optimizer__critic", 3),
        ("model__critic__width", 3.5),
        ("model__generator", "mlp"),
        ("model", "mlp"),
        ("constraint__exempt_normalization", "some"),
        ("loss", None),
        ("optimizer___target_", None),
        ("dataset__recommended__steps", "x"),
        ("seed", "lucky"),
    ],
)
def test_wrong_types_are_refused_by_the_key(key: str, value: Any):
    assert key.replace("__", ".").replace("._target_", "") in refusal(composed(**{key: value}))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", [-1, 2**63]),
        ("threads", [0, -1]),
        ("precision", ["fp16", ""]),
        ("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "tpu"]),
        ("steps", [0, -5]),
        ("batch_size", [0, -1]),
        ("latent_dim", [0]),
        ("n_critic", [0, -1]),
        ("critic_warmup__steps", [-1]),
        ("critic_warmup__n_critic", [0]),
        ("critic_warmup__every", [-1]),
        ("clip", [0, -1, float("inf"), float("nan")]),
        ("ema", [-0.1, 1, 2, float("nan")]),
        ("decay__kind", ["step"]),
        ("decay__steps", [0]),
        ("metrics", [["metrics/fid"], ["wasserstein/exact", "x"]]),
        ("log_every", [0]),
        ("sample_every", [0]),
        ("checkpoint_every", [0]),
        ("eval_every", [-1]),
        ("eval_samples", [0, 3]),
        ("optimizer__lr", [0, -1e-3, float("inf"), float("nan")]),
        ("optimizer__generator__lr", [0]),
        ("optimizer__alpha", [1, -0.1]),
        ("optimizer__momentum", [1]),
        ("optimizer__weight_decay", [-1]),
        ("model__generator__depth", [0]),
        ("model__critic__width", [0]),
        ("dataset__recommended__ema", [1]),
        ("dataset__recommended__lr", [{"rmsprop": 0}]),
    ],
)
def test_impossible_values_are_refused_with_what_is_allowed(key: str, values: list[Any]):
    for value in values:
        message = refusal(composed(**{key: value}))
        assert key.replace("__", ".") in message
        assert "must be" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**63 - 1),
        ("device", "cuda:3"),
        ("ema", 0),
        ("ema", 0.999),
        ("clip", 1e-9),
        ("clip", 3),
        ("metrics", []),
        ("metrics", list(METRICS)),
        ("critic_warmup__every", 0),
        ("optimizer__critic__lr", 1),
        ("optimizer__momentum", 0),
    ],
)
def test_values_on_the_edge_are_taken(key: str, value: Any):
    config = validate(composed(**{key: value}))
    assert flatten(as_dict(config), "").get(key.replace("__", "."), []) == value


def test_a_misspelt_choice_is_answered_with_the_nearest():
    message = refusal(composed(decay__kind="lineer"))
    assert "none, linear, cosine" in message
    assert "Did you mean linear?" in message


def test_betas_are_two_numbers():
    for betas in ([0.5], [0.0, 0.9, 0.9], [0.0, 1.0], ["a", "b"], 0.9):
        assert "optimizer.betas" in refusal(composed("optimizer=adam", optimizer__betas=betas))
    betas = [0.5, 0.9]
    plain = composed("optimizer=adam", optimizer__critic={"betas": [0.5]})
    plain["optimizer"]["critic"] |= {"lr": None, "eps": None, "weight_decay": None}
    assert "optimizer.critic.betas" in refusal(plain)
    config = validate(composed("optimizer=adam", optimizer__betas=betas))
    assert config.optimizer["betas"] == betas


@pytest.mark.parametrize("group", GROUPS)
def test_a_missing_group_is_named(group: str):
    plain = composed()
    del plain[group]
    assert group in refusal(plain)


def test_a_missing_setting_is_named():
    plain = composed()
    del plain["n_critic"]
    assert "n_critic" in refusal(plain)
    plain = composed()
    del plain["model"]["critic"]["width"]
    assert "model.critic.width" in refusal(plain)


def test_a_users_own_component_keeps_its_own_keys():
    own = {"_target_": "mine.losses.Special", "margin": 3, "nested": {"anything": [1]}}
    assert validate(composed(loss=own)).loss == own


def test_a_users_own_component_states_its_traits():
    own = {"_target_": "mine.Critic", "traits": {"lipschitz": True, "classes": False}}
    plain = composed("model=mlp", "constraint=none")
    plain["model"]["critic"] = own
    config = validate(plain)
    assert config.model["critic"] == own
    stated = traits("network", config.model["critic"])
    assert (stated.lipschitz, stated.classes, stated.bf16_copy) == (True, False, False)
    plain["constraint"] = composed("constraint=spectral_norm")["constraint"]
    assert "Lipschitz by construction" in refusal(plain)
    plain = composed("constraint=none", conditional=True)
    plain["model"]["critic"] = own
    assert "takes no classes" in refusal(plain)
    loss = {"_target_": "mine.Loss", "traits": {"needs_real_scores": True}}
    assert traits("loss", validate(composed(loss=loss)).loss).needs_real_scores


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"elementwize": True}, ["optimizer.traits.elementwize", "Did you mean", "elementwise"]),
        ({"elementwise": "perhaps"}, ["optimizer.traits.elementwise", "true or false"]),
        ({"bf16_copy": True}, ["optimizer.traits.bf16_copy"]),
        ([1], ["optimizer.traits"]),
    ],
)
def test_traits_that_are_none_are_refused(stated: Any, named: list[str]):
    own = {"_target_": "mine.Optimizer", "lr": 1e-3, "traits": stated}
    message = refusal(composed(optimizer=own))
    for part in named:
        assert part in message


def test_what_ships_states_its_traits_in_the_schema_alone():
    assert "optimizer.traits is no setting" in refusal(
        composed(optimizer={**composed()["optimizer"], "traits": {"elementwise": False}})
    )


def test_a_stated_default_rate_is_filled_in():
    own = {"_target_": "mine.Optimizer", "name": "mine", "lr": None}
    config, notes = fill(silent(optimizer={**own, "traits": {"default_lr": 0.25}}))
    assert config.optimizer["lr"] == 0.25
    assert any(note.startswith("optimizer.lr=0.25") for note in notes)


def test_a_clip_goes_to_any_constraint_that_takes_one():
    own = {"_target_": "mine.Clip", "traits": {"takes_clip": True}}
    assert fill(silent(constraint=own))[0].clip == 0.01
    check_rules(validate(composed(constraint=own, clip=0.5)))
    del own["traits"]
    assert "clip=0.5 has no effect" in refusal(composed(constraint=own, clip=0.5))


def test_a_clip_under_another_constraint_is_refused():
    message = refusal(composed("constraint=none", clip=0.5))
    assert "clip=0.5" in message
    assert "constraint=none" in message
    assert "constraint=clip" in message


@pytest.mark.parametrize("constraint", ["clip", "spectral_norm", "orthogonal"])
@pytest.mark.parametrize("model", ["lipschitz_mlp", "parallel_lines"])
def test_holding_the_weights_of_a_critic_that_is_lipschitz_already_is_refused(
    model: str, constraint: str
):
    words = [f"model={model}", *(["dataset=parallel_lines"] if model == "parallel_lines" else [])]
    message = refusal(composed(*words, f"constraint={constraint}"))
    assert f"model={model}" in message
    assert "constraint=none" in message
    for other in ("none", "gradient_penalty"):
        check_rules(validate(composed(*words, f"constraint={other}")))


@pytest.mark.parametrize(
    ("constraint", "refused"),
    [("gradient_penalty", ["batch"]), ("spectral_norm", ["batch", "layer", "group"])],
)
def test_normalisation_that_undoes_a_constraint_is_refused(constraint: str, refused: list[str]):
    for norm in ("none", "batch", "layer", "group"):
        words = ("model=dcgan", "dataset=mnist", f"constraint={constraint}")
        plain = composed(*words, model__critic__norm=norm)
        if norm not in refused:
            check_rules(validate(plain))
            continue
        message = refusal(plain)
        assert f"constraint={constraint}" in message
        assert f"model.critic.norm={norm}" in message
        assert "type model.critic.norm=" in message


def test_what_differentiates_twice_is_not_compiled():
    own = {"_target_": "mine.Penalty", "name": "mine"}
    message = refusal(composed(constraint=own, compile=True))
    assert "compile=true does not go with constraint=mine" in message
    assert "compile=false" in message
    assert "differentiates_twice: false" in message
    own["traits"] = {"differentiates_twice": False}
    check_rules(validate(composed(constraint=own, compile=True)))
    assert "compile=false" in refusal(composed("constraint=gradient_penalty", compile=True))
    for value in (None, False):
        check_rules(validate(composed("constraint=gradient_penalty", compile=value)))
    check_rules(validate(composed("constraint=spectral_norm", compile=True)))


def test_a_recommended_clip_is_not_taken_under_another_constraint():
    plain = composed("constraint=none", dataset__recommended={**SILENT, "clip": 0.5})
    config, notes = fill(validate(plain))
    assert config.clip is None
    assert not [note for note in notes if note.startswith("clip")]


def test_decay_steps_without_decay_are_refused():
    message = refusal(composed(decay__kind="none", decay__steps=10))
    assert "decay.steps=10" in message
    with pytest.raises(ConfigError, match=r"decay\.steps=10"):
        fill(silent(decay__steps=10))


def known(name: str, **settings: Any) -> DatasetTraits:
    return traits("dataset", composed(f"dataset={name}", **settings)["dataset"])


def test_a_batch_larger_than_a_known_set_is_refused_before_it_is_read():
    sizes = {name: known(name).training_size for name in DATASETS}
    known_sizes = {name: size for name, size in sizes.items() if size is not None}
    assert len(known_sizes) == 8
    for name, size in known_sizes.items():
        message = refusal(composed(f"dataset={name}", batch_size=size + 1))
        assert "batch_size" in message
        assert str(size) in message
        check_rules(validate(composed(f"dataset={name}", batch_size=size)))
    check_rules(validate(composed("dataset=gaussians_ring", batch_size=10**6)))


def test_more_to_evaluate_than_a_known_set_holds_out_is_refused():
    sizes = {name: known(name).held_out_size for name in DATASETS}
    known_sizes = {name: size for name, size in sizes.items() if size is not None}
    assert len(known_sizes) == 12
    for name, size in known_sizes.items():
        words = [f"dataset={name}"]
        message = refusal(composed(*words, eval_samples=size // 2 + 1))
        assert f"at most {size // 2}" in message
        check_rules(validate(composed(*words, eval_samples=size // 2)))


def test_what_is_said_of_data_sets_is_true():
    for made in (digits(), gaussians_ring(), gaussians_grid(), swiss_roll(), parallel_lines()):
        stated = known(made.name)
        assert stated.held_out_size == len(made.held_out)
        assert stated.side == (made.sample_shape[1] if len(made.sample_shape) == 3 else 0)
    assert known("celeba", dataset__size=32).side == 32
    assert known("array").side is None
    assert traits("dataset", {"_target_": "mine.data"}).side is None
    assert traits("dataset", {"_target_": "mine.data", "traits": {"side": 8}}).side == 8


def test_networks_for_images_are_refused_for_others_as_the_networks_do():
    sides = traits("network", composed("model=resnet")["model"]["critic"]).sides
    assert sides == resnet._SIDES
    for side in (*sides, 8, 30, 33, 100):
        words = ["dataset=image_folder", "model=resnet"]
        plain = composed(*words, dataset__size=side)
        if side in sides:
            check_rules(validate(plain))
        else:
            assert f"{side}x{side}" in refusal(plain)
    for model in ("dcgan", "mlp_dcgan"):
        check_rules(validate(composed(f"model={model}", "dataset=digits")))
        assert "divisible by 4" in refusal(
            composed(f"model={model}", "dataset=image_folder", dataset__size=30)
        )
        assert "has points" in refusal(composed(f"model={model}", "dataset=swiss_roll"))


def test_what_gradient_descent_decays_beyond_zero_is_refused():
    for settings in (
        {"optimizer__lr": 0.5, "optimizer__weight_decay": 2},
        {"optimizer__critic__lr": 2, "optimizer__critic__weight_decay": 0.5},
        {"optimizer__generator__weight_decay": 1000, "optimizer__lr": 1e-3},
    ):
        assert "optimizer.weight_decay" in refusal(composed("optimizer=sgd", **settings))
    check_rules(validate(composed("optimizer=sgd", optimizer__lr=0.5, optimizer__weight_decay=1.9)))
    # What the rate is shows when it is filled in: 1e-2.
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.01"):
        fill(validate(composed("optimizer=sgd", optimizer__weight_decay=100)))
    # Others divide by the gradients' size, decay's included.
    check_rules(validate(composed(optimizer__lr=0.5, optimizer__weight_decay=2)))


def test_a_rate_that_both_networks_override_is_neither_taken_nor_filled_in():
    own = {"optimizer__critic__lr": 1e-3, "optimizer__generator__lr": 1e-4}
    assert "optimizer.lr=0.5 has no effect" in refusal(composed(**own, optimizer__lr=0.5))
    config, notes = fill(validate(composed(**own)))
    assert config.optimizer["lr"] is None
    assert not any(note.startswith("optimizer.lr") for note in notes)
    del own["optimizer__critic__lr"]
    check_rules(validate(composed(**own, optimizer__lr=0.5)))


def test_what_is_made_for_one_group_is_refused_in_another():
    assert "another group than loss" in refusal(
        composed(loss___target_="wgan_cli.constraints.Unconstrained")
    )


@pytest.mark.parametrize("value", [2, 1, 0, 0.5, -1])
def test_numbers_are_no_truths(value: float):
    assert f"true or false, not {value}" in refusal(composed(conditional=value))


def test_recommendations_are_taken_and_noted():
    advice = {
        "steps": 77,
        "clip": 0.07,
        "lr": {"rmsprop": 7e-3, "adam": 1.0},
        "decay": "cosine",
        "ema": 0.7,
    }
    config, notes = fill(validate(composed(dataset__recommended=advice)))
    assert (config.steps, config.clip, config.optimizer["lr"]) == (77, 0.07, 7e-3)
    assert (config.decay.kind, config.ema) == ("cosine", 0.7)
    assert config.decay.steps == 77
    for start in ("steps=77", "clip=0.07", "optimizer.lr=0.007", "ema=0.7", "decay.kind=cosine"):
        (note,) = [note for note in notes if note.startswith(start)]
        assert "recommended" in note
        assert "digits" in note


def test_typed_values_beat_recommendations_and_are_not_noted():
    advice = {"steps": 77, "clip": 0.07, "lr": {"rmsprop": 7e-3}, "decay": "cosine", "ema": 0.7}
    advice |= {"latent_dim": 7, "n_critic": 7}
    plain = composed(
        dataset__recommended=advice,
        steps=5,
        latent_dim=3,
        n_critic=2,
        clip=0.5,
        optimizer__lr=0.1,
        ema=0.0,
        decay__kind="none",
    )
    config, notes = fill(validate(plain))
    assert (config.steps, config.clip, config.optimizer["lr"]) == (5, 0.5, 0.1)
    assert (config.latent_dim, config.n_critic) == (3, 2)
    assert (config.decay.kind, config.decay.steps, config.ema) == ("none", None, 0.0)
    assert notes == []


@pytest.mark.parametrize(("optimizer", "rate"), [("rmsprop", 5e-5), ("adam", 1e-4), ("sgd", 1e-2)])
def test_rates_without_a_recommendation(optimizer: str, rate: float):
    config, notes = fill(silent(f"optimizer={optimizer}"))
    assert config.optimizer["lr"] == rate
    (note,) = [note for note in notes if note.startswith("optimizer.lr")]
    assert ("paper" in note) == (optimizer == "rmsprop")


def test_a_recommended_rate_is_for_its_own_optimizer_only():
    plain = composed("optimizer=adam", dataset__recommended={**SILENT, "lr": {"rmsprop": 7e-3}})
    assert fill(validate(plain))[0].optimizer["lr"] == 1e-4


def test_a_networks_own_rate_stays_beside_the_filled_one():
    config, _ = fill(silent(optimizer__critic__lr=0.5))
    assert config.optimizer["lr"] == 5e-5
    assert config.optimizer["critic"]["lr"] == 0.5
    assert config.optimizer["generator"]["lr"] is None


def test_nulls_that_stand_for_a_choice_are_filled_and_noted():
    config, notes = fill(silent())
    assert config.steps == DEFAULT_STEPS
    noted = {note.partition("=")[0] for note in notes}
    assert noted >= {"steps", "latent_dim", "n_critic", "clip", "optimizer.lr", "ema", "decay.kind"}
    assert all("(" in note and note.endswith(")") for note in notes)


def test_decay_runs_over_the_runs_steps_unless_given():
    config, _ = fill(silent(decay__kind="linear", steps=40))
    assert config.decay.steps == 40
    config, _ = fill(silent(decay__kind="linear", decay__steps=10, steps=40))
    assert config.decay.steps == 10


def test_an_own_optimizer_without_a_rate_is_asked_for_one():
    own = {"_target_": "mine.Optimizer", "name": "mine", "lr": None}
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        fill(validate(composed(optimizer=own, dataset__recommended=dict(SILENT))))


@pytest.mark.parametrize("target", sorted(SCHEMAS))
def test_every_target_of_a_schema_can_be_imported(target: str):
    module, _, name = target.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_options_keys_are_its_schemas_fields(option: str):
    def check(node: dict[str, Any], schema: type) -> None:
        fields = {field.name: field for field in dataclasses.fields(schema)}
        assert set(node) == set(fields)
        for name, field in fields.items():
            if dataclasses.is_dataclass(field.default_factory):
                check(node[name], field.default_factory)

    node = OmegaConf.to_container(OmegaConf.load(configs_folder() / f"{option}.yaml"))
    assert isinstance(node, dict)
    parts = [node["generator"], node["critic"]] if option.startswith("model/") else [node]
    for part in parts:
        assert part["_target_"] in SCHEMAS
        check(part, SCHEMAS[part["_target_"]])
    assert node["name"] == option.split("/")[1]


def test_every_root_setting_is_in_train_yaml_with_a_comment():
    text = (configs_folder() / "train.yaml").read_text().splitlines()
    roots = {field.name for field in dataclasses.fields(TrainConfig)} - {*GROUPS, "logger"}
    for name in roots:
        (line,) = [n for n, line in enumerate(text) if line.startswith(f"{name}:")]
        # Settings that stand together share the comment above them.
        above = next(words for words in reversed(text[:line]) if not words[:1].isalpha())
        assert above.startswith("#"), name


def test_every_option_says_what_it_is():
    for path in configs_folder().glob("*/*.yaml"):
        lines = [line for line in path.read_text().splitlines() if "@package" not in line]
        assert lines[0].startswith("# "), path


def test_flatten():
    nested = {"a": {"b": 1, "c": {}}, "d": [1]}
    assert flatten(nested) == {"a.b": 1, "a.c": {}, "d": [1]}
