"""The studies that `benchmarks/study.py` measures; they can also be run by hand:

    jaxft study --config=benchmarks/study_configs.py:seeds --workdir=runs/seeds

The argument of the config is the name of the study, or the name and the folder of its data:
study_configs.py:probe,FOLDER. Without a folder, the data are those of `jaxft weights get` and `jaxft data get`. No
weights are saved, because the PyTorch versions save none.
"""

from pathlib import Path

from ml_collections import ConfigDict

from jaxft import UserError
from jaxft.hub.data_folders import need_data_files

FROZEN = ("stem/.*|stage1/.*", "stem/.*|stage[12]/.*", "stem/.*|stage.*")  # a third, two thirds, all of the backbone


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study with the name `arg`: 'seeds', 'probe', 'freeze', 'memory' or 'numbers', or 'NAME,FOLDER'."""
    name, _, folder = arg.partition(",")
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}; name one of {', '.join(STUDIES)}, study_configs.py:NAME.")
    config = STUDIES[name](Path(folder) if folder else None)
    config.title = f"benchmark: {name}"
    config.execution = {"keep_weights": "none", **config.get("execution", {})}
    return config


def seeds(folder: Path | None) -> ConfigDict:
    """Returns one setting with eight seeds: full fine-tuning of a small residual network on scenes."""
    config = ConfigDict()
    config.seeds = 8
    config.source = {"model": "resnetsmall14", "weights": there(folder, "weights/resnetsmall14.cifar100.safetensors")}
    config.target = {
        "data": there(folder, "images/intel-scenes-6.zip"),
        "size_px": 32,
        "train_per_class": 20,
        "val_per_class": 20,
    }
    config.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4},  # of the head
        "layers": {"backbone_learning_rate": 0.003},
        "schedule": {"epochs": 30.0},
        "batches": {"size": 20},
        "augmentation": {"crop": {"padding_px": 4}, "flip": {"enabled": True}},
    }
    return config


def probe(folder: Path | None) -> ConfigDict:
    """Returns eight settings with four seeds each: a linear head on EfficientNet-Lite0."""
    config = ConfigDict()
    config.seeds = 4
    config.source = {
        "model": "efficientnet_lite0",
        "weights": there(folder, "weights/efficientnet_lite0.imagenet.safetensors"),
    }
    # The archive has a test split and ten other images per class, of which two are for validation.
    config.target = {"data": there(folder, "images/caltech-101.zip"), "val_fraction": 0.2, "test_fraction": 0.2}
    config.training = {
        "layers": {"backbone_learning_rate": "frozen"},
        "schedule": {"epochs": 10.0},
        "batches": {"size": 32},
    }
    config.factors = [
        {"training.optimizer.learning_rate": [0.01, 0.03, 0.1, 0.3], "training.optimizer.weight_decay": [0.0, 1e-3]},
    ]
    return config


def freeze(folder: Path | None) -> ConfigDict:
    """Returns four freezing depths with four seeds each, without augmentation."""
    config = seeds(folder)
    config.seeds = 4
    config.training.schedule.epochs = 15.0
    config.training.augmentation.crop.padding_px = 0
    config.training.augmentation.flip.enabled = False
    config.factors = [{"training.layers.rates": [[], *([(pattern, "frozen")] for pattern in FROZEN)]}]
    return config


def memory(folder: Path | None) -> ConfigDict:
    """Returns eight seeds under `vmap`, with evaluation batches no larger than training batches."""
    config = seeds(folder)
    config.training.schedule.epochs = 2.0
    config.training.batches.size = 64
    config.execution = {"executor": "vmap", "eval_batch_size": 64}
    return config


def numbers(folder: Path | None) -> ConfigDict:
    """Returns 32 trials that differ only in numbers: eight learning rates with four seeds. It needs no data folder."""
    config = ConfigDict()
    config.seeds = 4
    config.source = {"model": "resnetsmall8"}
    config.target = {"data": "digits", "size_px": 16, "train_per_class": 10, "val_per_class": 10}
    config.training = {
        "initialization": {"start": "random"},
        "schedule": {"epochs": 2.0},
        "batches": {"size": 25},
    }
    config.factors = [{"training.optimizer.learning_rate": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]}]
    return config


def there(folder: Path | None, name: str) -> str:
    """Returns the path of an existing data file. If `folder` is None, jaxft looks it up in its data folders."""
    if folder is None:
        return str(need_data_files([name])[0])
    if not (folder / name).is_file():
        raise UserError(
            f"there is no {name} in {str(folder)!r}; give the folder of the data: study_configs.py:NAME,FOLDER."
        )
    return str(folder / name)


STUDIES = {study.__name__: study for study in (seeds, probe, freeze, memory, numbers)}
