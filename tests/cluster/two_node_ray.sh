#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, in an environment of its own: `two_node_ray.sh start DIR` prints its address and the
# Python to use; `stop DIR` ends it. The environment sees this project's packages, and puts Ray's pins in front of them.
set -euo pipefail
action=${1:?start or stop} dir=${2:?a folder}
port=${RAY_TEST_PORT:-6399}
export RAY_USAGE_STATS_ENABLED=0
if [ "$action" = stop ]; then
  [ ! -x "$dir/venv/bin/ray" ] || "$dir/venv/bin/ray" stop --force > /dev/null 2>&1
  exit 0
fi
project=$(python -c 'import hydra, pathlib; print(pathlib.Path(hydra.__file__).parents[1])')
python -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "hydra-ray-launcher>=1.2" "setuptools<81" >&2
echo "$project" > "$dir/venv/lib/$(basename "$(dirname "$project")")/site-packages/zz_project.pth"
"$dir/venv/bin/ray" start --head --port="$port" --num-cpus=1 --include-dashboard=false --temp-dir="$dir/tmp" >&2
"$dir/venv/bin/ray" start --address="127.0.0.1:$port" --num-cpus=1 >&2
echo "127.0.0.1:$port $dir/venv/bin/python"
