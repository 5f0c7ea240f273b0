"""Caffe models, written and read by the protobuf library of Google for comparison."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from helpers import draw_variables

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.models.families.squeezenet import CAFFE
from jaxft.weights import convert_weights, find_model, load, load_weights, read_network, save_weights
from jaxft.weights.formats import FORMATS
from jaxft.weights.formats.protobuf import encode_field

read, write = FORMATS["caffe"].value.read, FORMATS["caffe"].value.write
# The fields that matter: message -> (number, name, type, whether it is repeated).
SCHEMA = {
    "BlobShape": [(1, "dim", "int64", True)],
    "BlobProto": [
        *((i, name, "int64", False) for i, name in enumerate(("num", "channels", "height", "width"), 1)),
        (5, "data", "float", True),
        (7, "shape", "BlobShape", False),
        (8, "double_data", "double", True),
    ],
    "LayerParameter": [(1, "name", "string", False), (2, "type", "string", False), (7, "blobs", "BlobProto", True)],
    "V1LayerParameter": [(4, "name", "string", False), (5, "type", "int64", False), (6, "blobs", "BlobProto", True)],
    "NetParameter": [
        (1, "name", "string", False),
        (2, "layers", "V1LayerParameter", True),
        (100, "layer", "LayerParameter", True),
    ],
}


@functools.cache
def messages():
    """Returns the classes of the messages, with packed numbers."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind, is_repeated in fields:
            field = message.field.add(name=field_name, number=number, label=3 if is_repeated else 1)
            if kind in SCHEMA:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".own.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
                field.options.packed = is_repeated
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found_in = {name: pool.FindMessageTypeByName(f"own.{name}") for name in SCHEMA}
    return SimpleNamespace(**{name: message_factory.GetMessageClass(found_in[name]) for name in SCHEMA})


def assert_equal(variables, expected):
    flat, leaves = paths.flatten(variables), paths.flatten(expected)
    assert flat.keys() == leaves.keys() and all(np.array_equal(flat[name], leaf) for name, leaf in leaves.items())


def test_protobuf_reads_written_models(tmp_path):
    kernel, bias = np.arange(24, dtype=np.float32).reshape(4, 2, 1, 3), np.arange(4, dtype=np.float32)
    tensors = {"fire2/squeeze1x1.0": kernel, "fire2/squeeze1x1.1": bias, "fc.0": kernel.reshape(2, 12)}
    write(tmp_path / "net.caffemodel", tensors, {"jaxft": "{}"})
    net = messages().NetParameter.FromString((tmp_path / "net.caffemodel").read_bytes())
    assert [(layer.name, layer.type) for layer in net.layer] == [
        ("fire2/squeeze1x1", "Convolution"),
        ("fc", "InnerProduct"),
    ]
    assert [list(blob.shape.dim) for blob in net.layer[0].blobs] == [[4, 2, 1, 3], [4]]
    assert list(net.layer[0].blobs[0].data) == list(range(24))
    contents = read(tmp_path / "net.caffemodel")
    assert contents.metadata == {"jaxft": "{}"} and list(contents.tensors) == list(tensors)
    assert all(np.array_equal(contents.tensors[name], array) for name, array in tensors.items())


def blob(array, form):
    values = array.ravel().tolist()
    proto = messages().BlobProto(**{"double_data" if form == "double" else "data": values})
    if form == "legacy":
        sizes = (1,) * (4 - array.ndim) + array.shape
        proto.num, proto.channels, proto.height, proto.width = sizes
    else:
        proto.shape.dim.extend(array.shape)
    return proto


@pytest.mark.parametrize("form", ["float", "double", "legacy"])
@pytest.mark.parametrize("is_v1", [True, False])
def test_models_of_every_version_are_read(form, is_v1, tmp_path):
    arrays = {
        "conv.0": np.arange(24.0).reshape(4, 2, 1, 3),
        "conv.1": np.arange(4.0),
        "fc.0": np.arange(6.0).reshape(2, 3),
        "fc.1": np.arange(2.0),
    }
    net = messages().NetParameter(name="net")
    for layer in ("data", "conv", "fc"):
        added = (net.layers if is_v1 else net.layer).add(name=layer)
        added.blobs.extend(blob(array, form) for name, array in arrays.items() if name.startswith(f"{layer}."))
    (tmp_path / "net.caffemodel").write_bytes(net.SerializeToString())
    tensors = read(tmp_path / "net.caffemodel").tensors
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].dtype == (np.float64 if form == "double" else np.float32)
        assert tensors[name].shape == array.shape and np.array_equal(tensors[name], array)


@pytest.fixture(scope="module")
def squeezenet():
    """Returns SqueezeNet 1.0 with the conventions of Caffe, and its variables."""
    model = create_model("squeezenet1_0_caffe", 3)
    return model, draw_variables(model, 64)


