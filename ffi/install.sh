#!/usr/bin/env bash
# Installs the C and C++ interface under a prefix:
#
#     ffi/install.sh /usr/local        (DESTDIR=… to stage it)
#
#     include/trine.h trine.hpp    lib/libtrine.so.0.1.0 .so.0 .so .a    lib/pkgconfig/trine.pc    lib/cmake/trine/
#     share/man/man7/trine.7       (the command writes its own pages: trine man FOLDER)
#
# A script and not cargo-c, because the symbols are versioned: rustc gives the linker an anonymous version script with
# every shared library, beside which no versioned one can stand. So the C compiler links it here, of the archive.
set -euo pipefail
prefix=${1:?usage: ffi/install.sh PREFIX}
root=$(cd "$(dirname "$0")/.." && pwd)
from=$root/ffi/install

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
IFS=. read -r major minor _ <<<"$version"
private='-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc' # rustc --print native-static-libs

# TRINE_ARCHIVE: one that is built already.
archive=${TRINE_ARCHIVE:-}
if [ -z "$archive" ]; then
    (cd "$root" && cargo rustc --release --package trine-ffi --lib --crate-type staticlib)
    archive=${CARGO_TARGET_DIR:-$root/target}/release/libtrine_ffi.a
fi

to=${DESTDIR:-}$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig" "$to/lib/cmake/trine" "$to/share/man/man7"
install -m 644 "$root/docs/man/trine.7" "$to/share/man/man7"
install -m 644 "$root/include/trine.h" "$root/include/trine.hpp" "$to/include"
install -m 644 "$archive" "$to/lib/libtrine.a"

# shellcheck disable=SC2086 # the libraries are words
${CC:-cc} -shared -o "$to/lib/libtrine.so.$version" \
    -Wl,-soname,"libtrine.so.$major" -Wl,--version-script="$from/trine.map" \
    -Wl,--gc-sections -Wl,-z,relro,-z,now -Wl,--no-undefined \
    -Wl,--whole-archive "$archive" -Wl,--no-whole-archive -Wl,--as-needed $private
ln -sf "libtrine.so.$version" "$to/lib/libtrine.so.$major"
ln -sf "libtrine.so.$major" "$to/lib/libtrine.so"

fill() { sed -e "s/@VERSION@/$version/; s/@PRIVATE@/$private/; s/@MAJOR@/$major/g; s/@MINOR@/$minor/g" "$from/$1.in" >"$2"; }
fill trine.pc "$to/lib/pkgconfig/trine.pc"
for file in trineConfig.cmake trineConfigVersion.cmake; do fill "$file" "$to/lib/cmake/trine/$file"; done
