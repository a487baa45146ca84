#!/usr/bin/env bash
# Everything that needs a GPU, in one call under ten minutes: the tests marked `gpu`, the benchmarks beside PyTorch and
# JAX, compute-sanitizer's four tools over every emitted kernel. Writes OUT/report.txt, and what each part said to a file
# beside it; the benchmarks' tables are OUT/benchmarks.md and .json, what had been measured by then if the time is up.
#
#   tools/gpu_check.sh OUT WHEELS
#
# For a bare machine without a network: Python 3.12, the CUDA 13 toolkit, cuDNN and cuBLAS (PyTorch's wheels bring them),
# PyTorch, JAX and CuPy. WHEELS is the folder that tools/pack_wheels.sh has made: lark, pycuda and the rest come from
# there, and are installed beside the machine's own packages, not among them. PYTHON (default python3), CUDA_HOME (default
# /usr/local/cuda). Exit code: 0 where all that ran was right, 1 where something failed, 3 where there is no GPU to run on
# (the tests still run, and skip; the report says so).
set -uo pipefail

out=${1:?usage: tools/gpu_check.sh OUT WHEELS}
wheels=${2:?usage: tools/gpu_check.sh OUT WHEELS}
python=${PYTHON:-python3}
export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$wheels" ] || { echo "gpu_check: $wheels is no folder; tools/pack_wheels.sh makes it" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
wheels=$(cd "$wheels" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PATH="$CUDA_HOME/bin:$PATH" KNETC_CACHE="$work/cache" OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false
report=$out/report.txt
: >"$report"
failed=0
started=$SECONDS
limit=570  # seconds for all together

say() { echo "$*" | tee -a "$report"; }

# Runs a part with so many seconds at most, its words to a file; a line of the report with its result.
part() {
  local name=$1 most=$2 code begun=$SECONDS left=$((limit - SECONDS + started))
  shift 2
  if [ "$left" -lt 15 ]; then
    say "$(printf '%-22s not run: no time left' "$name")"
    failed=1
    return
  fi
  timeout -k 5 $((most < left ? most : left)) "$@" >"$out/$name.log" 2>&1
  code=$?
  local result=ok
  [ $code -eq 124 ] && result="stopped after $most s"
  [ $code -ne 0 ] && [ $code -ne 124 ] && result="FAILED ($code)"
  [ $code -ne 0 ] && failed=1
  say "$(printf '%-22s %-22s %4d s   %s' "$name" "$result" $((SECONDS - begun)) "$(tail -n 1 "$out/$name.log" | cut -c 1-160)")"
}

# --- what is there ----------------------------------------------------------------------------------------------------

say "knetc on $(uname -sm), $("$python" --version 2>&1), $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo 'no git')"
if ls "$wheels"/*.whl >/dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl >"$work/pip.log" 2>&1 ||
    { say "the wheels cannot be installed: $(tail -n 1 "$work/pip.log")"; failed=1; }
else
  say "missing: there is no wheel in $wheels"
fi
export PYTHONPATH="$root:$work/site${PYTHONPATH:+:$PYTHONPATH}"
for module in numpy jinja2 lark h5py tqdm pytest xdist hypothesis pycuda; do
  "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" ||
    say "missing: the Python package $module; tools/pack_wheels.sh brings it"
done
for module in torch cupy jax; do
  "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" ||
    say "missing: the Python package $module; the tests that share arrays with it skip"
done
for program in nvcc g++ compute-sanitizer nvidia-smi; do
  command -v $program >/dev/null || say "missing: the program $program"
done
command -v nvidia-smi >/dev/null &&
  say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 4)"
"$python" -m knetc.cli doctor >"$out/doctor.log" 2>&1
grep -E 'missing|Traceback|Error' "$out/doctor.log" | sed 's/^/doctor: /' | tee -a "$report"
device=0
"$python" -c 'import sys; from knetc.runtime.cuda import available; sys.exit(available() is not None)' 2>/dev/null && device=1

# --- the parts --------------------------------------------------------------------------------------------------------

cd "$root" || exit 2
workers=$(($(nproc) < 8 ? $(nproc) : 8))
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$workers")
part tests 180 "$python" -m pytest -q -p no:cacheprovider -m gpu ${parallel[@]+"${parallel[@]}"} tests

if [ $device -eq 1 ]; then
  # Once without a sanitizer: fills the cache, and shows that the script itself is right.
  part kernels 60 "$python" tools/run_kernels.py
  part benchmarks 130 "$python" benchmarks/run.py --device cuda --workloads W1,W2,W3,W4,W6 \
    --peers torch,jax,knetc-cuda --rounds 1 --seconds 0.5 --limit 45 --out "$out/benchmarks.json"
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      part $tool 50 compute-sanitizer --tool $tool --error-exitcode 9 --kernel-name kernel_substring=_kernel \
        "$python" tools/run_kernels.py
    done
  else
    say "compute-sanitizer is missing: memcheck, racecheck, initcheck and synccheck have not run"
    failed=1
  fi
else
  say "no GPU that knetc can use: the tests marked gpu have skipped; the kernels, compute-sanitizer and the benchmarks"
  say "have not run"
fi

say "in all $((SECONDS - started)) s"
[ $failed -ne 0 ] && exit 1
[ $device -eq 1 ] || exit 3
exit 0
