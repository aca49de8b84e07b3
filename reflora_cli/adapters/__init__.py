"""Adapter layers and how they come into a model; torch only, a library for any training loop."""

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.lora import LoRALinear

__all__ = ["Adapted", "AdapterLayer", "DoRALinear", "LoRALinear", "adapt"]
