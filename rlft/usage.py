"""What `rlft --help` says."""

USAGE = """usage: rlft COMMAND ...

  rlft run --config=FILE.py[:VARIANT] --run_dir=DIR [--config.KEY=VALUE ...]
      a run or a study; started again, it goes on where it stopped. DIR may
      be gs://BUCKET/FOLDER
  rlft eval RUN_DIR@STEP|asset:NAME|hf:DIR [--config=FILE.py] [--out=FILE.json]
      the evaluations of its config on one checkpoint
  rlft sample RUN_DIR@STEP|asset:NAME|hf:DIR [PROMPT ...] [--temperature=0]
      completions of prompts, given or typed
  rlft compare BEFORE AFTER --out=DIR [--select=REGEX] [--top=0.2]
      [--draws=4] [--seed=0]
      how the weights turned, matrix by matrix: DIR/compare.html; goes on
  rlft heal BEFORE AFTER --out=DIR [--edit=KIND] [--select=REGEX]
      [--layers=0:0.25] [--modules=q_proj,k_proj] [--seed=0] [--dry_run]
      AFTER edited towards BEFORE, in AFTER's own format. KIND is
      vectors (the default), triplets, values: [--top=0.2] [--tail=0] of the
        directions, or [--top_count=N] [--tail_count=N]; [--polar=false]
      revert: all of the chosen matrices
      interpolate, noise: --amount=0.5 of the way
      low_rank: the update less its leading [--top=0.2]
  rlft import HF_DIR --out=RUN_DIR
      a model of Hugging Face's format as a run's step 0, RUN_DIR@0
  rlft export RUN_DIR@STEP --out=HF_DIR [--like=HF_DIR]
      and back: the files, dtypes and shards of what it was imported from
  rlft plan --config=FILE.py[:VARIANT] [--topology=v5e:16x16]
      [--programs=sft,sample] [--out=FILE.json] [--config.KEY=VALUE ...]
      memory, operations and traffic of each program of a run, compiled for
      devices that need not be here; exit code 3 when one does not fit
  rlft report STUDY_DIR
      report.html and summary.json from what a study wrote

BEFORE and AFTER: directories of safetensors files, as Hugging Face has them,
or RUN_DIR@STEP or asset:NAME. A config may start from init='hf:HF_DIR'.
"""
