"""Fine-tune transformers with low-rank adapters: LoRA, DoRA, RefLoRA and RefLoRA-S."""

__version__ = "0.1.0"
