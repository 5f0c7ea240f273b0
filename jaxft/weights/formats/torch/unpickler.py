"""A restricted unpickler: a stack machine that builds descriptions of tensors and calls no functions of the file.

A function in a pickle is only a name. The few names that torch.save writes are interpreted here; any other name is an
error. `pickle.Unpickler` with a custom `find_class` would be less safe: it would still allocate any amount of memory,
hash any object, and call `__setstate__`.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from jaxft.weights.formats.torch.refusal import printable, refuse, refuse_code
from jaxft.weights.formats.torch.stored import DTYPES, Dropped, Storage, StoredName, StoredTensor, is_count

NAMES = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
    *(f"torch.{dtype}" for dtype in DTYPES.values()),
    *(f"{module}.{name}" for module in ("torch", "torch.cuda") for name in DTYPES),
}
MOST_STEPS = 1_000_000  # opcodes of a pickle; a tensor has about 30
VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINSTRING",
          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8")  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Returns the object of the next pickle in `stream`, and its storages by key."""
    machine = _Machine()
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for step, (opcode, value, _) in enumerate(operations):
        if step > MOST_STEPS:
            refuse(f"has a pickle of more than {MOST_STEPS:,} opcodes, far more than tensors need")
        machine.run(opcode.name, value)
    return machine.stack.pop(), machine.storages


class _Machine:
    """The stack machine of pickle, restricted to opcodes for containers, numbers, strings and tensors."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, opcode: str, value: Any) -> None:
        """Runs one opcode; an unknown opcode is an error."""
        for handler in (self.push, self.remember, self.build_tuple_or_list, self.build_dict, self.name_or_call):
            if handler(opcode, value):
                return
        refuse_code(value.replace(" ", ".") if opcode == "INST" else f"the pickle opcode {opcode}")

    def pop_to_mark(self) -> list[Any]:
        """Removes the items above the last mark from the stack, and returns them."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push(self, opcode: str, value: Any) -> bool:
        """Runs an opcode that pushes a number or a string, or does nothing; returns False for other opcodes."""
        if opcode in VALUES:
            self.stack.append(value)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        else:
            return opcode in ("PROTO", "FRAME", "STOP")
        return True

    def remember(self, opcode: str, value: Any) -> bool:
        """Runs an opcode that marks, pops or duplicates items, or uses the memo; returns False for other opcodes."""
        match opcode:
            case "MARK":
                self.marks.append(len(self.stack))
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[value] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self.memo[value])
            case _:
                return False
        return True

    def build_tuple_or_list(self, opcode: str, value: Any) -> bool:
        """Runs an opcode for tuples and lists; returns False for other opcodes."""
        match opcode:
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "EMPTY_LIST":
                self.stack.append([])
            case "LIST":
                self.stack.append(self.pop_to_mark())
            case "APPEND":
                item = self.stack.pop()
                _list(self.stack[-1]).append(item)
            case "APPENDS":
                items = self.pop_to_mark()
                _list(self.stack[-1]).extend(items)
            case _:
                return False
        return True

    def build_dict(self, opcode: str, value: Any) -> bool:
        """Runs an opcode for dicts; returns False for other opcodes."""
        match opcode:
            case "EMPTY_DICT":
                self.stack.append({})
            case "DICT":
                items = self.pop_to_mark()
                self.stack.append(_set_items({}, items))
            case "SETITEM":
                item = self.stack.pop()
                key = self.stack.pop()
                _set_items(self.stack[-1], [key, item])
            case "SETITEMS":
                items = self.pop_to_mark()
                _set_items(self.stack[-1], items)
            case _:
                return False
        return True

    def name_or_call(self, opcode: str, value: Any) -> bool:
        """Runs an opcode that names, calls, sets a state or refers to a storage; returns False for other opcodes."""
        match opcode:
            case "GLOBAL":
                self.stack.append(_name(*value.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute = self.stack.pop()
                self.stack.append(_name(self.stack.pop(), attribute))
            case "REDUCE":
                args = self.stack.pop()
                self.stack.append(_call(self.stack.pop(), args))
            case "BUILD":
                self.stack.pop()
                if not isinstance(self.stack[-1], OrderedDict | Dropped):
                    refuse("sets the state of an object without state; it is damaged")
            case "BINPERSID":
                storage = _to_storage(self.stack.pop())
                if self.storages.setdefault(storage.key, storage) != storage:
                    refuse(f"describes the storage {printable(storage.key)!r} in two different ways; it is damaged")
                self.stack.append(storage)
            case _:
                return False
        return True


def _list(value: Any) -> list[Any]:
    """Returns `value`, which must be a list."""
    if not isinstance(value, list):
        refuse("appends to an object that is not a list; it is damaged")
    return value


def _set_items(target: Any, items: list[Any]) -> dict[str, Any]:
    """Adds alternating keys and values from `items` to the dict `target` and returns it; only string keys are added.

    Keys of tensors are strings, and a hostile file can contain other keys that take forever to hash.
    """
    if not isinstance(target, dict):
        refuse("sets items of an object that is not a dict; it is damaged")
    target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
    return target


def _name(module: Any, attribute: Any) -> StoredName:
    """Returns a name that torch.save writes; any other is an error."""
    is_text = isinstance(module, str) and isinstance(attribute, str)
    name = f"{module}.{attribute}" if is_text else "an object without a name"
    if name not in NAMES:
        refuse_code(name)
    return StoredName(name)


def _call(function: Any, args: Any) -> Any:
    """Returns the description that represents `function(*args)`, without calling it."""
    if not isinstance(function, StoredName) or not isinstance(args, tuple):
        refuse("calls an object that is not a function; it is damaged")
    match function.name:
        case "collections.OrderedDict" if not args:
            return OrderedDict()
        case "collections.OrderedDict":  # from Python 2, with a list of pairs
            pairs = _list(args[0])
            result = OrderedDict((key, value) for key, value in pairs if isinstance(key, str))
            pairs.clear()  # a hostile file could use the same long list many times
            return result
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
            return StoredTensor(*args[:4])
        case "torch._utils._rebuild_parameter" | "torch.Size":
            return args[0]
        case "numpy.dtype" | "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" | "_codecs.encode":
            return Dropped()
        case name:
            refuse_code(f"a call of {name}")


def _to_storage(saved: Any) -> Storage:
    """Returns the storage of a persistent id: ('storage', type, key, device, number of values, view)."""
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        refuse("refers to an object outside its pickle that is not a storage")
    storage_type, key, size = saved[1], saved[2], saved[4]
    if not isinstance(storage_type, StoredName) or not isinstance(key, str) or not is_count(size):
        refuse("has a storage without a type, a name or a size; it is damaged")
    if saved[5:] not in ((), (None,)):
        refuse("has a storage that is a view of another storage; load it with torch and save it again")
    return Storage(key, DTYPES[storage_type.name.rpartition(".")[2]], size)
