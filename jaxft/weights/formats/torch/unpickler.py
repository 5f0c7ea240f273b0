"""A restricted unpickler: a stack machine that builds tensors' descriptions, and knows no function.

A function is a name to it, never looked up: the names of the few that torch.save writes stand for what is done here,
any other name is an error. (`pickle.Unpickler` with another `find_class` would still allocate what a file asks for,
hash what it makes, and call `__setstate__`.)
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from jaxft.weights.formats.torch.refusal import refuse, refuse_code, shown
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
MOST_STEPS = 1_000_000  # of one pickle; a tensor takes about 30
VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINSTRING",
          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8")  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Returns what the pickle that `stream` stands at describes, and its storages by key; reads to its end."""
    machine = _Machine()
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for step, (opcode, value, _) in enumerate(operations):
        if step > MOST_STEPS:
            refuse(f"takes more than {MOST_STEPS:,} steps to read; tensors do not")
        machine.run(opcode.name, value)
    return machine.stack.pop(), machine.storages


class _Machine:
    """The stack machine of pickle, with the opcodes that build containers, numbers and strings."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, opcode: str, value: Any) -> None:
        """Runs one opcode; any that is not known here is an error."""
        for kind in (self.push, self.remember, self.build_tuple_or_list, self.build_dict, self.name_or_call):
            if kind(opcode, value):
                return
        refuse_code(value.replace(" ", ".") if opcode == "INST" else f"the pickle opcode {opcode}")

    def pop_to_mark(self) -> list[Any]:
        """Returns what lies above the last mark, and takes it away."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push(self, opcode: str, value: Any) -> bool:
        """Runs an opcode that pushes a number or a text, or does nothing; returns False for another."""
        if opcode in VALUES:
            self.stack.append(value)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        else:
            return opcode in ("PROTO", "FRAME", "STOP")
        return True

    def remember(self, opcode: str, value: Any) -> bool:
        """Runs an opcode of marks, of the memo, or that drops or doubles the top; returns False for another."""
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
        """Runs an opcode of tuples and lists; returns False for another."""
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
        """Runs an opcode of dicts; returns False for another."""
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
        """Runs an opcode that names, calls, sets a state or refers to a storage; returns False for another."""
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
                    refuse("gives a state to what has none; it is damaged")
            case "BINPERSID":
                storage = _to_storage(self.stack.pop())
                if self.storages.setdefault(storage.key, storage) != storage:
                    refuse(f"describes the numbers under {shown(storage.key)!r} in two ways")
                self.stack.append(storage)
            case _:
                return False
        return True


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        refuse("appends to what is no list; it is damaged")
    return value


def _set_items(target: Any, items: list[Any]) -> dict[str, Any]:
    """Returns the dict `target` with keys and values from `items` in turn; what has no text for a name is dropped.

    No tensor of a network has a key that is no text, and to hash others can be made to take for ever.
    """
    if not isinstance(target, dict):
        refuse("sets items of what is no dict; it is damaged")
    target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
    return target


def _name(module: Any, attribute: Any) -> StoredName:
    """Returns a name that torch.save writes; any other is an error."""
    name = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "what has no name"
    if name not in NAMES:
        refuse_code(name)
    return StoredName(name)


def _call(function: Any, args: Any) -> Any:
    """Returns what stands for `function(*args)`."""
    if not isinstance(function, StoredName) or not isinstance(args, tuple):
        refuse("calls what is no function; it is damaged")
    match function.name:
        case "collections.OrderedDict" if not args:
            return OrderedDict()
        case "collections.OrderedDict":  # from Python 2, with a list of pairs
            pairs = _list(args[0])
            made = OrderedDict((key, value) for key, value in pairs if isinstance(key, str))
            pairs.clear()  # taken, not copied: asked for again and again, they must not grow
            return made
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
            return StoredTensor(*args[:4])
        case "torch._utils._rebuild_parameter" | "torch.Size":
            return args[0]
        case "numpy.dtype" | "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" | "_codecs.encode":
            return Dropped()
        case name:
            refuse_code(f"a call of {name}")


def _to_storage(saved: Any) -> Storage:
    """Returns the storage that a persistent id is about: ('storage', type, key, device, number of values, view)."""
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        refuse("refers to something outside its pickle that is no storage")
    kind, key, size = saved[1], saved[2], saved[4]
    if not isinstance(kind, StoredName) or not isinstance(key, str) or not is_count(size):
        refuse("has a storage without a type, a name or a size; it is damaged")
    if saved[5:] not in ((), (None,)):
        refuse("has a storage that is a part of another; load it with torch and save it again")
    return Storage(key, DTYPES[kind.name.rpartition(".")[2]], size)
