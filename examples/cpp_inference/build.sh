#!/bin/sh
# The same without CMake, against the torch of the Python that is found first: sh build.sh [OUTPUT]
set -eu
torch=$(python -c "import torch; print(torch.__path__[0])")
${CXX:-g++} -std=c++20 -O1 -I"$torch/include" -I"$torch/include/torch/csrc/api/include" \
  "$(dirname "$0")/main.cpp" -o "${1:-upscale}" -L"$torch/lib" -Wl,-rpath,"$torch/lib" \
  -Wl,--no-as-needed -ltorch_cpu -ltorch -lc10 -ldl
