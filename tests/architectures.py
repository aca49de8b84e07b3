"""Tiny random models of many architectures, one line each: what every test of architectures chooses from.

A record names a configuration class of transformers (without its `Config`) and the settings that make it tiny and
silent (no dropout), and the style of its tokenizer in `tests.tokenizers`. Encoders are 16 wide with 100 tokens and 64
positions, language models 32 wide with the tokens of the package's tiny model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from tests.tokenizers import STYLES, TINY_IDS, VOCABULARY, tiny_tokenizer, word_tokenizer

TINY_TOKENS = 1500


@dataclass(frozen=True)
class Architecture:
    """A configuration, and a tokenizer's style: one of STYLES, or `tiny` for the tiny model's."""

    name: str
    settings: Mapping[str, Any]
    style: str

    def config(self, **changed: Any) -> PretrainedConfig:
        """The configuration, with some settings changed."""
        made: PretrainedConfig = getattr(transformers, f"{self.name}Config")(**{**self.settings, **changed})
        return made

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tiny_tokenizer() if self.style == "tiny" else word_tokenizer(STYLES[self.style])


def encoder(name: str, settings: Mapping[str, Any], style: str = "bert") -> Architecture:
    return Architecture(name, {"vocab_size": VOCABULARY, **STYLES[style].ids, **settings}, style)


def decoder(name: str, settings: Mapping[str, Any]) -> Architecture:
    return Architecture(name, {"vocab_size": TINY_TOKENS, **TINY_IDS, **settings}, "tiny")


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SILENT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = {**SMALL, **SILENT, "max_position_embeddings": 64}
ROBERTA = {**BERT, "max_position_embeddings": 66, "type_vocab_size": 1}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "dropout": 0.0,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "attention_dropout": 0.0,
        "max_position_embeddings": 64, "decoder_start_token_id": 2}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0,
      "decoder_start_token_id": 0}  # fmt: skip
XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "dropout": 0.0, "attention_dropout": 0.0, "pad_index": 0,
       "summary_first_dropout": 0.0, "max_position_embeddings": 64}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
BIG_BIRD = {**BERT, "max_position_embeddings": 128}

ENCODERS: dict[str, Architecture] = {
    "albert": encoder("Albert", {**BERT, "embedding_size": 8, "classifier_dropout_prob": 0.0}),
    "bart": encoder("Bart", BART, "roberta"),
    "bert": encoder("Bert", BERT),
    "bert-dropout": encoder("Bert", {**BERT, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}),
    "bigbird": encoder("BigBird", BIG_BIRD),
    "bigbird-sparse": encoder("BigBird", {**BIG_BIRD, "block_size": 4, "num_random_blocks": 1}),
    "camembert": encoder("Camembert", ROBERTA, "roberta"),
    "convbert": encoder("ConvBert", {**BERT, "embedding_size": 16}),
    "data2vec-text": encoder("Data2VecText", ROBERTA, "roberta"),
    "deberta": encoder("Deberta", {**BERT, **RELATIVE, "pooler_dropout": 0.0, "type_vocab_size": 0}),
    "deberta-v2": encoder(
        "DebertaV2",
        {**BERT, **RELATIVE, "position_biased_input": False, "pooler_hidden_size": 16, "pooler_dropout": 0.0,
         "type_vocab_size": 0},
    ),
    "distilbert": encoder(
        "DistilBert",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0, "attention_dropout": 0.0,
         "seq_classif_dropout": 0.0, "max_position_embeddings": 64},
        "distilbert",
    ),
    "electra": encoder("Electra", {**BERT, "embedding_size": 8}),
    "ernie": encoder("Ernie", BERT),
    "esm": encoder("Esm", {**ROBERTA, "mask_token_id": 4}, "roberta"),
    "eurobert": encoder("EuroBert", {**SMALL, "max_position_embeddings": 64, "mask_token_id": 4}, "roberta"),
    "flaubert": encoder("Flaubert", XLM, "distilbert"),
    "fnet": encoder("FNet", {**BERT, "type_vocab_size": 4}),
    "funnel": encoder(
        "Funnel",
        {"d_model": 16, "d_head": 8, "n_head": 2, "d_inner": 32, "block_sizes": [1, 1], "num_decoder_layers": 1,
         "hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "gte": encoder("Gte", ROBERTA, "roberta"),
    "ibert": encoder("IBert", ROBERTA, "roberta"),
    "layoutlm": encoder("LayoutLM", BERT),
    "longformer": encoder("Longformer", {**ROBERTA, "attention_window": [4, 4]}, "roberta"),
    "luke": encoder("Luke", {**ROBERTA, "entity_vocab_size": 4, "entity_emb_size": 8}, "roberta"),
    "mbart": encoder("MBart", BART, "roberta"),
    "megatron-bert": encoder("MegatronBert", BERT),
    "mobilebert": encoder("MobileBert", {**BERT, "embedding_size": 8, "intra_bottleneck_size": 8}),
    "modernbert": encoder("ModernBert", {**SMALL, "max_position_embeddings": 64, "local_attention": 8}),
    "mpnet": encoder("MPNet", ROBERTA, "roberta"),
    "mra": encoder("Mra", ROBERTA, "roberta"),
    "mt5": encoder("MT5", T5, "t5"),
    "nomic-bert": encoder("NomicBert", BERT),
    "nystromformer": encoder(
        "Nystromformer", {**ROBERTA, "num_landmarks": 4, "segment_means_seq_len": 64, "conv_kernel_size": 5}
    ),
    "reformer": encoder(
        "Reformer",
        {"hidden_size": 16, "num_attention_heads": 2, "attention_head_size": 8, "feed_forward_size": 32,
         "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "num_buckets": 2,
         "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [4, 12], "max_position_embeddings": 64, "hash_seed": 0,
         "hidden_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0},
        "t5",
    ),
    "rembert": encoder("RemBert", {**BERT, "input_embedding_size": 8, "output_embedding_size": 8}),
    "roberta": encoder("Roberta", ROBERTA, "roberta"),
    "roberta-token-types": encoder("Roberta", ROBERTA),
    "roberta-prelayernorm": encoder("RobertaPreLayerNorm", ROBERTA, "roberta"),
    "roc-bert": encoder(
        "RoCBert", {**BERT, "enable_pronunciation": False, "enable_shape": False, "concat_input": False}
    ),
    "roformer": encoder("RoFormer", {**BERT, "embedding_size": 16}),
    "squeezebert": encoder("SqueezeBert", {**BERT, "embedding_size": 16}),
    "t5": encoder("T5", T5, "t5"),
    "umt5": encoder("UMT5", T5, "t5"),
    "xlm": encoder("XLM", XLM, "distilbert"),
    "xlm-roberta": encoder("XLMRoberta", ROBERTA, "roberta"),
    "xlnet": encoder(
        "XLNet", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "dropout": 0.0, "summary_last_dropout": 0.0},
        "xlnet",
    ),
    "xmod": encoder("Xmod", {**ROBERTA, "default_language": "en_XX"}, "roberta"),
    "yoso": encoder("Yoso", {**ROBERTA, "use_expectation": True}, "roberta"),
}  # fmt: skip

LARGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
PLAIN = {**LARGE, "intermediate_size": 48}
SHARED = {**PLAIN, "num_key_value_heads": 2}
HEADED = {**SHARED, "head_dim": 8}
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
          "first_k_dense_replace": 1}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
STATES = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MAMBA2 = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8}
WINDOW = 16

DECODERS: dict[str, Architecture] = {
    "arcee": decoder("Arcee", SHARED),
    "bamba": decoder("Bamba", {**SHARED, **MAMBA2, "attn_layer_indices": [1]}),
    "bart-decoder": decoder("Bart", {**BART, "bos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 256}),
    "biogpt": decoder("BioGpt", {**PLAIN, **SILENT}),
    "bitnet": decoder("BitNet", SHARED),
    "bloom": decoder("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **STILL}),
    "codegen": decoder("CodeGen", {**GPT2, "rotary_dim": 4}),
    "cohere": decoder("Cohere", SHARED),
    "cohere2": decoder("Cohere2", {**SHARED, "sliding_window": WINDOW}),
    "ctrl": decoder("CTRL", {**GPT2, "dff": 48}),
    "dbrx": decoder(
        "Dbrx",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256,
         "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
         "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "deepseek-v2": decoder("DeepseekV2", {**PLAIN, **LATENT, **ROUTED}),
    "deepseek-v3": decoder("DeepseekV3", {**PLAIN, **LATENT, **ROUTED, "n_group": 2, "topk_group": 1}),
    "diffllama": decoder("DiffLlama", SHARED),
    "doge": decoder("Doge", SHARED),
    "ernie4.5": decoder("Ernie4_5", HEADED),
    "exaone4": decoder("Exaone4", {**SHARED, "sliding_window": WINDOW}),
    "falcon": decoder("Falcon", {**LARGE, **STILL}),
    "falcon-alibi": decoder("Falcon", {**LARGE, **STILL, "alibi": True}),
    "falcon-new": decoder(
        "Falcon", {**LARGE, **STILL, "new_decoder_architecture": True, "num_kv_heads": 2}
    ),
    "falcon-h1": decoder("FalconH1", {**SHARED, **MAMBA2, "mamba_d_ssm": 64}),
    "falcon-mamba": decoder("FalconMamba", {**STATES, "time_step_rank": 4}),
    "gemma": decoder("Gemma", HEADED),
    "gemma2": decoder("Gemma2", {**HEADED, "final_logit_softcapping": 3.0, "sliding_window": WINDOW}),
    "gemma3": decoder("Gemma3Text", {**HEADED, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "glm": decoder("Glm", HEADED),
    "glm4": decoder("Glm4", HEADED),
    "glm4-moe": decoder("Glm4Moe", {**HEADED, **ROUTED}),
    "gpt2": decoder("GPT2", GPT2),
    "gpt-bigcode": decoder("GPTBigCode", GPT2),
    "gpt-j": decoder("GPTJ", {**GPT2, "rotary_dim": 4}),
    "gpt-neo": decoder(
        "GPTNeo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 256, "window_size": WINDOW,
         "attention_types": [[["global", "local"], 1]], "resid_dropout": 0.0, "embed_dropout": 0.0,
         "classifier_dropout": 0.0},
    ),
    "gpt-neox": decoder("GPTNeoX", {**PLAIN, **STILL}),
    "gpt-oss": decoder("GptOss", {**HEADED, **LOCAL_EXPERTS, "sliding_window": WINDOW}),
    "granite": decoder("Granite", {**SHARED, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "granite-moe": decoder("GraniteMoe", {**SHARED, **LOCAL_EXPERTS}),
    "granite-hybrid": decoder(
        "GraniteMoeHybrid",
        {**SHARED, **LOCAL_EXPERTS, **MAMBA2, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    ),
    "helium": decoder("Helium", HEADED),
    "hunyuan": decoder("HunYuanDenseV1", HEADED),
    "jamba": decoder(
        "Jamba",
        {**SHARED, "num_experts": 2, "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2,
         "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    ),
    "jetmoe": decoder("JetMoe", {**SHARED, **LOCAL_EXPERTS, "kv_channels": 8, "num_key_value_heads": 4}),
    "lfm2": decoder("Lfm2", {**SHARED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "llama": decoder("Llama", {**HEADED, "tie_word_embeddings": False}),
    "llama-tied": decoder("Llama", {**HEADED, "tie_word_embeddings": True}),
    "mamba": decoder("Mamba", {**STATES, "time_step_rank": 4}),
    "mamba2": decoder("Mamba2", {**STATES, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}),
    "minicpm3": decoder("MiniCPM3", {**SHARED, **LATENT, "num_key_value_heads": 4, "dim_model_base": 16}),
    "minimax": decoder(
        "MiniMax",
        {**HEADED, **LOCAL_EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    ),
    "mistral": decoder("Mistral", {**HEADED, "sliding_window": None}),
    "mistral-window": decoder("Mistral", {**HEADED, "sliding_window": WINDOW}),
    "mixtral": decoder("Mixtral", {**SHARED, **LOCAL_EXPERTS}),
    "modernbert-decoder": decoder(
        "ModernBertDecoder", {**PLAIN, "local_attention": WINDOW, "cls_token_id": 1, "sep_token_id": 2}
    ),
    "mpt": decoder("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
    "nemotron": decoder("Nemotron", SHARED),
    "olmo": decoder("Olmo", SHARED),
    "olmo-clipped": decoder("Olmo", {**SHARED, "clip_qkv": 0.2}),
    "olmo2": decoder("Olmo2", SHARED),
    "olmo3": decoder("Olmo3", {**SHARED, "sliding_window": WINDOW}),
    "olmoe": decoder("Olmoe", {**SHARED, "num_experts": 4, "num_experts_per_tok": 2}),
    "openai-gpt": decoder("OpenAIGPT", {**GPT2, "summary_first_dropout": 0.0}),
    "opt": decoder("OPT", {**LARGE, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "opt-narrow": decoder("OPT", {**LARGE, "ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "persimmon": decoder("Persimmon", PLAIN),
    "phi": decoder("Phi", PLAIN),
    "phi3": decoder("Phi3", {**SHARED, "sliding_window": WINDOW, "original_max_position_embeddings": 256}),
    "phi-moe": decoder("Phimoe", {**SHARED, **LOCAL_EXPERTS, "router_jitter_noise": 0.0}),
    "qwen2": decoder("Qwen2", SHARED),
    "qwen2-moe": decoder("Qwen2Moe", {**SHARED, **EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3": decoder("Qwen3", HEADED),
    "qwen3-moe": decoder("Qwen3Moe", {**HEADED, **EXPERTS}),
    "qwen3-next": decoder(
        "Qwen3Next",
        {**HEADED, **EXPERTS, "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
         "layer_types": ["linear_attention", "full_attention"]},
    ),
    "recurrentgemma": decoder(
        "RecurrentGemma",
        {**SHARED, "lru_width": 32, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]},
    ),
    "rwkv": decoder(
        "Rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "context_length": 256}
    ),
    "seed-oss": decoder("SeedOss", {**HEADED, "attention_dropout": 0.0, "residual_dropout": 0.0}),
    "smollm3": decoder("SmolLM3", {**SHARED, "no_rope_layers": [1, 0]}),
    "stablelm": decoder("StableLm", SHARED),
    "starcoder2": decoder("Starcoder2", {**SHARED, "sliding_window": WINDOW}),
    "xglm": decoder(
        "XGLM",
        {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "dropout": 0.0, "attention_dropout": 0.0,
         "max_position_embeddings": 256},
    ),
    "xlnet-uni": decoder(
        "XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "dropout": 0.0, "attn_type": "uni"}
    ),
    "zamba2": decoder(
        "Zamba2",
        {**PLAIN, "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8, "num_hidden_layers": 3,
         "layers_block_type": ["mamba", "hybrid", "mamba"], "use_mamba_kernels": False},
    ),
}  # fmt: skip

DECODER_CLASSIFIERS = (
    "bloom", "falcon", "gemma", "gemma3", "glm", "gpt2", "gpt-bigcode", "gpt-neo", "gpt-neox", "gpt-j", "jamba",
    "llama", "mistral-window", "mixtral", "mpt", "opt", "phi", "qwen2", "qwen3", "smollm3", "stablelm", "zamba2",
)  # fmt: skip
"""Those that are tried with a sequence-level head too."""
