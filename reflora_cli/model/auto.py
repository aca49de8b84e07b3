"""transformers' Auto classes, under the names by which the kinds of tasks ask for them.

Nothing here runs code from a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AutoName = Literal["AutoModelForSequenceClassification", "AutoModelForCausalLM"]
"""The names of the Auto classes by which base models are loaded."""


def auto_class(name: AutoName) -> Any:
    """Return the class of this name; transformers is imported only now."""
    import transformers

    return getattr(transformers, name)


def load_config(location: str | Path, revision: str | None = None) -> PretrainedConfig:
    """Return the config of a directory or of a model on the hub. Raises whatever transformers does."""
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
    return config


def load_plain(name: AutoName, directory: Path, dtype: torch.dtype, **arguments: Any) -> Any:
    """Return the model in a directory that this package wrote, as transformers loads it by itself."""
    return auto_class(name).from_pretrained(directory, dtype=dtype, **arguments)


def body_of(config: PretrainedConfig) -> Any:
    """Return the pretrained body of a config's architecture, without weights of its own and without a task's head."""
    from transformers import AutoModel

    return AutoModel.from_config(config, trust_remote_code=False)
