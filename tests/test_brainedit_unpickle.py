"""Unpickling without running: what comes back, and what hostile or damaged files come to."""

import bz2
import copyreg
import gzip
import hashlib
import io
import lzma
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from brainedit.pickles import machine as pickle_machine
from brainedit.pickles import unpickle
from brainedit.pickles.machine import Opaque, Storage, StoredTensor
from brainedit.pickles.unpickle import read_objects

VECTORS = Path(__file__).parent / "vectors"
TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
CODES = ("b1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c16", ">f4")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


class Outside:
    """Pickles as a reference to an outside object."""

    def __init__(self, *reference):
        self.reference = reference


class OutsidePickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Outside) else None


class Words(list):
    pass


class Settings(dict):
    pass


class WithState:
    def __init__(self):
        self.x = 1

    def __setstate__(self, state):
        raise AssertionError("ran")


def dumps(value, protocol=2):
    file = io.BytesIO()
    OutsidePickler(file, protocol).dump(value)
    return file.getvalue()


def torch_bytes(value, *, new=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def torch_zip(value, *, compression=zipfile.ZIP_STORED, **entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", value if isinstance(value, bytes) else dumps(value))
        for name, data in entries.items():
            archive.writestr("a/" + name.replace("data_", "data/"), data)
    return file.getvalue()


def storage(n_items, kind=torch.FloatStorage, key="0"):
    return Outside("storage", kind, key, "cpu", n_items)


def tensor(n_items, offset, shape, stride):
    parts = (storage(n_items), offset, shape, stride, False, OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, *parts)


def begun(state=None):
    """A pickle of an array up to the state, or without the end where there is none."""
    data = pickle.dumps(Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state), 2)
    return data if state else data[: data.rindex(b"R") + 1]


def of_buffer(*args):
    return Call(np._core.numeric._frombuffer, *args)


def npy(value, **settings):
    file = io.BytesIO()
    np.save(file, value, **settings)
    return file.getvalue()


def python2_pickle(array):
    """What Python 2 wrote, at protocol 2: the numbers are a str."""
    data = array.tobytes()
    return b"".join(
        [
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01J" + len(array).to_bytes(4, "little") + b"\x85",
            b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb.",
        ]
    )


@pytest.fixture(params=[False, True], ids=["loaded", "mapped"])
def read(tmp_path, request):
    """Reads bytes as a file; nothing may be written beside it and nothing imported."""

    def read_bytes(data, name="net.pkl"):
        (tmp_path / name).write_bytes(data)
        modules = set(sys.modules)
        try:
            return read_objects(tmp_path / name, mapped=request.param).value
        finally:
            new = set(sys.modules) - modules
            assert not [name for name in new if not name.startswith("encodings.")]
            assert [path.name for path in tmp_path.iterdir()] == [name]
            (tmp_path / name).unlink()

    return read_bytes


@pytest.mark.parametrize("protocol", range(6))
def test_plain_objects_come_back(read, protocol):
    value = {
        "numbers": [0, 1, -1, 300, 70000, 2**40, -(2**80), 0.5, True, None],
        "text": ("", "ä", "x" * 300, b"", b"\x00\xff", bytearray(b"ab")),
        "dicts": {1: {}, 2.5: [[]], b"k": (1,), "long": dict.fromkeys(range(2000))},
        "sets": [{1, "a"}, OrderedDict([("b", 1), ("a", 2)]), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    }
    assert read(pickle.dumps(value, protocol)) == value


def test_containers_may_hold_themselves(read):
    value = []
    value.append({"self": value})
    again = read(pickle.dumps(value))
    assert again[0]["self"] is again


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_and_numbers_come_back(read, protocol):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, (2, 3)).astype(code) for code in CODES]
    arrays += [np.asfortranarray(rng.normal(size=(3, 4))), np.zeros((0, 3)), np.array(2.5)]
    numbers = [np.float64(0.1), np.int32(-5), np.bool_(True)]
    found = read(pickle.dumps([arrays, numbers], protocol))
    for got, want in zip(found[0], arrays, strict=True):
        np.testing.assert_array_equal(got, want)
        assert (got.shape, got.dtype.newbyteorder("=")) == (want.shape, want.dtype.newbyteorder("="))
    assert found[1] == numbers
    assert [type(number) for number in found[1]] == [np.float64, np.int32, np.bool_]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_text_and_objects_come_back(read, protocol):
    lists = np.empty((2, 3), object)
    for i, item in enumerate([[1, 2], "ä", None, {"a": 1}, (1,), np.arange(3)]):
        lists[divmod(i, 3)] = item
    text = np.array([["Fp1", "Öz"], ["", "P7"]])
    arrays = [text, text.astype(">U3"), np.asfortranarray(text), np.array([b"ab", b"c"]), np.array("Cz")]
    arrays += [np.array([], object), np.array(["Fp1", "Cz"], object), np.zeros((0, 2), "U4")]
    found = read(pickle.dumps({"arrays": arrays, "lists": lists, "turned": lists.T}, protocol))
    for got, want in zip(found["arrays"], arrays, strict=True):
        np.testing.assert_array_equal(got, want)
        assert (got.shape, got.dtype.kind) == (want.shape, want.dtype.kind)
    for got in (found["lists"], found["turned"].T):
        assert got.shape == (2, 3)
        assert got.tolist()[0] == [[1, 2], "ä", None]
        assert got.tolist()[1][:2] == [{"a": 1}, (1,)]
        assert got[1, 2].tolist() == [0, 1, 2]
    assert found["turned"][0, 1] is found["lists"][1, 0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("protocol", range(6))
def test_the_order_of_an_array_in_memory_makes_no_difference(read, protocol, order):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(order)
    np.testing.assert_array_equal(read(pickle.dumps(array, protocol)), array)
    np.testing.assert_array_equal(read(npy(array)), array)
    np.testing.assert_array_equal(read(npy({"a": array}))["a"], array)


def test_an_array_in_two_places_is_one(read):
    array = np.arange(3)
    found = read(pickle.dumps([array, {"again": array}]))
    assert found[0] is found[1]["again"]
    assert found[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", [3, 20_000])
def test_arrays_of_python_2_come_back(read, n):
    want = np.random.default_rng(0).normal(size=n)
    np.testing.assert_array_equal(read(python2_pickle(want)), want)


def test_long_text_and_bytes_of_python_2_come_back(tmp_path):
    text = bytes(range(256)) * 300
    (tmp_path / "a").write_bytes(b"\x80\x02T" + len(text).to_bytes(4, "little") + text + b".")
    assert read_objects(tmp_path / "a").value == text.decode("latin-1")
    assert bytes(read_objects(tmp_path / "a", mapped=True).value) == text
    (tmp_path / "a").write_bytes(b"\x80\x02T\x02\x00\x00\x00\xe4b.")
    assert read_objects(tmp_path / "a", mapped=True).value == "äb"


@pytest.mark.parametrize("code", [*CODES, "U4", ">U4", "S4"])
def test_npy_files_come_back(read, code):
    array = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(code)
    for want in (array, np.asfortranarray(array), array[:0], array[0, 0], array[::2, ::3]):
        got = read(npy(want))
        np.testing.assert_array_equal(got, want)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)


def test_objects_in_npy_files_come_back(read):
    value = {
        "data": np.arange(6.0).reshape(2, 3),
        "names": ["Fp1", "Cz"],
        "times": np.array(["a", "b"], object),
    }
    found = read(npy(value))
    assert type(found) is dict
    assert found["names"] == ["Fp1", "Cz"]
    assert found["times"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(found["data"], value["data"])
    found = read(npy(np.array([["a", None], [1, 2.5]], object)))
    assert found.tolist() == [["a", None], [1, 2.5]]
    only = np.empty((), object)
    only[()] = ["a"]
    assert read(npy(only)).item() == ["a"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.arange(3.0))[:-1], "needs 24 bytes and has 23"),
        (npy(np.arange(3.0)) + b"x", "needs 24 bytes and has 25"),
        (npy(np.arange(3.0)).replace(b"(3,)", b"(-1,)"), "no tuple of up to 8 whole numbers"),
        (npy(np.arange(3.0)).replace(b"(3,), }   ", b"(3000,), }"), "needs 24000 bytes and has 24"),
        (npy(np.arange(3.0)).replace(b"'<f8'", b"  id "), "header is damaged"),
        (npy(np.arange(3.0)).replace(b"NUMPY\x01", b"NUMPY\x03"), r"version 3\.0"),
        (npy(np.arange(3.0))[:40], "header is damaged"),
        (npy(np.arange(3.0))[:7], "magic|EOF"),
        (npy(np.array([(1, 2)], "i4,i4")), "only plain numbers and text are read"),
        (npy(np.array([1], "M8[s]")), "only plain numbers and text are read"),
        (npy({"a": 1}).replace(b"(), }  ", b"(2,), }"), r"promises an array \(2,\) of objects"),
        (npy({"a": 1})[:-1], "exhausted before seeing STOP"),
        (npy({"a": 1}) + b"x", "goes on for 1 bytes"),
        (
            npy({}).partition(b"\n")[0] + b"\n" + pickle.dumps([1]),
            r"promises an array \(\) of objects and holds list",
        ),
        (npy({}).partition(b"\n")[0] + b"\n", "is empty"),
    ],
)
def test_damaged_npy_files_get_one_sentence(read, data, message):
    with pytest.raises(ValueError, match=rf"net\.pkl: .*({message})") as raised:
        read(data)
    assert "\n" not in str(raised.value)
    assert "allow_pickle" not in str(raised.value)


