"""How often each instruction of the machine code runs, from how often the simulator ran each line of its PTX.

ptxas moves, merges and duplicates instructions, but what lies between two branches runs together: each such
block takes the median over its instructions that stand for exactly one of PTX (memory, matrices, branches,
shuffles). A line of which there are k copies, as in unrolled loops, counts a k-th in each.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping

from benchmarks.gpu_cost_compile import Instruction

CLASSES = ("tensor", "shared", "global", "float", "half", "convert", "mufu", "shuffle", "integer", "control")

_CLASS_OF = {
    "tensor": "HMMA IMMA",
    "shared": "LDS STS LDSM STSM ATOMS MOVM",
    "global": "LDG STG LDGSTS LD ST LDC ULDC LDCU LDL STL",
    "float": "FFMA FFMA2 FADD FADD2 FMUL FMUL2 FMNMX FMNMX3 FSETP FSEL FSET FCHK FSWZADD",
    "half": "HFMA2 HADD2 HMUL2 HMNMX2 HSETP2 HSET2",
    "convert": "F2F F2FP F2I F2IP I2F I2FP I2IP FRND",
    "mufu": "MUFU",
    "shuffle": "SHFL VOTE VOTEU REDUX CREDUX MATCH",
    "control": "BRA BRX BSSY BSYNC EXIT BAR WARPSYNC CALL RET DEPBAR LDGDEPBAR BREAK YIELD BMOV MEMBAR",
}
_LOOKUP = {opcode: name for name, opcodes in _CLASS_OF.items() for opcode in opcodes.split()}

_ONE_TO_ONE = {
    "LDG": "ld.global", "LDS": "ld.shared", "STG": "st.global", "STS": "st.shared", "HMMA": "mma",
    "LDSM": "ldmatrix", "SHFL": "shfl", "BAR": "bar", "MOVM": "movmatrix", "BRA": "bra", "EXIT": "ret",
    "LDGSTS": "cp.async",
}  # fmt: skip
"""Opcodes that stand for one instruction of PTX, and how that begins."""


def class_of(instruction: Instruction) -> str:
    """Of CLASSES; addresses, moves, selections and uniform registers are integer."""
    if re.match(r"HADD2\.F32", instruction.opcode):
        return "convert"
    return _LOOKUP.get(instruction.opcode.split(".")[0], "integer")


def _never_runs(instructions: list[Instruction]) -> bool:
    """Blocks for rare cases: operands that want a subroutine, lanes that have strayed before a shuffle."""
    return any("__internal" in i.text or "COLLECTIVE" in i.opcode for i in instructions)


def weigh(sass: list[Instruction], executed: Mapping[int, tuple[str, int]]) -> dict[str, float]:
    """Executed instructions of a kernel, by class. ``executed``: by line of PTX its opcode and how often."""
    blocks: dict[int, list[Instruction]] = defaultdict(list)
    for instruction in sass:
        blocks[instruction.block].append(instruction)
    stands = {id(i) for i in sass if _stands(i, executed)}
    copies = Counter(i.line for i in sass if id(i) in stands)
    total: dict[str, float] = defaultdict(float)
    for instructions in blocks.values():
        if _never_runs(instructions):
            continue
        sure = [executed[i.line][1] / copies[i.line] for i in instructions if id(i) in stands]
        if not sure:
            sure = [executed[i.line][1] for i in instructions if i.line in executed]
        if not sure:
            continue
        times = statistics.median(sure)
        for instruction in instructions:
            if instruction.opcode != "NOP":
                total[class_of(instruction)] += times
    return total


def _stands(instruction: Instruction, executed: Mapping[int, tuple[str, int]]) -> bool:
    begins = _ONE_TO_ONE.get(instruction.opcode.split(".")[0])
    return (
        begins is not None
        and instruction.line in executed
        and executed[instruction.line][0].startswith(begins)
    )
