"""Where kernels' images come from: the build's archive, the cache, NVRTC; reasons where there is none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seemore_fast.backends import cuda_programs, kernel_cache, native, nvrtc
from seemore_fast.cli import app
from seemore_fast.engines import cuda_compile
from seemore_fast.errors import BackendError
from seemore_fast.network import reference
from seemore_fast.network.variants import config
from tests.support.repository import ROOT

PROGRAM = ("ops/mix_experts", "-DSM_TYPE=Float32", "")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a build without an archive."""
    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path / "kernels")
    monkeypatch.setattr(cuda_programs, "_archive", lambda: None)
    cuda_programs.obstacle.cache_clear()
    return tmp_path / "kernels"


class Compiler:
    """Stands in for NVRTC."""

    def __init__(self, capabilities: tuple[int, ...] = (80, 90), version: str = "13.0"):
        self.capabilities, self.version, self.calls = capabilities, version, []

    def __str__(self) -> str:
        return self.version

    target = nvrtc.Nvrtc.target

    def compile(self, name: str, source: str, options: list[str]) -> nvrtc.Compiled:
        self.calls.append(options)
        return nvrtc.Compiled(f"{name} {len(self.calls)}".encode(), "log")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(nvrtc, "find", lambda: found)
    monkeypatch.setattr(nvrtc, "Nvrtc", Compiler)
    return found


def image(capability: int = 90, **options: bool) -> bytes:
    (made,) = cuda_programs.images([PROGRAM], capability, **options)
    return made.content


def test_compiled_once_and_kept(compiler, monkeypatch):
    assert [image(), image()] == [b"ops/mix_experts.cu 1"] * 2
    assert "-arch=sm_90" in compiler.calls[0]
    assert "-DSM_TYPE=Float32" in compiler.calls[0]
    assert image(80) == b"ops/mix_experts.cu 2"
    compiler.version = "13.1"
    assert image() == b"ops/mix_experts.cu 3"
    monkeypatch.setattr(cuda_programs, "_fingerprint", lambda: "other sources")
    assert image() == b"ops/mix_experts.cu 4"
    assert image(fresh=True) == b"ops/mix_experts.cu 5"
    assert image() == b"ops/mix_experts.cu 5"


def test_a_card_newer_than_the_compiler_gets_ptx(compiler):
    assert image(103)
    assert "-arch=compute_90" in compiler.calls[0]
    assert cuda_programs.obstacle(103) is None


def test_a_card_older_than_the_compiler(compiler):
    compiler.capabilities = (100, 120)
    with pytest.raises(
        BackendError, match=r"no kernels for compute capability 8\.0, and NVRTC 13\.0 does not know"
    ):
        image(80)
    assert "compute capability 8.0" in cuda_programs.obstacle(80)


def archive(path: Path, comment: str) -> cuda_programs._Archive:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(" ".join(PROGRAM[:2]), b"ahead")
        packed.comment = comment.encode()
    return cuda_programs._Archive(path)


def test_the_archive_comes_first(compiler, monkeypatch, tmp_path):
    found = archive(tmp_path / "kernels.zip", "80 90 +90")
    monkeypatch.setattr(cuda_programs, "_archive", lambda: found)
    assert [image(80), image(86), image(90)] == [b"ahead"] * 3, "cubins run on later minor capabilities"
    assert compiler.calls == []
    assert image(100) == b"ops/mix_experts.cu 1", "what PTX is for, NVRTC does better"
    assert cuda_programs.compiled_ahead() == ["sm_80", "sm_90"]


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(nvrtc, "find", lambda: BackendError("NVRTC is not there"))
    assert (
        cuda_programs.obstacle(90)
        == "there are no kernels for compute capability 9.0, and NVRTC is not there"
    )
    cuda_programs.obstacle.cache_clear()
    found = archive(tmp_path / "kernels.zip", "80 90 +90")
    monkeypatch.setattr(cuda_programs, "_archive", lambda: found)
    assert [image(90), image(120)] == [b"ahead"] * 2, "the driver compiles the PTX"
    assert cuda_programs.obstacle(120) is None


def test_no_library_serves(monkeypatch, tmp_path):
    (tmp_path / "libnvrtc.so.13").write_bytes(b"no library")
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter([str(tmp_path / "libnvrtc.so.13")]))
    nvrtc.find.cache_clear()
    try:
        assert "libnvrtc.so.13 does not serve" in str(nvrtc.find())
    finally:
        nvrtc.find.cache_clear()


def test_info_refuses_what_is_no_gpu():
    for arguments, said in ((["--compile", "h100"], "no kind of GPU"), (["sm_90"], "goes with --compile")):
        result = CliRunner().invoke(app, ["info", *arguments])
        assert result.exit_code == 2
        assert said in result.output


def test_nvrtcs_builtins_are_loaded_before_it(tmp_path, monkeypatch):
    """It opens them by name, and CUDA 13.0's package for Linux does not look beside itself."""
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"):
        (tmp_path / name).touch()
    loaded = []

    def load(path: str) -> None:
        loaded.append(Path(path).name)
        if path.endswith("libnvrtc.so.13"):
            raise OSError("empty")

    monkeypatch.setattr(nvrtc.ctypes, "CDLL", load)
    with pytest.raises(BackendError, match="empty"):
        nvrtc.Nvrtc(str(tmp_path / "libnvrtc.so.13"))
    assert loaded == ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]


def real_compiler() -> nvrtc.Nvrtc:
    found = nvrtc.find()
    if isinstance(found, BackendError):
        pytest.skip(f"{found}")
    return found


def test_nvrtc_compiles_an_operator_without_a_toolkit():
    real_compiler()
    (made,) = cuda_programs.images([PROGRAM], 90)
    assert made.content[:4] == b"\x7fELF"
    assert "pool" in made.log
    with pytest.raises(BackendError, match=r"does not compile nonsense\.cu"):
        real_compiler().compile("nonsense.cu", "nonsense", ["-arch=sm_90"])


NETWORKS = [
    *(config(name) for name in ("t-x2", "t-x3", "t-x4", "b-x2", "b-x4", "l-x4")),
    {"embedding_dim": 64, "recursive": 3},
    {"embedding_dim": 64, "scale": 2, "global_kernel_size": 7, "in_chans": 9},
    {"embedding_dim": 48, "global_kernel_size": 7},
    {"embedding_dim": 36, "global_kernel_size": 7},
    {"embedding_dim": 72},
]
"""All widths; stripes by matrices and by lines; both heads; the three upsamplers; wide."""


@pytest.mark.full
@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 120])
def test_nvrtc_spills_nothing(capability):
    """Every kernel and width, in every precision and for every kind of GPU, as NVRTC fits it to a network."""
    real_compiler()
    kernels = list(
        cuda_compile.compile_all(
            capability, [reference.SeemoRe(**{**given, "num_layers": 1}) for given in NETWORKS]
        )
    )
    sources = {path.stem for path in (ROOT / "csrc/cuda").rglob("*.cu")}
    assert {kernel.source.rpartition("/")[2] for kernel in kernels} == sources
    assert [kernel for kernel in kernels if kernel.spilled_bytes] == []


@pytest.mark.skipif(native.lib is None, reason="needs the native library")
def test_programs_of_the_bundled_networks():
    programs = cuda_compile.programs(90, cuda_compile.bundled())
    assert len(programs) == len(set(programs))
    assert {source for source, *_ in programs} >= {
        "engine/head_product",
        "engine/rme",
        "engine/sme11",
        "ops/mix_experts",
    }
    assert all("-DSM_SPECIAL" in special for source, _, special in programs if source == "engine/rme")
