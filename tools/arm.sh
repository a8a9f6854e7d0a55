# Arm: an emulated aarch64 machine under build/arm, and the library built for it. A part of test_arm.sh and wheels.sh.
#
# Debian's cross compiler and user-mode emulator; Debian's Python and libraries for arm64, unpacked, not installed; wheels
# for aarch64 from PyPI. What is there already stays. It takes $tools, the folder of cmake, ninja and pip, and the root of
# the repository as the current folder. It gives $arm, $python, $site (the folder of those wheels) and $library.
arm=$PWD/build/arm
root=$arm/root
python=$arm/python
site=$arm/site
library=$arm/library/libnested_sparse_kernels.so

# Debian 12's Python, and the wheels made for it.
suite=bookworm
packages="python3.11 libstdc++6 libgomp1"
wheels="numpy onnxruntime flatbuffers onnx ml_dtypes protobuf typing_extensions packaging psutil safetensors
  pytest iniconfig pluggy pygments hypothesis sortedcontainers"

fail() {
  echo "$(basename "$0" .sh): $*" >&2
  exit 1
}

install_tools() {
  missing=
  command -v aarch64-linux-gnu-g++ >/dev/null || missing="$missing g++-aarch64-linux-gnu"
  command -v qemu-aarch64 >/dev/null || missing="$missing qemu-user"
  command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap"
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || fail "needs the Debian packages$missing; this system has no apt-get"
  [ "$(id -u)" = 0 ] || fail "needs root, once, for: apt-get install --no-install-recommends$missing"
  apt-get update -q
  apt-get install -y -q --no-install-recommends $missing
}

# On an x86 machine /proc/cpuinfo has no Arm processor in it, and ONNX Runtime's look at it ends in a crash.
write_cpuinfo() {
  mkdir -p "$root/proc"
  for processor in $(seq 0 $(($(nproc --all) - 1))); do
    printf 'processor\t: %d\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm asimddp\n' \
      "$processor"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
  done >"$root/proc/cpuinfo"
}

unpack_root() {
  [ ! -e "$root/.complete" ] || return 0
  rm -rf "$root"
  mmdebstrap --quiet --variant=extract --architectures=arm64 --skip=check/qemu \
    --include="$(echo $packages | tr ' ' ,)" "$suite" "$root"
  touch "$root/.complete"
}

# Where the tests start Python again, they start this file.
write_python() {
  cat >"$python" <<END
#!/bin/sh
exec qemu-aarch64 -cpu cortex-a76 -L '$root' -0 '$python' '$root/usr/bin/python3.11' "\$@"
END
  chmod +x "$python"
}

install_wheels() {
  if [ "$site/.complete" -nt constraints.txt ] && [ "$site/.complete" -nt tools/arm.sh ]; then return 0; fi
  rm -rf "$site"
  "$tools/pip" install -q --no-deps --only-binary=:all: --python-version 3.11 --target "$site" -c constraints.txt \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_26_aarch64 \
    --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 $wheels
  touch "$site/.complete"
}

# The wheel takes it, too.
build_library() {
  "$tools/cmake" -S . -B "$arm/library" -G Ninja -DCMAKE_MAKE_PROGRAM="$tools/ninja" -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DNESTED_SPARSE_PORTABLE=ON >/dev/null
  "$tools/ninja" -C "$arm/library"
}

set_up_arm() {
  mkdir -p "$arm"
  install_tools
  unpack_root
  write_cpuinfo
  write_python
  install_wheels
  build_library
}
