"""PTX in the simulator: instructions by the PTX manual's definitions, divergence, planted faults, counts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tests.support import cudasim

LANES = 32

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry kernel(.param .u64 in, .param .u64 out)
.maxntid 64, 1, 1
{
    .reg .pred %p<8>;
    .reg .b16 %h<8>;
    .reg .f32 %f<16>;
    .reg .b32 %r<32>;
    .reg .b64 %rd<16>;
    ld.param.u64 %rd0, [in];
    ld.param.u64 %rd1, [out];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd2, %r0, 4;
    add.s64 %rd3, %rd0, %rd2;  // of this thread
    add.s64 %rd4, %rd1, %rd2;
    mov.u32 %r30, memory;
    shl.b32 %r31, %r0, 2;
    add.u32 %r31, %r30, %r31;
BODY
    ret;
}
"""


def run(
    body: str, given: Tensor, size: int = 64, threads: int = LANES, shared: int = 1024, blocks: int = 1
) -> tuple[str, Tensor]:
    """What the simulator says, and the ``size`` words that the kernel has written."""
    out = torch.full((size,), -1, dtype=torch.int32)
    lib = cudasim.library(only_compiled=True)
    lib.configure(0, True)
    buffers = [
        (given.data_ptr(), given.numel() * given.element_size(), "in", False),
        (out.data_ptr(), out.numel() * 4, "out", True),
    ]
    return lib.run_ptx(KERNEL.replace("BODY", body), blocks, threads, shared, buffers), out


def result(body: str, given: Tensor, **launch: int) -> Tensor:
    error, out = run(body, given, **launch)
    assert error == ""
    return out


def each(instruction: str, *operands: Tensor) -> Tensor:
    """``instruction`` with %1, %2, %3 for the operands and %0 for the result, in 32 lanes; all of 32 bits."""
    given = torch.stack([x.contiguous().view(torch.int32) for x in operands])
    loads = "".join(f"ld.global.b32 %r{i + 1}, [%rd3+{4 * LANES * i}];\n" for i in range(len(operands)))
    body = re.sub(r"%(\d)", r"%r\1", instruction.replace("%0", "%9"))
    return result(f"{loads}{body}\nst.global.b32 [%rd4], %r9;", given)[:LANES]


def floats(*special: float) -> Tensor:
    return torch.cat([torch.tensor(special), torch.randn(LANES - len(special)) * 4])


def pairs(dtype: torch.dtype) -> Tensor:
    return (torch.randn(2 * LANES) * 3).to(dtype)


@pytest.mark.parametrize("ftz", ["", ".ftz"])
def test_float32(ftz):
    a, b, c = floats(1e-40, 0.0, -0.0), floats(2.0, 1e-39, 0.0), floats(0.0)
    flush = (lambda x: torch.where(x.abs() < 2.0**-126, 0 * x, x)) if ftz else (lambda x: x)
    for instruction, want in (
        (f"add{ftz}.f32 %0, %1, %2;", flush(flush(a) + flush(b))),
        (f"mul{ftz}.f32 %0, %1, %2;", flush(flush(a) * flush(b))),
        (
            f"fma.rn{ftz}.f32 %0, %1, %2, %3;",
            flush((flush(a).double() * flush(b).double() + c.double()).float()),
        ),
        (f"ex2.approx{ftz}.f32 %0, %1;", torch.exp2(flush(a))),
    ):
        got = each(instruction, a, b, c).view(torch.float32)
        torch.testing.assert_close(got, want, rtol=2e-7, atol=0)


def test_nan_in_minimum_and_maximum():
    a, b = floats(torch.nan, 1.0, -0.0), floats(2.0, torch.nan, 0.0)
    torch.testing.assert_close(each("max.f32 %0, %1, %2;", a, b).view(torch.float32), torch.fmax(a, b))
    torch.testing.assert_close(each("min.f32 %0, %1, %2;", a, b).view(torch.float32), torch.fmin(a, b))
    got = each("max.NaN.f32 %0, %1, %2;", a, b).view(torch.float32)
    torch.testing.assert_close(got, torch.maximum(a, b), equal_nan=True)