def test_code_in_an_npy_file_is_not_run(read, tmp_path):
    header = npy({}).partition(b"\n")[0] + b"\n"
    call = pickle.dumps(Call(os.system, f"touch {tmp_path}/canary"))
    with pytest.raises(ValueError, match=r"promises an array .* holds Opaque"):
        read(header + call)
    found = read(npy({"a": Call(exec, f"open({str(tmp_path / 'canary')!r}, 'w')")}))
    assert isinstance(found["a"], Opaque)
    assert found["a"].name == "exec"


def test_arrays_of_a_mapped_file_are_views_that_cannot_be_written(tmp_path):
    want = np.random.default_rng(0).normal(size=(100, 200))
    for name, data in {"a": pickle.dumps({"x": want}, 4), "b": npy({"x": want}), "c": npy(want)}.items():
        (tmp_path / name).write_bytes(data)
        loaded, mapped = read_objects(tmp_path / name), read_objects(tmp_path / name, mapped=True)
        arrays = [c.value["x"] if isinstance(c.value, dict) else c.value for c in (loaded, mapped)]
        assert (arrays[0].flags.writeable, arrays[1].flags.writeable) == (True, False)
        assert not arrays[1].flags.owndata
        np.testing.assert_array_equal(arrays[1], want)
        assert loaded.sha256 == mapped.sha256 == hashlib.sha256(data).hexdigest()


