#!/bin/sh
# Brings ONNX Runtime's C and C++ headers into build/headers/onnxruntime, for docs/examples/cpp: `make headers`.
#
# ONNX Runtime's wheel has none, nor has another package of PyPI that was looked at. Debian's libonnxruntime-dev has: that
# of this system, where it knows the package, else that of Debian 13. It is unpacked, not installed, and needs no root.
# The headers are of ONNX Runtime 1.21, say, and every later library takes programs that were built with them.
set -eu
cd "$(dirname "$0")/.."
folder=build/headers
package=libonnxruntime-dev

fail() {
  echo "headers: $*; the C++ example stays unbuilt" >&2
  exit 1
}

[ ! -e "$folder/onnxruntime/onnxruntime_cxx_api.h" ] || exit 0
command -v apt-get >/dev/null || fail "this system has no apt-get; copy ONNX Runtime's headers to $folder/onnxruntime"
rm -rf "$folder"
mkdir -p "$folder/lists/partial"
cd "$folder"
[ "$(id -u)" != 0 ] || user="-o APT::Sandbox::User=root"  # root's apt would complain of a folder of another user
if apt-cache show "$package" >/dev/null 2>&1; then
  apt-get download -q -q ${user-} "$package" || fail "apt-get could not download $package"
else
  # The mirror that this system uses, asked for Debian 13's packages in lists of their own.
  site=$(. /etc/os-release && apt-get indextargets --format '$(RELEASE) $(SITE)' |
    awk -v release="${VERSION_CODENAME-}" '$1 == release { print $2; exit }')
  [ -n "$site" ] || fail "apt-get knows no $package and no mirror; apt-get update may help"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" >sources.list
  apt() {
    apt-get -q -q -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$PWD/lists" \
      -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= ${user-} "$@"
  }
  apt update || fail "the lists of Debian 13 could not be had"
  apt download "$package" || fail "apt-get could not download $package"
fi
dpkg-deb --extract ./"$package"_*.deb unpacked
mv unpacked/usr/include/onnxruntime .
rm -rf unpacked lists sources.list ./*.deb