@pytest.mark.parametrize(("name", "dtype"), [("f16x2", torch.float16), ("bf16x2", torch.bfloat16)])
def test_pairs(name, dtype):
    """Each rounded once: as from float64."""
    a, b, c = pairs(dtype), pairs(dtype), pairs(dtype)
    c[:LANES] = (a.double() * b.double()).to(dtype)[:LANES].neg()  # what is left is the product's rounding
    wide = [x.double() for x in (a, b, c)]
    for instruction, want in (
        ("fma.rn", wide[0] * wide[1] + wide[2]),
        ("add", wide[0] + wide[1]),
        ("sub", wide[0] - wide[1]),
        ("mul", wide[0] * wide[1]),
        ("max", torch.maximum(wide[0], wide[1])),
        ("neg", -wide[0]),
        ("abs", wide[0].abs()),
    ):
        count = {"fma.rn": 3, "neg": 1, "abs": 1}.get(instruction, 2)
        operands = "".join(f", %{i + 1}" for i in range(count))
        got = each(f"{instruction}.{name} %0{operands};", a, b, c).view(dtype)
        torch.testing.assert_close(got, want.to(dtype), rtol=0, atol=0)
    got = each(f"ex2.approx.ftz.{name} %0, %1;", a).view(dtype)
    torch.testing.assert_close(got, torch.exp2(a.float()).to(dtype), rtol=0.01, atol=0)


def test_conversions():
    a, b = floats(70000.0, torch.inf, 1 + 2**-11), floats(-1.5)
    both = torch.stack([b, a], 1)
    for name, dtype in (("f16x2", torch.float16), ("bf16x2", torch.bfloat16)):
        got = each(f"cvt.rn.{name}.f32 %0, %1, %2;", a, b)
        torch.testing.assert_close(got.view(dtype).view(LANES, 2), both.to(dtype), rtol=0, atol=0)
    x = floats(3e9, torch.nan, -2.5, 2.5, 0.5)
    want = torch.tensor([2**31 - 1, 0, -2, 2, 0], dtype=torch.int32)
    assert torch.equal(each("cvt.rni.s32.f32 %0, %1;", x)[:5], want)
    half = torch.randn(LANES).to(torch.float16)
    bits = half.view(torch.int16).to(torch.int32)
    got = each("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}", bits)
    assert torch.equal(got.view(torch.float32), half.float())


def test_conversion_of_the_lower_half_of_a_register():
    x = torch.randint(-(2**31), 2**31, (LANES,), dtype=torch.int32)
    body = """ld.global.b32 %r1, [%rd3]; mov.b64 %rd5, {%r1, %r0}; cvt.s64.s32 %rd6, %rd5;
    shr.s64 %rd6, %rd6, 8; cvt.u32.u64 %r2, %rd6; st.global.b32 [%rd4], %r2;"""
    assert torch.equal(result(body, x)[:LANES], x >> 8)


def test_bits():
    a, b, c = (torch.randint(-(2**31), 2**31, (LANES,), dtype=torch.int32) for _ in range(3))
    wide = [x.to(torch.int64) & 0xFFFFFFFF for x in (a, b, c)]

    def same(instruction: str, want: Tensor) -> None:
        got = each(instruction, a, b, c).to(torch.int64) & 0xFFFFFFFF
        assert torch.equal(got, want & 0xFFFFFFFF), instruction

    same("lop3.b32 %0, %1, %2, %3, 0xCA;", (wide[0] & wide[1]) | (~wide[0] & wide[2]))
    same("prmt.b32 %0, %1, %2, 0x5410;", (wide[0] & 0xFFFF) | (wide[1] << 16))
    same("prmt.b32 %0, %1, %2, 0x7632;", (wide[0] >> 16) | (wide[1] & 0xFFFF0000))
    same("shf.l.wrap.b32 %0, %1, %2, 8;", (wide[1] << 8) | (wide[0] >> 24))
    same("bfe.u32 %0, %1, 4, 9;", wide[0] >> 4 & 511)
    same("bfi.b32 %0, %1, %2, 8, 4;", (wide[1] & ~(15 << 8)) | ((wide[0] & 15) << 8))
    same(
        "mul.hi.u32 %0, %1, %2;",
        torch.tensor([x * y >> 32 for x, y in zip(wide[0].tolist(), wide[1].tolist(), strict=True)]),
    )
    same("mad.lo.s32 %0, %1, %2, %3;", wide[0] * wide[1] + wide[2])