def test_a_mapped_file_may_not_be_one_endless_line(tmp_path):
    (tmp_path / "net.pkl").write_bytes(b"V" + b"x" * 2**21 + b"\n.")
    with pytest.raises(ValueError, match="line of more than 1048576 bytes"):
        read_objects(tmp_path / "net.pkl", mapped=True)
    assert len(read_objects(tmp_path / "net.pkl").value) == 2**21


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is counted by Linux")
def test_a_mapped_file_takes_no_memory_of_its_own(tmp_path):
    array = np.zeros((50, 300_000))  # 120 MB
    array[7, 3] = 5.5
    with (tmp_path / "pickle").open("wb") as file:
        pickle.dump({"x": array}, file, 4)
    np.save(tmp_path / "numpy.npy", {"x": array})
    code = f"""
import re, pathlib
from brainedit.pickles.unpickle import read_objects
def anonymous():
    return int(re.search("RssAnon:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
before, arrays = anonymous(), []
for name in ("pickle", "numpy.npy"):
    array = read_objects({str(tmp_path)!r} + "/" + name, mapped=True).value["x"]
    assert array.shape == (50, 300_000) and array[7, 3] == 5.5 and array[:, ::50].sum() == 0
    arrays.append(array)
print(anonymous() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 20  # MB


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_torch_tensors_come_back(read, form):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {kind: torch.tensor([0, 1, 5]).to(getattr(torch, kind)) for kind in TYPES}
    tensors |= {"base": base, "turned": base.T, "part": base[1:3, 2:4], "empty": torch.zeros(0, 3)}
    tensors |= {"one": torch.tensor(3.5), "parameter": nn.Parameter(torch.ones(2))}
    data = pickle.dumps(tensors) if form == "pickle" else torch_bytes(tensors, new=form == "zip")
    found = read(data)
    for name, want in tensors.items():
        got = found[name].tensor()
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert torch.equal(got, want.detach())


@pytest.mark.parametrize("new", [True, False])
def test_a_state_dict_keeps_its_order_and_shares_storages(read, new):
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    found = read(torch_bytes({"state": layer, "again": layer, "shape": torch.Size([2, 3])}, new=new))
    assert list(found["state"]) == list(layer)
    assert found["state"]["0.weight"].storage is found["again"]["0.weight"].storage
    assert found["shape"] == (2, 3)


def test_devices_and_types_come_back(read):
    value = [torch.device("cpu"), torch.device("cuda", 1), torch.float16, torch.bool]
    assert read(pickle.dumps(value)) == value


def test_storages_in_bytes_may_be_of_the_zip_format(read):
    data = torch_bytes(torch.tensor([1.5, 2.5]).storage())
    found = read(pickle.dumps(Call(torch.storage._load_from_bytes, data)))
    assert isinstance(found, Storage)
    assert found.values().tolist() == [1.5, 2.5]


def test_safetensors_are_told_by_content(read):
    data = save({"a": torch.ones(2)})
    assert torch.equal(read(data, "net.pkl")["a"], torch.ones(2))
    assert read(pickle.dumps({"a": 1}), "net.safetensors") == {"a": 1}
    # a header of 264 bytes begins with the byte of an ONNX file
    data = save({f"name{i}": torch.ones(1) for i in range(3)}, {"pad": "x" * 61})
    assert data[:2] == b"\x08\x01"
    assert len(read(data)) == 3


def test_calls_of_unknown_names_are_kept_and_not_made(read, tmp_path):
    canary = f"open({str(tmp_path / 'canary')!r}, 'w')"
    calls = [
        (Call(os.system, f"touch {tmp_path}/canary"), "system"),
        (Call(exec, canary), "exec"),
        (Call(eval, canary), "eval"),
        (Call(__import__, "this"), "__import__"),
        (Call(getattr, "os", "system"), "getattr"),
        (Call(copyreg._reconstructor, Words, list, []), "_reconstructor"),
    ]
    for protocol in range(6):
        for call, name in calls:
            found = read(pickle.dumps([call], protocol))[0]
            assert isinstance(found, Opaque)
            assert found.name == name
            assert found.args
            with pytest.raises(ValueError, match="calls the result of another call"):
                read(pickle.dumps([call], protocol)[:-1] + b")R.")


@pytest.mark.parametrize(
    "data",
    [
        b"(S'x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'x'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\nX\x01\x00\x00\x00x\x85}\x92.",  # NEWOBJ_EX
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
    ],
)
def test_every_way_to_call_is_inert(read, data):
    found = read(data)
    assert (found.module, found.name, found.args) == ("os", "system", ("x",))


def test_names_alone_are_not_looked_up(read):
    found = read(b"cthis\ns\n.")
    assert (found.module, found.name, found.args) == ("this", "s", None)
    assert "this" not in sys.modules


def test_foreign_objects_keep_state_and_items(read):
    words, settings = Words(["a", "b"]), Settings(x=1)
    words.extra = 5
    found = read(pickle.dumps([words, settings, WithState()]))
    assert [part.name for part in found] == ["Words", "Settings", "WithState"]
    assert found[0].items == ["a", "b"]
    assert found[0].state == {"extra": 5}
    assert found[1].items == [("x", 1)]
    assert found[2].state == {"x": 1}


def test_unknown_names_are_listed(tmp_path):
    (tmp_path / "net.pkl").write_bytes(pickle.dumps([Call(os.system, "x"), np.float64(1)]))
    assert read_objects(tmp_path / "net.pkl").names == ("posix.system",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b"x", mtime=0), "compressed with gzip; unpack"),
        (bz2.compress(b"x"), "compressed with bzip2; unpack"),
        (lzma.compress(b"x"), "compressed with xz; unpack"),
        (b"\n <!DOCTYPE html><html>", "is a web page"),
        (b"<html><body>Quota exceeded", "is a web page"),
        (b"\x08\x07\x12\x07pytorch", "looks like an ONNX file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x00" * 257 + b"ustar", "is a tar archive"),
        (b"hello, world", "damaged pickle or no file of weights"),
        (b"\x80\x04}.rest", "goes on for 4 bytes"),
        (b"\x80\x04}", "exhausted before seeing STOP"),
        (b"\x80\x06}.", "protocol 6"),
        (b"\x80\x04\xff.", "unknown"),
        (b"\x80\x04\x82\x01.", "instruction EXT1"),
        (b"\x80\x04\x83\x01\x00.", "instruction EXT2"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x05N\x98.", "instruction READONLY_BUFFER"),
        (b"\x80\x04h\x05.", "object 5, which it never stored"),
        (b"g99999\n.", "object 99999, which it never stored"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00abc.", "damaged pickle"),  # BINBYTES8 beyond the file
        (b"\x80\x04B\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (b"\x80\x04\x85.", "takes more objects than there are"),
        (b"\x80\x040.", "IndexError"),
        (b"\x80\x04(}.", "more or less than one object"),
        (b"\x80\x04K\x01K\x02.", "more or less than one object"),
        (b"\x80\x04K\x01K\x02e.", "IndexError"),
        (b"\x80\x04K\x01(K\x02e.", "adds items to int"),
        (b"\x80\x04K\x01K\x02K\x03s.", "sets items of int"),
        (b"\x80\x04}(K\x02u.", "a key has no value"),
        (b"\x80\x04]}b.", "sets the state of list"),
        (b"\x80\x04K\x01K\x02\x93.", "name of a class is no text"),
        (b"c" + b"m" * 2000 + b"\nx\n.", "names a class in 2001 letters"),
        (b"cos\nsystem\nK\x01R.", "os.system gets no arguments"),
        (b"K\x01)R.", "calls the result"),
        (b"Psomething\n.", "outside object of an unknown kind"),
        (b"\x80\x02\x8a\x28" + b"\x01" * 40 + b".", "whole number of 313 bits"),
        (b"\x80\x02}\x8a\x0a" + b"\x01" * 10 + b"Ns.", "a key of the kind int"),
        (pickle.dumps({(1, 2): 3}), "a key of the kind tuple"),
        (pickle.dumps(np.array([1], "M8[s]")), "numpy array of 'M8'"),
        (pickle.dumps(np.array([(1, 2)], "i4,i4")), "numpy array of 'V8'"),
        (begun() + b".", "1 numpy arrays without their content"),
        (begun() + b"0N.", "1 numpy arrays without their content"),
        (begun() + b"2b.", "a numpy array inside itself"),
        (begun() + b"q\x00h\x00b.", "a numpy array inside itself"),
        (
            begun(state=(1, (1,), np.dtype("f8"), False, b"12345678"))[:-1] + b"Nb.",
            "sets the state of ndarray",
        ),
        (begun(state=(1, (1,), np.dtype("f8"), "F", b"12345678")), "array of an unknown order .'F'"),
        (begun(state=(1, (1,), np.dtype("O"), False, b"12345678")), "needs 1 objects and has bytes"),
        (begun(state=(1, (2,), np.dtype("O"), False, [1])), "needs 2 objects and has 1"),
        (begun(state=(1, (1,), np.dtype("f8"), False, [1.5])), "needs bytes and has list"),
        (begun(state=(1, (1,), np.dtype("U1"), False, b"\xff\xff\xff\x7f")), "letters that do not exist"),
        (pickle.dumps(Call(np._core.multiarray.scalar, np.dtype("O"), b"12345678")), "number of an unknown"),
        (pickle.dumps(of_buffer(b"12345678", np.dtype("O"), (1,), "C")), "array in a way that is not known"),
        (pickle.dumps(of_buffer(b"12345678", np.dtype("f4"), (2, 1), "K", (0, 0))), "order of axes"),
        (pickle.dumps(of_buffer(b"12345678", np.dtype("f4"), (2, 1), "K")), "order of axes"),
        (pickle.dumps(Call(torch.device, "meta")), "device that is not known"),
        (pickle.dumps(Call(bytes, "x", "rot13")), "encodes text as 'rot13'"),
        (pickle.dumps(Call(np.dtype, "f8", False, True, state=(3, "?"))), "describes a numpy type"),
        (pickle.dumps(Call(OrderedDict, *range(100))), "gives collections.OrderedDict 100 arguments"),
        (pickle.dumps(Call(OrderedDict, 1, 2, 3)), "TypeError"),
        (b"(dnc", "damaged pickle"),
        (b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81}b.", "TensorFlow pickle.*legacy.py"),
    ],
)
def test_other_files_get_one_sentence(read, data, message):
    with pytest.raises(ValueError, match=rf"net\.pkl: .*{message}") as raised:
        read(data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ((2**50,), b"", "tuple of up to 8 whole numbers"),
        ((2**30,), b"1234", "needs 8589934592 bytes and has 4"),
        ((-1,), b"", "tuple of up to 8"),
        ((1,), "text", "needs 8 bytes and has 4"),
        ((2**40, 2**40, 0), b"", "beyond reason"),
    ],
)
def test_numpy_arrays_are_as_large_as_their_bytes(read, shape, data, message):
    kind = Call(np.dtype, "f8", False, True)
    array = Call(
        np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, shape, kind, False, data)
    )
    with pytest.raises(ValueError, match=message):
        read(pickle.dumps(array))
    with pytest.raises(ValueError, match=message):
        read(pickle.dumps(Call(np._core.numeric._frombuffer, data, kind, shape, "C")))


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "message"),
    [
        (0, (3, 3), (3, 1), r"shape \(3, 3\) that reaches beyond its storage of 6"),
        (1, (2, 3), (3, 1), "reaches beyond"),
        (0, (2, 3), (4, 1), "reaches beyond"),
        (0, (1000, 1000), (0, 0), "reaches beyond"),
        (-1, (2, 3), (3, 1), "without a storage"),
        (0, (2, 3), (-3, 1), "stride is no tuple"),
        (0, (2, -3), (3, 1), "shape is no tuple"),
        (0, (2, 3.0), (3, 1), "shape is no tuple"),
        (0, (2, 3), (3,), "with 1 strides"),
        (0, (1,) * 9, (1,) * 9, "up to 8"),
        (0, (0, 2**40, 2**40), (1, 1, 1), "beyond reason"),
    ],
)
def test_tensors_stay_within_their_storage(read, offset, shape, stride, message):
    with pytest.raises(ValueError, match=message):
        read(torch_zip(tensor(6, offset, shape, stride), data_0=bytes(24)))


def test_a_whole_storage_is_read(read):
    numbers = np.arange(6, dtype="f4")
    found = read(torch_zip(tensor(6, 1, (2, 2), (3, 1)), data_0=numbers.tobytes()))
    assert isinstance(found, StoredTensor)
    assert found.tensor().tolist() == [[1, 2], [4, 5]]


def test_a_true_is_one_whatever_its_byte(read):
    call = Call(torch._utils._rebuild_tensor, storage(3, kind=torch.BoolStorage), 0, (3,), (1,))
    found = read(torch_zip(call, data_0=b"\x00\x05\x01")).tensor()
    assert found.view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch_zip(storage(10**10), data_0=bytes(24)), "10000000000 numbers of torch.float32 but has 24"),
        (torch_zip(storage(7), data_0=bytes(24)), "7 numbers of torch.float32 but has 24"),
        (torch_zip(storage(6)), "lacks the zip entry of storage '0'"),
        (torch_zip(storage(6, key="../../etc/passwd")), "lacks the zip entry"),
        (torch_zip(storage(6, key=0)), "in a form that is not known"),
        (torch_zip(storage(-6)), "in a form that is not known"),
        (torch_zip(storage(6, kind=torch.Tensor)), "unknown type .'Tensor'"),
        (torch_zip(storage(6, kind="FloatStorage")), "unknown type .'FloatStorage'"),
        (torch_zip([storage(6), storage(5)], data_0=bytes(24)), "describes storage '0' in two ways"),
        (torch_zip(Outside("module", nn.Linear, "a.py", "import os")), "unknown kind .'module'"),
        (torch_zip(Outside("x")), "unknown kind .'x'"),
        (pickle.dumps(1)[:-1] + b"Q.", "unknown kind .int"),
        (torch_zip([0] * 10**5, compression=zipfile.ZIP_DEFLATED), "compressed entries"),
        (torch_zip({}, byteorder=b"big"), "big-endian"),
        (torch_zip({}, **{"constants.pkl": b""}), "TorchScript"),
        (torch_zip(dumps({}) + b"x"), "after the end of its pickle"),
        (torch_zip({})[:-30], "damaged zip archive"),
        (torch_zip({}).replace(b"data.pkl", b"else.pkl"), "0 data.pkl, so no torch.save"),
        (dumps(Call(torch.storage._load_from_bytes, b"")), "is empty"),
        (dumps(Call(torch.storage._load_from_bytes, "text")), "storage without bytes"),
        (dumps(Call(torch.storage._load_from_bytes, dumps([1]))), "list where a storage should be"),
        (dumps(Call(torch._utils._rebuild_parameter, 1, True, None)), "parameter without a tensor"),
    ],
)
def test_hostile_torch_files_get_one_sentence(read, data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


def test_zip_entries_may_not_lie_upon_each_other(read):
    data = torch_zip({}, data_0=bytes(10_000))
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    end = data.index(b"PK\x05\x06")
    entry, tail = data[start:end], bytearray(data[end:])
    many = [entry.replace(b"data/0", b"data/%d" % k) for k in range(10)]
    extra = len(b"".join(many)) - len(entry)
    tail[8:12] = (11).to_bytes(2, "little") * 2
    tail[12:16] = (int.from_bytes(tail[12:16], "little") + extra).to_bytes(4, "little")
    with pytest.raises(ValueError, match="claim more bytes than the file has"):
        read(data[:start] + b"".join(many) + bytes(tail))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-4], "6 numbers of torch.float32 but has 20"),
        (lambda d: d + b"x", "goes on for 1 bytes"),
        (lambda d: d.replace(b"little_endian\x71\x02\x88", b"little_endian\x71\x02\x89"), "big-endian"),
        (lambda d: d.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03."), "of a kind that is not known"),
        (lambda d: d.replace(b"\x06\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\x7f"), "then writes 9223"),
    ],
)
def test_damaged_legacy_files_get_one_sentence(read, change, message):
    data = torch_bytes(torch.arange(6.0), new=False)
    assert change(data) != data
    assert torch.equal(read(data).tensor(), torch.arange(6.0))
    with pytest.raises(ValueError, match=message):
        read(change(data))


def test_pickles_in_pickles_have_a_limit(read):
    data = torch_bytes(torch.ones(2).storage(), new=False)
    for _ in range(2):
        data = pickle.dumps(Call(torch.storage._load_from_bytes, data))
    assert read(data).values().tolist() == [1, 1]
    with pytest.raises(ValueError, match="pickles inside pickles more than 2 deep"):
        read(pickle.dumps(Call(torch.storage._load_from_bytes, data)))


def test_sharing_costs_nothing(read):
    laughs = b"\x80\x02)" + b"2\x86" * 60 + b"."  # 2**60 empty tuples, by reference
    assert len(read(laughs)) == 2
    deep = read(b"\x80\x02)" + b"\x85" * 50_000 + b".")
    assert len(deep) == 1


@pytest.mark.parametrize(
    "again",
    [
        b"c_codecs\nencode\nq\x010h\x01h\x00\x85R0" + b"h\x01h\x00\x85R0" * 200,
        b"ccollections\nOrderedDict\nq\x010](" + b"NN\x86" * 1000 + b"eq\x020" + b"h\x01h\x02\x85R0" * 200,
    ],
)
def test_copies_have_a_limit(read, again):
    data = b"\x80\x02X\x40\x9c\x00\x00" + b"x" * 40_000 + b"q\x000" + again + b"N."
    with pytest.raises(ValueError, match="unpacks to many times its own size"):
        read(data)


def test_nested_files_are_not_opened_again_and_again(read):
    inner = torch_bytes(torch.zeros(10_000).storage())
    data = b"\x80\x03ctorch.storage\n_load_from_bytes\nq\x000B" + len(inner).to_bytes(4, "little") + inner
    with pytest.raises(ValueError, match="unpacks to many times its own size"):
        read(data + b"q\x010" + b"h\x00h\x01\x85R0" * 100 + b"N.")


def test_instructions_and_bytes_have_a_limit(read, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 1000)
    assert read(b"N0" * 499 + b"N.") is None
    with pytest.raises(ValueError, match="more than 1000 pickle instructions"):
        read(b"N0" * 500 + b"N.")


def test_files_that_are_not_mapped_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_BYTES", 10)
    (tmp_path / "net.pkl").write_bytes(b"N0" * 5 + b"N.")
    with pytest.raises(ValueError, match="holds 12 bytes; at most 10"):
        read_objects(tmp_path / "net.pkl")
    assert read_objects(tmp_path / "net.pkl", mapped=True).value is None
    for data in (torch_bytes([1]), save({"a": torch.ones(2)})):
        (tmp_path / "net.pkl").write_bytes(data)
        with pytest.raises(ValueError, match=f"holds {len(data)} bytes; at most 10"):
            read_objects(tmp_path / "net.pkl", mapped=True)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl is no file"):
        read_objects(tmp_path / "none.pkl")


def test_mutated_files_only_ever_raise_value_errors(read):
    network = {"w": torch.randn(3, 2), "p": nn.Parameter(torch.ones(2)), "a": np.arange(3), "s": {1}}
    network["o"] = OrderedDict(b=torch.ones(1).half(), c="x" * 20)
    rng, messages = random.Random(0), []
    originals = [pickle.dumps(network), pickle.dumps(network, 0), torch_bytes(network, new=False)]
    originals += [torch_bytes(network), (VECTORS / "sg3r_cond_original.pkl").read_bytes()[:9000]]
    table = {"names": np.array(["a", None, [1]], object), "text": np.array(["Fp1", "Öz"]), "x": np.eye(3)}
    originals += [npy(table), pickle.dumps(table, 2)]
    for original in originals:
        for _ in range(150):
            data = bytearray(original)
            for _ in range(rng.choice([1, 1, 4])):
                at = rng.randrange(len(data))
                size = rng.choice([0, 1, 1, 8])
                data[at : at + size] = rng.choice(
                    [b"", rng.randbytes(size), rng.randbytes(1), data[: 2 * size]]
                )
            try:
                read(bytes(data))
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 300
    assert all("net.pkl: " in message for message in messages)
