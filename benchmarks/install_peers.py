# ruff: noqa: T201
"""Install the libraries that run.py compares with, outside of this environment.

    python benchmarks/install_peers.py

Libraries for torch are installed into one folder each, benchmarks/.peers/NAME, without their dependencies: all use
the torch that runs the benchmark. JAX gets a virtual environment. What cannot be installed is recorded with the
reason in benchmarks/.peers/skipped.json, and run.py shows it as skipped.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

HOME = Path(__file__).parent / ".peers"
SKIPPED = HOME / "skipped.json"
JAX_PYTHON = HOME / "jax-env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

# What pip installs into each folder: the library, then the small packages that it imports (without torch and numpy).
PACKAGES = {
    "learn2learn": ["learn2learn==0.2.0"],
    "higher": ["higher==0.2.1"],
    "torchopt": ["torchopt==0.7.3", "optree", "graphviz", "typing_extensions"],
    "parallel-metalearn": ["parallel-metalearn==0.5.6", "tqdm"],
    "easyfsl": ["easyfsl==1.5.0"],
}
JAX = ["jax==0.10.2"]
# These import everything the library has, with dependencies that nothing here uses (gym, torchvision), to gather names
# in one place. Without them the modules that are timed import as they are, from their full path.
GATHERERS = {"learn2learn": "learn2learn/__init__.py", "easyfsl": "easyfsl/methods/__init__.py"}


def main() -> None:
    """Install every library anew and print the outcome."""
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")  # git and ruff leave the libraries alone
    skipped = {}
    for name in [*PACKAGES, "jax"]:
        try:
            install(name)
            print(f"{name}: installed", flush=True)
        except (subprocess.CalledProcessError, OSError) as error:
            skipped[name] = last_line(error)
            shutil.rmtree(place(name), ignore_errors=True)  # no half of it is found later
            print(f"{name}: skipped: {skipped[name]}", flush=True)
    SKIPPED.write_text(json.dumps(skipped, indent=2) + "\n")


def place(name: str) -> Path:
    """The folder of one library."""
    return HOME / ("jax-env" if name == "jax" else name)


def install(name: str) -> None:
    """Install one library, replacing an earlier installation."""
    if name == "jax":
        venv.create(place(name), clear=True, with_pip=True)
        pip("install", *JAX, python=JAX_PYTHON)
        return
    folder = place(name)
    shutil.rmtree(folder, ignore_errors=True)
    if name == "learn2learn":
        install_sources(PACKAGES[name][0], folder)
    else:
        pip("install", "--no-deps", "--target", str(folder), *PACKAGES[name])
    if name in GATHERERS:
        (folder / GATHERERS[name]).unlink()
    # -c puts the working directory on the path
    subprocess.run([sys.executable, "-c", IMPORTS[name]], cwd=folder, check=True, capture_output=True, text=True)


IMPORTS = {
    "learn2learn": "from learn2learn.algorithms import MAML; from learn2learn.nn import PrototypicalClassifier",
    "higher": "import higher",
    "torchopt": "import torchopt",
    "parallel-metalearn": "from metalearn.algorithms import MAML",
    "easyfsl": "from easyfsl.methods.prototypical_networks import PrototypicalNetworks",
}


def install_sources(requirement: str, folder: Path) -> None:
    """The Python files of a source distribution, unbuilt.

    learn2learn 0.2.0 has no wheel, and its C extensions (for data sets) do not compile on Python 3.11: the C files were
    generated for an older Python. Its algorithms are pure Python.
    """
    with tempfile.TemporaryDirectory() as temporary:
        package = requirement.split("==")[0]
        pip("download", "--no-deps", "--no-binary", package, "--dest", temporary, requirement)
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        shutil.copytree(Path(temporary) / archive.name.removesuffix(".tar.gz") / package, folder / package)


def pip(*arguments: str, python: str | Path = sys.executable) -> None:
    """Run pip, quietly."""
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def why_missing(name: str) -> str:
    """Record why a library is missing, for the table."""
    skipped = json.loads(SKIPPED.read_text()) if SKIPPED.exists() else {}
    return f"could not be installed: {skipped[name]}" if name in skipped else "run python benchmarks/install_peers.py"


def last_line(error: Exception) -> str:
    """The reason in a line: the last line that a failed command printed."""
    text = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else repr(error))


if __name__ == "__main__":
    main()
