"""Install megabiomed. megabiomed/{kernels,launch,configs} are committed links to the top-level folders of these names."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Ranges whose both ends tests ran with; `make install` takes one exact torch. deepspeed and megatron-core are exact:
# engine/ relies on behaviour that only those releases were measured to have (docs/parallelism.md lists each point).
REQUIRES = [
    "torch>=2.11,<2.14",
    "deepspeed==0.19.8",
    "megatron-core==0.16.1",
    "transformers>=5.17,<6",
    "sentencepiece>=0.2,<0.3",
    "datasets>=4,<6",
    "safetensors>=0.5,<0.9",
    "tokenizers>=0.20",
    "gigatoken>=0.10,<0.11",
    "protobuf>=4",
    "numpy>=1.26,<3",
    "rdkit>=2024.3",
    "mlflow>=3,<4",
    "prometheus-client>=0.20,<1",
    "pydantic>=2.8,<3",
    "pyyaml>=6,<7",
    "typer>=0.15,<0.30",
    "rich>=13,<16",
    "jinja2>=3.1,<4",
    "matplotlib>=3.8,<4",
    "psutil>=5.9,<8",
    "pyarrow>=15",
    "defusedxml>=0.7.1,<0.8",
    "nltk>=3.8,<4",
    "rouge-score>=0.1.2,<0.2",
    "zstandard>=0.22,<1",
    "datasketch>=2,<3",
    "py3langid>=0.3,<0.5",
    "fair-esm==2.0.0",
    "torch-geometric>=2.6,<3",
]
DEV = ["pytest>=8,<10", "pytest-timeout>=2.3,<3", "hypothesis>=6.100,<7", "ruff>=0.6", "mypy>=1.11", "types-PyYAML"]
DEV += ["pytest-xdist>=3.8,<4"]  # `make test` runs the tests in two processes
TENSORBOARD = ["tensorboard>=2.20,<3"]
DEV += TENSORBOARD
CORPUS_CLUSTER = ["datatrove>=0.10.1,<0.11"]
DEV += CORPUS_CLUSTER
CORPUS_QUALITY = ["wordsegment>=1.3.1,<1.4"]  # for its file of word counts; no code of it runs
DEV += CORPUS_QUALITY
DEV += ["peft>=0.21,<0.22"]  # reads the exported adapters in a test
# Its interpreter and its compiler for absent GPUs serve the kernel tests on any Linux.
DEV += ["triton>=3.6,<3.8; platform_system == 'Linux'"]

setup(
    name="megabiomed",
    version=(HERE / "megabiomed" / "VERSION").read_text().strip(),
    description="Train BioMedGPT at any scale: continued pretraining and multimodal alignment with TP x PP x ZeRO-3",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["megabiomed", "megabiomed.*"]),
    package_data={
        "megabiomed": ["VERSION", "py.typed", "configs/**/*.yaml"],
        "megabiomed.launch": ["templates/*"],
    },
    install_requires=REQUIRES,
    extras_require={
        "dev": DEV,
        "tensorboard": TENSORBOARD,
        "corpus-cluster": CORPUS_CLUSTER,
        "corpus-quality": CORPUS_QUALITY,
        "wandb": ["wandb>=0.27,<0.32"],
    },
    entry_points={"console_scripts": ["megabiomed = megabiomed.cli:main"]},
)
