#!/usr/bin/env bash
# Makes the folder of wheels that tools/gpu_check.sh wants, on a machine with a network: what knetc and its tests need, and
# pycuda, which has no wheels of its own and is built here. No GPU and no driver are needed, a CUDA toolkit is.
#
#   tools/pack_wheels.sh FOLDER
#
# PYTHON (default python3): the Python whose version the other machine has. CUDA_HOME (default /usr/local/cuda).
# NumPy is left out: it comes with the frameworks that stand there. So are NVIDIA's libraries.
set -euo pipefail

folder=${1:?usage: tools/pack_wheels.sh FOLDER}
python=${PYTHON:-python3}
cuda=${CUDA_HOME:-/usr/local/cuda}
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$cuda/bin/nvcc" ] || { echo "pack_wheels: no nvcc in $cuda/bin: install the CUDA toolkit or set CUDA_HOME" >&2; exit 3; }
command -v g++ >/dev/null || { echo "pack_wheels: no g++: apt install g++" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export PATH="$cuda/bin:$PATH"

"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }
version=$("$work/venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
echo "pack_wheels: Python $version, CUDA in $cuda, to $folder"

# What pyproject.toml says that knetc and its tests need.
"$work/venv/bin/python" - "$root/pyproject.toml" >"$work/needs" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
needs = project["dependencies"] + project["optional-dependencies"]["test"]
print("\n".join(n for n in needs if not n.startswith("hatchling")))
PYTHON
pip download --only-binary=:all: -d "$folder" -r "$work/needs"

# pycuda links with the driver's library; an empty one of that name takes its place. --no-as-needed keeps the link, so
# that the other machine's real library is loaded. CURAND is left out: knetc draws its own numbers.
if ! ls "$folder"/pycuda-*.whl >/dev/null 2>&1; then
  mkdir "$work/stub"
  g++ -shared -x c++ /dev/null -o "$work/stub/libcuda.so" -Wl,-soname,libcuda.so.1
  pip download --no-deps --no-binary pycuda -d "$work" "pycuda>=2024.1"
  tar -xf "$work"/pycuda-*.tar.gz -C "$work"
  source=$(echo "$work"/pycuda-*/)
  cat >"$source/siteconf.py" <<SITECONF
USE_SHIPPED_BOOST = True
CUDA_ROOT = '$cuda'
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ['$work/stub']
CUDADRV_LIBNAME = ['cuda']
CXXFLAGS = ['-w', '-O1']
LDFLAGS = ['-Wl,--no-as-needed', '-lcuda']
SITECONF
  CPATH="$cuda/include" LIBRARY_PATH="$work/stub:$cuda/lib64" pip wheel --no-deps -w "$folder" "$source"
fi
pip download --only-binary=:all: --find-links "$folder" -d "$folder" pycuda
rm -f "$folder"/numpy-*.whl "$folder"/nvidia_*.whl
# One version of each: two stop the whole installation.
ls "$folder"/*.whl | xargs -n 1 basename | cut -d- -f1 | sort | uniq -d | while read -r name; do
  echo "pack_wheels: several versions of $name in $folder: empty the folder and run this again" >&2
  exit 1
done
echo "pack_wheels: $(ls "$folder"/*.whl | wc -l) wheels, $(du -sh "$folder" | cut -f1)"
