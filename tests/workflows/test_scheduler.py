"""Maps made by the workers of a cluster, and on several devices: the files are those of a single run."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strange_parts
from map_runs import Files, files, refusal, run
from numpy.typing import NDArray

from asd_cli.errors import AsdError, InputError, OutputError, RasterError
from asd_cli.options import PredictOptions
from asd_cli.raster.parts import Parts
from asd_cli.workflows import cluster
from asd_cli.workflows.predict import PredictReport, predict

ROOT = Path(__file__).parents[2]
PARTS = 6
CLOSED = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module", autouse=True)
def thread_counts_stay() -> Iterator[None]:
    """Dask's nanny would set how many threads the libraries of later processes have."""

    def counts() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.endswith("_THREADS")}

    before = counts()
    yield
    assert counts() == before


@pytest.fixture(scope="module")
def scene(make_texture: Callable[..., Any], make_scene: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """Six parts of 512 px, the last without a valid pixel; anomalies on both sides of the seams."""
    values: NDArray[np.uint8] = make_texture(81, 3, 560, 1100).clip(1, 255).astype(np.uint8)
    values[:, 100:] = np.where(np.arange(560)[100:, None] % 40 < 30, 0, values[:, 100:])  # nodata: the work is small
    values[:, 512:, 1024:] = 0
    path: Path = make_scene(tmp_path_factory.mktemp("scene") / "scene.tif", values, nodata=0, tiled=True)
    return path


@pytest.fixture(scope="module")
def options(scene: Path, tiny_model: Path) -> PredictOptions:
    return PredictOptions(scenes=(str(scene),), model=tiny_model, device="cpu", window=512, threshold=0.1)


@pytest.fixture(scope="module")
def here() -> Iterator[Any]:
    """A cluster of two workers, as `local:2` makes it."""
    dask = pytest.importorskip("dask.config")
    with dask.set(cluster._CONFIG), cluster._local(2) as found:
        yield found


@pytest.fixture
def shared(options: PredictOptions, here: Any) -> PredictOptions:
    return replace(options, scheduler=here.scheduler_address)


@pytest.fixture(scope="module")
def expected(options: PredictOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, PredictReport]:
    """The files of a single run, and its report."""
    out = tmp_path_factory.mktemp("single") / "map.tif"
    report = run(options, out)
    assert report.polygon_count
    return files(out), report


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "map.tif"


def processes(here: Any) -> list[int]:
    """Of the workers that are there now."""
    return [nanny.process.pid for nanny in here.workers.values() if nanny.process is not None]


def test_a_cluster_makes_the_files_of_a_single_run(
    shared: PredictOptions,
    out: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asd_cli")
    begin, most, pixels = cluster._Run._begin, [], []

    def begun(self: cluster._Run, window: Any) -> None:
        begin(self, window)
        most.append(len(self._running))

    monkeypatch.setattr(cluster._Run, "_begin", begun)
    monkeypatch.setattr(cluster, "_TASKS_A_WORKER", 1)
    monkeypatch.chdir(Path(shared.scenes[0]).parent)  # names are those of this process
    given = replace(shared, scenes=("scene.tif",), output=os.path.relpath(out), window=300)
    (report,) = predict(given, progress=lambda *state: pixels.append(state))
    assert files(out) == expected[0]
    assert len(most) == PARTS
    assert max(most) == 2
    assert pixels[-1] == (560 * 1100, 560 * 1100)
    assert len(pixels) == PARTS
    assert {"read", "compute", "write"} < set(report.stages)
    same = {"seconds": 0, "stages": {}, "raster": out, "polygons": None, "styles": (), "scene": ""}
    assert replace(report, **same) == replace(expected[1], **same)
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("asd_cli")]
    assert told.startswith(f"--scheduler {shared.scheduler}: workers: 2, dashboard: http://127.0.0.1:")


def test_a_scene_that_changes_is_refused(shared: PredictOptions, scene: Path, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scene.tif"
    copy.write_bytes(scene.read_bytes())
    changed = replace(shared, scenes=(str(copy),), output=str(out))
    with pytest.raises(InputError, match=r"scene.tif: was changed while it was mapped \(its file scene.tif: was "):
        predict(changed, progress=lambda *_: os.utime(copy, (1, 1)))
    assert list(out.parent.iterdir()) == []


def test_workers_that_die_are_replaced(
    shared: PredictOptions, here: Any, out: Path, expected: tuple[Files, PredictReport]
) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if len(killed) < 2:
            killed.append(processes(here)[len(killed)])
            os.kill(killed[-1], signal.SIGKILL)

    (report,) = predict(replace(shared, output=str(out)), progress=kill)
    assert len(killed) == 2
    assert files(out) == expected[0]
    assert report.polygon_count == expected[1].polygon_count


def test_what_is_finished_is_not_computed_again(
    shared: PredictOptions,
    options: PredictOptions,
    out: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adopt, adopted = Parts.adopt, []

    def stop(self: Parts, *given: Any) -> bool:
        if len(adopted) == 3:
            raise KeyboardInterrupt
        adopted.append(given)
        return adopt(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "adopt", stop)
        with pytest.raises(KeyboardInterrupt):
            run(shared, out)
    folder = out.with_name("map.tif.parts")
    first = min(folder.glob("*.f32"))
    first.write_bytes(first.read_bytes()[:-4] + b"\0\0\0\1")
    again: list[Any] = []
    monkeypatch.setattr(Parts, "adopt", lambda self, *given: again.append(given) or adopt(self, *given))
    run(shared, out, resume=True)
    assert len(again) == PARTS - 3 + 1
    assert files(out) == expected[0]


def test_errors_of_workers_arrive(
    shared: PredictOptions, options: PredictOptions, scene: Path, out: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(scene.read_bytes()[:-60_000])
    text = refusal(RasterError, shared, out, scenes=(str(damaged),))
    assert text.startswith(f"{damaged}: bands 1, 2, 3 cannot be read at cols ")
    assert text.endswith("the file looks damaged, get it again")


def test_masks_and_blocks_that_cannot_be_read(
    shared: PredictOptions,
    options: PredictOptions,
    out: Path,
    make_scene: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Path(options.scenes[0])
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(scene.read_bytes()[:-60_000])
    clouds = np.zeros((1, 560, 1100), np.uint8)
    clouds[0, 20:60, 500:530] = 1
    make_scene(tmp_path / "damaged_clouds.tif", clouds)
    monkeypatch.chdir(tmp_path)
    given = {"scenes": ("damaged.tif",), "mask": "{name}_clouds.tif", "on_bad_block": "mask", "command": "asd"}
    (tmp_path / "single").mkdir()
    single = run(options, tmp_path / "single" / "map.tif", **given)
    assert single.bad_block_count
    report = run(shared, out, **given)
    assert files(out) == files(tmp_path / "single" / "map.tif")
    assert report.bad_blocks == single.bad_blocks


def test_a_full_disk_of_a_worker(
    shared: PredictOptions, tiny_disk: Path, expected: tuple[Files, PredictReport]
) -> None:
    out = tiny_disk / "map.tif"
    (tiny_disk / "other").write_bytes(bytes(900 * 1024))
    text = refusal(OutputError, shared, out, leaves_parts=True)
    assert text.startswith(f"{out}: cannot be written (No space left on device); check the free space")
    (tiny_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(tiny_disk)], check=True)
    run(shared, out, resume=True)
    assert files(out) == expected[0]


STRANGE: dict[str, tuple[Any, str]] = {
    "scene": (strange_parts.without_scene, "/elsewhere/scene.tif: .*the same paths on all machines"),
    "folder": (strange_parts.without_folder, "/elsewhere/job.json: cannot be read .*the same paths on all machines"),
    "model": (strange_parts.without_model, "/elsewhere/m.safetensors: .*the same paths on all machines"),
    "library": (
        strange_parts.with_other_library,
        r"is not like the machine .*\(the version of torch: was .*, is 2.6.0 there\)",
    ),
    "module": (strange_parts.without_module, "do not know this version of asd .*install the same"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_workers_that_see_or_have_something_else(
    shared: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    work, text = STRANGE[kind]
    monkeypatch.setattr(cluster, "make_part", work)
    found = refusal(AsdError, shared, out)
    assert re.search(text, found), found
    assert kind == "module" or found.startswith("worker tcp://127.0.0.1:")
    assert list(out.parent.iterdir()) == []


def test_a_folder_that_is_not_shared(shared: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_TO_SEE", 0.1)
    monkeypatch.setattr(Parts, "adopt", lambda *_: False)
    text = refusal(OutputError, shared, out)
    assert text.startswith(f"{out}.parts: what a worker has written is not seen here; ")


def test_a_scheduler_without_workers_or_gone(
    options: PredictOptions, here: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "_TO_CONNECT", 1.0)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty:
        name = empty.scheduler_address
        monkeypatch.setattr(cluster, "_TO_HAVE_WORKERS", 0.3)
        text = refusal(AsdError, options, out, scheduler=name)
        assert text == f"--scheduler {name}: has no workers; start some: dask worker {name}"
    text = refusal(InputError, options, out, scheduler=name)
    assert text.startswith(f"--scheduler {name}: cannot be reached (")


@pytest.mark.parametrize("name", ["local:0", "local:", "local:x", "local:1000", "host:8786", "foo://x", "tcp://", ""])
def test_names_of_no_scheduler(options: PredictOptions, out: Path, name: str) -> None:
    text = refusal(InputError, options, out, scheduler=name)
    assert text.startswith(f"--scheduler {name}: is neither tcp://HOST:PORT of a Dask scheduler nor local:N")


def test_options_that_do_not_go_together(options: PredictOptions, out: Path) -> None:
    text = refusal(InputError, options, out, scheduler=CLOSED, shard=(1, 2))
    assert text == "--shard and --scheduler exclude each other; give one of them"
    assert "with --scheduler each worker has one" in refusal(
        InputError, options, out, scheduler=CLOSED, device="cpu,cpu"
    )


def test_without_the_extra(options: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    text = refusal(InputError, options, out, scheduler="local:2")
    assert text == "--scheduler local:2: needs Dask; install it: pip install 'asd-cli[distributed]'"


def test_plain_runs_do_not_import_dask_and_a_scheduler_imports_little() -> None:
    for path in (ROOT / "asd_cli").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not re.match("(import|from) (dask|distributed)", ast.unparse(node)), path
    code = "import sys, asd_cli.workflows.remote; print({'torch', 'numpy', 'rasterio', 'dask'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_a_part_at_which_workers_die_is_named(
    shared: PredictOptions,
    options: PredictOptions,
    here: Any,
    out: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "make_part", strange_parts.deadly)
        patch.setattr(here.scheduler, "allowed_failures", 0)  # so others that wait there are suspected, too
        text = refusal(AsdError, shared, out, leaves_parts=True)
    assert text.startswith(
        f"{shared.scenes[0]}: every worker that was given cols 512-1023, rows 0-511 has ended at it; "
    )
    assert [path.name for path in out.parent.iterdir()] == ["map.tif.parts"]
    run(options, out, resume=True)
    assert files(out) == expected[0]


def test_an_interrupted_run_of_local_workers_goes_on(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport]
) -> None:
    words = [sys.executable, "-m", "asd_cli", "predict", *options.scenes, "-o", str(out), "-m", str(options.model)]
    words += ["--device", "cpu", "--window", "512", "--threshold", "0.1", "--scheduler", "local:1", "--threads", "1"]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(out.parents[1])},
    )
    journal = out.with_name("map.tif.parts") / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    stdout, stderr = process.communicate()
    lines = stderr.splitlines()
    assert (process.returncode, stdout, lines[-1]) == (130, "", "Interrupted."), stderr
    assert lines[0].startswith("--scheduler local:1: workers: 1, dashboard: ")
    assert len(lines) == 3, stderr
    assert "go on with --resume" in lines[1]
    assert {path.name for path in out.parents[1].iterdir()} <= {"out", ".ses"}  # ONNX Runtime leaves the latter
    run(options, out, resume=True)
    found = files(out)
    assert found["map.gpkg"] == expected[0]["map.gpkg"]


def test_several_devices_make_the_same_map(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport]
) -> None:
    run(options, out, device="cpu,cpu")
    assert files(out) == expected[0]


@pytest.mark.parametrize(
    ("names", "text"),
    [("cpu,gpu", "gpu: not a device"), ("cpu,", ": not a device"), ("cpu,cuda:7", "cuda:7: not on this machine")],
)
def test_devices_that_cannot_be_used(options: PredictOptions, out: Path, names: str, text: str) -> None:
    assert refusal(InputError, options, out, device=names).startswith(f"--device {text}")