def test_a_network_in_the_names_of_caffe_is_loaded_with_its_preprocessing(squeezenet, tmp_path):
    model, variables = squeezenet
    for suffix in (".caffemodel", ".safetensors"):
        save_weights(tmp_path / f"net{suffix}", model, variables)
    again, manifest = load(tmp_path / "net.caffemodel", model)
    assert manifest.preprocessing.channel_order == "bgr" and manifest.format == "caffe"
    assert_equal(again, variables)
    convert_weights(tmp_path / "net.caffemodel", tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_a_file_without_a_record_has_the_conventions_of_caffe(squeezenet, tmp_path):
    model, variables = squeezenet
    save_weights(tmp_path / "net.caffemodel", model, variables)
    tensors = read(tmp_path / "net.caffemodel").tensors
    write(tmp_path / "squeezenet1_0_caffe.caffemodel", tensors, {})
    assert find_model(tmp_path / "squeezenet1_0_caffe.caffemodel") == "squeezenet1_0_caffe"
    network, again, manifest = read_network(tmp_path / "squeezenet1_0_caffe.caffemodel")
    assert network.num_classes == 3 and manifest.preprocessing == CAFFE and manifest.naming == "torchvision"
    assert_equal(again, variables)
    write(tmp_path / "squeezenet1_0.caffemodel", tensors, {})
    with pytest.raises(
        jaxft.UserError, match="its tensors have the names of caffe, where this may be a different network"
    ):
        find_model(tmp_path / "squeezenet1_0.caffemodel")


def test_a_network_that_caffe_does_not_have_is_not_written(toy, tmp_path):
    with pytest.raises(jaxft.UserError, match="toy has no naming 'caffe'; it has akamaster"):
        save_weights(tmp_path / "toy.caffemodel", *toy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no layers with blobs"),
        (b'name: "SqueezeNet"\nlayer {\n', "truncated|damaged|no layers"),
        (b"\xa2\x06\xff\xff\xff\xff\x0f\x0a", "damaged length"),
        (b"\xa2\x06\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "damaged integer"),
        (b"\x0b", "unknown wire type"),
        (b"\x12\x02\x0a\x00", "before Caffe 1.0"),
    ],
)
def test_a_damaged_file_is_refused(content, message, tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(jaxft.UserError, match=message):
        read(tmp_path / "net.caffemodel")


def test_many_small_fields_are_refused(tmp_path):
    """Each field would become an object that is much larger than the field."""
    many_values = encode_field(100, encode_field(7, b"\x2d\0\0\0\0" * 2000))
    many_blobs = encode_field(100, b"\x3a\x00" * 2000)
    many_sizes = encode_field(100, encode_field(7, encode_field(7, encode_field(1, b"\x01" * 2000))))
    for content, message in ((many_values, "not packed"), (many_blobs, "100 blobs"), (many_sizes, "many dimensions")):
        (tmp_path / "net.caffemodel").write_bytes(content)
        with pytest.raises(jaxft.UserError, match=message):
            read(tmp_path / "net.caffemodel")


def test_values_that_do_not_fit_the_shape_are_refused(tmp_path):
    net = messages().NetParameter(layer=[{"name": "a", "blobs": [blob(np.arange(6.0), "float")]}])
    net.layer[0].blobs[0].shape.dim[0] = 2**40
    (tmp_path / "net.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(jaxft.UserError, match=r"has 6 values in the blob 'a\.0', which do not fit its shape"):
        read(tmp_path / "net.caffemodel")


def prototxt():
    """Returns the definition of SqueezeNet 1.0 for Caffe (Iandola et al. 2016, table 1)."""
    lines = ['name: "net" input: "data" input_dim: 1 input_dim: 3 input_dim: 227 input_dim: 227']

    def layer(kind, name, bottoms, settings=""):
        inputs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        lines.append(f'layer {{ name: "{name}" type: "{kind}" {inputs} top: "{name}" {settings} }}')
        return name

    def conv(name, bottom, features, kernel, stride=1, pad=0):
        sizes = f"num_output: {features} kernel_size: {kernel} stride: {stride} pad: {pad}"
        return layer("ReLU", f"{name}/relu", [layer("Convolution", name, [bottom], f"convolution_param {{ {sizes} }}")])

    def pool(name, bottom):
        return layer("Pooling", name, [bottom], "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")

    top = pool("pool1", conv("conv1", "data", 96, 7, 2))
    for i, squeeze in {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}.items():
        top = conv(f"fire{i}/squeeze1x1", top, squeeze, 1)
        expanded = [conv(f"fire{i}/expand{k}x{k}", top, 4 * squeeze, k, pad=k // 2) for k in (1, 3)]
        top = layer("Concat", f"fire{i}/concat", expanded)
        top = pool(f"pool{i}", top) if i in (4, 8) else top
    layer(
        "Pooling", "pool10", [conv("conv10", top, 1000, 1, pad=1)], "pooling_param { pool: AVE global_pooling: true }"
    )
    return "\n".join(lines)


@pytest.mark.nightly
def test_opencv_computes_the_same_logits_from_a_written_model(real_data, tmp_path):
    """OpenCV has a reader of Caffe models, and runs them."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV 4: pip install 'opencv-python-headless<5'")
    source = real_data / "weights" / "squeezenet1_0.imagenet-deepcompressed.safetensors"
    convert_weights(source, tmp_path / "net.caffemodel")
    (tmp_path / "net.prototxt").write_text(prototxt())
    network = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    images = np.random.default_rng(0).normal(0, 50, (1, 227, 227, 3)).astype(np.float32)
    network.setInput(images.transpose(0, 3, 1, 2))
    logits = network.forward().reshape(1, -1)
    model = create_model("squeezenet1_0_caffe", 1000)
    expected = np.asarray(model.apply(load_weights(tmp_path / "net.caffemodel", model), images))
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
