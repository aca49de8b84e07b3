"""A stand-in for llama.cpp's llama-quantize: it writes a GGUF file again, with matrices in q4_0 where rows allow it.

Run as `llama_quantize.py SOURCE OUTPUT TYPE`; the file says that its type is TYPE. The environment variable FLAW
makes it wrong: `fails`, `silent` (nothing is written), `tensor` (one is another), `type`, `metadata` or `template`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gguf
import numpy as np

COPIED = ("general.architecture", "general.file_type", "GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")


def write(source: str, output: str, kind: str, flaw: str) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name not in COPIED:
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            value = field.contents()
            if flaw == "metadata" and name.endswith(".context_length"):
                value += 1
            writer.add_key_value(name, value, field.types[0], sub_type)
    writer.add_quantization_version(2)
    writer.add_file_type(gguf.LlamaFileType["MOSTLY_F16" if flaw == "type" else f"MOSTLY_{kind}"])
    for number, tensor in enumerate(reader.tensors, 1):
        print(f"[{number}/{len(reader.tensors)}] {tensor.name}", flush=True)
        add(writer, tensor, flaw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer: Any, tensor: Any, flaw: str) -> None:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if flaw == "tensor" and tensor.name == "blk.1.ffn_up.weight":
        values = np.roll(values, 1, axis=0)
    if values.ndim == 1 or values.shape[-1] % 32:
        writer.add_tensor(tensor.name, values.astype(np.float32 if values.ndim == 1 else np.float16))
    else:
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def main() -> int:
    flaw = os.environ.get("FLAW", "")
    if flaw == "fails":
        print("error: out of luck", file=sys.stderr)
        return 3
    if flaw != "silent":
        source, output, kind = sys.argv[1:]
        write(source, output, kind, flaw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
