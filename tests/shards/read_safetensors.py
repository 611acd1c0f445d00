"""read_safetensors.py FILE: what Python's own package finds in a checkpoint's file, as lines
"name dtype shape sum". Exit code 77 if the package, or NumPy, is not there."""
import sys

try:
    import numpy
    from safetensors import safe_open
except ImportError as missing:
    print(missing)
    sys.exit(77)

with safe_open(sys.argv[1], framework="numpy") as file:
    print("metadata", sorted(file.metadata().items()))
    for name in sorted(file.keys()):
        tensor = file.get_tensor(name)
        print(name, tensor.dtype, "x".join(map(str, tensor.shape)), numpy.sum(tensor, dtype=tensor.dtype))
