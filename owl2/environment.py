"""What owl2 needs and this machine has: versions, devices, extras, and the settings that make a CPU fast."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PYTHON = ">=3.11,<3.14"

NEWEST_TESTED = {
    "torch": "2.13.0",
    "transformers": "5.24.0",
    "tokenizers": "0.23.3",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "jinja2": "3.1.6",
    "sentencepiece": "0.2.3",
    "protobuf": "7.36.2",
    "packaging": "26.4",
    "filelock": "4.3.1",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "pydantic": "2.14.4",
    "pyyaml": "6.0.4",
}
"""The newest tested release of each required package, as in constraints/cpu.txt, which is not installed with owl2."""

MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Settings of glibc before a process starts: it then keeps large buffers and asks for no new, zeroed pages."""

_RESERVED_EXTRAS = ("dev", "lint")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def restart_with_fast_allocation() -> None:
    """Starts the program again with the settings that glibc reads only at the start, if nobody set them."""
    if sys.platform == "linux" and not any(name in os.environ for name in MALLOC_SETTINGS):
        os.environ.update(MALLOC_SETTINGS)
        os.execv(sys.executable, [sys.executable, "-m", "owl2.cli.main", *sys.argv[1:]])


@dataclass
class Package:
    """A package that owl2 asks for: the range it needs and the installed version, if any."""

    name: str
    wanted: str
    found: str | None

    @property
    def fits(self) -> bool:
        return self.found is not None and SpecifierSet(self.wanted).contains(self.found, prereleases=True)


@dataclass
class Environment:
    """What `examine` found.

    Attributes:
        required: Packages without which nothing works.
        extras: Packages of each optional extra.
        devices: One description each of the CPU and the GPUs.
        problems: What must be put right, each with the remedy.
        hints: What could be better.
    """

    python: str
    platform: str
    required: list[Package]
    extras: dict[str, list[Package]]
    devices: list[str]
    problems: list[str]
    hints: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        packages = {name: [_plain(package) for package in found] for name, found in self.extras.items()}
        return {**asdict(self), "required": [_plain(package) for package in self.required], "extras": packages}


def examine() -> Environment:
    """Looks at the running interpreter and machine."""
    required, extras = declared_packages()
    problems = [_remedy(package) for package in required if not package.fits]
    if not SpecifierSet(PYTHON).contains(platform.python_version()):
        problems.insert(0, f"Python {platform.python_version()} is not {PYTHON}: make the environment with another one")
    broken = torchvision_error()
    if broken is not None:
        problems.append(f"torchvision is installed but does not import ({broken}): pip uninstall torchvision")
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        required=required,
        extras=extras,
        devices=devices() if find_spec("torch") is not None else [],
        problems=problems,
        hints=[*newer_than_tested(required), *malloc_hints()],
    )


def declared_packages() -> tuple[list[Package], dict[str, list[Package]]]:
    """Required packages, and those of each extra, as the installed package or the source tree declares them."""
    required: list[Package] = []
    extras: dict[str, list[Package]] = {}
    for line in _declared_requirements():
        requirement = Requirement(line)
        package = Package(requirement.name, str(requirement.specifier), _installed_version(requirement.name))
        extra = _EXTRA.search(str(requirement.marker or ""))
        if extra is None:
            required.append(package)
        elif extra[1] not in _RESERVED_EXTRAS:
            extras.setdefault(extra[1], []).append(package)
    return required, extras


def extra_with(module: str) -> str | None:
    """The first extra that brings a module, such as `eval` for `scipy`; None for a module of no extra."""
    package = module.replace("_", "-")
    _, extras = declared_packages()
    return next((extra for extra, packages in extras.items() if package in [each.name for each in packages]), None)


def newer_than_tested(packages: list[Package]) -> list[str]:
    """A line about each package of a later release than any that owl2 was tested with."""
    return [
        f"{package.name} {package.found} is newer than {NEWEST_TESTED[package.name]}, the newest that was tested"
        for package in packages
        if package.found is not None and Version(Version(package.found).public) > Version(NEWEST_TESTED[package.name])
    ]


def torchvision_error() -> str | None:
    """Why torchvision, where it is installed, cannot be imported: owl2 does without, but transformers then fails."""
    if find_spec("torchvision") is None:
        return None
    # In another process: a failed import would leave this one in disorder.
    command = [sys.executable, "-c", "import torchvision"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    return lines[-1] if result.returncode else None


def devices() -> list[str]:
    """The CPU with its threads and instructions, and every GPU."""
    import torch

    found = [_describe_cpu(torch)]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if properties.major >= 8 else "no bf16"
        found.append(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    if torch.backends.mps.is_available():
        found.append("mps: Apple GPU")
    return found


def malloc_hints() -> list[str]:
    """What to set for fast training on a Linux CPU, where it is not set."""
    unset = [f"{name}={value}" for name, value in MALLOC_SETTINGS.items() if name not in os.environ]
    if platform.system() != "Linux" or not unset:
        return []
    return [f"training on the CPU is several times faster with {' '.join(unset)} in the environment (make sets them)"]


def processor_name() -> str:
    """Model name of the CPU as Linux gives it, otherwise what Python knows."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _describe_cpu(torch: Any) -> str:
    # The public call is newer than the oldest torch that we take.
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    features = {"AVX2": "avx2", "AVX-512": "avx512_f", "bf16": "avx512_bf16", "AMX bf16": "amx_bf16"}
    known = [name for name, flag in features.items() if flags.get(flag)]
    threads = f"{torch.get_num_threads()} of {os.cpu_count()}"
    return f"cpu: {processor_name()}, threads: {threads}, {', '.join(known) or 'features unknown'}"


def _declared_requirements() -> list[str]:
    try:
        return requires("owl2") or []
    except PackageNotFoundError:
        pass
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"].items()
    return project["dependencies"] + [f"{line}; extra == '{extra}'" for extra, lines in optional for line in lines]


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _remedy(package: Package) -> str:
    state = "is not installed" if package.found is None else f"{package.found} is not {package.wanted}"
    return f"{package.name} {state}: pip install '{package.name}{package.wanted}'"


def _plain(package: Package) -> dict[str, Any]:
    return {**asdict(package), "fits": package.fits}