LOOP = """
    and.b32 %r1, %r0, 7;
    mov.u32 %r2, 0;
    setp.eq.s32 %p1, %r1, 0;
    @%p1 bra $done;
$again:
    setp.eq.s32 %p2, %r2, 5;
    @%p2 bra $done;
    add.s32 %r2, %r2, 1;
    setp.lt.s32 %p3, %r2, %r1;
    @%p3 bra $again;
$done:
    shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
    st.global.u32 [%rd4], %r3;
"""


def test_lanes_that_part_meet_again():
    """Loops that end at different times, by two exits: all lanes take part in the shuffle behind them."""
    turns = (torch.arange(64) % 8).clamp(max=5)
    want = turns[torch.arange(64) ^ 1].to(torch.int32)
    assert torch.equal(result(LOOP, torch.zeros(64), threads=64), want)


def fragments(matrix: Tensor, per_word: int) -> Tensor:
    """[rows, columns] in registers: [tiles of 8 rows and 4 words, 32 lanes], the columns' tiles last."""
    rows, columns = matrix.shape
    words = matrix.contiguous().view(torch.int32).view(rows // 8, 8, columns // (4 * per_word), 4)
    return words.permute(2, 0, 1, 3).reshape(-1, LANES)


@pytest.mark.parametrize(
    ("shape", "kind", "dtype"),
    [
        ("m16n8k16", "f16", torch.float16),
        ("m16n8k8", "f16", torch.float16),
        ("m16n8k16", "bf16", torch.bfloat16),
        ("m16n8k8", "bf16", torch.bfloat16),
        ("m16n8k8", "tf32", torch.float32),
        ("m16n8k4", "tf32", torch.float32),
    ],
)
def test_matrix_products(shape, kind, dtype):
    depth = int(shape.split("k")[1])
    a, b = (torch.randint(-4, 5, size).to(dtype) for size in ((16, depth), (8, depth)))
    per_word = 4 // a.element_size()
    left, right = fragments(a, per_word), fragments(b, per_word)
    loads = "".join(f"ld.global.b32 %r{i + 4}, [%rd3+{128 * i}];\n" for i in range(len(left) + len(right)))
    names = [f"%r{i + 4}" for i in range(len(left) + len(right))]
    a_words, b_words = ", ".join(names[: len(left)]), ", ".join(names[len(left) :])
    sums = "%f0, %f1, %f2, %f3"
    multiply = f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32"
    body = f"""{loads}
    mov.f32 %f0, 0f3F800000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
    {multiply} {{{sums}}}, {{{a_words}}}, {{{b_words}}}, {{{sums}}};
    st.global.f32 [%rd4], %f0; st.global.f32 [%rd4+128], %f1;
    st.global.f32 [%rd4+256], %f2; st.global.f32 [%rd4+384], %f3;"""
    got = result(body, torch.cat([left, right]), size=128).view(torch.float32)
    got = got.view(2, 2, 8, 4).permute(0, 2, 3, 1).reshape(16, 8)  # [half, of a pair, row, pair]
    assert torch.equal(got, 1 + a.float() @ b.float().T)


@pytest.mark.parametrize("depth", [8, 16])
def test_matrix_products_with_sums_of_float16(depth):
    """Rounded once, behind all of a product: from 2048 on float16 has even numbers only."""
    a, b = (torch.randint(-4, 5, size).to(torch.float16) for size in ((16, depth), (8, depth)))
    left, right = fragments(a, 2), fragments(b, 2)
    names = [f"%r{i + 4}" for i in range(len(left) + len(right))]
    loads = "".join(f"ld.global.b32 {name}, [%rd3+{128 * i}];\n" for i, name in enumerate(names))
    a_words, b_words = ", ".join(names[: len(left)]), ", ".join(names[len(left) :])
    multiply = f"mma.sync.aligned.m16n8k{depth}.row.col.f16.f16.f16.f16"
    body = f"""{loads}
    mov.u32 %r2, 0x67ff67ff; mov.u32 %r3, %r2;
    {multiply} {{%r2, %r3}}, {{{a_words}}}, {{{b_words}}}, {{%r2, %r3}};
    st.global.b32 [%rd4], %r2; st.global.b32 [%rd4+128], %r3;"""
    got = result(body, torch.cat([left, right]), size=64).view(torch.float16).view(16, 8)
    assert torch.equal(got, (2047 + a.float() @ b.float().T).half())


@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_ldmatrix(transposed):
    """Two matrices from shared memory, the second's rows in reverse order."""
    matrices = torch.arange(128, dtype=torch.int16).view(2, 8, 8)
    words = matrices.flatten().view(torch.int32)
    body = f"""
    ld.global.b32 %r1, [%rd3]; ld.global.b32 %r2, [%rd3+128];
    st.shared.b32 [%r31], %r1; st.shared.b32 [%r31+128], %r2;
    bar.warp.sync -1;
    and.b32 %r3, %r0, 15;
    xor.b32 %r4, %r3, 7;
    setp.lt.u32 %p1, %r3, 8;
    selp.b32 %r3, %r3, %r4, %p1;
    shl.b32 %r3, %r3, 4;
    add.u32 %r3, %r3, %r30;
    ldmatrix.sync.aligned.m8n8.x2{transposed}.shared.b16 {{%r5, %r6}}, [%r3];
    st.global.b32 [%rd4], %r5; st.global.b32 [%rd4+128], %r6;"""
    want = torch.stack([matrices[0], matrices[1].flip(0)])
    want = want.mT.contiguous() if transposed else want
    got = result(body, words).view(torch.int16).view(2, 8, 8)
    assert torch.equal(got, want)


def test_movmatrix():
    matrix = torch.randn(8, 8).to(torch.float16)
    body = """ld.global.b32 %r1, [%rd3];
    movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;
    st.global.b32 [%rd4], %r2;"""
    got = result(body, matrix)[:LANES].view(torch.float16).view(8, 8)
    assert torch.equal(got, matrix.T)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.v2.b32 {%r1, %r2}, [%rd3];", r"thread \(1, 0, 0\): misaligned read of 8 bytes"),
        ("st.shared.b64 [%r30+4], %rd0;", "misaligned write of 8 bytes"),
        ("ld.shared.b32 %r1, [%r31];", "read of unwritten shared memory at byte 0"),
        (
            "st.shared.b32 [%r31+960], %r0;",
            "write of 4 bytes at 1024, outside the 1024 bytes of shared memory",
        ),
        ("st.shared.b32 [%r31+-4], %r0;", "write of 4 bytes at -4, outside the 1024 bytes of shared memory"),
        (
            "st.shared.b32 [%r30], %r0;",
            r"second write to shared memory at byte 0, which thread 0 has written",
        ),
        (
            "st.shared.b32 [%r31], %r0; xor.b32 %r1, %r31, 4; ld.shared.b32 %r2, [%r1];",
            r"read of shared memory at byte 4, which thread 1 has written since the last barrier",
        ),
        ("st.global.b32 [%rd3], %r0;", "write to in, which is read-only"),
        ("st.global.b32 [%rd4+512], %r0;", "write of 4 bytes outside every buffer of global memory"),
        (
            "setp.lt.u32 %p1, %r0, 8; @%p1 bar.sync 0;",
            r"divergent barrier: part of a warp waits at PTX line \d+",
        ),
        ("setp.lt.u32 %p1, %r0, 32; @%p1 bra $there; bar.sync 0;\n$there:", "deadlock"),
        (
            "setp.lt.u32 %p1, %r0, 8; @%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;",
            "part of a warp executes shfl.sync.bfly.b32",
        ),
        ("shfl.sync.bfly.b32 %r1, %r0, 1, 31, 255;", "shfl.sync with a mask that is not full"),
    ],
)
def test_planted_faults(body, message):
    """Told with kernel, block and, where it is one, thread."""
    error, _ = run(body, torch.zeros(64), threads=64)
    assert re.search(message, error), error
    assert re.match(r"kernel, block \(0, 0, 0\)", error), error


