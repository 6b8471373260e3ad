"""Run mergekit on every recipe of a folder; for the interpreter of mergekit's own environment.

python run_mergekit.py MODELS RECIPES OUT: MODELS is the folder that the recipes' model names are in.
"""

import os
import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

models, recipes, out = (Path(argument).resolve() for argument in sys.argv[1:])
os.chdir(models)
for recipe in sorted(recipes.glob("*.yml")):
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    options = MergeOptions(copy_tokenizer=False, quiet=True, random_seed=1, write_model_card=False)
    run_merge(config, str(out / recipe.stem), options)
