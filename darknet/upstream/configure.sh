#!/bin/bash
# Looks for the libraries the build needs and prints what the Makefile must know about them (make syntax).
# Usage: configure.sh COMPILER   For another architecture pkg-config's variables name the tree with its libraries.
set -euo pipefail

compiler=${1:?usage: configure.sh COMPILER}

fail() {
  echo "darknet/upstream/configure.sh: $*" >&2
  exit 1
}

install_hint="run make without DEPS=no, or install what darknet/upstream/packages lists"

has_header() { echo "#include <$1>" | $compiler -std=c++20 -fsyntax-only -x c++ ${2:-} - >/dev/null 2>&1; }

for tool in "${compiler%% *}" pkg-config; do
  command -v "$tool" >/dev/null || fail "$tool not found; $install_hint"
done
for library in openblas libzmq fmt spdlog; do
  pkg-config --exists "$library" || fail "library $library not found; $install_hint"
done
for header in zmq.hpp nlohmann/json.hpp CLI/CLI.hpp tl/expected.hpp xxhash.h doctest/doctest.h png.h; do
  has_header "$header" || fail "header <$header> not found; $install_hint"
done

# Debian's OpenCV parts come without a pkg-config file; the one of libopencv-dev, or of an own build, goes first.
opencv_include="-isystem ${PKG_CONFIG_SYSROOT_DIR:-}/usr/include/opencv4"
opencv_path=
if pkg-config --exists opencv4; then
  opencv_include=$(pkg-config --cflags-only-I opencv4 | sed 's/-I/-isystem /g')
  opencv_path=$(pkg-config --libs-only-L opencv4)
fi
for part in core imgproc imgcodecs videoio highgui; do
  has_header "opencv2/$part.hpp" "$opencv_include" || fail "OpenCV 4 header <opencv2/$part.hpp> not found; $install_hint"
done

echo "OPENCV_CPPFLAGS := $opencv_include"
echo "OPENCV_LIBS := $opencv_path -lopencv_imgcodecs -lopencv_imgproc -lopencv_core"
echo "VIDEO_LIBS := $opencv_path -lopencv_highgui -lopencv_videoio"
echo "BLAS_CPPFLAGS := $(pkg-config --cflags-only-I openblas | sed 's/-I/-isystem /g')"
echo "BLAS_LIBS := $(pkg-config --libs openblas)"
echo "LIBRARY_CPPFLAGS := $(pkg-config --cflags spdlog fmt | sed 's/-pthread//')"
echo "LIBRARY_LIBS := $(pkg-config --libs spdlog fmt libzmq)"
if has_header dnnl.hpp; then
  echo "HAVE_ONEDNN := yes"
  echo "ONEDNN_LIBS := -ldnnl -lgomp"
else
  echo "HAVE_ONEDNN := no"
  echo "ONEDNN_LIBS :="
fi
echo "CONFIGURED := yes"
