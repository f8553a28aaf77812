# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The files of a training run: its state, from which it resumes, and the averaged weights.

A state file holds tensors, numbers and text only, and is read with `weights_only=True`, so that no code in it is
executed. The state of random generators is not saved, because every batch is drawn from its own generator.
"""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path, remove_abandoned_temporaries
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.optimizer import Ema

logger = logging.getLogger(__name__)

FORMAT = "multihmr2_ros training state 1"
KEPT_STATES = 2
WEIGHTS_FILE = "network.safetensors"


@dataclass
class TrainingProgress:
    """Progress of a run: finished steps, images used, seconds of training."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0


def list_state_paths(folder: Path) -> list[Path]:
    """Return the paths of the run's states, the newest last."""
    return sorted(folder.glob("state-*.pt"))


def describe_missing_state(folder: Path) -> UserError:
    """Return the error for a folder without a state to resume from."""
    return UserError(
        f"expected the state of a training run in {folder}, found none; start a run without --resume, in a new folder"
    )


def save_state(
    folder: Path,
    network: MultiHMR2,
    ema: Ema[MultiHMR2],
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    config: TrainingConfig,
    data: dict[str, Any],
) -> Path:
    """Write the state and the averaged weights, each atomically, and remove all states but the newest KEPT_STATES.

    data: as `Session.data`.
    Temporary files that a killed run left are removed, too.
    """
    state: dict[str, Any] = {
        "format": FORMAT,
        "network_config": json.dumps(vars(network.config), sort_keys=True),
        "training_config": json.dumps(config.to_dict(), sort_keys=True),
        "data": json.dumps(data, sort_keys=True),
        "progress": vars(progress),
        "network": network.state_dict(),
        "ema": ema.network.state_dict(),
        "ema_updates": ema.updates,
        "optimiser": optimizer.state_dict(),
    }
    path = folder / f"state-{progress.step:08d}.pt"
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's error for a full disk
            raise OSError(" ".join(str(error).split())[:200]) from error
    metadata = {"training": state["training_config"], "step": str(progress.step)}
    checkpoint.save_network(ema.network, folder / WEIGHTS_FILE, metadata=metadata)
    for name in ("state-", WEIGHTS_FILE):
        remove_abandoned_temporaries(folder, name)
    for old in list_state_paths(folder)[:-KEPT_STATES]:
        old.unlink(missing_ok=True)
    return path


def load_state(
    folder: Path,
    network: MultiHMR2,
    ema: Ema[MultiHMR2],
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    data: dict[str, Any],
    device: torch.device,
) -> TrainingProgress:
    """Load the newest complete state of a folder into the network, its average and the optimizer.

    Settings of `config` replace those of the state, and the run continues on other `data`, if given; one warning lists
    the differences. Raises UserError if there is no
    state, or if it is of another network, of other trained parameters, or of a later step than the last of `config`.
    """
    state = _find_newest(folder, device)
    progress = TrainingProgress(**state["progress"])
    if progress.step > config.steps:
        raise UserError(
            f"the run in {folder} has done {progress.step} steps, but --steps is {config.steps}; give more --steps"
        )
    _check_network(state, network, folder)
    _check_trained_tensors(state, optimizer, folder)
    before = json.loads(state["training_config"]) | json.loads(state.get("data", "{}"))  # older states lack data
    changes = list_changed_settings(before, config.to_dict() | data)
    if changes:
        logger.warning("%s is resumed with other settings: %s", folder, ", ".join(changes))
    network.load_state_dict(state["network"])
    ema.network.load_state_dict(state["ema"])
    ema.updates = state["ema_updates"]
    asked = [{name: group[name] for name in ("peak", "weight_decay", "betas")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimiser"])
    for group, settings in zip(optimizer.param_groups, asked, strict=True):
        group.update(settings)  # the current settings, not those of the state
    return progress


def list_changed_settings(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return a text for each setting with another value than the stored one: its name, its value, and the stored value.

    Stored settings may lack some, because they are of an older version; these are left out.
    """
    before, now = _flatten(stored), _flatten(json.loads(json.dumps(current)))
    return [f"{name} {now[name]} (before {before[name]})" for name in now if before.get(name, now[name]) != now[name]]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _check_network(state: dict[str, Any], network: MultiHMR2, folder: Path) -> None:
    """Raise UserError if the state is of a network with another configuration."""
    theirs = vars(NetworkConfig.from_dict(json.loads(state["network_config"])))  # older states lack newer options
    ours = vars(network.config)
    if theirs != ours:
        name = next(name for name in sorted(ours) if theirs[name] != ours[name])
        raise UserError(
            f"expected a network with {name} {theirs[name]}, as in the run in {folder}, got {ours[name]}; "
            "resume with the same --network, or choose another --out"
        )


def _check_trained_tensors(state: dict[str, Any], optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Raise UserError if the state's optimizer is of other tensors, or of the same ones in another order."""
    groups = state["optimiser"]["param_groups"]
    theirs_groups, our_groups = ([len(group["params"]) for group in each] for each in (groups, optimizer.param_groups))
    if theirs_groups != our_groups:
        raise UserError(
            f"expected {sum(theirs_groups)} trained tensors, as in the run in {folder}, got {sum(our_groups)}; resume "
            "with the same --encoder-rate (0 freezes the encoder), or choose another --out"
        )
    # Pretrained convolutions are ordered by the size of their initial weights.
    numbers = [number for group in groups for number in group["params"]]
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    moments = state["optimiser"]["state"]  # without tensors that never had a gradient
    if any(
        number in moments and moments[number]["exp_avg"].shape != tensor.shape
        for number, tensor in zip(numbers, tensors, strict=True)
    ):
        raise UserError(
            f"the run in {folder} started from another encoder; resume with the same --encoder-weights or --from, or "
            "choose another --out"
        )


def _find_newest(folder: Path, device: torch.device) -> dict[str, Any]:
    for path in reversed(list_state_paths(folder)):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            logger.warning("%s is not a complete state (%s); it is skipped", path, type(error).__name__)
            continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return state
        logger.warning("%s was not written by multihmr2 train; it is skipped", path)
    raise describe_missing_state(folder)