def test_blocks_collide():
    error, _ = run("st.global.b32 [%rd4], %r0;", torch.zeros(64), blocks=2)
    assert re.search(r"write to out at byte \d+, which block \d writes in the same launch", error), error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("tex.1d.v4.f32.s32 %f0, %f1;", r"PTX line 23 of kernel: unknown instruction tex\.1d\.v4\.f32\.s32"),
        ("add.s32 %r1, %rd0, 1;", "operand %rd0 has the wrong type"),
        ("add.s32 %r1, %r0;", r"wrong number of operands of add\.s32"),
        ("add.s32 %r1, %r0, %q7;", "unknown operand %q7"),
        ("bra $nowhere;", r"unknown label \$nowhere"),
        (".local .b8 depot[8];", "PTX line 23: .local: kernels must not need local memory"),
    ],
)
def test_what_it_does_not_know(body, message):
    with pytest.raises(RuntimeError, match=message):
        run(body, torch.zeros(64))


@pytest.mark.parametrize(
    ("body", "wavefronts", "ideal"),
    [
        ("ld.shared.b32 %r1, [%r31];", 1, 1),
        ("ld.shared.b32 %r1, [%r30];", 1, 1),
        ("shl.b32 %r3, %r0, 3; add.u32 %r3, %r3, %r30; ld.shared.b32 %r1, [%r3];", 2, 1),
        ("shl.b32 %r3, %r0, 7; add.u32 %r3, %r3, %r30; ld.shared.b32 %r1, [%r3];", 32, 1),
        ("shl.b32 %r3, %r0, 4; add.u32 %r3, %r3, %r30; ld.shared.v2.b64 {%rd5, %rd6}, [%r3];", 4, 4),
        ("shl.b32 %r3, %r0, 5; add.u32 %r3, %r3, %r30; ld.shared.v2.b64 {%rd5, %rd6}, [%r3];", 8, 4),
    ],
)
def test_bank_conflicts_are_counted(body, wavefronts, ideal):
    lib = cudasim.library(only_compiled=True)
    lib.configure(1, False)
    lib.measure(1)
    try:
        out = torch.zeros(64, dtype=torch.int32)
        buffer = (out.data_ptr(), 256, "out", True)
        assert lib.run_ptx(KERNEL.replace("BODY", body), 3, LANES, 4096, [buffer, buffer]) == ""
        (launch,) = lib.measured()
    finally:
        lib.measure(0)
    (line,) = (line for line in launch["lines"] if line[1].startswith("ld.shared"))
    assert launch["grid"] == (3, 1, 1)
    assert launch["blocks"] == 3, "the first, the last and one between"
    assert line[2:6] == (3, 3 * LANES, 3 * wavefronts, 3 * ideal)


def test_samples_stand_for_all_blocks():
    """Of 4 x 3 tiles the corners and a tile of each edge; of two images twice as many; all where few are."""
    lib = cudasim.library(only_compiled=True)
    assert dict(lib.sample(12, 1, 4, 1)) == {0: 1, 2: 2, 3: 1, 4: 1, 6: 2, 7: 1, 8: 1, 10: 2, 11: 1}
    assert sum(weight for _, weight in lib.sample(12, 2, 4, 1)) == 24
    assert dict(lib.sample(12, 1, 4, 100)) == dict.fromkeys(range(12), 1)
    assert dict(lib.sample(120, 1, 10, 24))[119] == 1
    assert sum(weight for _, weight in lib.sample(120, 1, 10, 24)) == pytest.approx(120)
    assert dict(lib.sample(5, 1, 1, 0)) == dict.fromkeys(range(5), 1)
