"""Combine adapters of one base into one LoRA adapter in PEFT's format: the function that `reflora combine` calls.

An adapter changes a weight W [out, in] to W_eff, and what is combined is always W_eff - W: with its scale s, whichever
way s is made of alpha and rank, and with whatever else the adapter does to the weight. Factors are never added to
factors of another adapter: (B1 + B2)(A1 + A2) has the cross terms B1 A2 and B2 A1, which no adapter ever learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.adapter_io.lora import OFFSET_RANKS
from reflora_cli.combining.heads import origin, source_of_head, whole_tensors
from reflora_cli.combining.layers import Layers, can_be_kept, combined_layers, kept_layers, readers_of
from reflora_cli.combining.reading import Reader
from reflora_cli.combining.request import CombineReport, CombineRequest
from reflora_cli.combining.search import search_weights
from reflora_cli.combining.source import Source, check_same_base, read_source, unchecked_base
from reflora_cli.combining.ways import way_of
from reflora_cli.combining.written import Combination, combined_config, combined_record, write
from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.ground.atomic import write_directory
from reflora_cli.methods.settings import Combining, Quantization


def combine(request: CombineRequest, reporter: Reporter = SILENT) -> CombineReport:
    """Write the combination of adapters. reporter: what is shown meanwhile.

    Raises InputError for wrong input, VerificationError when what was written is something else; nothing is left at the
    output then.
    """
    request.check()
    with write_directory(request.output) as directory:
        sources = [read_source(named) for named in request.adapters]
        check_same_base(sources)
        readers = readers_of(sources, request.base, reporter)
        found = search_weights(request, readers, reporter) if request.how is Combining.SEARCH else None
        weights = found.weights if found is not None else request.weights or (1.0,) * len(sources)
        whole = whole_tensors(sources, weights, request.head)
        layers = layers_of(request, readers, weights, reporter)
        report = CombineReport(
            output=str(request.output),
            how=request.how,
            modules=len(layers.ranks),
            rank=max(layers.ranks.values()),
            parameters=sum(tensor.numel() for tensor in (*layers.tensors.values(), *whole.values())),
            adapters=request.adapters,
            weights=tuple(weights),
            lost=layers.share_lost,
            worst=layers.worst_share,
            head=origin(sources, request.head),
            search=found.facts if found is not None else None,
            notes=(*unchecked_base(sources), *quantized_notes(sources)),
        )
        write(directory, combination(request, sources, layers, report), layers.tensors | whole)
    return report


def layers_of(
    request: CombineRequest, readers: Sequence[Reader], weights: Sequence[float], reporter: Reporter
) -> Layers:
    """Return the layers of the combination: made anew, or those of the one adapter that is given."""
    if is_kept(request, [own.source for own in readers], weights):
        return kept_layers(readers[0].source)
    return combined_layers(request, readers, weights, way_of(request), reporter)


def is_kept(request: CombineRequest, sources: Sequence[Source], weights: Sequence[float]) -> bool:
    """Whether the result is the one adapter itself, because it has more than factors."""
    alone = len(sources) == 1 and weights[0] == 1 and request.how is Combining.CONCAT
    return alone and can_be_kept(sources[0])


def combination(
    request: CombineRequest, sources: Sequence[Source], layers: Layers, report: CombineReport
) -> Combination:
    """Return what is written beside the tensors."""
    head = source_of_head(sources, request.head)
    record = combined_record(sources, head, report)
    if is_kept(request, sources, report.weights):
        files = sources[0].files
        kept = {key: own for key, own in files.record.items() if key == OFFSET_RANKS}
        return Combination(sources, head, files.config.model_dump(), record | kept, report)
    return Combination(sources, head, combined_config(sources, head, layers.ranks), record, report)


def quantized_notes(sources: Sequence[Source]) -> list[str]:
    """Say which adapters were trained on a quantized base that is not the one on which they were combined."""
    moved = [own.named for own in sources if own.files.record.get(OFFSET_RANKS) and is_quantized(own)]
    if not moved:
        return []
    what = "training changed its quantized base and quantized it again, which a combination does not do"
    return [f"{', '.join(moved)}: {what}; on a quantized base the combined adapter is slightly off"]


def is_quantized(source: Source) -> bool:
    """Whether an adapter is known to be trained on a quantized base; only runs say so."""
    return source.recipe is not None and source.recipe.model.quantization is not Quantization.NONE
