"""Say what an adapter has changed, module by module: the function that `reflora inspect` calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.adapter_io.lora import EARLY_RANKS, OFFSET_RANKS
from reflora_cli.combining.combine import is_quantized
from reflora_cli.combining.source import Source, check_same_base, unchecked_base
from reflora_cli.console.reporter import SILENT, Reporter, Work
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import expanded
from reflora_cli.inspecting.effects import Part
from reflora_cli.inspecting.modules import Module, measured
from reflora_cli.inspecting.names import depth_of, kinds_of
from reflora_cli.inspecting.parts import PartReader, read_inspected
from reflora_cli.inspecting.spectra import Triplets, triplets_of
from reflora_cli.inspecting.subspaces import Alike, alike
from reflora_cli.inspecting.summary import Group, by_depth, by_kind, grouped
from reflora_cli.inspecting.weights import BaseWeights, check_modules, open_base

FOLDER = "inspection"
"""Where the files of an inspection are, in the directory of the run or the adapter."""


@dataclass(frozen=True)
class InspectRequest:
    """What to inspect.

    adapter, other: runs or adapter directories, as the user names them. base: where the base is; None for where it was.
    output: where the files go; None for a folder in the first adapter's directory.
    """

    adapter: str
    other: str | None = None
    base: str | None = None
    output: Path | None = None

    @property
    def place(self) -> Path:
        """The directory of the files."""
        return self.output or expanded(self.adapter) / FOLDER


@dataclass(frozen=True)
class Inspection:
    """What was found. base: the name of the base whose weights were read; None where they were not at hand. modules:
    those of the adapter. pairs: the modules of which both adapters have a change of low rank. total, kinds, depths:
    over modules. notes: what a reader must know.
    """

    adapter: str
    other: str | None
    base: str | None
    modules: tuple[Module, ...]
    pairs: tuple[Alike, ...]
    total: Group
    kinds: tuple[Group, ...]
    depths: tuple[Group, ...]
    notes: tuple[str, ...]


def inspect(request: InspectRequest, reporter: Reporter = SILENT) -> Inspection:
    """Return what an adapter has changed. reporter: what is shown meanwhile. Raises InputError for wrong input."""
    source = read_inspected(request.adapter)
    other = None if request.other is None else read_inspected(request.other)
    both = [source] if other is None else [source, other]
    check_same_base(both)
    base, absent = base_at_hand(both, request.base, reporter)
    modules, pairs = every_module(readers_of(both, base), base, reporter)
    if other is not None and not pairs:
        what = "the adapters have no module in common"
        expected = "two adapters that both have a low-rank change of the same module"
        raise InputError(Problem(what, f"{source.named} and {other.named}", expected=expected))
    found = {own.module: own for own in pairs}
    return Inspection(
        adapter=request.adapter,
        other=request.other,
        base=None if base is None else base.name,
        modules=tuple(modules),
        pairs=tuple(pairs),
        total=grouped("all", modules, found),
        kinds=by_kind(modules, found),
        depths=by_depth(modules, found),
        notes=(*absent, *notes_on(both, modules, base)),
    )


def base_at_hand(
    sources: Sequence[Source], place: str | None, reporter: Reporter
) -> tuple[BaseWeights | None, tuple[str, ...]]:
    """Return the base's weights, or None and why they are not at hand. Raises InputError for a place that the user
    names and that is not the base's.
    """
    try:
        base = open_base(sources[0], place)
    except InputError as error:
        if place is not None:
            raise
        what = error.problems[0]
        reason = f"{what.what} ({what.found})" if what.found else what.what
        missing = "values relative to W, of rescaled rows, and of layers whose shape only the base tells are left out"
        return None, (f"the base's weights are missing: {reason}; {missing}; set the base by --base NAME",)
    for source in sources:
        check_modules(source, base)
    reporter.note(f"reading the weights of {base.name}, one at a time")
    return base, ()


def readers_of(sources: Sequence[Source], base: BaseWeights | None) -> list[PartReader]:
    """Return what reads the parts of the sources."""
    if base is None:
        return [PartReader(own, None) for own in sources]
    return [PartReader(own, base.shapes, base.transposed) for own in sources]


def every_module(
    readers: Sequence[PartReader], base: BaseWeights | None, reporter: Reporter
) -> tuple[list[Module], list[Alike]]:
    """Return what is told of every module of the first adapter, and of those that a second one has too."""
    first, names = readers[0], list(readers[0].source.layers)
    kinds, modules, pairs = kinds_of(names), list[Module](), list[Alike]()
    with reporter.counting(Work("inspect", len(names), "modules")) as tell:
        for done, name in enumerate(names, start=1):
            part = first.part(name)
            if part is not None:
                parameter = name if first.source.files.config.in_place else f"{name}.weight"
                W = None if base is None else base.read(parameter)
                module, found = measured(part, W, kinds[name], depth_of(name))
                modules.append(module)
                pairs += compared(readers[1:], part, found)
            tell(done)
    return modules, pairs


def compared(others: Sequence[PartReader], one: Part, found: Triplets | None) -> list[Alike]:
    """Return how alike the changes of one module are; nothing where not both adapters have one of low rank. found: the
    triplets of the first adapter's change.
    """
    if not others or one.change is None or found is None or one.module not in others[0].source.layers:
        return []
    other = others[0].part(one.module)
    if other is None or other.change is None:
        return []
    if one.shape != other.shape:
        what, expected = "the adapters change weights of different shapes", "adapters of one base"
        shapes = f"{one.shape} and {other.shape}"
        raise InputError(Problem(what, f"module {one.module}", shapes, expected))
    return [alike(one.module, (one.change, other.change), (found, triplets_of(other.change)))]


def notes_on(sources: Sequence[Source], modules: Sequence[Module], base: BaseWeights | None) -> list[str]:
    """Say what a reader of the numbers must know."""
    notes = unchecked_base(sources)
    source = sources[0]
    left = [name for name in source.layers if name not in {own.module for own in modules}]
    if left:
        notes.append(f"{len(left)} modules cannot be inspected without the base, first {left[0]}")
    if source.whole:
        saved = sorted({key.rpartition(".")[0] for key in source.whole})
        notes.append(f"not inspected: modules saved whole ({', '.join(saved[:3])})")
    if source.files.record.get(OFFSET_RANKS):
        notes.append(
            "training moved the base: dW is the change of the checkpoint's W, and `trained` is that of s B A alone"
        )
    if is_quantized(source) or source.files.record.get(EARLY_RANKS):
        notes.append("the adapter was trained on a quantized base: dW is compared with W as the checkpoint holds it")
    if base is not None and (unread := [own.module for own in modules if own.rows is None]):
        notes.append(f"the base's files do not hold the weights of {len(unread)} modules as numbers, first {unread[0]}")
    if any(own.weight and not own.weight.whole for own in modules):
        notes.append("||W||_2 and W's leading subspaces are estimates, of a randomized subspace iteration")
    partial = {reason for own in modules for reason in own.missing if "low rank:" in reason}
    return [*notes, *sorted(partial)]
