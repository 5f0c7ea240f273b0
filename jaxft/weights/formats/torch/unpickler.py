"""A restricted unpickler: a stack machine that builds descriptions of tensors and calls no functions of the file.

A function or class in a pickle is only a name, which is never looked up. The few names that describe tensors are
interpreted here. A call of any other name gives a placeholder without content (`Dropped`), so that the objects beside
the tensors of a checkpoint do no harm. `pickle.Unpickler` with a custom `find_class` would be less safe: it would still
allocate any amount of memory, hash any object, and call `__setstate__`.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.weights.formats.refusal import printable, refuse, refuse_code
from jaxft.weights.formats.torch.stored import (
    DTYPES,
    OTHER_STORAGES,
    Dropped,
    Storage,
    StoredName,
    StoredTensor,
    is_count,
)

TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
MOST_STEPS = 1_000_000  # opcodes of a pickle; a tensor has about 30
VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINSTRING",
          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8", "BYTEARRAY8")  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def unpickle(stream: io.BytesIO, tensors: Mapping[str, StoredTensor] | None = None) -> tuple[Any, dict[str, Storage]]:
    """Returns the object of the next pickle in `stream`, and its storages by key.

    Args:
      stream: the file, at the start of the pickle.
      tensors: tensors outside the pickle, by the persistent ids that it uses for them; only tar archives have them.
    """
    machine = _Machine(tensors or {})
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for step, (opcode, value, _) in enumerate(operations):
        if step > MOST_STEPS:
            refuse(f"has a pickle of more than {MOST_STEPS:,} opcodes, far more than tensors need")
        machine.run(opcode.name, value)
    return machine.stack.pop(), machine.storages


class _Machine:
    """The stack machine of pickle, restricted to opcodes for containers, numbers, strings and tensors."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self.tensors = tensors
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, opcode: str, value: Any) -> None:
        """Runs one opcode; an unknown opcode is an error."""
        handlers = (self.push, self.remember, self.build_tuple_or_list, self.build_dict, self.name_or_call, self.drop)
        if not any(handler(opcode, value) for handler in handlers):
            refuse(f"has a pickle with the opcode {opcode}, which torch.save never writes")

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
                _append(self.stack[-1], [item])
            case "APPENDS":
                items = self.pop_to_mark()
                _append(self.stack[-1], items)
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
                if not isinstance(self.stack[-1], OrderedDict | StoredTensor | Dropped):
                    refuse("sets the state of an object without state; it is damaged")
            case "BINPERSID":
                self.stack.append(self.storage_of(self.stack.pop()))
            case _:
                return False
        return True

    def drop(self, opcode: str, value: Any) -> bool:
        """Runs an opcode that creates a set or an object of a class, as a placeholder; returns False for others."""
        match opcode:
            case "NEWOBJ" | "NEWOBJ_EX":
                del self.stack[-1 if opcode == "NEWOBJ" else -2 :]
                self.stack.append(_dropped(self.stack.pop()))
            case "OBJ":
                self.stack.append(_dropped(self.pop_to_mark()[0]))
            case "INST":
                self.pop_to_mark()
                self.stack.append(Dropped(value.replace(" ", ".", 1)))
            case "EXT1" | "EXT2" | "EXT4":
                self.stack.append(Dropped(f"the pickle opcode {opcode}"))
            case "EMPTY_SET":
                self.stack.append(Dropped("set"))
            case "FROZENSET":
                self.pop_to_mark()
                self.stack.append(Dropped("frozenset"))
            case "ADDITEMS":
                self.pop_to_mark()
                _dropped(self.stack[-1])
            case _:
                return False
        return True

    def storage_of(self, saved: Any) -> Storage | StoredTensor | Dropped:
        """Returns the storage or tensor of a persistent id, or the placeholder of a class that has its source code."""
        if isinstance(saved, str) and saved in self.tensors:
            return self.tensors[saved]
        if isinstance(saved, tuple) and saved[:1] == ("module",) and len(saved) > 1:
            return _dropped(saved[1])
        storage = _to_storage(saved)
        if self.storages.setdefault(storage.key, storage) != storage:
            refuse(f"describes the storage {printable(storage.key)!r} in two different ways; it is damaged")
        return storage


def _append(target: Any, items: list[Any]) -> None:
    """Appends items to the list `target`; a placeholder, such as that of a deque, ignores them."""
    if not isinstance(target, list | Dropped):
        refuse("appends to an object that is not a list; it is damaged")
    if isinstance(target, list):
        target.extend(items)


def _dropped(value: Any) -> Dropped:
    """Returns the placeholder of an object of a class, from the name of the class or another placeholder."""
    if not isinstance(value, StoredName | Dropped):
        refuse("creates an object without a class; it is damaged")
    return Dropped(value.name)


def _set_items(target: Any, items: list[Any]) -> dict[str, Any] | Dropped:
    """Adds alternating keys and values from `items` to the dict `target` and returns it; only string keys are added.

    Keys of tensors are strings, and a hostile file can contain other keys that take forever to hash. A placeholder,
    such as that of a `defaultdict`, ignores the items.
    """
    if not isinstance(target, dict | Dropped):
        refuse("sets items of an object that is not a dict; it is damaged")
    if isinstance(target, dict):
        target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
    return target


def _name(module: Any, attribute: Any) -> StoredName:
    """Returns the name of a function or class, which is not looked up."""
    if not isinstance(module, str) or not isinstance(attribute, str):
        refuse("refers to an object without a name; it is damaged")
    return StoredName(f"{module}.{attribute}")


def _call(function: Any, args: Any) -> Any:
    """Returns the description that represents `function(*args)`, without calling it."""
    if not isinstance(function, StoredName | Dropped) or not isinstance(args, tuple):
        refuse("calls an object that is not a function; it is damaged")
    match function.name:
        case "collections.OrderedDict" if not args:
            return OrderedDict()
        case "collections.OrderedDict":  # from Python 2, with a list of pairs
            if not isinstance(args[0], list):
                refuse("builds a dict from an object that is not a list; it is damaged")
            result = OrderedDict((key, value) for key, value in args[0] if isinstance(key, str))
            args[0].clear()  # a hostile file could use the same long list many times
            return result
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
            return _to_tensor(*args[:4])
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" | "torch.Size":
            return args[0]
        case "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: function, class, arguments, state
            is_tensor = isinstance(args[1], StoredName) and args[1].name in TENSOR_CLASSES
            return _call(args[0], args[2]) if is_tensor else _dropped(args[1])
    return Dropped(function.name)


def _to_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> StoredTensor | Dropped:
    """Returns the description of a tensor, or a placeholder if NumPy has no type for its values."""
    if isinstance(storage, Storage) and storage.dtype.startswith("V"):
        return Dropped(f"torch.{storage.type}")
    return StoredTensor(storage, offset, size, stride)


def _to_storage(saved: Any) -> Storage:
    """Returns the storage of a persistent id: ('storage', type, key, device, number of values, view)."""
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        refuse("refers to an object outside its pickle that is not a storage")
    storage_type, key, size = saved[1], saved[2], saved[4]
    if not isinstance(storage_type, StoredName) or not isinstance(key, str) or not is_count(size):
        refuse("has a storage without a type, a name or a size; it is damaged")
    if saved[5:] not in ((), (None,)):
        refuse("has a storage that is a view of another storage; load it with torch and save it again")
    name = storage_type.name.rpartition(".")[2]
    if name in DTYPES:
        return Storage(key, DTYPES[name], size, name)
    if name not in OTHER_STORAGES:
        refuse_code(storage_type.name)
    return Storage(key, f"V{OTHER_STORAGES[name]}", size, name)
